"""Steps down the semi-dual are as long as its conjugates can follow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mongebench.estimators.dual.conjugate import Conjugates, improve
from mongebench.estimators.dual.steps import LAG, State, descend, semidual
from mongebench.estimators.flow.potential.dense_icnn import DenseICNN
from mongebench.estimators.flow.potential.quadratic import Quadratic

N, DIM = 256, 3


def moved(apart: float) -> tuple[State, State, jax.Array, float]:
    """Before and after one step of length 1 along the gradient, the gradient, and the residual that the step saw.

    The pool's points are `apart` from the images of their x, and one quasi-Newton step does little about that, because
    the inverse Hessians are wrong.
    """
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal((N, DIM)), jnp.float32) for _ in range(2))
    potential = DenseICNN.start(Quadratic.identity_like(x), x, units=8, depth=2, share=0.5, rng=rng)
    points = Conjugates(y, y, jnp.broadcast_to(1e-3 * jnp.eye(DIM), (N, DIM, DIM)))
    images = jax.vmap(potential.map)(points.x)
    points = points._replace(y=images + apart * jnp.asarray(rng.standard_normal((N, DIM)), jnp.float32))
    improved, error = improve(potential, points, 1)
    method = optax.sgd(1.0)
    before = State(potential, potential, method.init(potential), points)
    after, seen = descend(method, 1, before, x[None], jnp.arange(N)[None])
    residual = float(jnp.sqrt(jnp.mean(error**2)))
    assert float(jnp.sqrt(seen.residual)) == pytest.approx(residual, rel=1e-4)
    return before, after, jax.grad(semidual)(potential, x, improved), residual


@pytest.mark.parametrize(("apart", "lagging"), [(0.01, False), (1.0, True)])
def test_a_step_is_shortened_by_the_square_of_what_its_conjugates_lag_behind(apart: float, lagging: bool) -> None:
    before, after, gradient, residual = moved(apart)
    assert (residual > LAG) == lagging
    length = LAG**2 / residual**2 if lagging else 1.0
    assert not lagging or length < 0.2
    for old, new, slope in zip(
        jax.tree.leaves(before.potential), jax.tree.leaves(after.potential), jax.tree.leaves(gradient), strict=True
    ):
        # float32, of sums over N points in another order
        np.testing.assert_allclose(new, old - length * slope, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(new - old, -length * slope, atol=1e-3 * float(jnp.abs(length * slope).max()) + 1e-6)
