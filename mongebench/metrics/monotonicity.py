"""Membership of a map in K, the gradients of convex functions: monotone, with a symmetric Jacobian."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import Points
from mongebench.metrics.base import Direction, Evaluation, EvaluationPoints, Value, metric, variance_of_mean

SMALLEST_SCALE = 1e-3
"""Of a pair, relative to the distance of two independent points."""
EVALUATIONS = 8192
"""Of the map, at most, for its Jacobian."""
FRAME = 8
"""Directions that the Jacobian is probed along, at most."""
STEP = 1e-3
"""Of the finite differences, relative to the standard deviation of mu0 along one direction."""
PROBES = 256
"""Points at which the resolution of the map is measured."""
PAIRS_STREAM, JACOBIAN_STREAM, RESOLUTION_STREAM = 2, 3, 4


@metric(unit="1", direction=Direction.LOWER)
def monotonicity_violation(evaluation: Evaluation) -> Value:
    """Share of pairs that the map turns against each other: P(<x - x', T^(x) - T^(x')> < 0).

    Independent pairs at all scales: x' lies on the segment from x to another point, at a share of it that is
    log-uniform in [1e-3, 1]; each point serves in one pair. Products below the resolution of the map (float32,
    float64; measured) do not count, so a piecewise constant map is not blamed for its pieces. A map can be monotone
    and yet no gradient (a rotation by up to 90 degrees): `jacobian_asymmetry` sees that.

    NaN where products overflow. Standard error: Agresti-Coull, positive where no violation was seen. Floor: one pair.
    """
    points = evaluation.points
    rng = points.rng(PAIRS_STREAM)
    count = len(points.x) // 2
    first, second = rng.permutation(len(points.x))[: 2 * count].reshape(2, count)
    share = SMALLEST_SCALE ** rng.uniform(size=(count, 1))
    x = points.x[first]
    other = x + share * (points.x[second] - x)
    mapped, mapped_other = evaluation.pushed[first], evaluation.map(other)
    product = ((other - x) * (mapped_other - mapped)).sum(axis=1)
    noise = resolution(evaluation) * (_size(mapped, evaluation) + _size(mapped_other, evaluation))
    if not np.isfinite(noise).all():
        return Value(float("nan"), float("nan"), float("nan"))
    violations = int((product < -4.0 * noise * np.linalg.norm(other - x, axis=1)).sum())
    shrunk = (violations + 2) / (count + 4)
    return Value(violations / count, float(np.sqrt(shrunk * (1 - shrunk) / (count + 4))), 1 / count)


def _size(mapped: Points, evaluation: Evaluation) -> NDArray[np.float64]:
    """(n,) magnitude that rounding is relative to; never that of the value alone, which may be 0 by cancellation."""
    typical = np.sqrt((evaluation.pushed**2).sum(axis=1).mean())
    size: NDArray[np.float64] = np.linalg.norm(mapped, axis=1) + typical
    return size


def _spread(points: EvaluationPoints) -> float:
    """Standard deviation of mu0 along one direction, on average."""
    return float(np.sqrt(points.x.var(axis=0).mean()))


def resolution(evaluation: Evaluation) -> float:
    """Relative rounding error of the map: second differences at a step where smoothness leaves nothing else.

    A map that computes in float32 and returns float64 does not say so. The median over points ignores kinks and jumps.
    Capped at the square root of float32 rounding: anything coarser is the map and not rounding.

    Reference: More & Wild 2011, "Estimating computational noise" (differences as measures of noise).
    """
    points = evaluation.points
    x = points.x[:PROBES]
    direction = points.rng(RESOLUTION_STREAM).normal(size=x.shape)
    step = 1e-5 * _spread(points) * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    middle = evaluation.pushed[:PROBES]
    second = evaluation.map(x + step) - 2.0 * middle + evaluation.map(x - step)
    relative = np.linalg.norm(second, axis=1) / np.maximum(_size(middle, evaluation), np.finfo(np.float64).tiny)
    return float(np.clip(np.median(relative), np.finfo(np.float64).eps, np.sqrt(np.finfo(np.float32).eps)))


@metric(unit="1", direction=Direction.LOWER)
def jacobian_asymmetry(evaluation: Evaluation) -> Value:
    """|DT^ - DT^'|^2 / (4 |DT^|^2), Frobenius norms in L2(mu0): 0 for a gradient, 1 for a skew Jacobian.

    Central differences along k = min(d, 8) orthonormal directions q drawn for each point: for J = DT^,
    E |Q'JQ - Q'J'Q|^2 = k (k - 1) / (d (d - 1)) |J - J'|^2 and E |JQ|^2 = k / d |J|^2. Points where the map jumps
    within the step (forward and backward differences disagree) are left out, so that a piecewise constant map has 0;
    NaN where it jumps at every point. 0 by definition for d = 1. At most 8192 evaluations of the map.

    Standard error of a ratio of means. Floor: twice what the rounding and the curvature seen in the differences would
    give a gradient.
    """
    points = evaluation.points
    n, d = points.x.shape
    if d == 1:
        return Value(0.0, 0.0, 0.0)
    k = min(d, FRAME)
    count = min(n, EVALUATIONS // (2 * k))
    x, middle = points.x[:count, None], evaluation.pushed[:count, None]
    frames = np.linalg.qr(points.rng(JACOBIAN_STREAM).normal(size=(count, d, k)))[0].transpose(0, 2, 1)  # (count, k, d)
    length = STEP * _spread(points)
    step = length * frames
    ahead, behind = (evaluation.map((x + s).reshape(-1, d)).reshape(count, k, d) for s in (step, -step))
    forward, backward = ahead - middle, middle - behind

    def energy(differences: Points) -> NDArray[np.float64]:
        squares: NDArray[np.float64] = (differences**2).sum(axis=(1, 2))
        return squares

    bend = energy(forward - backward)
    smooth = bend <= (energy(forward) + energy(backward)) / 2
    if not smooth.any():
        return Value(float("nan"), float("nan"), float("nan"))
    # All in units of the square of the step, which the ratio does not see.
    central = (forward + backward)[smooth] / 2
    projected = central @ frames[smooth].transpose(0, 2, 1)
    antisymmetric = (d - 1) / (k - 1) * energy(projected - projected.transpose(0, 2, 1))
    total = 4.0 * energy(central)
    if not total.any():
        return Value(0.0, 0.0, 0.0)
    ratio = antisymmetric.mean() / total.mean()
    error = np.sqrt(variance_of_mean(antisymmetric - ratio * total)) / total.mean()
    # A second difference has 6 times the variance of the noise of a value, an entry of the antisymmetric part 1 time.
    noise = (d - 1) / (6 * d) * bend[smooth].mean() / total.mean()
    step_rounding = np.finfo(np.float64).eps ** 2 * (x**2).sum(axis=2).mean() / length**2
    floor = 2.0 * (noise + step_rounding)
    return Value(min(float(ratio), 1.0), float(error), float(floor))
