"""A potential of one point or of a batch, told apart by trying shapes, in every array library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import mongebench as mb
from mongebench.core.pointwise import Batched

MATRIX = np.array([[2.0, 0.5], [0.5, 1.0]])

ONE_POINT = [
    lambda y: (y**2).sum() / 2,
    lambda y: y @ y / 2,
    lambda y: y[0] ** 2 / 2 + (y[1:] ** 2).sum() / 2,
]
BATCH = [lambda y: (y**2).sum(axis=1) / 2, lambda y: (y**2).sum(axis=-1) / 2, lambda y: (y * y) @ (y[0] * 0 + 0.5)]


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
@pytest.mark.parametrize("function", [*ONE_POINT, *BATCH])
def test_both_ways_give_the_values_of_a_batch(function, library, dim) -> None:
    y = np.random.default_rng(0).standard_normal((4, dim))
    given = {"numpy": y, "jax": jnp.asarray(y), "torch": torch.tensor(y)}[library]
    values = Batched(function)(given)
    assert type(values) is type(given)
    np.testing.assert_allclose(np.asarray(values), (y**2).sum(axis=1) / 2, rtol=1e-6)


def test_as_many_points_as_dimensions_are_still_points() -> None:
    """y[0] of a (d, d) batch would have the shape of its values."""
    y = np.arange(4.0).reshape(2, 2)
    np.testing.assert_allclose(Batched(lambda y: y[0])(y), y[:, 0])


def test_numpy_points_keep_their_precision_where_jax_answers() -> None:
    y = np.array([[1.0, 1e-12]])
    assert Batched(lambda y: jnp.sum(y))(y)[0] - 1 == pytest.approx(1e-12, rel=1e-3)


def test_it_can_be_traced_and_differentiated() -> None:
    y = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)), dtype=jnp.float32)
    of_one = Batched(lambda y: y @ MATRIX @ y / 2)
    gradient = jax.jit(jax.grad(lambda y: of_one(y).sum()))(y)
    np.testing.assert_allclose(gradient, np.asarray(y) @ MATRIX, rtol=1e-5)


def test_a_function_that_is_neither_is_called_as_it_is() -> None:
    assert Batched(lambda y: np.ones((3, 3)))(np.ones((5, 2))).shape == (3, 3)
    with pytest.raises(ZeroDivisionError):
        Batched(lambda y: 1 // 0)(np.ones((5, 2)))


def test_a_target_takes_a_log_density() -> None:
    y = np.random.default_rng(0).standard_normal((4, 2))
    for log_density in (lambda y: -(y @ y) / 2, lambda y: -(y**2).sum(axis=1) / 2):
        np.testing.assert_allclose(mb.Target(log_density=log_density).potential(y), (y**2).sum(axis=1) / 2)
    with pytest.raises(mb.InvalidInput, match="one of them"):
        mb.Target(potential=ONE_POINT[0], log_density=ONE_POINT[0])
    with pytest.raises(mb.InvalidInput, match="lambda >= 0"):
        mb.Target(potential=ONE_POINT[0], strong_convexity=-1.0)
    assert not mb.Target().potential


def test_a_flow_learns_the_same_from_one_point_as_from_a_batch() -> None:
    x = np.random.default_rng(0).standard_normal((200, 2))
    flow = mb.estimator("flow_implicit", family="quadratic", steps=2, batch_size=200)
    batch = flow.fit(x, mb.Target(potential=lambda y: jnp.sum(y**2 + jnp.cos(y), axis=1))).transform(x)
    one = flow.fit(x, mb.Target(log_density=lambda y: -jnp.sum(y**2 + jnp.cos(y)))).transform(x)
    np.testing.assert_allclose(one, batch, rtol=1e-10)
    assert not np.allclose(batch, x)


def test_a_flow_says_where_it_met_the_border_of_the_support() -> None:
    box = mb.Target(potential=lambda y: jnp.where(jnp.all(jnp.abs(y) < 1), 0.0, jnp.inf))
    x = np.random.default_rng(0).standard_normal((300, 2))
    out = int((np.abs(x) >= 1).any(axis=1).sum())
    flow = mb.estimator("flow_implicit", family="quadratic", batch_size=300)
    with pytest.raises(mb.InvalidInput, match=f"not finite at {out} of 300 images, such as T.x. = "):
        flow.fit(x, box)
    within = x / (1.01 * np.abs(x).max())
    with pytest.raises(mb.Diverged, match=r"step 1: .*met the border of the target's support"):
        mb.estimator("euclidean", family="quadratic", batch_size=300, learning_rate=0.5).fit(within, box)
