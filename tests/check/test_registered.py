"""Every registered estimator passes the checks: with its defaults where they are cheap, else small."""

import importlib.util

import pytest

import mongebench as mb
from mongebench.check import parametrize_with_checks
from mongebench.plugins import ESTIMATORS, available

SMALL = {
    "flow_newton": {"units": 4, "batch_size": 40, "steps": 3, "warm_steps": 1},
    "flow_natural": {"units": 4, "batch_size": 40, "steps": 2, "final_time": 0.5},
    "flow_fisher_rao": {"units": 4, "batch_size": 40, "steps": 2, "warm_steps": 1},
    "flow_implicit": {"units": 4, "batch_size": 40, "steps": 2, "inner_steps": 3},
    "flow_explicit": {"units": 4, "batch_size": 40, "steps": 2, "inner_steps": 3, "tau": 0.1},
    "drifting": {"steps": 200, "width": 16, "batch_size": 64},
    "semidual": {"steps": 128, "units": 8, "depth": 2},
    **{name: {"steps": 20, "width": 16, "depth": 1, "batch_size": 32} for name in ("w2_dual", "enot", "monge_gap")},
    "euclidean": {"units": 4, "batch_size": 40, "steps": 3, "inner_steps": 5, "learning_rate": 1e-2},
    "kernel_sos": {"bandwidth": 2.0, "lambda1": 1e-3, "lambda2": 1e-5, "max_pairs": 100},
    "semidiscrete": {"pixels": 24},
}
"""Parameters with which a flow or a network is fitted in a second or two, compilation included.

kernel_sos has the setting that it would choose, and semidiscrete the 24 pixels along an axis that it has in d = 3
anyway; that the one chooses, and the other on all of its pixels in d = 2, are checked among the long ones.
"""
FLOWS = [name for name, plugin in available(ESTIMATORS).items() if ".flow." in plugin.module]
EXTRA = [] if importlib.util.find_spec("MultiScaleOT") else ["multiscale"]
"""Not installed: its library is compiled against a system package (`make extras`)."""
NEURAL = [
    name
    for name, plugin in available(ESTIMATORS).items()
    if plugin.module.endswith((".neural", ".drifting", ".dual.semidual"))
]
PRESETS = [name for name, plugin in available(ESTIMATORS).items() if plugin.module.endswith(".neural_published")]
"""Other defaults of classes that are checked: no code of their own."""
ENTROPIC = ["sinkhorn_divergence", "progot"]
"""Made of the solves of `entropic`."""
CHEAP = [name for name in mb.estimators() if name not in [*FLOWS, *NEURAL, *PRESETS, *EXTRA, *ENTROPIC]]


def small(names: list[str]) -> list[mb.MapEstimator]:
    return [mb.estimator(name, **SMALL.get(name, {})) for name in names]


@parametrize_with_checks(small(CHEAP))
def test_estimators_that_are_no_flow(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(small(ENTROPIC))
def test_estimators_of_several_entropic_solves(estimator, check) -> None:
    check(estimator)


@pytest.mark.long
@parametrize_with_checks([*small([*FLOWS, *NEURAL]), mb.estimator("kernel_sos"), mb.estimator("semidiscrete")])
def test_flows_networks_and_large_grids(estimator, check) -> None:
    check(estimator)
