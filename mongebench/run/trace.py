"""The trace of one fit: error against flow time, iterations, oracle calls and seconds, all from a single run."""

from __future__ import annotations

import numpy as np

from mongebench.core.estimator import Map
from mongebench.core.oracle import Meter
from mongebench.metrics.base import EvaluationPoints
from mongebench.run.clock import Clock
from mongebench.run.record import TracePoint

POINTS = 2000
"""Evaluation points of a trace: fewer than of the final metrics, because a trace is scored at every step."""


class RunTrace:
    """Scores each map handed to it while the fit's clock stands still; False once `fit_limit` seconds are spent."""

    def __init__(self, clock: Clock, points: EvaluationPoints, meters: tuple[Meter, ...], fit_limit: float | None):
        self.clock = clock
        self.x = points.x[:POINTS]
        self.exact = None if points.exact is None else points.exact[:POINTS]
        self.meters = meters
        self.fit_limit = fit_limit
        self.points: list[TracePoint] = []

    def __call__(self, map: Map, *, flow_time: float | None = None, **diagnostics: float) -> bool:
        """Record the map reached at `flow_time`; whether to go on."""
        with self.clock.phase("evaluate"):
            error = None
            if self.exact is not None:
                error = float(np.mean(np.sum((np.asarray(map(self.x)) - self.exact) ** 2, axis=1)))
            fit_seconds = self.clock.seconds("fit")
            self.points.append(
                TracePoint(
                    iteration=len(self.points),
                    flow_time=flow_time,
                    oracle_calls=sum(sum(meter.counts.values()) for meter in self.meters),
                    fit_seconds=fit_seconds,
                    l2_error=error,
                    diagnostics={key: float(value) for key, value in diagnostics.items()},
                )
            )
        return self.fit_limit is None or fit_seconds < self.fit_limit
