"""Rate verdicts of a run: each trace against the lines of the theory, that at tau together with that at tau / 2."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mongebench import plugins
from mongebench.core.errors import InvalidInput
from mongebench.core.problem import INSTANCE
from mongebench.report.rates.inequalities import MAP, Inequality, speaking
from mongebench.report.rates.verdict import RateVerdict, Scheme, Verdict, rate_verdict
from mongebench.run.frame import labels, labels_by_problem
from mongebench.run.reading import Run
from mongebench.run.record import Cell, PlannedCell, Record, TracePoint, budget
from mongebench.run.store import Found, RunError

WORST_FIRST = (Verdict.BROKEN, Verdict.PLATEAU, Verdict.INCONCLUSIVE, Verdict.HOLDS, Verdict.NOT_APPLICABLE)
"""The order in which verdicts are read; flows without one come before them."""
LEEWAY = 1.1
"""A floor of a family may be above the lowest error of a trace by this factor: they are measured on other points."""
STEP_PARAMETERS = ("tau", "steps")
"""What tells a fit from its refinement, and from no other fit."""
SCHEMES = {"flow_implicit": Scheme.IMPLICIT}
"""Estimators whose steps have a bound of their own."""
KULLBACK_LEIBLER = ("kl", "kl_score")
"""Values of the parameter `divergence` that lambda, the convexity of V, speaks of, without a sample of the target."""


@dataclass(frozen=True)
class TracedFlow:
    """The trace of one planned cell, and that of its refinement.

    Attributes
    ----------
    problem, estimator
        Labels; the estimator's tells it from the others on this problem, but for the step.
    planned
        The cell.
    found, refined
        What is there of the cell, and the record of the same fit at half the step; None where there is none (yet).
    """

    problem: str
    estimator: str
    planned: PlannedCell
    found: Found
    refined: Record | None

    @property
    def record(self) -> Record | None:
        """Of the cell; None where there is none that holds."""
        return self.found.record

    @property
    def trace(self) -> Sequence[TracePoint]:
        """Of the cell; empty where it left none."""
        return self.record.trace if self.record else ()

    @property
    def floor(self) -> float:
        """Squared error that the problem's own exact map would show."""
        error = self.record.metrics.get("l2_error") if self.record else None
        return error.floor if error else 0.0

    @property
    def refinement(self) -> Sequence[TracePoint] | None:
        """The trace at half the step; None where a scheme that shortens its steps has taken the same ones again."""
        if self.refined is None or not _step(self.refined.trace) < _step(self.trace):
            return None
        return self.refined.trace

    @property
    def steps(self) -> list[float]:
        """Typical step in flow time, of the cell's trace and of its refinement's."""
        return [_step(trace) for trace in (self.trace, self.refinement or ()) if len(trace) > 1]

    @property
    def obstacle(self) -> str:
        """Why the theorem does not speak of this fit; empty where it does."""
        cell = self.planned.cell
        if cell.n_source is not None:
            return f"the theorem speaks of mu0, and the fit saw a fixed sample of {cell.n_source} points of it"
        divergence = cell.estimator.parameters.get("divergence", "kl")
        if divergence not in KULLBACK_LEIBLER:
            return f"lambda is that of KL, and the fit moves divergence {divergence!r} down"
        return ""

    def family_floor(self, known: dict[str, float]) -> float:
        """What the best map of the flow's family leaves, once `known`, or found and added to it.

        0 for no family, and where the flow itself came lower: then the search has not found the best map.
        """
        from mongebench.estimators.flow.machinery.floor import family_floor
        from mongebench.estimators.flow.potential import FAMILIES
        from mongebench.estimators.flow.schemes.base import Flow

        cell = self.planned.cell
        estimator = plugins.estimator(cell.estimator.name, **cell.estimator.parameters)
        if self.obstacle or not self.trace or not isinstance(estimator, Flow) or FAMILIES[estimator.family].conic:
            return 0.0
        key = f"{cell.problem.label}: {estimator.family}, {estimator.units}, {estimator.depth}"
        if key not in known:
            problem = plugins.problem(cell.problem.name, **cell.problem.parameters)
            known[key] = family_floor(estimator, problem).value
        lowest = min((point.l2_error for point in self.trace if point.l2_error is not None), default=0.0)
        return known[key] if known[key] <= LEEWAY * lowest else 0.0

    @property
    def inequalities(self) -> tuple[Inequality, ...]:
        """Those that it is held against; where none speaks of it, that of the map, whose verdict says why."""
        return (MAP,) if self.obstacle else speaking(self.planned.strong_convexity)

    def verdict(
        self, horizon: float | None = None, family_floor: float = 0.0, inequality: Inequality = MAP
    ) -> RateVerdict:
        """The trace, extrapolated to tau -> 0 where there is one at half the step, against the theory."""
        try:
            return rate_verdict(
                self.trace,
                self.planned.strong_convexity,
                inequality=inequality,
                refined=self.refinement,
                scheme=SCHEMES.get(self.planned.cell.estimator.name, Scheme.FLOW),
                horizon=horizon,
                floor=self.floor,
                family_floor=family_floor,
                obstacle=self.obstacle,
            )
        except InvalidInput as error:  # what one estimator got wrong must not hide the others
            nothing = (Verdict.INCONCLUSIVE, str(error), "", float("nan"), 0, self.floor)
            return RateVerdict(*nothing, inequality=inequality.name)


def _step(trace: Sequence[TracePoint]) -> float:
    """Median step in flow time; NaN where there is none."""
    times = np.array([point.flow_time for point in trace], dtype=float)
    return float(np.median(np.diff(times))) if len(times) > 1 else float("nan")


def fits(found: Sequence[TracedFlow]) -> dict[tuple[str, int, str, str], list[TracedFlow]]:
    """(problem, dimension, estimator, steps) -> the flows that differ in seed or instance alone, in their order."""
    grouped: dict[tuple[str, int, str, str], list[TracedFlow]] = {}
    for flow in found:
        parameters = flow.planned.cell.estimator.parameters
        step = ", ".join(f"{name} = {parameters[name]}" for name in STEP_PARAMETERS if name in parameters)
        grouped.setdefault((flow.problem, flow.planned.dim, flow.estimator, step), []).append(flow)
    return grouped


def along(trace: Sequence[TracePoint], field: str) -> list[tuple[float, float]]:
    """(flow time, value) of the points that have both, the start first; none without a start above 0."""
    timed = [point for point in trace if point.flow_time is not None and not (field == "kl" and point.kl_se is None)]
    known = [(float(p.flow_time or 0.0), float(getattr(p, field))) for p in timed if getattr(p, field) is not None]
    return known if known and known[0][1] > 0 else []


def together(traces: Sequence[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Times of the longest trace, (n,), and the least, median and largest value over the start's there, (3, n).

    Of the traces that have not ended by then.
    """
    time = np.array(max(traces, key=lambda trace: trace[-1][0]))[:, 0]
    curves = [np.array(trace).T for trace in traces]
    values = np.sort([np.interp(time, own, values / values[0], right=np.nan) for own, values in curves], axis=0)
    # NaN is sorted last. np.nanquantile takes a Python call for each column: a tenth of a report of many flows.
    known = np.count_nonzero(~np.isnan(values), axis=0)
    low, high, left, right = values[[0 * known, known - 1, (known - 1) // 2, known // 2], np.arange(len(time))]
    return time, np.array([low, (left + right) / 2, high])


@functools.lru_cache(maxsize=1)  # pages and figures ask for those of one run again and again
def flows(run: Run) -> list[TracedFlow]:
    """The flows of a run, in the plan's order; a refinement that serves another flow, and has none, not on its own.

    A flow is a cell of an estimator that left, on any cell, a trace with flow time.

    Raises
    ------
    RunError
        Where there is none, or none that was held against an exact map.
    """
    plan = run.plan.cells
    there = {planned.cell.key: run.find(planned) for planned in plan}
    records = {key: found.record for key, found in there.items()}
    traces = [record.trace for record in records.values() if record is not None]
    if not any(traces):
        raise RunError(
            f"No record in {run.path} has a trace: only iterative estimators leave one, such as flow_implicit."
        )
    names = {record.cell.estimator.name for record in records.values() if record is not None and _has_flow(record)}
    if not names:
        raise RunError(
            f"No trace in {run.path} has flow time: its estimators follow no flow. Run one that does, such as "
            "flow_implicit."
        )
    if not any(point.l2_error is not None for trace in traces for point in trace):
        raise RunError(f"No trace in {run.path} has an error: no exact map is known for its problems.")
    planned = [one for one in plan if one.cell.estimator.name in names]
    found = [
        TracedFlow(problem, estimator, one, there[one.cell.key], records[finer] if finer else None)
        for problem, estimator, one, finer in _paired(planned)
    ]
    used = {flow.refined.cell.key for flow in found if flow.refined is not None and flow.refinement is not None}
    return [flow for flow in found if flow.refinement is not None or flow.planned.cell.key not in used]


def _has_flow(record: Record) -> bool:
    return len(record.trace) > 1 and record.trace[-1].flow_time is not None


def _paired(plan: list[PlannedCell]) -> Iterator[tuple[str, str, PlannedCell, str | None]]:
    """(problem, estimator, cell, key of its refinement)."""
    problems = labels((planned.cell.problem for planned in plan), ignore=("dim", INSTANCE))
    estimators = labels_by_problem((planned.cell for planned in plan), ignore=STEP_PARAMETERS)
    keys = {_identity(planned.cell): planned.cell.key for planned in plan}
    for planned in plan:
        finer = keys.get(_refined_identity(planned.cell) or "")
        yield problems[planned.cell.problem.label], estimators[planned.cell.key], planned, finer


def _identity(cell: Cell, **steps: float) -> str:
    """Unlike the cell's key, blind to whether a number was written 1 or 1.0."""
    content = cell.model_dump()
    content["estimator"]["parameters"] = {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in (cell.estimator.parameters | steps).items()
    }
    return json.dumps(content, sort_keys=True)


def _refined_identity(cell: Cell) -> str | None:
    """Of the cell at half the step and twice as many; estimators without tau divide a fixed time by their steps."""
    parameters = cell.estimator.parameters
    if "steps" not in parameters:
        return None
    halved = {"tau": parameters["tau"] / 2} if "tau" in parameters else {}
    return _identity(cell, steps=2 * parameters["steps"], **halved)


def frame(run: Run, horizon: float | None = None, *, family_floors: bool = False) -> pd.DataFrame:
    """A row for each flow of `flows` and each `inequality` that it is held against: identity, numbers, verdict.

    The numbers are those of its `RateVerdict`. A flow without a trace has its status, or the `State` of its record, in
    place of a verdict. The horizon is a flow time; by default the experiment's, and without one each trace's end. With
    `family_floors`, what the best map of each flow's family leaves is found by regression on the exact map, in minutes,
    and taken off.
    """
    rows, floors = [], dict[str, float]()
    horizon = run.plan.horizon if horizon is None else horizon
    for flow in flows(run):
        cell, record = flow.planned.cell, flow.record
        identity: dict[str, Any] = {
            "problem": flow.problem,
            "dim": flow.planned.dim,
            "budget": f"n = {budget(cell.n_source)} / {budget(cell.n_target)}",
            "estimator": flow.estimator,
            "instance": cell.problem.parameters.get(INSTANCE, 0),
            "seed": cell.seed,
            "strong_convexity": flow.planned.strong_convexity,
            "horizon": horizon,
            "steps": " and ".join(f"{step:.3g}" for step in flow.steps),
        }
        floor = flow.family_floor(floors) if family_floors and flow.trace else 0.0
        for inequality in flow.inequalities:
            row = identity | {"inequality": inequality.name}
            if record is None:
                row |= {"verdict": str(flow.found.status), "reason": flow.found.reason}
            elif not record.trace:
                row |= {"verdict": str(record.status), "reason": record.reason}
            else:
                ended = "" if record.status.measured else f"the fit ended as {record.status}; "
                row |= _numbers(flow.verdict(horizon, floor, inequality), ended)
            rows.append(row)
    return pd.DataFrame(rows)


def _numbers(found: RateVerdict, ended: str) -> dict[str, Any]:
    """The columns of one verdict; `ended` is what comes before its reason."""
    row: dict[str, Any] = dict(zip(("rate", "low", "high"), (found.rate, *found.interval), strict=True))
    constant = (found.constant, *found.constant_interval)
    row |= dict(zip(("constant", "constant_low", "constant_high"), constant, strict=True))
    row |= {"until": found.until, "plateau": found.plateau, "floor": found.floor, "line": found.line}
    row |= {"verdict": str(found.verdict), "reason": ended + found.reason, "extrapolated": found.extrapolated}
    return row | {"weaker": found.weaker}
