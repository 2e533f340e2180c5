"""What every Monge-map estimator must do, as named checks on a small Gaussian pair: `mongebench check TARGET`.

In a test file,

    @parametrize_with_checks([MyMap()])
    def test_the_contract(estimator, check):
        check(estimator)

The checks are functions, whose docstrings say what, why, and how to mend, in the order in which they run: `interface`,
`fitting`, `oracles`, `robustness`, `mathematics`. `subject` says what they are tried on. `certificate` checks problems:
whether their exact map is one.
"""

# Importing them registers the checks, in this order.
from mongebench.check import interface, fitting, oracles, robustness, mathematics  # isort: skip  # noqa: F401
from mongebench.check.base import CHECKS, Check, Outcome, Result, parametrize_with_checks, run_checks
from mongebench.check.subject import CheckFailed

__all__ = ["CHECKS", "Check", "CheckFailed", "Outcome", "Result", "parametrize_with_checks", "run_checks"]
