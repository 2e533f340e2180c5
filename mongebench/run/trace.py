"""The trace of one fit: errors against flow time, iterations, oracle calls and seconds, all from a single run.

KL(T#mu0 | gamma) is the mean of log-ratios that are 0 at every x for T = T* (`mongebench.metrics.divergence`): so
D* = 0, and with the control variate there its noise falls with KL itself, to a few percent of it at 2000 points,
however small KL is.

Where log Z or the density of mu0 is not known, log mu0 + log Z is read off T* at the same points, log det DT* by
central differences. Where that is not known either, or V, or in more than `KL_DIMENSIONS`, or for a scheme that follows
no flow, there is no KL.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import as_values
from mongebench.core.estimator import Map
from mongebench.core.oracle import Meter
from mongebench.metrics.base import Evaluation, EvaluationPoints, variance_of_mean
from mongebench.metrics.divergence import controlled
from mongebench.metrics.pairwise import Kernel, discrepancy
from mongebench.run.clock import Clock
from mongebench.run.record import TracePoint

Vector = NDArray[np.float64]

POINTS = 2000
"""Evaluation points of a trace: fewer than of the final metrics, because a trace is scored at every step."""
KL_DIMENSIONS = 64
"""The most in which log det DT is computed at every point of every step."""
DIFFERENCE = 1e-5
"""Of central differences of T*, in units of the data."""


class RunTrace:
    """Scores each map handed to it while the fit's clock stands still; False once `fit_limit` seconds are spent.

    Parameters
    ----------
    clock
        Of the cell.
    points
        The cell's evaluation points; the first `POINTS` of each side are used.
    meters
        Whose counts make the oracle calls.
    fit_limit
        Seconds of fitting; None for no limit.
    share
        Fits that go on together under this clock: each is charged an equal share of its seconds.
    cpu_budget
        CPU seconds of fitting, compilation excluded; None for no limit.

    Attributes
    ----------
    stopped
        Whether the CPU budget was spent, and the fit asked to stop.
    """

    def __init__(
        self,
        clock: Clock,
        points: EvaluationPoints,
        meters: tuple[Meter, ...],
        fit_limit: float | None,
        share: int = 1,
        *,
        cpu_budget: float | None = None,
    ) -> None:
        self.clock = clock
        self.scored = points.once(POINTS, lambda: _first(points, POINTS))
        self.meters = meters
        self.fit_limit = fit_limit
        self.share = share
        self.cpu_budget = cpu_budget
        self.stopped = False
        self.points: list[TracePoint] = []
        self._minimum = self.scored.once(RunTrace, lambda: _minimum(self.scored))
        self._start: dict[str, Vector] = {}

    def __call__(self, map: Map, *, flow_time: float | None = None, **diagnostics: float) -> bool:
        """Record the map reached at `flow_time`; whether to go on."""
        with self.clock.phase("evaluate"):
            fit_seconds = self.clock.seconds("fit") / self.share
            # A map on its way to infinity is recorded as what it is; the fit, or the final metrics, will say so.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                pushed = as_values(map(self.scored.x), "The map of a trace")
                distance = discrepancy(Evaluation(self.scored, map, pushed), Kernel.DISTANCE).value
                told = self._told(pushed, getattr(map, "log_det", None) if flow_time is not None else None)
            self.points.append(
                TracePoint(
                    iteration=len(self.points),
                    flow_time=flow_time,
                    oracle_calls=sum(sum(meter.counts.values()) for meter in self.meters),
                    fit_seconds=fit_seconds,
                    energy_distance=distance,
                    diagnostics={key: float(value) for key, value in diagnostics.items()},
                    **{"l2_error": None, **told},
                )
            )
        self.stopped = self.cpu_budget is not None and self.clock.cpu("fit") / self.share >= self.cpu_budget
        return not self.stopped and (self.fit_limit is None or fit_seconds < self.fit_limit)

    def _told(self, pushed: Vector, log_det: Map | None) -> dict[str, float]:
        """Squared error and KL where they are known, with their standard errors and those of the paired ratios."""
        values: dict[str, Vector] = {}
        if self.scored.exact is not None:
            values["l2_error"] = ((pushed - self.scored.exact) ** 2).sum(axis=1)
        if self._minimum is not None and log_det is not None:
            potential = self.scored.problem.target.potential
            values["kl"] = controlled(potential(pushed) - log_det(self.scored.x) - self._minimum)
        self._start = self._start or values
        found: dict[str, float] = {}
        for name, own in values.items():
            found |= {name: float(own.mean()), f"{name}_se": float(np.sqrt(variance_of_mean(own)))}
            for other, start in self._start.items():
                if start.mean() > 0:
                    found[_RATIOS[name, other]] = _ratio_error(own, start)
        return found


_RATIOS = {
    ("l2_error", "l2_error"): "l2_ratio_se",
    ("kl", "kl"): "kl_ratio_se",
    ("l2_error", "kl"): "l2_to_kl_se",
    ("kl", "l2_error"): "kl_to_l2_se",
}
"""(of the map, of the start) -> the field that has the standard error of their ratio."""


def _ratio_error(values: Vector, start: Vector) -> float:
    """Standard error of the ratio of two means over the same points (delta method)."""
    ratio = values.mean() / start.mean()
    return float(np.sqrt(variance_of_mean(values - ratio * start)) / start.mean())


def _minimum(points: EvaluationPoints) -> Vector | None:
    """(n,) V(T*(x)) - log det DT*(x), which is -log mu0(x) - log Z; None where neither side of that is known."""
    problem = points.problem
    source, target = problem.source, problem.target
    if problem.dim > KL_DIMENSIONS or not target.potential:
        return None
    if source.log_density and target.log_normaliser is not None:
        return -np.asarray(source.log_density(points.x)) - target.log_normaliser
    if points.exact is None:
        return None
    slopes = [(problem.truth(points.x + h) - problem.truth(points.x - h)) / 2 for h in DIFFERENCE * np.eye(problem.dim)]
    log_det = np.linalg.slogdet(np.stack(slopes, axis=2) / DIFFERENCE)[1]
    return np.asarray(target.potential(points.exact) - log_det)


def _first(points: EvaluationPoints, n: int) -> EvaluationPoints:
    """The first n points of each side: what depends on them alone is computed once for all traces of a problem."""
    exact = None if points.exact is None else points.exact[:n]
    return EvaluationPoints(points.problem, points.x[:n], points.y[:n], exact, points.seed)
