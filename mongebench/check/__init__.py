"""What every Monge-map estimator must do, as named checks on a small Gaussian pair: `mongebench check TARGET`.

In a test file,

    @parametrize_with_checks([MyMap()])
    def test_the_contract(estimator, check):
        check(estimator)

`contract` lists the checks, `subject` says what they are tried on.
"""

from mongebench.check import contract  # noqa: F401  registers the checks
from mongebench.check.base import CHECKS, Check, Outcome, Result, parametrize_with_checks, run_checks
from mongebench.check.subject import CheckFailed

__all__ = ["CHECKS", "Check", "CheckFailed", "Outcome", "Result", "parametrize_with_checks", "run_checks"]
