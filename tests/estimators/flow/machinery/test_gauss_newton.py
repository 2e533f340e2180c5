"""The Gauss-Newton model and its steps, against dense matrices of automatic derivatives."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery import gauss_newton
from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.gauss_newton import LEVELLING, GaussNewton
from mongebench.estimators.flow.machinery.subproblem import Subproblem

from ..small import batch_of, energy, potential_and_points

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("family", "linear"),
    [
        pytest.param("quadratic", False, marks=pytest.mark.slow),
        ("ridge", True),
        pytest.param("ridge", False, marks=pytest.mark.long),
        pytest.param("icnn", False, marks=pytest.mark.long),
    ],
)
def test_both_models_are_the_gauss_newton_matrix_and_step(family, linear):
    potential, x = potential_and_points(family)
    method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, dim=2), linear), cg_steps=3000)
    theta, tau = ravel_pytree(potential)[0], jnp.asarray(0.3)
    start, batch = 0.99 * theta, batch_of(x)

    @jax.jit
    def matrix_and_gradient(theta):
        jacobians = jax.vmap(jax.jacfwd(lambda t, point: method.unravel(t).jet(point)), (None, 0))(theta, x)
        jets, held = method.jets(theta, x), method.jets(start, x)
        curvatures = jax.vmap(jax.hessian(method.subproblem.local), (0, 0, None))(jets, held, tau)
        slopes = len(x) * jax.grad(method.subproblem.value)(jets, held, tau, batch.y)
        matrix = jnp.einsum("nrp,nrs,nsq->pq", jacobians, curvatures, jacobians) / len(x)
        return matrix, jnp.einsum("nrp,nr->p", jacobians, slopes) / len(x)

    matrix, gradient = matrix_and_gradient(theta)
    assert np.linalg.eigvalsh(matrix).min() > -1e-10
    direction = jax.random.normal(jax.random.key(3), theta.shape, theta.dtype)
    for build_model in (method._dense_model, method._cg_model):

        @jax.jit
        def results(theta, build_model=build_model):
            model = build_model(theta, start, batch, tau)
            return model.gradient, model.product(direction), model.solve(model.gradient, jnp.asarray(1e-8))

        slope, product, step = results(theta)
        np.testing.assert_allclose(slope, gradient, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(product, matrix @ direction, rtol=1e-8, atol=1e-10)
        # both solve M step = -gradient, but for a damping of 1e-8 and the tolerance of conjugate gradients
        assert np.linalg.norm(matrix @ step + gradient) < 1e-3 * np.linalg.norm(gradient)


def value_gradient_and_product(method, batch):
    """Of the model at 0.99 of the potential's parameters, compiled anew: the blocks are those of this moment."""
    potential, _ = potential_and_points("ridge")
    theta = ravel_pytree(potential)[0]
    direction = jax.random.normal(jax.random.key(3), theta.shape, theta.dtype)

    @jax.jit
    def results(batch):
        model = method.model(theta, 0.99 * theta, batch, jnp.asarray(0.3))
        return model.value, model.gradient, model.product(direction)

    return jax.device_get(results(batch))


@pytest.mark.parametrize("linear", [pytest.param(True, marks=pytest.mark.long), False])
def test_curvature_on_fewer_points_leaves_the_gradient_whole(linear, monkeypatch):
    potential, x = potential_and_points("ridge")
    subproblem = Subproblem(KullbackLeibler(energy, dim=2), linear)
    whole, fewer = GaussNewton(potential, subproblem), GaussNewton(potential, subproblem, curvature_points=15)
    expected = value_gradient_and_product(whole, batch_of(x))[:2]
    expected_product = value_gradient_and_product(whole, batch_of(x[:15]))[2]
    for block in (256, 15, 20):  # of 40 points: none, two and a rest, two
        monkeypatch.setattr(gauss_newton, "BLOCK_POINTS", block)
        value, gradient, product = value_gradient_and_product(fewer, batch_of(x))
        np.testing.assert_allclose((value, *gradient), np.hstack(expected), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(product, expected_product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("by_kind", [False, True])
def test_damping_is_levelled_among_all_parameters_or_those_of_one_kind(by_kind):
    """Heavy damping leaves the step -gradient / (damping max(diag M, LEVELLING the largest))."""
    potential, x = potential_and_points("ridge")
    method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, dim=2), linear=True), by_kind=by_kind)
    theta, damping = ravel_pytree(potential)[0], 1e8

    @jax.jit
    def diagonal_and_step(theta):
        model = method._dense_model(theta, theta, batch_of(x), jnp.asarray(1.0))
        return jnp.diagonal(jax.vmap(model.product)(jnp.eye(len(theta)))), model.solve(jnp.ones_like(theta), damping)

    diagonal, step = map(np.asarray, diagonal_and_step(theta))
    sizes = [leaf.size for leaf in jax.tree.leaves(potential)]
    largest = [kind.max() for kind in np.split(diagonal, np.cumsum(sizes)[:-1])] if by_kind else diagonal.max()
    expected = np.maximum(diagonal, LEVELLING * (np.repeat(largest, sizes) if by_kind else largest))
    assert (expected > diagonal).any()
    np.testing.assert_allclose(-1 / (damping * step), expected, rtol=1e-5)


def test_conjugate_gradients_survive_small_damping_in_single_precision():
    """A solver that gives up on directions of little curvature leaves a step of NaN, and the damping never falls."""
    potential, x = potential_and_points("ridge")
    potential, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (potential, x))
    method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, dim=2), linear=False), cg_steps=200)
    theta, batch = ravel_pytree(potential)[0], batch_of(x)

    @jax.jit
    def residual(theta):
        model = method._cg_model(theta, theta, batch, jnp.asarray(1.0, jnp.float32))
        step = model.solve(model.gradient, jnp.asarray(1e-6, jnp.float32))
        return jnp.linalg.norm(model.product(step) + model.gradient) / jnp.linalg.norm(model.gradient)

    assert residual(theta) < 0.01


@pytest.mark.long
def test_blocks_sum_up_to_the_batch(monkeypatch):
    potential, x = potential_and_points("ridge", n=41)
    method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, dim=2), linear=False))
    theta = ravel_pytree(potential)[0]
    arguments = theta, theta, batch_of(x), jnp.asarray(1.0)

    def gradient_and_product():
        model = method._dense_model(*arguments)
        return model.gradient, model.product(theta)

    whole = jax.jit(gradient_and_product)()
    monkeypatch.setattr(gauss_newton, "BLOCK_BYTES", 7 * 8 * method.entries)
    for part, expected in zip(jax.jit(lambda: gradient_and_product())(), whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.long
def test_schemes_agree_to_first_order_in_tau():
    """The first step of explicit, implicit and natural is -tau G^+ grad F + O(tau^2)."""
    potential, x = potential_and_points("quadratic", n=200)
    theta, batch = ravel_pytree(potential)[0], batch_of(x)
    velocities = []
    for linear in (False, True):
        method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, dim=2), linear))
        minimise = jax.jit(functools.partial(method.minimise, steps=20, tolerance=1e-12))
        for tau in (2e-4, 1e-4):
            end = minimise(theta, batch, jnp.asarray(tau), jnp.asarray(1e-9)).theta
            velocities.append((end - theta) / tau)

    @jax.jit
    def natural_velocity():
        model = method._dense_model(theta, theta, batch, jnp.asarray(1.0))
        return model.solve(model.gradient, jnp.asarray(1e-12))

    natural = natural_velocity()
    for coarse, fine in (velocities[:2], velocities[2:]):
        assert np.linalg.norm(fine - natural) < 0.6 * np.linalg.norm(coarse - natural) + 1e-8
        assert np.linalg.norm(fine - natural) < 1e-2 * np.linalg.norm(natural)
