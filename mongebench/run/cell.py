"""`fit` and `run_cell`: one estimator on one problem, in this process."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from sklearn.base import clone

from mongebench.core.errors import OracleUnavailable
from mongebench.core.estimator import Map, MapEstimator, Trace, keep_going
from mongebench.core.problem import Problem
from mongebench.core.session import check_budget, support, views
from mongebench.plugins import snake_case
from mongebench.run.measurement import measure
from mongebench.run.planned import Conditions
from mongebench.run.record import Cell, Record, Spec


class _Told:
    """Tells a person how far a fit is, a line on standard error at most once per second, and asks another trace."""

    def __init__(self, trace: Trace | None) -> None:
        self._trace = keep_going if trace is None else trace
        self._start, self._last, self._steps = time.monotonic(), -math.inf, 0

    def __call__(self, map: Map, *, flow_time: float | None = None, **diagnostics: float) -> bool:
        self._steps += 1
        now = time.monotonic() - self._start
        if now - self._last >= 1:
            self._last = now
            reached = "" if flow_time is None else f", flow time {flow_time:.3g}"
            print(f"fit: outer step {self._steps}{reached}, {now:.0f} s", file=sys.stderr, flush=True)
        return self._trace(map, flow_time=flow_time, **diagnostics)


def fit(
    problem: Problem,
    estimator: MapEstimator,
    *,
    n_source: int | None = 1000,
    n_target: int | None = 1000,
    seed: int = 0,
    trace: Trace | None = None,
    progress: bool = False,
) -> MapEstimator:
    """Fit a copy of `estimator` through metered oracles in this process, and return it.

    Of point clouds it sees the problem's own split, so that `mongebench.evaluate(map, problem)` measures the map on
    points it was not fitted to; `problem.replicate(k)` is the problem with another split.

    Parameters
    ----------
    problem, estimator
        From `mongebench.problem` and `mongebench.estimator`, or your own.
    n_source, n_target
        Draws allowed from each side, as in `run_cell`; None for unlimited draws.
    seed
        Seed of the draws and of the fit.
    trace
        See `MapEstimator.fit`.
    progress
        Whether to write a line to standard error at outer steps of the fit, at most one per second.

    Raises
    ------
    OracleUnavailable
        If the estimator does not support the problem at this budget, with its reason.
    InvalidInput
        A budget that is not a positive whole number.
    """
    check_budget(n_source=n_source, n_target=n_target)
    supported = support(problem, estimator, n_source, n_target)
    if not supported.ok:
        raise OracleUnavailable(f"{estimator!r} does not support {problem!r}: {supported.reason}.")
    fitted: MapEstimator = clone(estimator)
    source, target, _ = views(problem, fitted, n_source, n_target, seed)
    return fitted.fit(source, target, seed=problem.stream(seed), trace=_Told(trace) if progress else trace)


def run_cell(
    problem: Problem,
    estimator: MapEstimator,
    *,
    n_source: int | None = 1000,
    n_target: int | None = 1000,
    seed: int = 0,
    evaluation_points: int = 10_000,
) -> Record:
    """Fit and measure one estimator on one problem in this process; whatever fails becomes the record's status.

    Point clouds are split anew for each seed: this fits and measures `problem.replicate(seed)`.

    A hang or a crash of the interpreter cannot be caught here: `mongebench run` does that, one child process per batch.

    Parameters
    ----------
    problem, estimator, n_source, n_target, seed
        As in `fit`.
    evaluation_points
        Points per side that metrics are computed on.

    Raises
    ------
    InvalidInput
        A budget that is not a positive whole number.
    """
    check_budget(n_source=n_source, n_target=n_target, evaluation_points=evaluation_points)
    cell = Cell(
        estimator=Spec(name=snake_case(type(estimator).__name__), parameters=_plain(estimator.get_params())),
        problem=Spec(name=problem.name, parameters=_plain(problem.parameters)),
        n_source=n_source,
        n_target=n_target,
        seed=seed,
    )
    record, _ = measure(cell, problem, estimator, Conditions(evaluation_points=evaluation_points))
    return record


def _plain(parameters: Any) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (bool, int, float, str, list, type(None))) else repr(value)
        for name, value in parameters.items()
    }
