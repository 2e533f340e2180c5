"""Sliced 2-Wasserstein distance between the push-forward T^#mu0 and the target gamma."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid

from mongebench.core.arrays import Points
from mongebench.metrics.base import (
    Direction,
    Evaluation,
    EvaluationPoints,
    Value,
    combined_error,
    metric,
    variance_of_mean,
)

PROJECTIONS = 128
REPLICATES = 19
"""Of the null: one more exchangeable value is above the largest of 19 once in 20 times."""
STREAM = 1

Vector = NDArray[np.float64]


class Coupling(NamedTuple):
    """The monotone coupling of n and m sorted points of equal weights: mass w from x[i] to y[j]; at most n + m - 1."""

    i: NDArray[np.intp]
    j: NDArray[np.intp]
    mass: Vector

    @classmethod
    def of(cls, n: int, m: int) -> Coupling:
        """Cut [0, 1] at all k/n and l/m, in whole numbers of 1/(n m)."""
        cuts = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
        return cls(cuts[:-1] // m, cuts[:-1] // n, np.diff(cuts) / (n * m))


def directions(points: EvaluationPoints) -> Points:
    """(PROJECTIONS, d) uniform directions, the same for every map."""
    normal = points.rng(STREAM).normal(size=(PROJECTIONS, points.x.shape[1]))
    unit: Points = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    return unit


@metric(unit="length", direction=Direction.LOWER)
def sliced_w2(evaluation: Evaluation) -> Value:
    """Sliced W2: square root of the mean over 128 random directions of the squared 1-D Wasserstein-2 distance.

    Not squared, not scaled by the dimension (a shift by s has |s| / sqrt(d)); biased upwards by the finite samples,
    as every plug-in Wasserstein distance is. Standard error, carried through the square root: over the points, that of
    the mean of the 1-D dual potentials; over the directions, that of the mean of the squared distances (the
    same for every map, so that differences between maps are less noisy). Floor: the largest of 19 distances between
    two resamples of the target points, of the sizes at hand: a perfect map is above it about once in 20 times (more
    often where gamma has no fourth moments: resamples do not go beyond the farthest point seen).

    References: Bonneel, Rabin, Peyre, Pfister 2015, "Sliced and Radon Wasserstein barycenters of measures";
    del Barrio & Loubes 2019, "Central limit theorems for empirical transportation cost in general dimension".
    """
    points = evaluation.points
    centre = points.y.mean(axis=0)
    x, y = evaluation.pushed - centre, points.y - centre
    n, m = len(x), len(y)
    coupling = Coupling.of(n, m)
    squared, of_x, of_y = np.zeros(PROJECTIONS), np.zeros(n), np.zeros(m)
    for p, direction in enumerate(directions(points)):
        along_x, along_y = x @ direction, y @ direction
        order_x, order_y = along_x.argsort(), along_y.argsort()
        sorted_x, sorted_y = along_x[order_x], along_y[order_y]
        gap = sorted_x[coupling.i] - sorted_y[coupling.j]
        squared[p] = coupling.mass @ gap**2
        moved = coupling.mass * gap
        of_x[order_x] += _potential(sorted_x, np.bincount(coupling.i, n * moved, n)) / PROJECTIONS
        of_y[order_y] += _potential(sorted_y, np.bincount(coupling.j, -m * moved, m)) / PROJECTIONS
    null = points.once(null_replicates, lambda: null_replicates(points))
    over_points = combined_error(variance_of_mean(of_x) + variance_of_mean(of_y), float(null.var(ddof=1)))
    error = np.hypot(over_points, np.sqrt(variance_of_mean(squared)))
    value = np.sqrt(squared.mean())
    # sqrt(v^2 + e) - v is e / (2 v) for small e, and finite at v = 0.
    return Value(float(value), float(np.sqrt(value**2 + error) - value), float(np.sqrt(null.max())))


def _potential(sorted_points: Vector, displacement: NDArray[Any]) -> Vector:
    """Dual potential f at sorted points, from f'(t) = 2 (t - T(t))."""
    potential: Vector = cumulative_trapezoid(2.0 * displacement, sorted_points, initial=0)
    return potential


def null_replicates(points: EvaluationPoints) -> Vector:
    """(REPLICATES,) squared sliced distances between two bootstrap samples, of sizes n and m, of the target points."""
    rng = points.rng(STREAM)
    y = points.y - points.y.mean(axis=0)
    n, m = len(points.x), len(y)
    coupling = Coupling.of(n, m)
    # How often each target point is drawn: a sorted sample is the sorted points, repeated; nothing is sorted again.
    drawn = [[np.bincount(rng.integers(m, size=size), minlength=m) for size in (n, m)] for _ in range(REPLICATES)]
    squared = np.zeros(REPLICATES)
    for direction in directions(points):
        along = y @ direction
        order = along.argsort()
        ordered = along[order]
        for replicate, (first, second) in enumerate(drawn):
            gap = np.repeat(ordered, first[order])[coupling.i] - np.repeat(ordered, second[order])[coupling.j]
            squared[replicate] += coupling.mass @ gap**2
    return squared / PROJECTIONS
