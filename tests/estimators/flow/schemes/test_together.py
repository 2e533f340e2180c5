"""Seeds fitted together: the maps of one by one, one compilation for all, and a loss that stays its own."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

import mongebench as mb
from mongebench.core.errors import Diverged
from mongebench.core.estimator import keep_going
from mongebench.core.oracle import Meter, SourceView, TargetView
from mongebench.estimators.flow.schemes.euclidean import Euclidean
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.estimators.flow.schemes.natural import FlowNatural
from mongebench.estimators.flow.schemes.newton import FlowNewton

SEEDS = [0, 1, 5]
SMALL = {
    FlowImplicit: {"steps": 2, "inner_steps": 3},
    Euclidean: {"steps": 2, "inner_steps": 3, "learning_rate": 1e-3},
    FlowNewton: {"steps": 3, "warm_steps": 1},
    FlowNatural: {"steps": 2, "final_time": 0.2, "family": "quadratic"},  # ridges are stiff: see below
}
X = np.random.default_rng(0).standard_normal((60, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]]) + 1
TARGET = mb.Target(potential=lambda y: jnp.sum(y**2, axis=1) / 2, dim=2)


def small(scheme):
    return scheme(units=4, batch_size=40, **SMALL[scheme])


def views(scheme, seed, points=X, target=TARGET):
    source = mb.Source(sampler=lambda n, rng: points[rng.integers(len(points), size=n)], dim=2)
    shared = {"declared": scheme().needs, "budget": None, "seed": seed, "meter": Meter()}
    return SourceView(source, **shared), TargetView(target, **shared)


def fit_together(flows, pairs, traces=None):
    sources, targets = zip(*pairs, strict=True)
    traces = traces or [keep_going] * len(flows)
    return type(flows[0]).fit_together(flows, sources, targets, seeds=SEEDS[: len(flows)], traces=traces)


@pytest.mark.parametrize("scheme", [FlowImplicit, *(pytest.param(s, marks=pytest.mark.long) for s in list(SMALL)[1:])])
def test_together_they_are_what_they_are_alone(scheme):
    flows, pairs = [small(scheme) for _ in SEEDS], [views(scheme, seed) for seed in SEEDS]
    times = {seed: [] for seed in SEEDS}

    def trace(seed):
        return lambda map, *, flow_time, **_: times[seed].append(flow_time) or True

    assert fit_together(flows, pairs, [trace(seed) for seed in SEEDS]) == [None] * 3
    for seed, flow, pair in zip(SEEDS, flows, pairs, strict=True):
        again = views(scheme, seed)
        alone = small(scheme).fit(*again, seed=seed)
        # The same arithmetic in another order: few steps amplify the rounding of 1e-16 by far less than 1e6. (Of sixty
        # steps through ridges, rounding may decide whether the integrator takes or rejects one.)
        np.testing.assert_allclose(flow.transform(X), alone.transform(X), rtol=0, atol=1e-9)
        assert flow.n_steps_ == alone.n_steps_ == len(times[seed]) - 1
        assert pair[0].meter.counts == again[0].meter.counts
    assert np.abs(flows[0].transform(X) - flows[1].transform(X)).max() > 1e-3


def test_as_many_seeds_compile_no_more_than_fewer_do():
    counts = []
    compiled = []
    monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    for number in (2, 2, 3):  # the first call also compiles what all later ones share
        before = len(compiled)
        flows = [small(Euclidean) for _ in range(number)]
        fit_together(flows, [views(Euclidean, seed) for seed in SEEDS[:number]])
        counts.append(len(compiled) - before)
    assert counts[0] >= counts[1] > 0
    assert counts[2] <= counts[1] + 3  # stacking three in place of two


def test_a_fit_that_is_lost_leaves_the_others():
    # V falls without bound where only the second source is: its map runs away.
    target = mb.Target(potential=lambda y: jnp.where(y[:, 0] < 50, y[:, 0] ** 2 / 2, -(y[:, 0] ** 3)), dim=2)
    flows = [Euclidean("quadratic", optimiser="sgd", learning_rate=0.1, batch_size=40, steps=5) for _ in range(2)]
    pairs = [views(Euclidean, 0, X, target), views(Euclidean, 1, X + 100, target)]
    errors = fit_together(flows, pairs)
    assert errors[0] is None
    assert flows[0].n_steps_ == 5
    assert isinstance(errors[1], Diverged)
    assert "step 1: " in str(errors[1])
    assert np.isfinite(flows[1].transform(X)).all()
