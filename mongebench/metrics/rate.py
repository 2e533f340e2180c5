"""The rate verdict: does one trace of a flow keep the rate that the theory of the constrained gradient flow promises?

If V is lambda-convex, the flow T_t of F(T) = KL(T#mu0 | gamma) over gradients of convex functions obeys

    |T_t - T*|^2 <= C e^{-2 lambda t} |T_0 - T*|^2,    C = 1,    norms of L2(mu0),

an inequality on the whole curve, which may be faster. Log error is fitted against flow time by least squares, on the
points above the floor after the start (the first step may differ from all others); the whole curve is held against the
bound.

**Uncertainty.** A trace is one serially dependent series of 5 to 50 points: too few blocks for a block bootstrap, whose
intervals would be far too short. Resampled evaluation points would show the noise of their draw, which all steps share,
and not that of the fit. So the bootstrap is parametric: residuals are an AR(1) series, and as short series do not tell
its correlation rho, each resample draws rho and the variance from what the residuals allow (restricted likelihood, flat
in artanh rho), then a path of noise. A bend of the curve counts as correlated noise. Intervals err on the wide side.

**Floor.** The trace is cut at its first point within twice the floor f in length (l2_error <= 4 f). The floor is the
given one, or the trace's plateau if that is higher: the median error in the last half of the longest tail of at least
three points that decays at less than a tenth of r, the lower of 2 lambda and the rate before it, where r would have
gained a factor of 4. The line is fitted to log(l2_error - f), right for errors orthogonal to the floor's. The bound is
broken only by what no floor explains: by the triangle inequality, log |T - T*|^2 is known up to
2 artanh sqrt(f / l2_error).

**Step size.** Steps of size tau contract by other factors than the flow (`step_bounds`). Two traces, at tau and tau/2,
tell: if halving moves the rate by more than noise, whichever way, the verdict is on the curve extrapolated to tau -> 0.
What Richardson's first order leaves is taken to be at most lambda tau times the correction, which covers both schemes.
If it does not, the verdict is on the curve at tau, and the correction that noise may hide is unknown, up to the rate by
which Euler steps that keep their own bounds differ from the flow: it widens the interval, and excuses as much of a
break of the bound.

Reference: Dumont, Lacombe, Vialard 2026, arXiv 2603.25182.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.run.record import TracePoint

Vector = NDArray[np.float64]

CONFIDENCE = 0.95
"""Of the interval. A curve that keeps the bound with equality is called slower, or faster, in (1 - this) / 2 each."""
RESAMPLES = 2000
"""Of the bootstrap."""
FEWEST = 4
"""Points without which there is no verdict: the start, two that a line takes, and one for its noise."""
RESOLUTION = 0.01
"""Relative difference of squared errors that counts as none: what all points share, such as the draw of the evaluation
points or a start that is only nearly the identity, does not show in the residuals."""
MARGIN = 4.0
"""Squared errors up to this many times the floor have reached it."""
PLATEAU = 0.1
"""A plateau decays at less than this share of the rate it is held against."""
CORRELATIONS = np.tanh(np.linspace(0.0, 3.0, 25))
"""(g,) of successive residuals, 0 to 0.995; finer near 1, where the interval's width depends on them."""
INNER = "decrement"
"""The diagnostic of a point that tells how well its subproblem was solved; 0 is exactly."""
ROUNDING = 1e-12
"""Of logarithms of errors."""


class Verdict(StrEnum):
    """What one trace says about the rate."""

    CONSISTENT = "consistent"
    FASTER = "faster"
    SLOWER = "slower"
    INCONCLUSIVE = "inconclusive"

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


_MEANING = {
    Verdict.CONSISTENT: "the error stays below e^{-2 lambda t}, or falls like it as far as noise tells",
    Verdict.FASTER: "the error falls faster than e^{-2 lambda t}, by more than noise",
    Verdict.SLOWER: "the error is above e^{-2 lambda t}, by more than noise and floor explain",
    Verdict.INCONCLUSIVE: "the trace does not tell, or the theorem does not apply",
}


@dataclass(frozen=True)
class RateVerdict:
    """The verdict on one trace, with its numbers; NaN where there are too few points for them.

    Attributes
    ----------
    verdict, reason
        One of `Verdict` and a sentence; "inner solve: ..." where unsolved subproblems forbid calling the flow slow.
    bound
        2 lambda; NaN where the theorem does not apply.
    points
        How many were used, the start included.
    floor
        Below which there are none, length^2.
    extrapolated
        Whether all of this is about the limit tau -> 0 of two traces.
    rate, interval
        Of the fitted e^{-rate t}, per unit of flow time, and its (low, high); to be held against `bound`.
    constant
        C = sup of l2_error(t) e^{2 lambda t} / l2_error(0) over the points after the start, floor taken off.
    """

    verdict: Verdict
    reason: str
    bound: float
    points: int
    floor: float
    extrapolated: bool
    rate: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))
    constant: float = float("nan")

    def __str__(self) -> str:
        low, high = self.interval
        numbers = f"; rate {self.rate:.3g} in [{low:.3g}, {high:.3g}], bound {self.bound:.3g}"
        return f"{self.verdict}: {self.reason}{numbers if self.rate == self.rate else ''}"


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
    floor: float = 0.0,
    inner_tolerance: float = 1e-2,
    seed: int = 0,
) -> RateVerdict:
    """Hold one trace, its start first, against e^{-2 lambda t}.

    Parameters
    ----------
    strong_convexity
        lambda > 0 of V, per unit of flow time; for anything else the theorem does not apply, and only a rate is fitted.
    refined
        The trace of the same fit at half the step.
    floor
        Squared error that a perfect map would show, length^2.
    inner_tolerance
        Of the diagnostic `INNER`, the share of a step's decrease that its inner solve left: a share of 1e-2 leaves the
        map about a tenth of the step from where it should be. A flow is called slow only if all steps kept it.
    seed
        Of the bootstrap.

    Raises
    ------
    InvalidInput
        Flow times that do not increase, or a refined trace whose steps are not shorter.
    InvalidParameter
        A floor that is negative or not finite.
    """
    if not 0 <= floor < np.inf:
        raise InvalidParameter(f"floor must be finite and not negative, got {floor}.")
    applies = strong_convexity is not None and 0 < strong_convexity < np.inf
    lam = float(strong_convexity) if strong_convexity is not None and applies else np.nan
    curve, flaw = _curve(trace, floor, lam)
    halved = ""
    if refined is not None and not flaw:
        fine, flaw = _curve(refined, floor, lam)
        curve, halved = _extrapolated(curve, fine, lam, seed)
    if len(curve.time) < FEWEST:
        few = f"{len(curve.time)} of {len(trace)} points are above the floor {curve.floor:.3g}; {FEWEST} are needed"
        return RateVerdict(Verdict.INCONCLUSIVE, flaw or few, 2 * lam, len(curve.time), curve.floor, curve.extrapolated)
    fit = _fit(curve.time, curve.log_error, seed)
    excess = (curve.log_error - curve.log_error[0] + 2 * lam * (curve.time - curve.time[0]))[1:]  # log C(t)
    with np.errstate(over="ignore"):  # after a long flow the bound is 0 to machine precision
        constant = float(np.exp(excess.max()))
    unexplained = excess - fit.noise - curve.slack[1:] - curve.slack[0]
    broken = int(np.argmax(unexplained > 0))
    low, high = fit.rate - fit.margin - curve.remainder, fit.rate + fit.margin + curve.remainder
    if flaw:
        verdict, reason = Verdict.INCONCLUSIVE, flaw
    elif not applies:
        verdict, reason = Verdict.INCONCLUSIVE, f"the theorem does not apply: strong convexity is {strong_convexity}"
    elif unexplained[broken] > 0:
        time = curve.time[broken + 1]
        reason = f"from t = {time:.3g} on the error is up to {constant:.3g} times the bound"
        left = max(_left_unsolved(steps, time) for steps in (trace, refined or ()))
        if left > inner_tolerance:
            verdict = Verdict.INCONCLUSIVE
            reason = f"inner solve: {reason}, but a step before it has {INNER} {left:.2g} > {inner_tolerance:.2g}"
        else:
            verdict, reason = Verdict.SLOWER, f"{reason}, more than noise and floor explain"
    elif low > 2 * lam:
        verdict, reason = Verdict.FASTER, "the whole interval is above the bound"
    elif excess.max() <= RESOLUTION:
        verdict, reason = Verdict.CONSISTENT, "the bound holds at every point"
    elif lam < low and 2 * lam <= high:  # half the rate excluded: an interval that holds everything is no evidence
        verdict, reason = Verdict.CONSISTENT, "the bound holds as far as noise tells"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, "noise or floor hide whether the bound holds"
    found = fit.rate, (low, high), constant
    return RateVerdict(verdict, f"{reason}{halved}", 2 * lam, len(curve.time), curve.floor, curve.extrapolated, *found)


@dataclass(frozen=True)
class _Curve:
    """A trace above its floor f: log_error = log(l2_error - f), from which log |T_t - T*|^2 is at most slack away."""

    time: Vector  # (n,)
    log_error: Vector  # (n,)
    slack: Vector  # (n,)
    floor: float
    remainder: float = 0.0  # of the rate: what the extrapolation leaves, or noise hides from it
    extrapolated: bool = False


def _curve(trace: Sequence[TracePoint], floor: float, lam: float) -> tuple[_Curve, str]:
    """The trace up to its first flaw and above its floor, and that flaw in words."""
    sound = list(takewhile(lambda point: not _flaw(point), trace))
    flaw = _flaw(trace[len(sound)]) if len(sound) < len(trace) else ""
    time, error = np.array([(point.flow_time, point.l2_error) for point in sound], dtype=float).reshape(-1, 2).T
    if (np.diff(time) <= 0).any():
        raise InvalidInput("Flow times must increase along a trace: give one trace, its start first.")
    above = _above(error, floor)
    floor = max(floor, _plateau(time[:above], error[:above], lam))
    above = _above(error, floor)
    time, error = time[:above], error[:above]
    return _Curve(time, np.log(error - floor), 2 * np.arctanh(np.sqrt(floor / error)), floor), flaw


def _flaw(point: TracePoint) -> str:
    if point.flow_time is None or not np.isfinite(point.flow_time):
        return "the trace has no flow time: the scheme follows no flow"
    if point.l2_error is None:
        return "the trace has no error: the exact map is not known"
    return "" if np.isfinite(point.l2_error) else f"the error is {point.l2_error} at t = {point.flow_time:.3g}"


def _left_unsolved(trace: Sequence[TracePoint], until: float) -> float:
    """The worst `INNER` up to a flow time; 0 where nothing is said, infinite where it is NaN."""
    early = [point for point in trace if point.flow_time is not None and point.flow_time <= until]
    return max((np.nan_to_num(point.diagnostics.get(INNER, 0.0), nan=np.inf) for point in early), default=0.0)


def _above(error: Vector, floor: float) -> int:
    """How many points come before the first that has reached the floor."""
    return int(np.argmax(np.append(error <= MARGIN * floor, True)))


def _plateau(time: Vector, error: Vector, lam: float) -> float:
    """The error that the trace ends at, 0 if it still falls at its end."""
    log_error = np.log(error)
    for start in range(1, len(time) - 2):  # the longest tail first
        before = (log_error[0] - log_error[start]) / (time[start] - time[0])
        rate = np.fmin(before, 2 * lam)  # ignores a lambda that is not known
        gain = rate * (time[-1] - time[start])
        if gain >= np.log(MARGIN) and _slope(time[start:]) @ log_error[start:] > -PLATEAU * rate:
            return float(np.median(error[(start + len(error)) // 2 :]))
    return 0.0


def _slope(time: Vector) -> Vector:
    """(n,) weights w of least squares: w @ y is the slope of y against time."""
    centred = time - time.mean()
    weights: Vector = centred / (centred @ centred)
    return weights


class _Fit(NamedTuple):
    """The line through a curve after its start."""

    rate: float
    margin: float  # half-width of the interval
    noise: float  # by how much a curve on the bound may rise above it


def _fit(time: Vector, log_error: Vector, seed: int) -> _Fit:
    time, log_error = time[1:], log_error[1:]
    noise, slope = _noise(time, log_error, np.random.default_rng(seed)), _slope(time)
    margin = np.quantile(np.abs(noise[:, 1:] @ slope), CONFIDENCE) + RESOLUTION / np.ptp(time)
    rise = np.quantile((noise[:, 1:] - noise[:, :1]).max(axis=1), (1 + CONFIDENCE) / 2) + RESOLUTION
    return _Fit(-float(slope @ log_error), float(margin), float(rise))


def _noise(time: Vector, log_error: Vector, rng: np.random.Generator) -> Vector:
    """(RESAMPLES, 1 + n) paths of noise, the start's first; correlation and variance drawn from what residuals allow.

    With X = (1, t), R(rho) the correlations and s the generalised residual sum of squares, rho has the density
    |R|^{-1/2} |X' R^{-1} X|^{-1/2} s^{-(n - 2)/2}, and s / variance is chi-squared with n - 2 degrees of freedom.

    Reference: Harville 1974, "Bayesian inference for variance components using only error contrasts".
    """
    n, rho = len(time), CORRELATIONS[:, None, None]
    columns = np.stack([np.ones(n), time - time.mean(), log_error], axis=1)[None]  # (1, n, 3)
    steps = (columns[:, 1:] - rho * columns[:, :-1]) / np.sqrt(1 - rho**2)
    whitened = np.concatenate([np.repeat(columns[:, :1], len(rho), axis=0), steps], axis=1)  # (g, n, 3)
    # |X' R^{-1} X| and s are squares of the diagonal of the triangular factor.
    *of_design, root = np.abs(np.diagonal(np.linalg.qr(whitened, mode="r"), axis1=1, axis2=2)).T
    root = np.maximum(root, ROUNDING)
    log_density = -np.log(of_design).sum(axis=0) - (n - 2) * np.log(root) - (n - 1) / 2 * np.log1p(-(CORRELATIONS**2))
    density = np.exp(log_density - log_density.max())
    drawn = rng.choice(len(rho), size=RESAMPLES, p=density / density.sum())
    keep, fresh = CORRELATIONS[drawn], np.sqrt(1 - CORRELATIONS[drawn] ** 2)
    paths = rng.standard_normal((RESAMPLES, 1 + n))
    for k in range(1, 1 + n):
        paths[:, k] = keep * paths[:, k - 1] + fresh * paths[:, k]
    paths *= (root[drawn] / np.sqrt(rng.chisquare(n - 2, RESAMPLES)))[:, None]
    return paths


def _extrapolated(coarse: _Curve, fine: _Curve, lam: float, seed: int) -> tuple[_Curve, str]:
    """The curve at tau -> 0 where halving tau moves the rate, else the coarse one, less sure; and the finding in words.

    Moves away from the bound count like moves towards it: otherwise the correction would favour "consistent".
    """
    time = coarse.time[coarse.time <= np.max(fine.time, initial=-np.inf) + ROUNDING]
    n = len(time)
    if min(n, len(fine.time)) < FEWEST:
        return coarse, "; the refined trace is too short to compare"
    step, fine_step = np.median(np.diff(time)), np.median(np.diff(fine.time))
    if not fine_step < step:
        raise InvalidInput(f"The refined trace has steps of {fine_step:.3g}, the trace itself of {step:.3g}.")
    # A curve of log errors is nearly straight between its points, so that the times of the two need not agree.
    log_error, slack = (np.interp(time, fine.time, values) for values in (fine.log_error, fine.slack))
    move = log_error - coarse.log_error[:n]
    change = _fit(time, move, seed)
    share = fine_step / (step - fine_step)
    if abs(change.rate) <= change.margin:
        own = [abs(np.log(bound) / step + 2 * lam) for bound in step_bounds(step, lam)] if lam * step < 1 else [np.inf]
        hidden = min(float(share * (abs(change.rate) + change.margin)), float(max(own)))
        slack = coarse.slack + hidden * (coarse.time - coarse.time[0])
        return replace(coarse, slack=slack, remainder=hidden), "; halving tau does not move the rate by more than noise"
    left = float(np.nan_to_num(lam) * step * share)
    slack = (1 + share) * slack + share * coarse.slack[:n] + left * np.abs(move)
    floor = max(coarse.floor, fine.floor)
    limit = _Curve(time, log_error + share * move, slack, floor, left * abs(change.rate), extrapolated=True)
    return limit, f"; extrapolated to tau -> 0, because halving tau moves the rate by {change.rate:.3g}"
