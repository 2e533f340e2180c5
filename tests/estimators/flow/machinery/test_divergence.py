"""log det, inverses and the weak form of the divergences, against NumPy and finite differences."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery.divergence import KullbackLeibler, invert, jet_length, log_det, unpack
from mongebench.estimators.flow.machinery.objective import objective
from mongebench.estimators.flow.potential import FAMILIES

from ..small import batch_of, energy, potential_and_points

pytestmark = pytest.mark.usefixtures("x64")


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


@pytest.mark.parametrize("dim", [1, 2, 8, *(pytest.param(dim, marks=pytest.mark.slow) for dim in (13, 64))])
def test_inverse_and_log_det_are_those_of_numpy(dim):
    factors = np.random.default_rng(dim).standard_normal((20, dim, dim))
    matrices = factors @ factors.transpose(0, 2, 1) / dim + np.eye(dim)  # condition 5 at most, but for the tail
    inverses, log_dets = jax.jit(jax.vmap(invert))(jnp.asarray(matrices))
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


@pytest.mark.parametrize(
    "family", ["ridge", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f != "ridge")]
)
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
