"""Fits under the clock, and the records that they leave: problem -> oracle views -> fit -> metrics -> record.

Cells that differ in their seed alone may be fitted by one call. Whatever fails becomes a record's status.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

from mongebench.core import guard
from mongebench.core.arrays import Points
from mongebench.core.errors import ContractViolation, NotConverged
from mongebench.core.estimator import CPU_ALONE, MapEstimator, keep_going
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView
from mongebench.core.problem import Problem
from mongebench.core.session import views
from mongebench.metrics import Evaluation, EvaluationPoints, Value, compute
from mongebench.run import device
from mongebench.run.afresh import read_afresh, same_map_before
from mongebench.run.clock import Clock, watch_compiler
from mongebench.run.planned import Conditions, planned, with_what_is_here
from mongebench.run.provenance import provenance
from mongebench.run.record import Cell, PlannedCell, Provenance, Record, Status, Times
from mongebench.run.sketch import Sketch
from mongebench.run.status import judged, refusal, status_of
from mongebench.run.trace import RunTrace

OVERDRAFT = 1.1
"""Of a CPU budget: a fit that took more than so many times it is told of in its record."""


def measure(
    cell: Cell, problem: Problem, estimator: MapEstimator, conditions: Conditions, clock: Clock | None = None
) -> tuple[Record, Sketch | None]:
    """The record of one cell, planned here, and its sketch where its map was measured and can be drawn."""
    known = planned(cell, problem, estimator, conditions)
    if refused := refusal(cell, problem, estimator):
        return failed(known, conditions, *refused), None
    (measured,) = measure_together([known], problem, estimator, conditions, clock)
    return measured


def measure_together(
    cells: Sequence[PlannedCell],
    problem: Problem,
    estimator: MapEstimator,
    conditions: Conditions,
    clock: Clock | None = None,
    came_back: Callable[[], None] = lambda: None,
) -> list[tuple[Record, Sketch | None]]:
    """Record and sketch of each of some cells that differ in their seed alone, fitted in one call if several.

    That the estimator supports them is known. They share the clock, and each record shows an equal share of its times,
    with `together` saying of how many. `clock` may have started earlier, to count the start-up of a child process.
    `came_back` is called when the first fit has returned: twice where it forked this process.
    """
    clock = clock or Clock()
    fits = [_Fit.of(known.cell, problem, estimator, clock) for known in cells]
    with _caught_warnings() as caught:
        try:
            with clock.phase("import"), warnings.catch_warnings(action="ignore"):
                for name in fits[0].fitted.modules:
                    importlib.import_module(name)
            with watch_compiler(clock):
                points = [_evaluation_points(fit.problem, conditions.evaluation_points) for fit in fits]
                _fit_all(fits, points, clock, conditions)
                came_back()
                for fit, own in zip(fits, points, strict=True):
                    if fit.status is Status.OK:
                        fit.evaluate(own, clock)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the runner alone may catch everything (sys.exit too), and always records it
            for fit in fits:
                fit.status, fit.reason = status_of(error)
        clock.stop()
        times = [_times(clock, fit, len(fits)) for fit in fits]
        framework = estimator.device_framework
        peak, used = _peak_bytes(), device.use(framework)
        for fit in fits:
            if fit.status.measured:
                fit.judge_likeness(_evaluation_points(fit.problem, conditions.evaluation_points), conditions)
        if conditions.repeats > 1:
            seconds = _repeat(fits, problem, estimator, conditions)
            times = [timed.model_copy(update={"fits": [timed.fit, *seconds]}) for timed in times]
    return [
        (
            Record(
                **dict(with_what_is_here(known, problem, estimator)),
                status=fit.status,
                reason=fit.reason,
                metrics=fit.metrics,
                times=timed,
                compile_cache=_cache_state(clock),
                oracle_counts={str(oracle): count for oracle, count in fit.meter.counts.items()},
                learned=_learned(fit.fitted),
                trace=fit.trace.points if fit.trace else [],
                warnings=[
                    *sorted({f"{warning.category.__name__}: {warning.message}" for warning in caught}),
                    *fit.differences,
                    *budget_spent(fit.trace, conditions.cpu_budget, timed),
                    *timed.remarks,
                ],
                peak_bytes=peak,
                gpu_peak_bytes=used.peak_bytes,
                provenance=_provenance(conditions, framework, used),
            ),
            fit.sketch,
        )
        for known, fit, timed in zip(cells, fits, times, strict=True)
    ]


@dataclass
class _Fit:
    """One fit on its way to a record."""

    cell: Cell
    problem: Problem
    fitted: MapEstimator
    source: SourceView
    target: TargetView
    meter: Meter
    trace: RunTrace | None = None
    metrics: dict[str, Value] = field(default_factory=dict)
    sketch: Sketch | None = None
    transform_seconds: float = 0.0
    pushed: Points = field(default_factory=lambda: np.empty((0, 0)))
    differences: list[str] = field(default_factory=list)
    status: Status = Status.OK
    reason: str = ""

    @classmethod
    def of(cls, cell: Cell, problem: Problem, estimator: MapEstimator, clock: Clock) -> _Fit:
        fitted: MapEstimator = clone(estimator)
        own = _replicate(problem, cell.seed)
        seen = views(own, fitted, cell.n_source, cell.n_target, cell.seed, drawing=lambda: clock.phase("overhead"))
        return cls(cell, own, fitted, *seen)

    def evaluate(self, points: EvaluationPoints, clock: Clock) -> None:
        """Measure the fitted map."""
        try:
            with clock.phase("evaluate"):
                before = clock.seconds("evaluate")
                evaluation = Evaluation.of(self.fitted.transform, points)
                self.transform_seconds = clock.seconds("evaluate") - before
                self.metrics = compute(evaluation)
            self.pushed = evaluation.pushed
            self.status, self.reason = judged(evaluation, self.metrics)
            self.sketch = Sketch.of(evaluation) if self.status.measured else None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of one map, not of its neighbours
            self.status, self.reason = status_of(error)

    def judge_likeness(self, points: EvaluationPoints, conditions: Conditions) -> None:
        """Judge a map that is to the last bit that of another seed: it may depend on no draw, or be kept across fits.

        What tells is the same fit with the estimator's module read afresh, which has kept nothing: there a map that
        depends on no draw is what it was. Where that cannot be tried, a warning says so, and nobody is accused.
        """
        other = same_map_before(self.cell, self.pushed)
        # A fit stopped before its first step leaves the identity; all of a cloud is the same draws in another order.
        finite = any(measure.size is not None for measure in (self.problem.source, self.problem.target))
        if other is None or finite or not self.meter.draws or np.array_equal(self.pushed, points.x):
            return
        found = f"the map is that of seed {other.seed} to the last bit, though it was fitted to other draws"
        try:
            pushed = self._fitted_afresh(points, conditions)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # somebody else's module, and fit
            self.differences.append(
                f"{found}: it depends on none of them, or keeps something from one fit to the next; `mongebench check` "
                f"tells which ({error})"
            )
            return
        if not np.allclose(pushed, self.pushed, rtol=0, atol=1e-6 * np.abs(self.pushed).max()):
            self.sketch, self.status = None, Status.ERROR
            self.reason = (
                f"{ContractViolation.__name__}: {found}: it keeps something from one fit to the next, and neither its "
                "error nor its time is its own"
            )

    def _fitted_afresh(self, points: EvaluationPoints, conditions: Conditions) -> Points:
        """The images of the evaluation points, had there been no fit before."""
        if conditions.time_limit and self.trace and self.trace.clock.wall_seconds() > conditions.time_limit / 3:
            raise NotConverged("there is no time for another fit")
        again = _Fit.of(self.cell, self.problem, read_afresh(self.fitted), Clock())
        _fit_untimed([again])
        return Evaluation.of(again.fitted.transform, points).pushed


def _fit_all(fits: Sequence[_Fit], points: Sequence[EvaluationPoints], clock: Clock, conditions: Conditions) -> None:
    """Fit under the clock, by one call where there are several; what ends one of them becomes its status.

    `points` are each fit's own.
    """
    limit = conditions.time_limit and 0.9 * conditions.time_limit
    with clock.phase("evaluate"):
        for fit, own in zip(fits, points, strict=True):
            fit.trace = RunTrace(clock, own, (fit.meter,), limit, len(fits), cpu_budget=conditions.cpu_budget)
    with clock.phase("fit"):
        _fit_untimed(fits)


def _fit_untimed(fits: Sequence[_Fit]) -> None:
    if len(fits) == 1:
        (fit,) = fits
        fit.fitted.fit(fit.source, fit.target, seed=fit.problem.stream(fit.cell.seed), trace=fit.trace)
        return
    fit_together = fits[0].fitted.fit_together
    assert fit_together is not None
    traces = [guard.watched(fit.trace) if fit.trace else keep_going for fit in fits]
    with guard.closed(Oracle.EXACT_MAP not in fits[0].fitted.needs, everywhere=True):
        errors = fit_together(
            [fit.fitted for fit in fits],
            [fit.source for fit in fits],
            [fit.target for fit in fits],
            seeds=[fit.problem.stream(fit.cell.seed) for fit in fits],
            traces=traces,
        )
    for fit, error in zip(fits, errors, strict=True):
        if error is not None:
            fit.status, fit.reason = status_of(error)


def budget_spent(trace: RunTrace | None, budget: float | None, times: Times) -> list[str]:
    """What a record says of a fit that met the CPU budget: that it was stopped there, or that it went beyond it."""
    if budget is None or trace is None:
        return []
    if trace.stopped:
        return [f"the CPU budget of {budget:g} s ended the fit after step {trace.points[-1].iteration}"]
    working = times.fit + times.compile
    spent = times.fit_cpu * times.fit / working if working else 0.0
    return [f"the fit took {spent:.3g} CPU s of a budget of {budget:g} s"] if spent > OVERDRAFT * budget else []


def _repeat(fits: Sequence[_Fit], problem: Problem, estimator: MapEstimator, conditions: Conditions) -> list[float]:
    """Fit again with the same seeds, until there were `conditions.repeats` fits; the seconds of each after the first.

    Their maps are compared with the first ones, which are those that were measured.
    """
    seconds: list[float] = []
    if not all(fit.status.measured for fit in fits):
        return seconds
    points = [_evaluation_points(fit.problem, conditions.evaluation_points) for fit in fits]
    for number in range(2, conditions.repeats + 1):
        clock = Clock()
        again = [_Fit.of(fit.cell, problem, estimator, clock) for fit in fits]
        try:
            with watch_compiler(clock):
                _fit_all(again, points, clock, conditions)
            maps = [Evaluation.of(x.fitted.transform, own).pushed for x, own in zip(again, points, strict=True)]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the first fit stands; what became of this one is told
            for fit in fits:
                fit.differences.append(f"fit {number} of the same seed failed: {status_of(error)[1]}")
            break
        seconds.append(clock.seconds("fit") / len(fits))
        for fit, pushed in zip(fits, maps, strict=True):
            if not np.array_equal(pushed, fit.pushed):
                gap = np.abs(pushed - fit.pushed).max()
                fit.differences.append(f"fit {number} of the same seed gave another map: it is up to {gap:.3g} away")
    return seconds


def failed(planned: PlannedCell, conditions: Conditions, status: Status, reason: str) -> Record:
    """The record of a cell that left none itself; its device is the kind that it was to have."""
    used = device.Use(planned.manifest.device)
    return Record(**dict(planned), status=status, reason=reason, provenance=_provenance(conditions, used=used))


@functools.lru_cache(maxsize=32)
def _replicate(problem: Problem, seed: int) -> Problem:
    """One object for all estimators, which share what is computed once of its evaluation points."""
    return problem.replicate(seed)


@functools.lru_cache(maxsize=4)
def _evaluation_points(problem: Problem, count: int) -> EvaluationPoints:
    """The same points for all estimators, and but for point clouds all seeds: differences are paired."""
    return EvaluationPoints.draw(problem, count, seed=0)


@contextmanager
def _caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _times(clock: Clock, fit: _Fit, share: int) -> Times:
    others = sum(seconds for phase, seconds in clock.cpu_seconds.items() if phase != "fit")
    return Times(
        imports=clock.seconds("import") / share,
        compile=clock.compile_seconds() / share,
        fit=clock.seconds("fit") / share,
        evaluate=clock.seconds("evaluate") / share,
        overhead=clock.seconds("overhead") / share,
        wall=clock.wall_seconds() / share,
        fit_cpu=(clock.cpu_seconds["fit"] + clock.helpers_cpu + clock.late_cpu) / share,
        transform=fit.transform_seconds,
        transform_points=len(fit.pushed) or None,
        late_cpu=clock.late_cpu / share,
        other_cpu=others / share,
        together=share,
    )


def _cache_state(clock: Clock) -> Any:
    if not clock.compiling:
        return "none"
    return "warm" if clock.cache_events["cache_hits"] and not clock.cache_events["cache_misses"] else "cold"


def _learned(estimator: MapEstimator) -> dict[str, Any]:
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(estimator).items()
        if name.endswith("_") and isinstance(value, (bool, int, float, str, np.generic))
    }


def _provenance(conditions: Conditions, framework: str = CPU_ALONE, used: device.Use | None = None) -> Provenance:
    return provenance(
        threads=conditions.threads or os.cpu_count() or 1,
        workers=conditions.workers,
        exclusive=conditions.exclusive,
        framework=framework,
        used=used,
    )


def _peak_bytes() -> int | None:
    """Peak resident memory since `reset_peak` (or the process's start), from Linux's VmHWM; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), None)


def reset_peak() -> None:
    """Start a new peak for `peak_bytes` and `gpu_peak_bytes`, where system and framework can."""
    device.reset_peak()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
