"""Mean and covariance of the push-forward T#mu0 against those of the target, in the target's standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mongebench.metrics.base import Direction, Evaluation, EvaluationPoints, Value, metric, variance_of_mean

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Standard:
    """The target's points in standard deviations from their mean, coordinate by coordinate, and their covariance."""

    mean: Array
    deviation: Array
    y: Array
    covariance: Array

    @classmethod
    def of(cls, points: EvaluationPoints) -> _Standard:
        mean, deviation = points.y.mean(axis=0), points.y.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        y = (points.y - mean) / deviation
        return cls(mean, deviation, y, y.T @ y / len(y))


def _standard(evaluation: Evaluation) -> tuple[_Standard, Array]:
    standard = evaluation.points.once(_Standard, lambda: _Standard.of(evaluation.points))
    return standard, (evaluation.pushed - standard.mean) / standard.deviation


@metric(unit="standard deviations", direction=Direction.LOWER)
def mean_error(evaluation: Evaluation) -> Value:
    """Difference of the means of T(x) and y in the target's standard deviations, root mean square over coordinates.

    Of a posterior: how wrong posterior means are, in posterior standard deviations. Floor: for the exact map the square
    has mean 1/n + 1/m, and as a quadratic form in normal variables the relative variance 2 sum(rho_ij^2) / d^2, of
    which two standard deviations are added; rho are the target's correlations. Standard error by the delta method.
    """
    standard, pushed = _standard(evaluation)
    (n, d), m = pushed.shape, len(standard.y)
    apart = pushed.mean(axis=0)
    value = float(np.sqrt((apart**2).mean()))
    direction = apart / (d * value) if value > 0 else np.full(d, d**-0.5)
    # The target's points move its mean, and its deviations, which the differences are divided by.
    of_target = standard.y @ direction + standard.y**2 @ (direction * apart) / 2
    variance = variance_of_mean(pushed @ direction) + variance_of_mean(of_target)
    relative = float(np.sqrt(2 * (standard.covariance**2).sum())) / d
    return Value(value, float(np.sqrt(variance)), float(np.sqrt((1 / n + 1 / m) * (1 + 2 * relative))))


@metric(unit="variances", direction=Direction.LOWER)
def covariance_error(evaluation: Evaluation) -> Value:
    """Difference of the covariances of T(x) and y with the target's standard deviations as units, root mean square over
    their d^2 entries.

    Floor: for the exact map the square has mean (1/n + 1/m) (E|z|^4 - |C|^2) / d^2, z the standardised y and C their
    covariance; as a quadratic form its relative standard deviation is at most 2^1/2, of which two are added. Standard
    error by the delta method.
    """
    standard, pushed = _standard(evaluation)
    (n, d), m = pushed.shape, len(standard.y)
    pushed = pushed - pushed.mean(axis=0)
    apart = pushed.T @ pushed / n - standard.covariance
    value = float(np.sqrt((apart**2).mean()))
    direction = apart / (d**2 * value) if value > 0 else apart
    # As above: the target's points move its covariance, and its deviations.
    of_target = ((standard.y @ direction) * standard.y).sum(axis=1) + standard.y**2 @ (direction * apart).sum(axis=1)
    variance = variance_of_mean(((pushed @ direction) * pushed).sum(axis=1)) + variance_of_mean(of_target)
    fourth = float(((standard.y**2).sum(axis=1) ** 2).mean() - (standard.covariance**2).sum())
    null = (1 / n + 1 / m) * fourth / d**2
    return Value(value, float(np.sqrt(variance)), float(np.sqrt(null * (1 + 2 * np.sqrt(2)))))
