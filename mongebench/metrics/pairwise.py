"""Kernel discrepancies between T#mu0 and gamma over all pairs of points: energy distance and MMD in one pass.

Both are D = E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with X ~ T#mu0 and Y ~ gamma: for k(x, y) = -|x - y|, and for a
Gaussian k. Squared distances cost as much as either kernel, so one pass over the pairs serves both; it goes by tiles,
in O(n + m) memory.

References: Gretton, Borgwardt, Rasch, Schoelkopf, Smola 2012, "A kernel two-sample test", lemma 6 (the U-statistic);
Sejdinovic, Sriperumbudur, Gretton, Fukumizu 2013 (energy distance as an MMD).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points
from mongebench.metrics.base import Evaluation, EvaluationPoints, Value, combined_error, variance_of_mean

TILE = 512
"""Side of a tile: two of 2 MiB stay in cache between the passes over them."""
NULL_POINTS = 1000
"""Target points that the null variance is estimated from."""


class Kernel(IntEnum):
    """A kernel k, and its row in the sums."""

    DISTANCE = 0
    GAUSSIAN = 1


Sums = NDArray[np.float64]
"""(2, n): sums of both kernels over the other points, for each of n points."""


def kernel_sums(x: Points, y: Points | None, variance: float) -> tuple[Sums, Sums]:
    """Sums of both kernels: over y for each x, (2, n), and over x for each y, (2, m).

    Without y, both are the sums over the other points of x, never of a point and itself. `variance` is that of the
    Gaussian kernel exp(-|x - y|^2 / (2 variance)).
    """
    within = y is None
    y = x if y is None else y
    n, m = len(x), len(y)
    left, right = _factors(x, y)
    over_y = np.zeros((2, n))
    over_x = over_y if within else np.zeros((2, m))
    exponent = -0.5 / np.float64(variance)
    buffers = np.empty((2, TILE, TILE))
    for i in range(0, n, TILE):
        for j in range(i if within else 0, m, TILE):
            rows, columns = slice(i, min(i + TILE, n)), slice(j, min(j + TILE, m))
            on_diagonal = within and i == j
            tiles = buffers[:, : rows.stop - i, : columns.stop - j]
            squared = np.matmul(left[rows], right[columns].T, out=tiles[Kernel.DISTANCE])
            np.maximum(squared, 0.0, out=squared)
            if on_diagonal:
                np.fill_diagonal(squared, 0.0)
            np.exp(np.multiply(squared, exponent, out=tiles[Kernel.GAUSSIAN]), out=tiles[Kernel.GAUSSIAN])
            np.sqrt(squared, out=squared)
            over_y[:, rows] += tiles.sum(axis=2)
            if not on_diagonal:  # a tile on the diagonal holds its pairs in both orders already
                over_x[:, columns] += tiles.sum(axis=1)
    for sums in (over_y,) if within else (over_y, over_x):
        sums[Kernel.DISTANCE] *= -1.0
    if within:
        over_y[Kernel.GAUSSIAN] -= 1.0  # of each point with itself
    return over_y, over_x


def _factors(x: Points, y: Points) -> tuple[Points, Points]:
    """(n, d + 2) and (m, d + 2) whose products are the squared distances |x_i|^2 + |y_j|^2 - 2 <x_i, y_j>.

    Centred, so that the digits lost are those of the spread and not of the distance to the origin. The squares are
    lowered by the error bound of the product: two coinciding points then give a number below 0, which is clipped,
    instead of a distance of the square root of rounding.
    """
    centre = y.mean(axis=0)
    lowered = 1.0 - (x.shape[1] + 4) * np.finfo(np.float64).eps

    def columns(points: Points) -> tuple[Points, Points]:
        squares = lowered * np.einsum("ij,ij->i", points, points)[:, None]
        return squares, np.ones_like(squares)

    x, y = x - centre, y - centre
    x_squares, x_ones = columns(x)
    y_squares, y_ones = columns(y)
    return np.hstack([-2.0 * x, x_squares, x_ones]), np.hstack([y, y_ones, y_squares])


@dataclass(frozen=True)
class Discrepancy:
    """D of one kernel as a U-statistic.

    Attributes
    ----------
    value
        U-statistic, unbiased.
    standard_error
        Of `value`.
    null_sd
        Standard deviation of the U-statistic between two samples of gamma, of the sizes at hand.
    within
        Mean of k(X, X') and of k(Y, Y') over pairs of different points.
    """

    value: float
    standard_error: float
    null_sd: float
    within: tuple[float, float]

    @property
    def floor(self) -> float:
        """Two standard deviations of the null.

        There D is a weighted sum of centred chi-squares, of which 5.0 % (one weight) to 2.3 % (many small ones)
        exceed two standard deviations.
        """
        return 2.0 * self.null_sd

    def as_value(self) -> Value:
        """The U-statistic as a metric's value."""
        return Value(self.value, self.standard_error, self.floor)


def discrepancy(evaluation: Evaluation, kernel: Kernel) -> Discrepancy:
    """D between T^#mu0 and gamma; the pairs are visited once for all kernels, those of the target once for all maps.

    Standard error: Hoeffding's first-order term from the row means, and the second-order one, which is all there is
    as T^#mu0 comes close to gamma. Row means over finitely many points carry noise of their own, which adds twice the
    null variance to the first-order estimate there; see `combined_error`.
    """
    points = evaluation.points
    n, m = len(points.x), len(points.y)
    variance = points.problem.total_variance
    xx, (xy, yx) = evaluation.once(
        kernel_sums,
        lambda: (kernel_sums(evaluation.pushed, None, variance)[0], kernel_sums(evaluation.pushed, points.y, variance)),
    )
    yy = points.once(kernel_sums, lambda: kernel_sums(points.y, None, variance)[0])

    of_x = 2.0 * (xx[kernel] / (n - 1) - xy[kernel] / m)
    of_y = 2.0 * (yy[kernel] / (m - 1) - yx[kernel] / n)
    within = float(xx[kernel].mean() / (n - 1)), float(yy[kernel].mean() / (m - 1))
    pair_variance = points.once(pair_variances, lambda: pair_variances(points))[kernel]
    null_variance = pair_variance * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m))
    return Discrepancy(
        value=float((of_x.mean() + of_y.mean()) / 2),
        standard_error=combined_error(variance_of_mean(of_x) + variance_of_mean(of_y), null_variance),
        null_sd=float(np.sqrt(null_variance)),
        within=within,
    )


def pair_variances(points: EvaluationPoints) -> tuple[float, float]:
    """E k~(Y, Y')^2 of both kernels, k~ being k centred in both arguments; NaN below four target points.

    The unbiased estimator from the U-centred matrix (Szekely & Rizzo 2014, "Partial distance correlation with methods
    for dissimilarities", proposition 1).
    """
    y = points.y[:NULL_POINTS]
    m = len(y)
    if m < 4:
        return float("nan"), float("nan")
    distances = cdist(y, y)
    gaussian = np.exp(-(distances**2) / (2 * np.float64(points.problem.total_variance)))

    def pair_variance(k: NDArray[np.float64]) -> float:
        np.fill_diagonal(k, 0.0)
        rows = k.sum(axis=1)
        centred = k - (rows[:, None] + rows) / (m - 2) + rows.sum() / ((m - 1) * (m - 2))
        np.fill_diagonal(centred, 0.0)
        return float((centred**2).sum() / (m * (m - 3)))

    return pair_variance(distances), pair_variance(gaussian)
