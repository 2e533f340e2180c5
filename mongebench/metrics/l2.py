"""Distance to the exact map in L2(mu0), where the exact map is known."""

from __future__ import annotations

import numpy as np

from mongebench.core.arrays import Points
from mongebench.metrics.base import Direction, Evaluation, EvaluationPoints, Value, metric, variance_of_mean

ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Relative error that a map evaluated in float64 is allowed: a few operations on each coordinate."""


def truth(points: EvaluationPoints) -> tuple[Points, float]:
    """T*(x), (n, d), and the mean square of its own error (`Problem.truth_error` and rounding), in length^2."""
    assert points.exact is not None  # `metrics.compute` leaves out what needs a truth that is not there
    rounding = ROUNDING**2 * float((points.exact**2).sum(axis=1).mean())
    return points.exact, points.problem.truth_error**2 + rounding


@metric(unit="length^2", direction=Direction.LOWER, needs_truth=True)
def l2_error(evaluation: Evaluation) -> Value:
    """Squared L2(mu0) error: E |T^(x) - T*(x)|^2.

    Floor: mean square error of the exact map itself, with float64 rounding.
    """
    exact, own_error = truth(evaluation.points)
    errors = ((evaluation.pushed - exact) ** 2).sum(axis=1)
    return Value(float(errors.mean()), float(np.sqrt(variance_of_mean(errors))), own_error)


@metric(unit="%", direction=Direction.LOWER, needs_truth=True)
def uvp(evaluation: Evaluation) -> Value:
    """Unexplained variance: 100 E |T^(x) - T*(x)|^2 / Var(gamma), in percent; the best constant map has 100.

    NaN where gamma is a single point and the map is exact.

    Reference: Korotin, Li, Genevay, Solomon, Filippov, Burnaev 2021, "Do neural optimal transport solvers work?"
    (L2-UVP).
    """
    error = l2_error(evaluation)
    scale = np.float64(100.0) / np.float64(evaluation.points.problem.total_variance)
    return Value(float(scale * error.value), float(scale * error.standard_error), float(scale * error.floor))


@metric(unit="1", direction=Direction.HIGHER, needs_truth=True)
def cosine(evaluation: Evaluation) -> Value:
    """Cosine of the displacements T^ - id and T* - id in L2(mu0), in [-1, 1].

    A map that moves nothing has cosine 0: it points nowhere. NaN where T* moves nothing beyond its own error, since
    then no direction is right. Standard error by the delta method. Floor: an error e of the exact map of mean square
    |e|^2 turns a displacement u by at most arcsin(|e| / |u|).

    Reference: Korotin et al. 2021.
    """
    points = evaluation.points
    exact, own_error = truth(points)
    ours, right = evaluation.pushed - points.x, exact - points.x
    inner, ours_squared, right_squared = ((a * b).sum(axis=1) for a, b in ((ours, right), (ours, ours), (right, right)))
    turned = own_error / right_squared.mean()
    if not turned < 1.0:
        return Value(float("nan"), float("nan"), float("nan"))
    floor = float(turned / (1.0 + np.sqrt(1.0 - turned)) + ROUNDING)  # 1 - cos(arcsin(.)), without cancellation
    if not ours_squared.any():
        return Value(0.0, 0.0, floor)
    lengths = np.sqrt(ours_squared.mean()) * np.sqrt(right_squared.mean())
    value = inner.mean() / lengths
    influence = inner / lengths - value / 2 * (
        ours_squared / ours_squared.mean() + right_squared / right_squared.mean()
    )
    return Value(float(value), float(np.sqrt(variance_of_mean(influence))), floor)
