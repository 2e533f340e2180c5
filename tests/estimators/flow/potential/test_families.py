"""Potentials of every family: derivatives by automatic differentiation, convexity, the identity as a start."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery.evaluation import GradientMap
from mongebench.estimators.flow.potential import FAMILIES, ICNN, Maxima, Quadratic

from ..small import potential_and_points

pytestmark = pytest.mark.usefixtures("x64")


def at(x, function):
    """Its values at all points, compiled as one: an operation at a time costs many times as much."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(x))


@functools.partial(jax.jit, static_argnums=0)
def _of(method, potential, x):
    return jax.vmap(getattr(potential, method))(x)


def images(potential, x):
    """Compiled once for all potentials of one family and size."""
    return np.asarray(_of("map", potential, x))


def jacobians(potential, x):
    """The same of DT."""
    return np.asarray(_of("jacobian", potential, x))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_map_and_jacobian_are_derivatives_of_the_value(family, dim):
    potential, x = potential_and_points(family, dim)
    slopes, bends = at(x, lambda point: (jax.grad(potential.value)(point), jax.jacfwd(potential.map)(point)))
    np.testing.assert_allclose(images(potential, x), slopes, rtol=1e-9, atol=1e-12)
    stated = jacobians(potential, x)
    np.testing.assert_allclose(stated, bends, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(stated, stated.transpose(0, 2, 1), atol=1e-14)
    assert np.linalg.eigvalsh(stated).min() > 0


def test_the_map_of_a_network_goes_back():
    potential, x = potential_and_points("icnn", 3)
    gradient = GradientMap(potential)
    moved = gradient(x)
    np.testing.assert_allclose(gradient.inverse(moved, x=moved), x, atol=1e-10)


@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_jet_of_a_dictionary_is_linear_with_the_derivative_it_states(dim):
    potential, x = potential_and_points("dictionary", dim)
    theta, unravel = ravel_pytree(potential)
    by_theta = at(x, lambda point: jax.jacrev(lambda theta: unravel(theta).jet(point))(theta))
    stated = at(x, lambda point: potential.jet_derivative(point, 1))
    np.testing.assert_allclose(stated, by_theta[..., : potential.free], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(stated @ np.asarray(theta)[: potential.free], at(x, potential.jet))


@pytest.mark.parametrize("depth", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_networks_of_any_depth_have_their_derivatives(depth):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((10, 3)))
    network = ICNN.through(x, 5, depth, rng)
    np.testing.assert_allclose(at(x, network.map), at(x, jax.grad(network.value)), rtol=1e-10)
    np.testing.assert_allclose(at(x, network.jacobian), at(x, jax.hessian(network.value)), atol=1e-10)


def test_a_maximum_bends_along_the_walls_between_its_pieces_and_in_its_own_coordinates_only():
    # Four affine functions of two coordinates of R^6, so steep that the softmax is a maximum but near the walls.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6))
    frame = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    normals, offsets = 1e4 * rng.standard_normal((4, 2)), 1e4 * rng.standard_normal(4)
    arrays = (jnp.asarray(array) for array in (frame[:, None], normals[None], offsets[None]))
    maximum = Maxima(Quadratic.identity_like(jnp.asarray(x)), jnp.full(1, 1e-2), *arrays)
    values = x @ frame @ normals.T + offsets
    top = np.sort(values, axis=1)
    inside = top[:, -1] - top[:, -2] > 50  # e^-50 is left of the other pieces
    assert inside.mean() > 0.9
    expected = x + 1e-4 * normals[values.argmax(axis=1)] @ frame.T
    np.testing.assert_allclose(at(x, maximum.map)[inside], expected[inside], atol=1e-12)
    across = np.eye(6) - frame @ frame.T
    best = np.argsort(values, axis=1)[:, -2:]
    step = normals[best[:, 1]] - normals[best[:, 0]]
    walls = x - ((top[:, -1] - top[:, -2]) / np.sum(step**2, axis=1))[:, None] * step @ frame.T
    bends = at(walls, maximum.jacobian) - np.eye(6)
    assert np.abs(bends).max() > 1e3  # off the walls it is zero, but for rounding
    np.testing.assert_allclose(across @ bends, np.zeros_like(bends), atol=1e-9 * np.abs(bends).max())
    np.testing.assert_allclose(at(x, maximum.units)[inside, 0], top[inside, -1], atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_potentials_are_convex_at_any_parameters(family):
    potential, x = potential_and_points(family, 3)
    theta, unravel = ravel_pytree(potential)
    theta = 3 * jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)
    theta = ravel_pytree(unravel(theta).nearest())[0]
    assert np.linalg.eigvalsh(jacobians(unravel(theta), x)).min() >= -1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_is_the_identity(family):
    potential, x = potential_and_points(family, 3, share=0.01)
    assert np.sqrt(np.mean((images(potential, x) - x) ** 2)) < 1e-2


@pytest.mark.parametrize("family", ["ridge", "icnn", "dense_icnn", "maxima"])
def test_units_beside_a_quadratic_keep_the_mean_map(family):
    potential, x = potential_and_points(family, 3)
    np.testing.assert_allclose(images(potential, x).mean(axis=0), np.mean(x, axis=0), atol=1e-12)
    np.testing.assert_allclose(jacobians(potential, x).mean(axis=0), np.eye(3), atol=1e-12)
