"""Conjugates against closed forms and against scipy's minimiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from mongebench.estimators.dual import pool as pools
from mongebench.estimators.dual.conjugate import Conjugates, bfgs, improve, newton
from mongebench.estimators.dual.semidual import FAMILIES
from mongebench.estimators.flow.potential import Quadratic

DIM = 3


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def network(share=0.5):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((50, DIM)))
    start = FAMILIES["dense_icnn"].start
    return start(Quadratic.identity_like(x), x, units=8, depth=2, share=share, rng=np.random.default_rng(1))


def points(n=40, seed=2):
    return np.random.default_rng(seed).standard_normal((n, DIM))


def test_conjugates_of_a_network_are_those_that_scipy_finds():
    potential, y = network(), points()
    found, error = pools.conjugates(potential, y, jnp.eye(DIM))
    assert np.sqrt(np.mean(np.asarray(error) ** 2)) < 1e-9
    value, slope = jax.jit(lambda x: potential.value(x)), jax.jit(lambda x: potential.map(x))
    for target, x in zip(y[:5], np.asarray(found.x), strict=False):
        best = minimize(
            lambda x, target=target: float(value(x) - x @ target),
            np.zeros(DIM),
            jac=lambda x, target=target: np.asarray(slope(x)) - target,
            options={"gtol": 1e-9},
        )
        np.testing.assert_allclose(x, best.x, atol=1e-6)


def test_a_fresh_point_begins_at_its_nearest_neighbour_to_second_order():
    potential, y = network(), points()
    known, _ = pools.conjugates(potential, y, jnp.eye(DIM))
    known = known._replace(inverse=jnp.linalg.inv(jax.vmap(potential.jacobian)(known.x)))
    aside = np.random.default_rng(4).standard_normal(y.shape)
    errors = []
    for h in (1e-2, 1e-3):
        begun = pools.nearest(jnp.asarray(y + h * aside), known)
        found, _ = pools.conjugates(potential, y + h * aside, known)
        errors.append(np.abs(begun.x - found.x).max())
    assert errors[1] < errors[0] / 50


def test_of_a_quadratic_one_newton_step_is_the_answer():
    lower = jnp.asarray([2.0, 0.3, 1.0, -0.5, 0.2, 0.7])
    potential = Quadratic(lower, jnp.asarray([1.0, -2.0, 0.5]))
    y = jnp.asarray(points())
    start = Conjugates.beginning(y, jnp.eye(DIM))
    found, _ = newton(potential, start, 1)
    expected = np.linalg.solve(np.asarray(potential.matrix), (np.asarray(y) - np.asarray(potential.shift)).T).T
    # The ridge of 1e-6 of the trace, 5.9, over the least eigenvalue, 0.2, of solutions of size 7.
    np.testing.assert_allclose(found.x, expected, atol=2 * 7 * 1e-6 * 5.9 / 0.2)


def test_every_improvement_lowers_the_residual_even_from_a_wrong_inverse():
    potential, y = network(share=0.95), jnp.asarray(points())
    state = Conjugates.beginning(y, 20 * jnp.eye(DIM))
    before = np.linalg.norm(np.asarray(jax.vmap(potential.map)(state.x)) - np.asarray(y), axis=1)
    for _ in range(6):
        state, error = improve(potential, state, 3)
        assert (np.asarray(error) <= before + 1e-12).all()
        before = np.asarray(error)


def test_bfgs_learns_the_secant_and_keeps_the_matrix_positive():
    rng = np.random.default_rng(3)
    hessian = np.diag([0.1, 1.0, 10.0])
    inverse = jnp.broadcast_to(jnp.eye(DIM), (5, DIM, DIM))
    step = jnp.asarray(rng.standard_normal((5, DIM)))
    change = step @ hessian
    updated = np.asarray(bfgs(inverse, step, change))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", updated, change), step, atol=1e-12)
    assert (np.linalg.eigvalsh(updated) > 0).all()
    unmoved = bfgs(inverse, step, -change)  # no convex function has such a secant
    np.testing.assert_array_equal(unmoved, inverse)


def test_a_pool_keeps_its_size_and_replaces_its_points_in_turn():
    whole = Conjugates.beginning(jnp.asarray(points(8)), jnp.eye(DIM))
    new = Conjugates.beginning(100 + jnp.asarray(points(2)), jnp.eye(DIM))
    for turn in range(4):
        whole = pools.refreshed(whole, new, turn)
        assert whole.y.shape == (8, DIM)
        assert (np.asarray(whole.y)[:, 0] > 50).sum() == 2 * (turn + 1) or turn == 3
    visited = pools.orders(10, 7, 4, np.random.default_rng(0))
    assert visited.shape == (7, 4)
    assert all(len(set(batch)) == 4 for batch in visited)
    assert len({*visited[:2].ravel()}) == 8, "a round visits no point twice"


def test_memory_is_bounded_in_the_dimension():
    for dim in (2, 64, 256):
        size = pools.most_points(dim, 4)
        assert size >= pools.ROWS
        assert size * 4 * (dim * dim + 2 * dim) <= max(pools.BYTES, pools.ROWS * 4 * (dim * dim + 2 * dim))


def test_a_kinked_network_has_its_derivatives_and_is_convex():
    x = jnp.asarray(points(200))
    start = FAMILIES["kinked_icnn"].start
    network = start(Quadratic.identity_like(x), x, units=8, depth=3, share=0.9, rng=np.random.default_rng(1))
    images, jacobians = jax.jit(lambda x: (jax.vmap(network.map)(x), jax.vmap(network.jacobian)(x)))(x)
    by_value = jax.jit(lambda x: (jax.vmap(jax.grad(network.value))(x), jax.vmap(jax.hessian(network.value))(x)))(x)
    np.testing.assert_allclose(images, by_value[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jacobians, by_value[1], rtol=1e-9, atol=1e-11)
    assert np.linalg.eigvalsh(jacobians).min() > 0
