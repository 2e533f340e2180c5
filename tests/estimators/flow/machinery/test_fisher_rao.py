"""Rows against autodiff, the two ways to solve for a step, and what m is at the exact map."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import sqrtm

from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.fisher_rao import FisherRao, kl_change
from mongebench.estimators.flow.potential import Quadratic
from tests.estimators.flow.small import energy, potential_and_points


def method_of(potential, momentum=0.0, of_target=energy):
    return FisherRao(potential, KullbackLeibler(of_target, potential.dim), momentum)


def log_normal(x):
    return -jnp.sum(x**2, axis=-1) / 2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["ridge", pytest.param("icnn", marks=pytest.mark.slow)])
def test_rows_are_the_derivative_of_m(family):
    """Against m written out with jax.grad and jax.hessian of the potential alone, and slogdet."""
    potential, x = potential_and_points(family)
    theta, unravel = ravel_pytree(potential)

    def m(theta):
        phi = unravel(theta).value
        images, slopes = jax.vmap(jax.grad(phi))(x), jax.vmap(jax.hessian(phi))(x)
        return log_normal(x) + energy(images) - jnp.linalg.slogdet(slopes)[1]

    rows = jax.jit(method_of(potential).rows)(theta, x, log_normal(x))
    values, jacobian = jax.jit(lambda theta: (m(theta), jax.jacrev(m)(theta)))(theta)
    np.testing.assert_allclose(rows.residual, values - values.mean(), atol=1e-12)
    np.testing.assert_allclose(rows.slopes, jacobian - jacobian.mean(axis=0), atol=1e-10 * jnp.abs(jacobian).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("points", [20, 40])  # of 37 parameters: fewer and more rows
def test_both_spaces_give_one_step(points):
    potential, x = potential_and_points("ridge", n=points)
    theta, _ = ravel_pytree(potential)
    method = method_of(potential, momentum=0.9)
    rows = jax.jit(method.rows)(theta, x, log_normal(x))
    last = 0.01 * jnp.asarray(np.random.default_rng(0).standard_normal(len(theta)))
    steps = [method.solve(rows, jnp.asarray(1e-3), last, by_samples=by_samples) for by_samples in (True, False)]
    # a condition of 1e3 p at most: eleven digits of sixteen
    np.testing.assert_allclose(*steps, atol=1e-11 * float(jnp.abs(steps[0]).max()))
    # and it is the minimiser of the damped, accelerated least squares that the docstring states
    scales = np.asarray(method._scales(rows))
    count = len(rows.residual)
    system = np.vstack([rows.slopes / np.sqrt(count), np.diag(np.sqrt(1e-3) / scales)])
    right = np.concatenate([-rows.residual / np.sqrt(count), np.sqrt(1e-3) / scales * 0.9 * np.asarray(last)])
    least = np.linalg.lstsq(system, right, rcond=None)[0]
    np.testing.assert_allclose(steps[0], least, atol=1e-9 * np.abs(least).max())


@pytest.mark.usefixtures("x64")
def test_m_is_constant_at_the_exact_map_and_steps_end_there():
    """Gaussian pair: m at the map of Bures varies by rounding, and steps from the identity arrive within ten."""
    rng = np.random.default_rng(1)
    root = rng.standard_normal((3, 3))
    covariance, shift = root @ root.T + np.eye(3), rng.standard_normal(3)
    inverse = jnp.asarray(np.linalg.inv(covariance))

    def of_target(y):
        return jnp.sum((y - shift) @ inverse * (y - shift), axis=1) / 2

    x = jnp.asarray(rng.standard_normal((200, 3)))
    slope = np.real(sqrtm(covariance))
    exact = Quadratic(jnp.asarray(np.linalg.cholesky(slope)[np.tril_indices(3)]), jnp.asarray(shift))
    method = method_of(exact, of_target=of_target)
    values = method.values(ravel_pytree(exact)[0], x, log_normal(x))
    assert float(jnp.std(values)) < 1e-13

    theta = ravel_pytree(Quadratic.identity_like(x))[0]
    assert float(jnp.std(method.values(theta, x, log_normal(x)))) > 0.5
    damping, last, step = jnp.asarray(1e-2), 0 * theta, jax.jit(method.step)
    for _ in range(25):
        taken, last = step(theta, last, x, log_normal(x), damping)
        theta, damping = taken.theta, taken.damping
    np.testing.assert_allclose(method.unravel(theta).matrix, slope, atol=1e-9)
    np.testing.assert_allclose(method.unravel(theta).shift, shift, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_kl_change_is_that_of_gaussians_with_less_noise_than_the_plain_mean():
    """Maps x -> s x of N(0, 1) to itself: KL = (s^2 - 1) / 2 - log s."""
    rng = np.random.default_rng(2)

    def m(s, x):
        return -(x**2) / 2 + (s * x) ** 2 / 2 - np.log(s)

    draws = rng.standard_normal((200, 500))
    changes = jax.jit(jax.vmap(kl_change))(jnp.asarray(m(1.05, draws)), jnp.asarray(m(1.1, draws)))
    found, errors = map(np.asarray, changes)
    plain = np.array([np.mean(m(1.05, x) - m(1.1, x)) for x in draws])
    exact = (1.05**2 - 1.1**2) / 2 - np.log(1.05 / 1.1)
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(len(draws)) + 0.05 * abs(exact)  # O(1 / n) of bias
    assert found.std() < plain.std() / 2
    assert 0.5 < errors.mean() / found.std() < 1.5
