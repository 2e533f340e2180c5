"""Every registered estimator passes the checks: with its defaults where they are cheap, small where it is a flow."""

import pytest

import mongebench as mb
from mongebench.check import parametrize_with_checks

SMALL = {
    "flow_newton": {"steps": 3, "warm_steps": 1},
    "flow_natural": {"steps": 2, "final_time": 0.5},
    "flow_implicit": {"steps": 2, "inner_steps": 3},
    "flow_explicit": {"steps": 2, "inner_steps": 3, "tau": 0.1},
    "euclidean": {"steps": 3, "inner_steps": 5, "learning_rate": 1e-2},
}
FLOWS = [mb.estimator(name, units=4, batch_size=40, **parameters) for name, parameters in SMALL.items()]
CHEAP = [mb.estimator(name) for name in mb.estimators() if name not in SMALL]


@parametrize_with_checks(CHEAP)
def test_estimators_with_their_defaults(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(FLOWS)
def test_small_flows(estimator, check) -> None:
    check(estimator)
