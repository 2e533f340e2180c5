"""The rate verdict: does one trace keep the inequality of the constrained gradient flow, at every t up to a horizon?

If V is lambda-convex, the flow T_t of F(T) = KL(T#mu0 | gamma) over gradients of convex functions obeys

    |T_t - T*|^2 <= e^{-2 lambda t} |T_0 - T*|^2,    norms of L2(mu0)

(our own proof, docs/theory.md; the theorem of the paper has another constant). The verdict is about that inequality and
about nothing else: a curve may fall as it likes below the line. Each point has a band, at 95 % for all points of the
trace together. The bound `holds` where the whole band is below the line at every point up to the horizon. It is
`broken` where the whole band is above the line at some point; where the error has stopped falling by then, the verdict
is `plateau`, and says until when the bound held. All else is `inconclusive`, and says why.

**The line.** Steps of size tau contract by other factors than the flow (`step_bounds`). With a second trace at a
shorter step, the curve is extrapolated to tau -> 0, point by point, and held against e^{-2 lambda t}; what Richardson's
first order leaves is taken to be at most lambda tau times the correction. Without one, implicit steps are held against
the bound that is proved for them, (1 + lambda tau)^{-2} a step; so they are where the extrapolated curve is too
uncertain to tell, the shorter ones. Nothing is proved of explicit steps: they are held against the flow's line.

**The band.** Noise of the evaluation points, which the record carries as a standard error of the ratio to the start's
error (all steps share the points), and that of the fit (`rate_noise`).

**Floor.** Only a known floor is taken into account, never one that is read off the trace: `floor`, the error of the
exact map itself, by the triangle inequality; `family_floor`, what the best map of the family leaves, by subtraction.
Points that have come within four times the two together tell nothing more, and are left out.

Reference: Dumont, Lacombe, Vialard 2026, arXiv 2603.25182.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.report.rates.noise import FEWEST, ROUNDING, Vector, noise_paths
from mongebench.run.record import TracePoint

CONFIDENCE = 0.95
"""Of the band, for all points together. A curve on the line is called broken in (1 - this) / 2."""
RESAMPLES = 2000
"""Paths of noise."""
RESOLUTION = 0.01
"""Relative excess of squared errors over the line that counts as none, such as that of a start nearly the identity."""
MARGIN = 4.0
"""Squared errors up to this many times the known floor have reached it."""
STALLED = 0.25
"""A plateau falls at less than this share of the line's rate, over the second half of what follows the line."""
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
    Verdict.HOLDS: "the upper confidence bound of the error is below the line at every point up to the horizon",
    Verdict.PLATEAU: "the bound holds until the error stops falling, at a plateau that no known floor explains",
    Verdict.BROKEN: "the lower confidence bound of the error is above the line, and the error still falls",
    Verdict.INCONCLUSIVE: "the trace does not tell",
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
        The formula that the error was held against.
    bound
        2 lambda, the rate of the line as tau -> 0; NaN where lambda is not known or not positive.
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
        C = sup of the error over the line, after the start, and the (low, high) of the band there.
    until
        Flow time of the last point before the error left the line for good; NaN where it did not.
    plateau
        The squared error there relative to the start's, or NaN.
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

    def __str__(self) -> str:
        return self.reason if self.reason.startswith(_SPELLED) else f"{self.verdict}: {self.reason}"


class StepBounds(NamedTuple):
    """Bounds on the factor by which one step changes the squared error, of the shape of tau."""

    explicit: Vector
    implicit: Vector


def step_bounds(tau: Vector | float, strong_convexity: float) -> StepBounds:
    """(1 - lambda tau)^2 of an explicit Euler step, (1 + lambda tau)^-2 of an implicit one; flow: e^{-2 lambda tau}.

    The explicit one needs tau <= 2 / (lambda + L), with L the Lipschitz constant of grad F on the family.
    """
    product = strong_convexity * np.asarray(tau, dtype=np.float64)
    return StepBounds((1 - product) ** 2, (1 + product) ** -2)


def rate_verdict(
    trace: Sequence[TracePoint],
    strong_convexity: float | None,
    *,
    refined: Sequence[TracePoint] | None = None,
    scheme: Scheme = Scheme.FLOW,
    horizon: float | None = None,
    floor: float = 0.0,
    family_floor: float = 0.0,
    obstacle: str = "",
    inner_tolerance: float = 1e-2,
    seed: int = 0,
) -> RateVerdict:
    """Hold one trace, its start first, against the line of the theory.

    Parameters
    ----------
    strong_convexity
        lambda > 0 of V, per unit of flow time; for anything else the inequality says nothing.
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
    applies = strong_convexity is not None and 0 < strong_convexity < np.inf
    lam = float(strong_convexity) if strong_convexity is not None and applies else np.nan
    if not applies:
        known = "is not known" if strong_convexity is None else f"= {strong_convexity:.3g}"
        obstacle = obstacle or f"lambda {known}: the inequality is one for lambda > 0"
    curve = _curve(trace, floor, family_floor)
    if refined is not None and not curve.flaw:
        curve = _extrapolated(curve, _curve(refined, floor, family_floor), lam)
    own = scheme is Scheme.IMPLICIT and not curve.extrapolated
    line = "(1 + lambda tau)^{-2k}, the bound of k implicit steps" if own else "e^{-2 lambda t}"
    curve = curve.up_to(horizon)
    bare = RateVerdict(
        Verdict.NOT_APPLICABLE if obstacle else Verdict.INCONCLUSIVE,
        obstacle
        or curve.flaw
        or f"too few points: {len(curve.time)} of {len(trace)} {curve.used}, of which {FEWEST + 1} are needed",
        line,
        2 * lam,
        len(curve.time),
        floor + family_floor,
        curve.extrapolated,
    )
    if len(curve.time) <= FEWEST:
        return bare
    found = _judged(curve, bare, lam, own, horizon, inner_tolerance, (trace, refined or ()), seed)
    if refined is not None and scheme is Scheme.IMPLICIT and found.verdict is Verdict.INCONCLUSIVE:
        shorter = rate_verdict(
            refined,
            strong_convexity,
            scheme=scheme,
            horizon=horizon,
            floor=floor,
            family_floor=family_floor,
            seed=seed,
        )
        return shorter if shorter.verdict is Verdict.HOLDS else found
    return found


@dataclass(frozen=True)
class _Curve:
    """The points of a trace that tell something: log error (known floors taken off), and what it is uncertain by."""

    time: Vector  # (n,) since the start
    log_error: Vector  # (n,)
    slack: Vector  # (n,), by how much log_error may be off in any case
    standard_error: Vector  # (n,) of log_error less that of the start
    start: float  # flow time of the start
    end: float  # last flow time of the trace, whether told or not
    flaw: str = ""  # what ended it before its end, in words
    floored: bool = False  # whether the known floor ended it
    silent: bool = False  # whether the record tells nothing of the evaluation's noise
    extrapolated: bool = False

    @property
    def used(self) -> str:
        return "points are above the known floor" if self.floored else "points are sound and within the horizon"

    def up_to(self, horizon: float | None) -> _Curve:
        """The points within the horizon, which rounding in sums of steps must not cut."""
        if horizon is None or not len(self.time):
            return self
        n = int(np.sum(self.start + self.time <= horizon * (1 + 1e-6)))
        if n == len(self.time):
            return self
        parts = (self.time[:n], self.log_error[:n], self.slack[:n], self.standard_error[:n])
        return _Curve(*parts, self.start, self.end, silent=self.silent, extrapolated=self.extrapolated)


def _curve(trace: Sequence[TracePoint], floor: float, family_floor: float) -> _Curve:
    sound = list(takewhile(lambda point: not _flaw(point), trace))
    flaw = _flaw(trace[len(sound)]) if len(sound) < len(trace) else ""
    time, error = np.array([(point.flow_time, point.l2_error) for point in sound], dtype=float).reshape(-1, 2).T
    if (np.diff(time) <= 0).any():
        raise InvalidInput("Flow times must increase along a trace: give one trace, its start first.")
    end = time[-1] if len(time) else np.nan
    reached = np.append(error <= MARGIN * (floor + family_floor), True)
    n = int(np.argmax(reached))
    floored, flaw = n < len(error), flaw if n == len(error) else ""
    standard_error, silent = _standard_errors(sound[:n])
    time, error = time[:n], error[:n]
    slack = -2 * np.log1p(-np.sqrt(floor / error))
    start = float(time[0]) if n else 0.0
    log_error = np.log(error - family_floor)
    standard_error = standard_error * error / (error - family_floor)
    return _Curve(time - start, log_error, slack, standard_error, start, float(end), flaw, floored, silent)


def _flaw(point: TracePoint) -> str:
    if point.flow_time is None or not np.isfinite(point.flow_time):
        return "the trace has no flow time: the scheme follows no flow"
    if point.l2_error is None:
        return "the trace has no error: the exact map is not known"
    return "" if np.isfinite(point.l2_error) else f"the error is {point.l2_error} at t = {point.flow_time:.3g}"


def _standard_errors(points: Sequence[TracePoint]) -> tuple[Vector, bool]:
    """(n,) of log(error / the start's) over the draw of the evaluation points; and whether nothing is known of it.

    Without the paired one, those of the two errors add up at worst.
    """
    first = points[0] if points else None
    found, silent = np.zeros(len(points)), False
    for k, point in enumerate(points[1:], start=1):
        assert first is not None
        assert first.l2_error
        assert point.l2_error
        if point.l2_ratio_se is not None:
            found[k] = point.l2_ratio_se * first.l2_error / point.l2_error
        elif point.l2_error_se is not None and first.l2_error_se is not None:
            found[k] = point.l2_error_se / point.l2_error + first.l2_error_se / first.l2_error
        else:
            silent = True
    return found, silent


def _extrapolated(coarse: _Curve, fine: _Curve, lam: float) -> _Curve:
    """The curve at tau -> 0, on the times of the coarse one that the fine one has reached."""
    n = int(np.sum(coarse.time <= np.max(fine.time, initial=-np.inf) + ROUNDING))
    if min(n, len(fine.time)) <= FEWEST:
        return coarse
    time = coarse.time[:n]
    step, fine_step = np.median(np.diff(coarse.time)), np.median(np.diff(fine.time))
    if not fine_step < step:
        raise InvalidInput(f"The refined trace has steps of {fine_step:.3g}, the trace itself of {step:.3g}.")
    # A curve of log errors is nearly straight between its points, so that the times of the two need not agree.
    log_error, slack, standard_error = (
        np.interp(time, fine.time, values) for values in (fine.log_error, fine.slack, fine.standard_error)
    )
    move = log_error - coarse.log_error[:n]
    share = fine_step / (step - fine_step)
    left = float(np.nan_to_num(lam) * step * share) * np.abs(move - move[0])
    return _Curve(
        time,
        log_error + share * move,
        (1 + share) * slack + share * coarse.slack[:n] + left,
        standard_error + share * np.abs(standard_error - coarse.standard_error[:n]),  # of the same points
        coarse.start,
        min(coarse.end, fine.end),
        fine.flaw,
        coarse.floored or fine.floored,
        coarse.silent or fine.silent,
        extrapolated=True,
    )


def _judged(
    curve: _Curve,
    bare: RateVerdict,
    lam: float,
    own: bool,
    horizon: float | None,
    inner_tolerance: float,
    traces: Sequence[Sequence[TracePoint]],
    seed: int,
) -> RateVerdict:
    """`bare` with its numbers, and the verdict on a curve of enough points."""
    rng, time = np.random.default_rng(seed), curve.time[1:]
    ratio = curve.log_error[1:] - curve.log_error[0]
    line = np.cumsum(np.log(step_bounds(np.diff(curve.time), lam).implicit)) if own else -2 * lam * time
    excess = ratio - np.nan_to_num(line)
    paths = noise_paths(time, excess, ratio, RESAMPLES, rng)
    paths += curve.standard_error[1:] * rng.standard_normal(paths.shape)
    scale = np.maximum(np.median(np.abs(paths), axis=0), ROUNDING)
    margin = np.quantile((np.abs(paths) / scale).max(axis=1), CONFIDENCE) * scale + curve.slack[1:] + curve.slack[0]
    above = excess - margin > RESOLUTION
    lost = 2 * np.nan_to_num(lam) * np.max([_lost(steps, time, inner_tolerance) for steps in traces], axis=0)
    left = _left(excess, above)
    fitted = slice(None) if left is None or left < FEWEST else slice(left)
    rate, spread = _slope(time[fitted], -ratio[fitted]), _slope(time[fitted], paths[:, fitted])
    half = float(np.quantile(np.abs(spread), CONFIDENCE))
    numbers = {"rate": float(rate), "interval": (float(rate) - half, float(rate) + half)}
    if bare.verdict is Verdict.NOT_APPLICABLE:
        return RateVerdict(**{**vars(bare), **numbers})
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
        stalled = len(time[tail]) >= 3 and _slope(time[tail], -ratio[tail]) < STALLED * 2 * lam
        if left and stalled:
            numbers["plateau"] = level = float(np.exp(np.median(ratio[tail])))
            verdict, reason = Verdict.PLATEAU, f"holds until t = {until:.3g}, then a plateau at {100 * level:.3g} %"
            reason += " of the start's error"
        reason += f": {_times(low, high)} {against} by t = {last:.3g}"
        if not (above & (excess - lost - margin > RESOLUTION)).any():
            verdict = Verdict.INCONCLUSIVE
            reason = f"inner solve: {reason}, but subproblems that were not solved ({INNER} up to "
            reason += f"{max(_unsolved(steps).max(initial=0) for steps in traces):.2g} of a step) may explain it"
    elif curve.flaw and (horizon is None or _short(curve, horizon)):
        reason = curve.flaw
    elif (excess + margin > RESOLUTION).any():
        reason = f"noise: the error is {_times(low, high)} {against}"
    elif not curve.floored and _short(curve, horizon):
        reason = f"the trace ends at t = {last:.3g}, before the horizon {horizon:.3g}; until then it keeps {against}"
    else:
        ended = ", where the known floor is reached" if curve.floored else ""
        verdict = Verdict.HOLDS
        reason = f"holds up to t = {last:.3g}{ended}: at most {high:.3g} times {against}"
    return RateVerdict(**{**vars(bare), **numbers, "verdict": verdict, "reason": reason + silent})


def _left(excess: Vector, above: Vector) -> int | None:
    """How many points after the start come before the curve leaves the line for good; None where it does not."""
    if not above.any():
        return None
    kept = np.flatnonzero(excess[: int(np.argmax(above))] <= RESOLUTION)
    return int(kept[-1]) + 1 if len(kept) else 0


def _short(curve: _Curve, horizon: float | None) -> bool:
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
