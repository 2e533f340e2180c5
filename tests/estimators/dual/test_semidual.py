"""The semi-dual: its gradient, its minimum, its inverse map, and a fit from samples and from fresh draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import mongebench as mb
from mongebench.core.oracle import Oracle, tier, within
from mongebench.estimators.dual import pool as pools
from mongebench.estimators.dual.semidual import SemiDual, defaults
from mongebench.estimators.dual.steps import descent, semidual
from mongebench.estimators.flow.potential import FAMILIES, Quadratic

SMALL = {"units": 8, "depth": 2, "steps": 128, "batch_size": 128}


def descend_compiled():
    _, block = descent("muon", SemiDual().learning_rate, 64, 2)
    return block._cache_size()


def setting(n=60, dim=2):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((n, dim))), 0.5 + 0.8 * rng.standard_normal((n, dim))
    start = FAMILIES["dense_icnn"].start
    potential = start(Quadratic.identity_like(x), x, units=4, depth=2, share=0.5, rng=rng)
    return potential, x, y


def test_the_gradient_holds_the_maximisers_fixed():
    """By central differences of J, whose conjugates are solved for anew at each end."""
    with jax.enable_x64(True):
        potential, x, y = setting()
        theta, unravel = ravel_pytree(potential)

        def value(theta):
            moved = unravel(theta)
            return float(semidual(moved, x, pools.conjugates(moved, y, jnp.eye(2))[0]))

        points, _ = pools.conjugates(potential, y, jnp.eye(2))
        gradient = ravel_pytree(jax.grad(semidual)(potential, x, points))[0]
        direction = jnp.asarray(np.random.default_rng(5).standard_normal(len(theta)))
        h = 1e-5
        slope = (value(theta + h * direction) - value(theta - h * direction)) / (2 * h)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-5)


def test_fresh_draws_learn_the_map_and_its_inverse():
    problem = mb.problem("gaussian", dim=2, seed=3)
    seen = []

    def trace(map, *, flow_time=None, **diagnostics):
        seen.append(diagnostics)
        return True

    fitted = SemiDual(**SMALL).fit(problem.source, problem.target, seed=1, trace=trace)
    identity = mb.evaluate(lambda x: x, problem, n=2000)["uvp"].value
    assert mb.evaluate(fitted.transform, problem, n=2000)["uvp"].value < identity / 20
    assert {*seen[0]} == {"semidual", "conjugate_residual"}
    assert seen[-1]["conjugate_residual"] < 0.05 * fitted.scale_
    x = problem.source.sample(50, seed=9)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(x)), x, atol=1e-7)
    assert fitted.inverse_transform(fitted.transform(x).astype(np.float32)).dtype == np.float32
    h = 1e-5
    slopes = [(fitted.potential(x + s) - fitted.potential(x - s)) / (2 * h) for s in h * np.eye(2)]
    np.testing.assert_allclose(fitted.transform(x), np.stack(slopes, axis=1), atol=1e-6)


def test_of_a_finite_sample_the_best_map_on_what_was_held_out_is_kept():
    problem = mb.problem("gaussian", dim=2, seed=3)
    x, y = problem.source.sample(60, seed=1), problem.target.sample(60, seed=2)
    values = []

    def trace(map, *, flow_time=None, semidual, conjugate_residual):
        values.append(semidual)
        return True

    fitted = SemiDual(**SMALL | {"learning_rate": 0.2, "steps": 320}).fit(x, y, trace=trace)
    assert fitted.value_ == min(values)
    assert len(values) == 5
    assert np.isfinite(fitted.transform(x)).all()


def test_a_fit_stops_where_the_trace_says():
    problem = mb.problem("gaussian", dim=2, seed=3)
    fitted = SemiDual(**SMALL).fit(problem.source, problem.target, trace=lambda *_, **__: False)
    assert fitted.n_steps_ == 64


@pytest.mark.long  # it compiles a block of steps of its own
def test_samples_of_many_sizes_share_what_is_compiled():
    """Both are solved for as 64 points, and stepped on in batches of 32."""
    problem = mb.problem("gaussian", dim=2, seed=3)
    fits = []
    for n in (61, 55):
        x, y = problem.source.sample(n, seed=1), problem.target.sample(n, seed=2)
        before = descend_compiled()
        fits.append(SemiDual(**SMALL | {"steps": 64}).fit(x, y))
    assert descend_compiled() == before
    assert all(np.isfinite(fitted.value_) for fitted in fits)


def test_defaults_follow_the_dimension_and_the_budget():
    assert defaults(2, None).units <= defaults(64, None).units
    assert defaults(2, 500).steps < defaults(2, None).steps
    assert (defaults(2, 500).family, defaults(2, None).family) == ("dense_icnn", "kinked_icnn")


def test_a_tier_says_whether_draws_are_without_limit():
    needs = SemiDual().needs
    assert tier(within(needs, n_source=None, n_target=None)) == "source sampler + target sampler"
    assert tier(within(needs, n_source=500, n_target=500)) == "source samples + target samples"
    assert within(needs, n_source=None, n_target=5) == {Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLES}
