"""Clouds in units of their own: estimators learn the same map from metres as from microns, near the origin or far off.

Optimal transport commutes with translations of either cloud and with one scaling of both, so that an estimator may work
in coordinates of its own choice; the tolerances of the libraries behind it, and its parameters, are then in units of
the data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import Points

Vector = NDArray[np.float64]


class Standardised(NamedTuple):
    """Two clouds less their means, divided by one scale.

    Attributes
    ----------
    x, y
        (n, d) and (m, d).
    source_mean, target_mean
        (d,).
    scale
        Root mean square of the standard deviations of both; 1 for clouds without any extent.
    """

    x: Points
    y: Points
    source_mean: Vector
    target_mean: Vector
    scale: float


def standardised(x: Points, y: Points) -> Standardised:
    """The clouds x (n, d) and y (m, d), centred and of unit variance together; whitening would change the map."""
    source_mean, target_mean = mean(x), mean(y)
    x, y = x - source_mean, y - target_mean
    unit = power_of_two(max(np.abs(x).max(), np.abs(y).max()))  # squares neither overflow nor vanish
    variance = ((x / unit) ** 2).mean(axis=0).mean() + ((y / unit) ** 2).mean(axis=0).mean()
    scale = unit * float(np.sqrt(variance / 2)) or 1.0
    return Standardised(x / scale, y / scale, source_mean, target_mean, scale)


def mean(points: Points) -> Vector:
    """The mean of points (n, d), which may be far from the origin: its error is of the order of one rounding of it."""
    first = points.mean(axis=0)
    if not np.isfinite(first).all():  # the sum overflows
        first = points[0] / 1.0
    return np.asarray(first + (points - first).mean(axis=0))


def power_of_two(size: float) -> float:
    """The least power of two that is no less than size; 1 for zero. Dividing by it loses no bit."""
    return float(2.0 ** np.ceil(np.log2(size))) if size > 0 else 1.0
