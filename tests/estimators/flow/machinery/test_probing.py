"""log det DT by probes against the dense one: values, derivatives, variance, and whole fits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery import divergence as divergences
from mongebench.estimators.flow.machinery import probing
from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.gauss_newton import GaussNewton
from mongebench.estimators.flow.machinery.objective import Batch, objective, phi
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import FAMILIES, Quadratic
from mongebench.estimators.flow.schemes.explicit import FlowExplicit
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.estimators.flow.schemes.newton import FlowNewton

DIM = 5


@pytest.fixture
def probing_everywhere(monkeypatch):
    """As if every dimension were too high for the dense log det."""
    monkeypatch.setattr(divergences, "EXACT_DIMENSIONS", 0)


def potential_and_batch(n=400, seed=0, dim=DIM):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.standard_normal((n, dim)) @ np.diag(np.linspace(0.5, 2, dim)))
    potential = FAMILIES["ridge"].start(Quadratic.identity_like(x), x, units=12, depth=1, share=0.8, rng=rng)
    return potential, batch_of(x, seed)


def batch_of(x, seed):
    key = np.random.default_rng(seed).integers(1 << 32, size=2, dtype=np.uint32)
    return Batch(x, jnp.zeros((0, x.shape[1])), jnp.asarray(key))


def energy(y):
    return jnp.sum(y**2, axis=1) / 2 + jnp.sum(jnp.cosh(y[:, :1]), axis=1)


@pytest.mark.parametrize("dim", [1, 3, 40])
def test_lanczos_is_the_quadratic_form_and_the_solution(x64, dim):
    rng = np.random.default_rng(dim)
    axes, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    values = np.linspace(0.5, 5, dim)
    matrix, z = (axes * values) @ axes.T, rng.choice([-1.0, 1.0], dim)
    quadratic, solution = jax.jit(lambda z: probing.lanczos(lambda v: jnp.asarray(matrix) @ v, z))(jnp.asarray(z))
    assert quadratic == pytest.approx(z @ (axes * np.log(values)) @ axes.T @ z, rel=1e-9)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, z), rtol=1e-7, atol=1e-8)


def test_lanczos_ends_in_an_invariant_subspace(x64):
    """The identity exhausts its subspace at the first step."""
    z = jnp.ones(7)
    quadratic, solution = probing.lanczos(lambda v: 2 * v, z)
    assert quadratic == pytest.approx(7 * np.log(2))
    np.testing.assert_allclose(solution, z / 2)


def test_value_and_variance_of_the_probes(x64):
    potential, batch = potential_and_batch()
    jacobians = jax.vmap(potential.jacobian)(batch.x)
    exact = np.linalg.slogdet(jacobians)[1].mean()

    @jax.jit
    def probed(key):
        found = probing.log_det(potential, batch.x, probing.signs(key, batch.x))
        return found.mean, found.variance

    keys = np.random.default_rng(1).integers(1 << 32, size=(50, 2), dtype=np.uint32)
    means, variances = np.array([probed(jnp.asarray(key)) for key in keys]).T
    error = np.sqrt(np.mean(variances))
    # fifty draws: their mean within four standard errors, their variance within a factor that chi-squared(49) allows
    assert abs(means.mean() - exact) < 4 * error / np.sqrt(len(keys))
    assert 0.5 < means.var(ddof=1) / error**2 < 1.8


def test_gradients_are_unbiased(x64, probing_everywhere, monkeypatch):
    potential, batch = potential_and_batch(n=60)
    divergence = KullbackLeibler(energy, DIM)
    theta, unravel = ravel_pytree(potential)

    @jax.jit
    def probed(key):
        return jax.grad(lambda theta: objective(divergence, unravel(theta), batch._replace(key=key)))(theta)

    keys = np.random.default_rng(1).integers(1 << 32, size=(300, 2), dtype=np.uint32)
    gradients = np.array([probed(jnp.asarray(key)) for key in keys])
    monkeypatch.setattr(divergences, "EXACT_DIMENSIONS", DIM)
    exact = jax.jit(jax.grad(lambda theta: objective(divergence, unravel(theta), batch)))(theta)
    errors = gradients.std(axis=0, ddof=1) / np.sqrt(len(keys))
    scores = (gradients.mean(axis=0) - exact) / np.maximum(errors, 1e-12)
    # about a hundred parameters: the largest of as many normal scores
    assert np.abs(scores).max() < 4.5
    assert 0.6 < scores.std() < 1.4


@pytest.mark.parametrize("linear", [pytest.param(False, marks=pytest.mark.long), True])
def test_model_has_the_gradient_of_the_subproblem_and_bounds_its_curvature(x64, probing_everywhere, linear):
    potential, batch = potential_and_batch(n=40)
    method = GaussNewton(potential, Subproblem(KullbackLeibler(energy, DIM), linear), cg_steps=2000)
    theta, tau = ravel_pytree(potential)[0], jnp.asarray(0.3)
    start = 0.98 * theta

    @jax.jit
    def check(theta):
        model = method._probed_model(theta, start, batch, tau)
        slope = jax.grad(lambda t: phi(method.subproblem, method.unravel(t), method.unravel(start), batch, tau)[0])(
            theta
        )
        direction = jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)
        return (
            model.gradient,
            slope,
            direction @ model.product(direction),
            model.solve(model.gradient, jnp.asarray(1e-3)),
        )

    gradient, slope, curvature, step = check(theta)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9)
    assert curvature > 0
    assert gradient @ step < 0


@pytest.mark.parametrize(
    "scheme", [FlowNewton, *(pytest.param(s, marks=pytest.mark.long) for s in (FlowImplicit, FlowExplicit))]
)
def test_probed_flows_end_near_the_exact_gaussian_map(gaussian_flow, probing_everywhere, scheme):
    flow = gaussian_flow(4, n=2000)
    parameters = {"steps": 12} if scheme is FlowNewton else {"steps": 25, "inner_steps": 4, "tau": 0.2}
    errors = []
    fitted = scheme("quadratic", batch_size=1000, **parameters)

    def trace(map, *, objective_error=None, **_):
        errors.append(objective_error)
        return True

    fitted.fit(flow.x, flow.target, trace=trace)
    assert min(errors[1:]) > 0
    # 14 parameters, two probes at 1000 points a step: noise of some percent in length
    assert flow.error(fitted.transform(flow.x), flow.exact_map(flow.x)) < 0.1
