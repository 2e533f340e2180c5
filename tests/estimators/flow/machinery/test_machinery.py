"""Potentials, the weak form and the Gauss-Newton step against finite differences and dense matrices."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery import gauss_newton
from mongebench.estimators.flow.machinery.divergence import KullbackLeibler, invert, jet_length, log_det, unpack
from mongebench.estimators.flow.machinery.gauss_newton import LEVELLING, GaussNewton
from mongebench.estimators.flow.machinery.objective import Batch, objective
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import FAMILIES, ICNN, Maxima, Quadratic

pytestmark = pytest.mark.usefixtures("x64")


def potential_and_points(family, dim=2, n=40, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.standard_normal((n, dim)))
    potential = FAMILIES[family].start(Quadratic.identity_like(x), x, units=6, depth=2, share=share, rng=rng)
    if family == "dictionary" and share > 0.1:  # its features start idle
        potential = dataclasses.replace(potential, weights=jnp.full(6, 0.5))
    return potential, x


def batch_of(x, seed=0):
    key = np.random.default_rng(seed).integers(1 << 32, size=2, dtype=np.uint32)
    return Batch(x, jnp.zeros((0, x.shape[1])), jnp.asarray(key))


def energy(y):
    return jnp.sum(y**2, axis=1) / 2 + jnp.sum(jnp.cosh(y[:, :1]), axis=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 3])
def test_map_and_jacobian_are_derivatives_of_the_value(family, dim):
    potential, x = potential_and_points(family, dim)
    images, jacobians = jax.vmap(potential.map)(x), jax.vmap(potential.jacobian)(x)
    np.testing.assert_allclose(images, jax.vmap(jax.grad(potential.value))(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jacobians, jax.vmap(jax.jacfwd(potential.map))(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jacobians, jacobians.transpose(0, 2, 1), atol=1e-14)
    assert np.linalg.eigvalsh(jacobians).min() > 0


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_jet_of_a_dictionary_is_linear_with_the_derivative_it_states(dim):
    potential, x = potential_and_points("dictionary", dim)
    theta, unravel = ravel_pytree(potential)
    by_theta = jax.vmap(jax.jacrev(lambda theta, x: unravel(theta).jet(x)), (None, 0))(theta, x)
    stated = jax.vmap(lambda point: potential.jet_derivative(point, 1))(x)
    np.testing.assert_allclose(stated, by_theta[..., : potential.free], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(stated @ theta[: potential.free], jax.vmap(potential.jet)(x))


@pytest.mark.parametrize("depth", [1, 3])
def test_networks_of_any_depth_have_their_derivatives(depth):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((10, 3)))
    network = ICNN.through(x, 5, depth, rng)
    np.testing.assert_allclose(jax.vmap(network.map)(x), jax.vmap(jax.grad(network.value))(x), rtol=1e-10)
    np.testing.assert_allclose(jax.vmap(network.jacobian)(x), jax.vmap(jax.hessian(network.value))(x), atol=1e-10)


def test_a_maximum_bends_along_the_walls_between_its_pieces_and_in_its_own_coordinates_only():
    # Four affine functions of two coordinates of R^6, so steep that the softmax is a maximum but near the walls.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((200, 6)))
    frame = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    normals, offsets = 1e4 * rng.standard_normal((4, 2)), 1e4 * rng.standard_normal(4)
    arrays = (jnp.asarray(array) for array in (frame[:, None], normals[None], offsets[None]))
    maximum = Maxima(Quadratic.identity_like(x), jnp.full(1, 1e-2), *arrays)
    values = x @ frame @ normals.T + offsets
    top = np.sort(values, axis=1)
    inside = top[:, -1] - top[:, -2] > 50  # e^-50 is left of the other pieces
    assert inside.mean() > 0.9
    expected = x + 1e-4 * normals[values.argmax(axis=1)] @ frame.T
    np.testing.assert_allclose(jax.vmap(maximum.map)(x)[inside], expected[inside], atol=1e-12)
    across = np.eye(6) - frame @ frame.T
    bends = jax.vmap(maximum.jacobian)(x) - np.eye(6)
    np.testing.assert_allclose(across @ bends, np.zeros_like(bends), atol=1e-9 * np.abs(bends).max())
    np.testing.assert_allclose(jax.vmap(maximum.units)(x)[inside, 0], top[inside, -1], atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_potentials_are_convex_at_any_parameters(family):
    potential, x = potential_and_points(family)
    theta, unravel = ravel_pytree(potential)
    theta = 3 * jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)
    theta = ravel_pytree(unravel(theta).nearest())[0]
    wild = unravel(theta)
    assert np.linalg.eigvalsh(jax.vmap(wild.jacobian)(x)).min() >= -1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_is_the_identity(family):
    potential, x = potential_and_points(family, share=0.01)
    assert np.sqrt(np.mean((jax.vmap(potential.map)(x) - x) ** 2)) < 1e-2


@pytest.mark.parametrize("family", ["ridge", "icnn", "dense_icnn", "maxima"])
def test_units_beside_a_quadratic_keep_the_mean_map(family):
    potential, x = potential_and_points(family, share=0.5)
    np.testing.assert_allclose(jnp.mean(jax.vmap(potential.map)(x), axis=0), jnp.mean(x, axis=0), atol=1e-12)
    np.testing.assert_allclose(jnp.mean(jax.vmap(potential.jacobian)(x), axis=0), np.eye(2), atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5, 9])
def test_jets_unpack(dim):
    potential, x = potential_and_points("ridge", dim, n=3)
    vector = potential.jet(x[0])
    assert vector.shape == (jet_length(dim),)
    image, derivative = unpack(vector)
    np.testing.assert_array_equal(image, potential.map(x[0]))
    np.testing.assert_allclose(derivative, potential.jacobian(x[0]), atol=1e-14)


def test_log_det_and_its_derivatives():
    rng = np.random.default_rng(0)
    factor, direction = rng.standard_normal((2, 3, 3))
    matrix, direction = factor @ factor.T + np.eye(3), direction + direction.T
    inverse = np.linalg.inv(matrix)
    assert log_det(jnp.asarray(matrix)) == pytest.approx(np.linalg.slogdet(matrix)[1])

    def along(t):
        return log_det(matrix + t * direction)

    assert jax.grad(along)(0.0) == pytest.approx(np.trace(inverse @ direction))
    assert jax.grad(jax.grad(along))(0.0) == pytest.approx(-np.trace(inverse @ direction @ inverse @ direction))
    assert np.isnan(log_det(jnp.diag(jnp.asarray([1.0, -1.0]))))


@pytest.mark.parametrize("dim", [1, 2, 8, 13, 64])
def test_inverse_and_log_det_are_those_of_numpy(dim):
    factors = np.random.default_rng(dim).standard_normal((20, dim, dim))
    matrices = factors @ factors.transpose(0, 2, 1) / dim + np.eye(dim)  # condition 5 at most, but for the tail
    inverses, log_dets = jax.vmap(invert)(jnp.asarray(matrices))
    np.testing.assert_allclose(inverses, np.linalg.inv(matrices), rtol=0, atol=1e-13)
    np.testing.assert_allclose(log_dets, np.linalg.slogdet(matrices)[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(inverses, inverses.transpose(0, 2, 1))


ON_THREADS = """
import jax, jax.numpy as jnp
from mongebench.estimators.flow.machinery.divergence import invert
eyes = jnp.broadcast_to(jnp.eye(8), (4096, 8, 8))
total = jax.jit(lambda eyes: sum(jnp.sum(jax.vmap(invert)(k * eyes)[0]) for k in range(1, 13)))
total(eyes).block_until_ready()
"""


def test_batches_of_inverses_do_not_wait_for_each_other():
    # Tests and the runner's children have one thread of XLA, a user's process as many as the machine has cores: there
    # batches of LAPACK calls, such as jnp.linalg.inv in place of invert, never end.
    environment = {**os.environ, "NPROC": "2"}
    subprocess.run([sys.executable, "-c", ON_THREADS], env=environment, check=True, timeout=100)


def weak_form(potential, x, direction):
    """dF(T)[w] = E[<grad V(T), w> - tr(DT^{-1} Dw)] for w = the derivative of T along `direction`, written out."""
    images, jacobians = jax.vmap(potential.map)(x), jax.vmap(potential.jacobian)(x)
    _, w = jax.jvp(lambda p: jax.vmap(p.map)(x), (potential,), (direction,))
    _, dw = jax.jvp(lambda p: jax.vmap(p.jacobian)(x), (potential,), (direction,))
    slopes = jax.grad(lambda y: jnp.sum(energy(y)))(images)
    traces = jnp.trace(jnp.linalg.solve(jacobians, dw), axis1=1, axis2=2)
    return jnp.mean(jnp.sum(slopes * w, axis=1) - traces)


@pytest.mark.parametrize("family", FAMILIES)
def test_weak_form_is_the_gradient_is_finite_differences(family):
    potential, x = potential_and_points(family)
    divergence = KullbackLeibler(energy, dim=2)
    theta, unravel = ravel_pytree(potential)

    def value(theta):
        return objective(divergence, unravel(theta), batch_of(x))

    direction = jax.random.normal(jax.random.key(2), theta.shape, theta.dtype)
    direction = direction.at[potential.free :].set(0)
    weak = jax.jit(weak_form)(potential, x, unravel(direction))
    np.testing.assert_allclose(jax.jit(jax.grad(value))(theta) @ direction, weak, rtol=1e-9)
    h, value = 1e-5, jax.jit(value)
    difference = (value(theta + h * direction) - value(theta - h * direction)) / (2 * h)
    np.testing.assert_allclose(difference, weak, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "linear"),
    [
        ("quadratic", False),
        ("ridge", True),
        pytest.param("ridge", False, marks=pytest.mark.slow),
        pytest.param("icnn", False, marks=pytest.mark.slow),
    ],
)
def test_both_models_are_the_gauss_newton_matrix_and_step(family, linear):
    potential, x = potential_and_points(family)
    method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, dim=2), linear), cg_steps=3000)
    theta, tau = ravel_pytree(potential)[0], jnp.asarray(0.3)
    start, batch = 0.99 * theta, batch_of(x)
    anchors = method.jets(start, x)

    @jax.jit
    def matrix_and_gradient(theta):
        jacobians = jax.vmap(jax.jacfwd(lambda t, point: method.unravel(t).jet(point)), (None, 0))(theta, x)
        jets = method.jets(theta, x)
        curvatures = jax.vmap(jax.hessian(method.subproblem.local), (0, 0, None))(jets, anchors, tau)
        slopes = len(x) * jax.grad(method.subproblem.value)(jets, anchors, tau, batch.y)
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


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("block", [256, 15, 20])
def test_curvature_on_fewer_points_leaves_the_gradient_whole(linear, block, monkeypatch):
    potential, x = potential_and_points("ridge")
    subproblem = Subproblem(KullbackLeibler(energy, dim=2), linear)
    method = GaussNewton(potential, subproblem, curvature_points=15)
    theta, tau, batch = ravel_pytree(potential)[0], jnp.asarray(0.3), batch_of(x)
    direction = jax.random.normal(jax.random.key(3), theta.shape, theta.dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def results(method, batch):
        model = method.model(theta, 0.99 * theta, batch, tau)
        return model.value, model.gradient, model.product(direction)

    whole = GaussNewton(potential, subproblem)
    monkeypatch.setattr(gauss_newton, "BLOCK_POINTS", block)  # of 40 points: none, two and a rest, two
    value, gradient, product = results(method, batch)
    monkeypatch.undo()
    np.testing.assert_allclose((value, *gradient), np.hstack(results(whole, batch)[:2]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(product, results(whole, batch_of(x[:15]))[2], rtol=1e-9, atol=1e-12)


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


@pytest.mark.slow
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


@pytest.mark.slow
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
