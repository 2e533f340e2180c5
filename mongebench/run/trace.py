"""The trace of one fit: errors against flow time, iterations, oracle calls and seconds, all from a single run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import as_values
from mongebench.core.estimator import Map, MapEstimator
from mongebench.core.oracle import Meter, Oracle
from mongebench.metrics.base import Evaluation, EvaluationPoints, variance_of_mean
from mongebench.metrics.pairwise import Kernel, discrepancy
from mongebench.run.clock import Clock
from mongebench.run.record import TracePoint

Vector = NDArray[np.float64]

POINTS = 2000
"""Evaluation points of a trace: fewer than of the final metrics, because a trace is scored at every step."""
OBJECTIVE = "objective"
"""The diagnostic by which a flow tells what it moves down."""


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
    kl_offset
        What turns the diagnostic `OBJECTIVE` into KL, see `kl_offset`; None where it does not.
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
        kl_offset: float | None = None,
        share: int = 1,
        *,
        cpu_budget: float | None = None,
    ) -> None:
        self.clock = clock
        self.scored = points.once(POINTS, lambda: _first(points, POINTS))
        self.meters = meters
        self.fit_limit = fit_limit
        self.kl_offset = kl_offset
        self.share = share
        self.cpu_budget = cpu_budget
        self.stopped = False
        self.points: list[TracePoint] = []
        self._start: Vector | None = None

    def __call__(self, map: Map, *, flow_time: float | None = None, **diagnostics: float) -> bool:
        """Record the map reached at `flow_time`; whether to go on."""
        with self.clock.phase("evaluate"):
            fit_seconds = self.clock.seconds("fit") / self.share
            # A map on its way to infinity is recorded as what it is; the fit, or the final metrics, will say so.
            with np.errstate(over="ignore", invalid="ignore"):
                errors, distance = self._scores(map)
                accuracy = {} if errors is None else self._accuracy(errors)
            self.points.append(
                TracePoint(
                    iteration=len(self.points),
                    flow_time=flow_time,
                    oracle_calls=sum(sum(meter.counts.values()) for meter in self.meters),
                    fit_seconds=fit_seconds,
                    l2_error=accuracy.get("l2_error"),
                    l2_error_se=accuracy.get("l2_error_se"),
                    l2_ratio_se=accuracy.get("l2_ratio_se"),
                    energy_distance=distance,
                    kl=self._kl(diagnostics),
                    diagnostics={key: float(value) for key, value in diagnostics.items()},
                )
            )
        self.stopped = self.cpu_budget is not None and self.clock.cpu("fit") / self.share >= self.cpu_budget
        return not self.stopped and (self.fit_limit is None or fit_seconds < self.fit_limit)

    def _scores(self, map: Map) -> tuple[Vector | None, float]:
        """(n,) squared errors, where T* is known, and energy distance (U-statistic)."""
        pushed = as_values(map(self.scored.x), "The map of a trace")
        exact = self.scored.exact
        errors = None if exact is None else ((pushed - exact) ** 2).sum(axis=1)
        return errors, discrepancy(Evaluation(self.scored, map, pushed), Kernel.DISTANCE).value

    def _accuracy(self, errors: Vector) -> dict[str, float]:
        """Mean of the squared errors, its standard error, and that of its ratio to the start's (delta method)."""
        if self._start is None:
            self._start = errors
        mean, start = errors.mean(), self._start.mean()
        found = {"l2_error": float(mean), "l2_error_se": float(np.sqrt(variance_of_mean(errors)))}
        if start > 0:
            found["l2_ratio_se"] = float(np.sqrt(variance_of_mean(errors - mean / start * self._start)) / start)
        return found

    def _kl(self, diagnostics: Mapping[str, float]) -> float | None:
        if self.kl_offset is None or OBJECTIVE not in diagnostics:
            return None
        return float(diagnostics[OBJECTIVE]) + self.kl_offset


def _first(points: EvaluationPoints, n: int) -> EvaluationPoints:
    """The first n points of each side: what depends on them alone is computed once for all traces of a problem."""
    exact = None if points.exact is None else points.exact[:n]
    return EvaluationPoints(points.problem, points.x[:n], points.y[:n], exact, points.seed)


def kl_offset(estimator: MapEstimator, points: EvaluationPoints) -> float | None:
    """log Z + E_mu0[log mu0], which added to F(T) = E_mu0[V(T) - log det DT] gives KL(T#mu0 | gamma).

    The target's log Z is exact and E_mu0[log mu0] the mean over all evaluation points `points.x`, while F, the
    diagnostic `OBJECTIVE`, is the flow's own mean over the batch of its last step (over at most 1000 points at the
    start). So a trace's KL carries the noise of two independent draws, about sd(log mu0) (1/n_batch + 1/n)^(1/2): near
    T* it can be negative.

    None where log Z or the source's density is not known, or where the estimator's objective is not that F: it is for
    estimators that ask for V and whose parameter `divergence`, if they have one, is "kl".
    """
    source, target = points.problem.source, points.problem.target
    moves_f = Oracle.TARGET_POTENTIAL in estimator.needs and estimator.get_params().get("divergence", "kl") == "kl"
    if not moves_f or target.log_normaliser is None or not source.log_density:
        return None
    return target.log_normaliser + points.once(kl_offset, lambda: float(np.mean(source.log_density(points.x))))
