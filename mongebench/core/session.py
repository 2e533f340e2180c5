"""An estimator meets a problem: whether it can serve it at a budget, and the views that its fit is handed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from mongebench.core.errors import InvalidInput
from mongebench.core.estimator import MapEstimator, Support, check_support
from mongebench.core.oracle import Meter, SourceView, TargetView
from mongebench.core.problem import Problem


def check_budget(**budgets: int | None) -> None:
    """Raise `InvalidInput` for a budget that is neither a positive whole number nor None."""
    for name, n in budgets.items():
        if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1):
            raise InvalidInput(f"{name} must be a positive whole number, or None for unlimited draws; got {n!r}.")


def shortage(problem: Problem, n_source: int | None, n_target: int | None) -> str:
    """Which cloud of a problem has fewer points than this budget asks for; empty where both have enough."""
    for measure, name, n in ((problem.source, "source", n_source), (problem.target, "target", n_target)):
        if measure.size is not None and n is not None and n > measure.size:
            return f"the {name} cloud has {measure.size} points to fit from, n_{name} asks for {n}"
    return ""


def support(problem: Problem, estimator: MapEstimator, n_source: int | None, n_target: int | None) -> Support:
    """Whether the estimator can serve the problem at this budget: cloud sizes, oracles, its own word."""
    if short := shortage(problem, n_source, n_target):
        return Support(False, short)
    return check_support(estimator, problem.info(n_source, n_target))


def views(
    problem: Problem,
    estimator: MapEstimator,
    n_source: int | None,
    n_target: int | None,
    seed: int,
    drawing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[SourceView, TargetView, Meter]:
    """What `fit` sees of a problem, and the meter that both sides share."""
    meter = Meter()
    shared: dict[str, Any] = {"declared": estimator.needs, "meter": meter, "drawing": drawing}
    shared["seed"] = problem.stream(seed)
    source = SourceView(problem.source, exact_map=problem.truth, budget=n_source, **shared)
    return source, TargetView(problem.target, budget=n_target, **shared), meter
