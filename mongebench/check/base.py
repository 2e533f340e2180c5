"""What a check is, how one is registered, and how all of them are run."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from unittest import SkipTest

from mongebench.check.subject import CheckFailed, Subject
from mongebench.core.errors import UnknownName, one_of
from mongebench.core.estimator import MapEstimator
from mongebench.foreign import staying

TIME_LIMIT = 10.0
"""CPU seconds that a fit may go on after it was told to stop."""


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One named check; called with an unfitted estimator, it raises `CheckFailed`, or `unittest.SkipTest`."""

    function: Callable[[Subject], None]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.function.__name__

    @property
    def what(self) -> str:
        """What must hold."""
        return self._paragraphs()[0]

    @property
    def why(self) -> str:
        """Why it must."""
        return self._paragraphs()[1].removeprefix("Why: ")

    @property
    def mend(self) -> str:
        """How to mend what does not."""
        return self._paragraphs()[2].removeprefix("How to fix: ")

    def _paragraphs(self) -> list[str]:
        return [" ".join(part.split()) for part in (inspect.getdoc(self.function) or "").split("\n\n")]

    def __call__(self, estimator: MapEstimator) -> None:
        """Run it; see the class."""
        self.on(_subject(estimator))

    def on(self, subject: Subject) -> None:
        """The same, on a subject that may have been fitted for other checks."""
        with warnings.catch_warnings(action="ignore"):
            try:
                with staying():
                    self.function(subject)
            except (CheckFailed, SkipTest, KeyboardInterrupt):
                raise
            except BaseException as error:  # somebody else's code: whatever it raises fails the check, sys.exit too
                raise CheckFailed(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Result:
    """How one check ended, with a sentence unless it passed."""

    check: Check
    outcome: Outcome
    reason: str = ""


CHECKS: dict[str, Check] = {}
"""All checks, in the order in which they run."""


def run_checks(
    estimator: MapEstimator, names: Iterable[str] | None = None, *, time_limit: float = TIME_LIMIT
) -> list[Result]:
    """Run the checks of `names` (default: all) on an unfitted estimator, which stays unfitted.

    `time_limit` is in CPU seconds: what a fit that was told to stop may still take. Raises `UnknownName`.
    """
    chosen = list(CHECKS if names is None else names)
    for name in chosen:
        if name not in CHECKS:
            raise UnknownName(one_of(name, CHECKS, "check"))
    subject = Subject(estimator, time_limit)
    results = []
    for one in (CHECKS[name] for name in chosen):
        try:
            one.on(subject)
            results.append(Result(one, Outcome.PASSED))
        except SkipTest as reason:
            results.append(Result(one, Outcome.SKIPPED, str(reason)))
        except CheckFailed as failure:
            results.append(Result(one, Outcome.FAILED, str(failure)))
    return results


def parametrize_with_checks(estimators: Iterable[MapEstimator]) -> Any:
    """Decorator for a pytest function of `estimator` and `check`: one test for each pair of them."""
    import pytest

    pairs = [
        pytest.param(estimator, one, id=f"{type(estimator).__name__}-{one.name}")
        for estimator in estimators
        for one in CHECKS.values()
    ]
    return pytest.mark.parametrize(("estimator", "check"), pairs)


@functools.lru_cache(maxsize=64)
def _subject(estimator: MapEstimator) -> Subject:
    """Its fits serve all checks, whatever the order of the tests that `parametrize_with_checks` makes."""
    return Subject(estimator, TIME_LIMIT)


def check(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Register a check under its name."""
    CHECKS[function.__name__] = Check(function)
    return function
