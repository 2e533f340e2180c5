"""The rate verdict: does one trace keep an inequality of the constrained gradient flow, at every t up to a horizon?

Which inequality is for `inequalities` to say: an observed curve (squared error or KL, over its start's or the other's)
and a line that it may not cross. The verdict is about that and about nothing else: a curve may fall as it likes below
the line. Each point has a band, at 95 % for all points of the trace together. The bound `holds` where the whole band is
below the line at every point up to the horizon. It is `broken` where the whole band is above the line at some point;
where the curve has stopped falling by then, the verdict is `plateau`, and says until when the bound held. All else is
`inconclusive`, and says why: a band that has the line in it and is narrow all along is "on the line".

**The line.** Steps of size tau contract by other factors than the flow (`step_bounds`). With a second trace at a
shorter step, the curve is extrapolated to tau -> 0, point by point, and held against the flow's line; what Richardson's
first order leaves is taken to be at most lambda tau times the correction. Without one, implicit steps are held against
the bound that is proved for them, (1 + lambda tau)^{-2} a step; so they are where the extrapolated curve is too
uncertain to tell, the shorter ones. Nothing is proved of explicit steps: they are held against the flow's line.
Implicit steps that do not keep the line of the map are also asked for the weaker factor of proposition 3.1.

**The band.** Noise of the evaluation points, which the record carries as a standard error of the ratio to the start
(all steps share the points), and that of the fit (`noise`).

**Floor.** Only a known floor is taken into account, never one that is read off the trace: `floor`, the error of the
exact map itself, by the triangle inequality; `family_floor`, what the best map of the family leaves, by subtraction.
Points that have come within four times the two together tell nothing more, and are left out. Both are floors of the
squared error; KL has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from mongebench.core.errors import InvalidParameter
from mongebench.report.rates.curve import Curve, extrapolated, read
from mongebench.report.rates.inequalities import MAP, PROPOSITION, Inequality
from mongebench.report.rates.noise import FEWEST, ROUNDING, Vector, draws, noise_paths
from mongebench.run.record import TracePoint

CONFIDENCE = 0.95
"""Of the band, for all points together. A curve on the line is called broken in (1 - this) / 2."""
RESAMPLES = 2000
"""Paths of noise."""
RESOLUTION = 0.01
"""Relative excess of squared errors over the line that counts as none, such as that of a start nearly the identity."""
STALLED = 0.25
"""A plateau falls at less than this share of the line's rate, over the second half of what follows the line."""
ON_THE_LINE = 0.1
"""Relative width of a band about the line, all along, that is called "on the line"."""
INNER = "decrement"
"""The diagnostic of a point that tells how well its subproblem was solved; 0 is exactly."""


class Verdict(StrEnum):
    """What one trace says about the inequality."""

    HOLDS = "holds"
    PLATEAU = "plateau"
    BROKEN = "broken"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not applicable"

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


_MEANING = {
    Verdict.HOLDS: "the upper confidence bound of the curve is below the line at every point up to the horizon",
    Verdict.PLATEAU: "the bound holds until the curve stops falling, at a plateau that no known floor explains",
    Verdict.BROKEN: "the lower confidence bound of the curve is above the line, and the curve still falls",
    Verdict.INCONCLUSIVE: "the trace does not tell, or lies on the line",
    Verdict.NOT_APPLICABLE: "the inequality is not one about this fit",
}


class Scheme(StrEnum):
    """What is proved of a step: of an implicit one a bound of its own, else that of the flow is all there is."""

    FLOW = "flow"
    IMPLICIT = "implicit"


_SPELLED = ("holds", "broken")
"""How sentences begin that need no word before them."""


@dataclass(frozen=True)
class RateVerdict:
    """The verdict on one trace, with its numbers; NaN where there are none.

    Attributes
    ----------
    verdict, reason
        One of `Verdict` and a sentence with the numbers; "inner solve: ..." where unsolved subproblems forbid calling
        the flow slow.
    line
        The formula that the curve was held against.
    bound
        2 lambda, the rate of an exponential line as tau -> 0; NaN where lambda is not known or not positive.
    points
        How many were used, the start included.
    floor
        The known one, below which there are none, length^2.
    extrapolated
        Whether all of this is about the limit tau -> 0 of two traces.
    rate, interval
        Of e^{-rate t} fitted to the points, before a plateau, per unit of flow time, and its (low, high): a
        description, on which the verdict does not depend.
    constant, constant_interval
        C = sup of the curve over the line, after the start, and the (low, high) of the band there.
    until
        Flow time of the last point before the curve left the line for good; NaN where it did not.
    plateau
        The squared error, or KL, there relative to the start's, or NaN.
    inequality
        Its name.
    weaker
        The verdict on `inequalities.PROPOSITION`, where it was asked.
    """

    verdict: Verdict
    reason: str
    line: str
    bound: float
    points: int
    floor: float
    extrapolated: bool = False
    rate: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))
    constant: float = float("nan")
    constant_interval: tuple[float, float] = (float("nan"), float("nan"))
    until: float = float("nan")
    plateau: float = float("nan")
    inequality: str = MAP.name
    weaker: str = ""

    def __str__(self) -> str:
        return self.reason if self.reason.startswith(_SPELLED) else f"{self.verdict}: {self.reason}"


def rate_verdict(
    trace: Sequence[TracePoint],
    strong_convexity: float | None,
    *,
    inequality: Inequality = MAP,
    refined: Sequence[TracePoint] | None = None,
    scheme: Scheme = Scheme.FLOW,
    horizon: float | None = None,
    floor: float = 0.0,
    family_floor: float = 0.0,
    obstacle: str = "",
    inner_tolerance: float = 1e-2,
    seed: int = 0,
) -> RateVerdict:
    """Hold one trace, its start first, against the line of an inequality.

    Parameters
    ----------
    strong_convexity
        lambda of V, per unit of flow time; where the inequality asks for another, it says nothing.
    inequality
        One of `inequalities`.
    refined
        The trace of the same fit at a shorter step, such as half of it.
    scheme
        Whose line a trace without `refined` is held against.
    horizon
        Flow time up to which; None for the trace's end.
    floor
        Squared error that the exact map itself would show, length^2.
    family_floor
        Squared error that the best map of the family leaves, length^2, where it was found without the trace:
        `mongebench.estimators.flow.machinery.floor`.
    obstacle
        Why the theorem does not speak of this fit, such as a fixed sample; empty where it does.
    inner_tolerance
        Of the diagnostic `INNER`, the share of a step's decrease that its inner solve left. A larger share s leaves the
        map about sqrt(s) of the step from where it should be, and so much of the step's flow time may be lost: where
        that explains why the error is above the line, the verdict is inconclusive.
    seed
        Of the paths of noise.

    Raises
    ------
    InvalidInput
        Flow times that do not increase, or a refined trace whose steps are not shorter.
    InvalidParameter
        A floor that is negative or not finite, or a horizon that is not positive.
    """
    for name, given in (("floor", floor), ("family_floor", family_floor)):
        if not 0 <= given < np.inf:
            raise InvalidParameter(f"{name} must be finite and not negative, got {given}.")
    if horizon is not None and not horizon > 0:
        raise InvalidParameter(f"horizon must be a positive flow time, got {horizon}.")
    lam = float(strong_convexity) if strong_convexity is not None and inequality.speaks_of(strong_convexity) else np.nan
    if np.isnan(lam):
        known = "is not known" if strong_convexity is None else f"= {strong_convexity:.3g}"
        asked = "> 0" if inequality.strictly_convex else ">= 0"
        obstacle = obstacle or f"lambda {known}: the inequality is one for lambda {asked}"
    floors = (floor, family_floor)
    curve = read(trace, inequality, floors)
    if refined is not None and not curve.flaw:
        curve = extrapolated(curve, read(refined, inequality, floors), lam)
    own = scheme is Scheme.IMPLICIT and not curve.extrapolated
    curve = curve.up_to(horizon)
    bare = RateVerdict(
        Verdict.NOT_APPLICABLE if obstacle else Verdict.INCONCLUSIVE,
        obstacle
        or curve.flaw
        or f"too few points: {len(curve.time)} of {len(trace)} {curve.used}, of which {FEWEST + 1} are needed",
        inequality.implicit_line if own else inequality.line,
        2 * lam if inequality.strictly_convex else np.nan,
        len(curve.time),
        curve.floor,
        curve.extrapolated,
        inequality=inequality.name,
    )
    if len(curve.time) <= FEWEST:
        return bare
    found = _judged(curve, bare, inequality, lam, own, horizon, inner_tolerance, (trace, refined or ()), seed)

    def again(other: Inequality, points: Sequence[TracePoint]) -> RateVerdict:
        return rate_verdict(
            points,
            strong_convexity,
            inequality=other,
            scheme=scheme,
            horizon=horizon,
            floor=floor,
            family_floor=family_floor,
            inner_tolerance=inner_tolerance,
            seed=seed,
        )

    if scheme is Scheme.IMPLICIT and refined is not None and found.verdict is Verdict.INCONCLUSIVE:
        shorter = again(inequality, refined)
        found = shorter if shorter.verdict is Verdict.HOLDS else found
    if scheme is Scheme.IMPLICIT and inequality is MAP and found.verdict in (Verdict.BROKEN, Verdict.PLATEAU):
        weaker = again(PROPOSITION, trace)
        keeps = f"; it keeps {weaker.line}" if weaker.verdict is Verdict.HOLDS else ""
        found = replace(found, weaker=str(weaker.verdict), reason=found.reason + keeps)
    return found


def _judged(
    curve: Curve,
    bare: RateVerdict,
    inequality: Inequality,
    lam: float,
    own: bool,
    horizon: float | None,
    inner_tolerance: float,
    traces: Sequence[Sequence[TracePoint]],
    seed: int,
) -> RateVerdict:
    """`bare` with its numbers, and the verdict on a curve of enough points."""
    time = curve.time[1:]
    fallen = curve.log_value[1:] - curve.log_value[0]
    flow = inequality.of_flow(time, lam)
    line = inequality.of_steps(np.diff(curve.time), lam) if own else flow
    line = line if np.isfinite(lam) else np.zeros(len(time))
    excess = fallen + curve.lead - line
    # Noise is read off the curve relative to a smooth one that starts where it does: the line moved there, or, where
    # the line comes down from infinity, the curve from there to the line.
    origin = inequality.of_flow(np.zeros(1), lam)[0]
    smooth = -np.log1p(np.exp(curve.lead - line)) if np.isinf(origin) else line - np.nan_to_num(origin)
    drawn = draws(len(time), RESAMPLES, seed)
    paths = noise_paths(time, fallen - smooth, fallen, drawn)
    if curve.standard_error.any():
        paths += curve.standard_error[1:, None] * drawn.evaluation
    size = np.abs(paths)  # (n, RESAMPLES)
    scale = np.maximum(_medians(size.copy()), ROUNDING)
    size /= scale[:, None]
    margin = np.quantile(size.max(axis=0), CONFIDENCE) * scale
    margin += curve.slack[1:] + (curve.slack[0] if inequality.own else curve.lead_slack)
    above = excess - margin > RESOLUTION
    left = _left(excess, above)
    fitted = slice(None) if left is None or left < FEWEST else slice(left)
    rate, spread = _slope(time[fitted], -fallen[fitted]), _slope(time[fitted], paths[fitted].T)
    half = float(np.quantile(np.abs(spread), CONFIDENCE))
    numbers: dict[str, Any] = {"rate": float(rate), "interval": (float(rate) - half, float(rate) + half)}
    if bare.verdict is Verdict.NOT_APPLICABLE:
        return replace(bare, **numbers)
    with np.errstate(over="ignore"):  # after a long flow the line is 0 to machine precision
        low, constant, high = (float(np.exp((excess + sign * margin).max())) for sign in (-1, 0, 1))
    numbers |= {"constant": constant, "constant_interval": (low, high)}
    last, silent = (
        curve.start + time[-1],
        "; the record tells no noise of its evaluation points" if curve.silent else "",
    )
    against = f"{bare.line}{', extrapolated to tau -> 0' if curve.extrapolated else ''}"
    verdict, reason = Verdict.INCONCLUSIVE, ""
    if left is not None:
        first = int(np.argmax(above))
        until = curve.start + (time[left - 1] if left else 0.0)
        numbers["until"] = float(until)
        verdict, reason = Verdict.BROKEN, f"broken at t = {curve.start + time[first]:.3g}"
        tail = slice((first + len(time)) // 2, None)
        stalled = len(time[tail]) >= 3 and _slope(time[tail], -fallen[tail]) < STALLED * _slope(time[tail], -flow[tail])
        if left and stalled:
            numbers["plateau"] = level = float(np.exp(np.median(fallen[tail])))
            verdict, reason = Verdict.PLATEAU, f"holds until t = {until:.3g}, then a plateau at {100 * level:.3g} %"
            reason += f" of the start's {inequality.what}"
        reason += f": {_times(low, high)} {against} by t = {last:.3g}"
        lost = np.max([_lost(steps, time, inner_tolerance) for steps in traces], axis=0)
        late = inequality.of_flow(np.maximum(time - lost, 0.0), lam) - flow
        if not (above & (excess - late - margin > RESOLUTION)).any():
            verdict = Verdict.INCONCLUSIVE
            reason = f"inner solve: {reason}, but subproblems that were not solved ({INNER} up to "
            reason += f"{max(_unsolved(steps).max(initial=0) for steps in traces):.2g} of a step) may explain it"
    elif curve.flaw and (horizon is None or _short(curve, horizon)):
        reason = curve.flaw
    elif (excess + margin > RESOLUTION).any():
        widest = float(np.expm1((np.abs(excess) + margin).max()))
        if widest <= ON_THE_LINE:
            reason = f"on the line, within {100 * widest:.2g} % of {against} at every point"
        else:
            reason = f"noise: the {inequality.what} is {_times(low, high)} {against}"
    elif not curve.floored and _short(curve, horizon):
        reason = f"the trace ends at t = {last:.3g}, before the horizon {horizon:.3g}; until then it keeps {against}"
    else:
        ended = ", where the known floor is reached" if curve.floored else ""
        verdict = Verdict.HOLDS
        reason = f"holds up to t = {last:.3g}{ended}: at most {high:.3g} times {against}"
    return replace(bare, **numbers, verdict=verdict, reason=reason + silent)


def _medians(rows: Vector) -> Vector:
    """`np.median(rows, axis=1)` of an even number of columns, put in another order for it: one of them has to find its
    place, where NumPy finds that of three, which takes five times as long."""
    half = rows.shape[1] // 2
    rows.partition(half, axis=1)
    found: Vector = (rows[:, :half].max(axis=1) + rows[:, half]) / 2
    return found


def _left(excess: Vector, above: Vector) -> int | None:
    """How many points after the start come before the curve leaves the line for good; None where it does not."""
    if not above.any():
        return None
    kept = np.flatnonzero(excess[: int(np.argmax(above))] <= RESOLUTION)
    return int(kept[-1]) + 1 if len(kept) else 0


def _short(curve: Curve, horizon: float | None) -> bool:
    """Whether another step would still have been within the horizon."""
    return horizon is not None and curve.end + curve.time[-1] - curve.time[-2] <= horizon * (1 + 1e-6)


def _times(low: float, high: float) -> str:
    return f"between {low:.3g} and {high:.3g} times"


def _unsolved(trace: Sequence[TracePoint]) -> Vector:
    """(n,) of `INNER`: what the inner solve of each step left of its decrease; 0 where nothing is said, 1 for NaN."""
    left = np.array([point.diagnostics.get(INNER, 0.0) for point in trace], dtype=float)
    clipped: Vector = np.clip(np.nan_to_num(left, nan=1.0), 0.0, 1.0)
    return clipped


def _lost(trace: Sequence[TracePoint], time: Vector, tolerance: float) -> Vector:
    """(n,) flow time that unsolved subproblems may have lost by the given times since the start, n; see `INNER`."""
    timed = [point for point in trace if point.flow_time is not None]
    if len(timed) < 2:
        return np.zeros(len(time))
    own, left = np.array([point.flow_time for point in timed], dtype=float), _unsolved(timed)
    lost = np.sqrt(np.where(left > tolerance, left, 0.0))[1:] * np.diff(own)
    by_then: Vector = np.interp(time, own - own[0], np.append(0.0, np.cumsum(lost)))
    return by_then


def _slope(time: Vector, values: Vector) -> Vector:
    """Of the least squares line through (..., n) values against (n,) time."""
    centred = time - time.mean()
    slope: Vector = values @ centred / (centred @ centred)
    return slope
