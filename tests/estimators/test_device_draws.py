"""Fits whose draws JAX makes on its device, forced on the CPU: their maps must be as good as of the host's draws."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
import scipy.stats

import mongebench as mb
from mongebench.core.device_draws import VARIABLE
from mongebench.core.measure import Measure
from mongebench.core.session import views
from mongebench.estimators.draws import scaled

FLOW = {"steps": 3, "family": "quadratic", "batch_size": 512}
SEMIDUAL = {"family": "dense_icnn", "units": 8, "depth": 2, "steps": 128, "batch_size": 128}
NEURAL = {"steps": 2, "batch_size": 8, "width": 4, "depth": 1}


PAIR = mb.problem("gaussian", dim=2, seed=3)
X = PAIR.source.sample(2000, seed=9)


@pytest.fixture
def draws(monkeypatch) -> Callable[[str], None]:
    """(place): where they are made from now on; those of the host fail where the device is to make them."""
    sample = Measure.sample

    def place(where: str) -> None:
        monkeypatch.setenv(VARIABLE, where)
        monkeypatch.setattr(Measure, "sample", sample if where == "host" else None)

    return place


def fitted(name: str, parameters: dict[str, object], seed: int = 0) -> tuple[mb.MapEstimator, dict]:
    estimator = mb.estimator(name, **parameters)
    source, target, meter = views(PAIR, estimator, None, None, seed)
    return estimator.fit(source, target, seed=seed), meter.counts


def errors(name: str, parameters: dict[str, object]) -> tuple[list[float], list[dict]]:
    """E |T^ - T*|^2 of the fits of five seeds, and what was counted."""
    maps, counts = zip(*(fitted(name, parameters, seed) for seed in range(5)), strict=True)
    return [float(((one.transform(X) - PAIR.truth(X)) ** 2).sum(axis=1).mean()) for one in maps], list(counts)


@pytest.mark.parametrize(("name", "parameters"), [("flow_newton", FLOW), ("semidual", SEMIDUAL)])
def test_maps_are_as_good_as_those_of_the_hosts_draws(name, parameters, draws) -> None:
    """Fits of as many draws each, of which the logarithms of the errors have one mean: Welch's test."""
    draws("host")
    host, counted = errors(name, parameters)
    draws("device")
    device, as_many = errors(name, parameters)
    assert as_many == counted
    of_identity = ((X - PAIR.truth(X)) ** 2).sum(axis=1).mean()
    assert max(host + device) < of_identity / 20
    assert not np.isclose(host, device, rtol=1e-6).any()
    assert scipy.stats.ttest_ind(np.log(host), np.log(device), equal_var=False).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("flow_fisher_rao", {"steps": 1, "family": "quadratic", "batch_size": 64, "dtype": "float32"}),
        *(pytest.param(name, NEURAL, marks=pytest.mark.slow) for name in ("enot", "w2_dual", "monge_gap")),
    ],
)
@pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning")  # ott's imports
def test_the_host_draws_nothing_and_as_much_is_counted(name, parameters, draws) -> None:
    draws("host")
    host, counted = fitted(name, parameters)
    draws("device")
    device, as_many = fitted(name, parameters)
    assert as_many == counted
    first, second = host.transform(X), device.transform(X)
    assert np.isfinite(second).all()
    assert not np.array_equal(first, second)


def test_points_are_scaled_on_the_device_as_on_the_host() -> None:
    """In float64: far from the origin float32 has no digit left of them."""
    points = 1e9 + np.random.default_rng(0).standard_normal((3, 40, 2))
    mean = points.mean(axis=(0, 1))
    for x64 in (False, True):
        with jax.enable_x64(True):
            there = jax.device_put(points)
        with jax.enable_x64(x64), jax.transfer_guard("disallow"):
            moved = scaled(there, mean, 3.0, np.dtype(np.float32))
        assert isinstance(moved, jax.Array)
        assert moved.dtype == np.float32
        np.testing.assert_allclose(moved, scaled(points, mean, 3.0, np.dtype(np.float32)), rtol=1e-6)
