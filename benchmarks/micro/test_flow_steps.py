"""Steps against dimension and width, for N(0, I) on batches of 256: outer ones of `flow_newton` and `flow_implicit` on
ridges, and the gradient of F, one of Adam's steps, through every family with units of its own.

CPU seconds, all of them: pytest benchmarks/micro/test_flow_steps.py -m "long or not long"
--benchmark-timer=time.process_time --benchmark-columns=median
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.gauss_newton import GaussNewton
from mongebench.estimators.flow.machinery.objective import Batch, objective
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import FAMILIES, Quadratic

SHAPES = [
    pytest.param(dim, units, marks=[] if (dim, units) == (2, 64) else pytest.mark.long)
    for dim in (2, 8, 32, 64, 128, 256)
    for units in (64, 128, 256)
]


def normal(y):
    return jnp.sum(y**2, axis=1) / 2


def potential_and_batch(family, dim, units):
    rng = np.random.default_rng(0)
    x = jnp.asarray(1 + 0.5 * rng.standard_normal((256, dim)), jnp.float32)
    potential = FAMILIES[family].start(Quadratic.identity_like(x), x, units=units, depth=2, share=0.5, rng=rng)
    return potential, Batch(x, jnp.zeros((0, dim), x.dtype), jnp.zeros(2, jnp.uint32))


@pytest.mark.parametrize("scheme", ["newton", "implicit"])
@pytest.mark.parametrize(("dim", "units"), SHAPES)
def test_step(benchmark, scheme, dim, units):
    potential, batch = potential_and_batch("ridge", dim, units)
    x = batch.x
    subproblem = Subproblem(KullbackLeibler(normal, dim), linear=False)
    method = GaussNewton(potential, subproblem, by_kind=scheme == "newton")
    damping = jnp.asarray(1e-3, x.dtype)

    @jax.jit
    def step(theta):
        if scheme == "newton":
            return method.step(theta, theta, batch, jnp.asarray(100.0, x.dtype), damping)
        return method.minimise(theta, batch, jnp.asarray(0.4, x.dtype), damping, steps=20, tolerance=1e-3)

    theta, _ = ravel_pytree(potential)
    moved = benchmark.pedantic(lambda: jax.block_until_ready(step(theta)), rounds=2, warmup_rounds=1)
    assert jnp.isfinite(moved.objective)
    assert jnp.any(moved.theta != theta)


@pytest.mark.parametrize("family", ["ridge", "icnn", pytest.param("maxima", marks=pytest.mark.long)])
@pytest.mark.parametrize("dim", [8, *(pytest.param(dim, marks=pytest.mark.long) for dim in (32, 64))])
def test_gradient(benchmark, family, dim):
    potential, batch = potential_and_batch(family, dim, 64)
    divergence = KullbackLeibler(normal, dim)
    theta, unravel = ravel_pytree(potential)
    gradient = jax.jit(jax.grad(lambda theta: objective(divergence, unravel(theta), batch)))
    slope = benchmark.pedantic(lambda: jax.block_until_ready(gradient(theta)), rounds=5, warmup_rounds=1)
    assert jnp.all(jnp.isfinite(slope))
    assert jnp.any(slope != 0)
