"""What one trace shows of an inequality: the curve that is held against its line, and what it is uncertain by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import attrgetter

import numpy as np

from mongebench.core.errors import InvalidInput
from mongebench.report.rates.inequalities import Inequality
from mongebench.report.rates.noise import FEWEST, ROUNDING, Vector
from mongebench.run.record import TracePoint

MARGIN = 4.0
"""Squared errors up to this many times the known floor have reached it."""


@dataclass(frozen=True)
class Curve:
    """The points of a trace that tell something: the log of what is observed, known floors taken off."""

    time: Vector  # (n,) since the start
    log_value: Vector  # (n,)
    slack: Vector  # (n,), by how much log_value may be off in any case
    standard_error: Vector  # (n,) of log_value less the log of the start's reference
    lead: float  # of log_value at the start over that reference: 0 where it is its own
    lead_slack: float  # of another reference than its own, which has its slack in `slack`
    start: float  # flow time of the start
    end: float  # last flow time of the trace, whether told or not
    floor: float  # of what is observed
    flaw: str = ""  # what ended it before its end, in words
    floored: bool = False  # whether the known floor ended it
    silent: bool = False  # whether the record tells nothing of the evaluation's noise
    extrapolated: bool = False

    @property
    def used(self) -> str:
        """Why points were left out, in words."""
        return "points are above the known floor" if self.floored else "points are sound and within the horizon"

    def up_to(self, horizon: float | None) -> Curve:
        """The points within the horizon, which rounding in sums of steps must not cut."""
        if horizon is None or not len(self.time):
            return self
        n = int(np.sum(self.start + self.time <= horizon * (1 + 1e-6)))
        if n == len(self.time):
            return self
        return replace(self._first(n), flaw="", floored=False)

    def _first(self, n: int) -> Curve:
        return replace(
            self,
            time=self.time[:n],
            log_value=self.log_value[:n],
            slack=self.slack[:n],
            standard_error=self.standard_error[:n],
        )


def read(trace: Sequence[TracePoint], inequality: Inequality, floors: tuple[float, float]) -> Curve:
    """The curve of one trace, its start first.

    Parameters
    ----------
    floors
        Squared errors of the exact map itself and of the best map of the family, length^2.

    Raises
    ------
    InvalidInput
        Flow times that do not increase.
    """
    exact, family = floors if inequality.observed == "l2_error" else (0.0, 0.0)
    flaw = _flaw(trace[0], inequality.observed) if trace else ""
    if trace and not flaw and not inequality.own:
        flaw = _start_flaw(trace[0], inequality)
    sound = [] if flaw else list(takewhile(lambda point: not _flaw(point, inequality.observed), trace))
    if not flaw and len(sound) < len(trace):
        flaw = _flaw(trace[len(sound)], inequality.observed)
    time, value = (
        np.array([getattr(point, name) for point in sound], dtype=float) for name in ("flow_time", inequality.observed)
    )
    if (np.diff(time) <= 0).any():
        raise InvalidInput("Flow times must increase along a trace: give one trace, its start first.")
    end = float(time[-1]) if len(time) else np.nan
    n = int(np.argmax(np.append(value <= MARGIN * (exact + family), True)))
    floored, flaw = n < len(value), flaw if n == len(value) else ""
    standard_error, silent = _standard_errors(sound[:n], inequality)
    time, value = time[:n], value[:n]
    slack = _slack(value, exact)
    log_value = np.log(value - family)
    start, lead, lead_slack = float(time[0]) if n else 0.0, 0.0, 0.0
    if n and not inequality.own:
        reference = getattr(sound[0], inequality.start)
        lead = float(log_value[0] - np.log(reference))
        lead_slack = float(_slack(reference, floors[0])) if inequality.start == "l2_error" else 0.0
    return Curve(
        time - start,
        log_value,
        slack,
        standard_error * value / (value - family),
        lead,
        lead_slack,
        start,
        end,
        exact + family,
        flaw,
        floored,
        silent,
    )


def _slack(value: Vector, floor: float) -> Vector:
    """Of the log of a squared error measured against a map that is itself off by `floor`: the triangle inequality."""
    return np.asarray(-2 * np.log1p(-np.sqrt(np.minimum(floor / value, 1.0))))


def _flaw(point: TracePoint, field: str) -> str:
    """Why a point has no such value, in words."""
    if point.flow_time is None or not math.isfinite(point.flow_time):
        return "the trace has no flow time: the scheme follows no flow"
    if field == "l2_error":
        value, name = point.l2_error, "error"
        missing = "the trace has no error: the exact map is not known"
    else:
        # Without its standard error it is the objective of an older record, each time on other points.
        value, name = (None if point.kl_se is None else point.kl), "KL"
        missing = "the trace has no D_t - D*: V or densities are not known, d is large, or the record is an older one"
    if value is None:
        return missing
    return "" if math.isfinite(value) else f"the {name} is {value} at t = {point.flow_time:.3g}"


def _start_flaw(point: TracePoint, inequality: Inequality) -> str:
    """Why the start has no reference of another kind than what is observed, in words."""
    begun = getattr(point, inequality.start)
    if (flaw := _flaw(point, inequality.start)) or begun > 0:
        return flaw
    return f"{inequality.start} begins at {begun:.3g}" if begun else "the flow starts at the exact map"


def _standard_errors(points: Sequence[TracePoint], inequality: Inequality) -> tuple[Vector, bool]:
    """(n,) of log(observed / the start's reference) over the draw of the evaluation points; whether any is unknown.

    Without the paired one, those of the two add up at worst.
    """
    found, silent = np.zeros(len(points)), False
    if not points:
        return found, silent
    start, its = (getattr(points[0], field) for field in (inequality.start, f"{inequality.start}_se"))
    fields = (inequality.observed, f"{inequality.observed}_se", inequality.ratio_se)
    for k, (value, own, paired) in enumerate(map(attrgetter(*fields), points[1:]), start=1):
        if paired is not None:
            found[k] = paired * start / value
        elif own is not None and its is not None:
            found[k] = own / value + its / start
        else:
            silent = True
    return found, silent


def extrapolated(coarse: Curve, fine: Curve, lam: float) -> Curve:
    """The curve at tau -> 0, on the times of the coarse one that the fine one has reached; `coarse` for too few.

    Raises
    ------
    InvalidInput
        Where the steps of the fine one are not shorter.
    """
    n = int(np.sum(coarse.time <= np.max(fine.time, initial=-np.inf) + ROUNDING))
    if min(n, len(fine.time)) <= FEWEST:
        return coarse
    step, fine_step = np.median(np.diff(coarse.time)), np.median(np.diff(fine.time))
    if not fine_step < step:
        raise InvalidInput(f"The refined trace has steps of {fine_step:.3g}, the trace itself of {step:.3g}.")
    kept = coarse._first(n)
    # A curve of logarithms is nearly straight between its points, so that the times of the two need not agree.
    log_value, slack, standard_error = (
        np.interp(kept.time, fine.time, values) for values in (fine.log_value, fine.slack, fine.standard_error)
    )
    move = log_value - kept.log_value
    share = fine_step / (step - fine_step)
    # Without convexity, half the pace of the curve itself stands for lambda.
    pace = lam if lam != 0 else (kept.log_value[0] - kept.log_value).clip(0) / (2 * np.maximum(kept.time, step))
    left = np.nan_to_num(pace) * step * share * np.abs(move - move[0])
    return replace(
        kept,
        log_value=log_value + share * move,
        slack=(1 + share) * slack + share * kept.slack + left,
        standard_error=standard_error + share * np.abs(standard_error - kept.standard_error),  # of the same points
        end=min(coarse.end, fine.end),
        flaw=fine.flaw,
        floored=coarse.floored or fine.floored,
        silent=coarse.silent or fine.silent,
        extrapolated=True,
    )
