"""The flow that knows the source's density: it arrives between Gaussians, counts, and refuses."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import mongebench as mb
from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView
from mongebench.estimators.flow.schemes.fisher_rao import FlowFisherRao

TARGET = mb.Target(potential=lambda y: jnp.sum(y**2, axis=1) / 2, dim=2)


def test_it_ends_at_the_map_between_gaussians_to_rounding():
    problem = mb.problem("gaussian", dim=3, condition=10.0)
    fitted = FlowFisherRao("quadratic", warm_steps=1, steps=18, batch_size=256).fit(problem.source, problem.target)
    x = problem.source.sample(500, seed=1)
    error = np.mean(np.sum((fitted.transform(x) - problem.truth(x)) ** 2, axis=1))
    # Every batch is another one. KL says which map is kept, is of the order of the squared error, and rounds at 1e-16.
    assert error / problem.target.total_variance < 1e-15


def test_draws_and_evaluations_are_counted():
    problem, meter = mb.problem("gaussian", dim=2), Meter()
    declared = FlowFisherRao().needs
    views = [
        kind(measure, declared=declared, budget=None, seed=0, meter=meter)
        for kind, measure in ((SourceView, problem.source), (TargetView, problem.target))
    ]
    FlowFisherRao("quadratic", warm_steps=1, steps=2, batch_size=64).fit(*views)
    assert meter.counts[Oracle.SOURCE_DENSITY] == 3 * 64  # one batch that asks whether there is a density, two steps
    # a batch of Adam's is no larger than one of the steps on m, each of which asks V at least four times
    assert meter.counts[Oracle.TARGET_POTENTIAL] >= 64 + 100 * 64 + 2 * 4 * 64


def test_a_source_without_density_is_refused():
    x = np.random.default_rng(0).standard_normal((100, 2))
    with pytest.raises(InvalidInput, match=r"log-density of the source.*log_density=.*flow_newton"):
        FlowFisherRao(units=4).fit(x, TARGET)


def test_what_it_cannot_do_is_said():
    with pytest.raises(InvalidParameter, match="cone"):
        FlowFisherRao("dictionary").fit(np.zeros((10, 2)), TARGET)
    info = mb.problem("gaussian", dim=65)
    with pytest.raises(InvalidInput, match=r"up to d = 64"):
        FlowFisherRao("quadratic", batch_size=128).fit(info.source, info.target)
