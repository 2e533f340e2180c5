"""The Monge map in one dimension: sort both samples and match quantiles."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from mongebench.core.oracle import Oracle

Values = NDArray[np.float64]
"""(n,) float64."""


class Sorting(MapEstimator):
    """Monotone map through sorted samples, d = 1 only: T = F_nu^{-1} o F_mu, in O(n log n).

    The i-th smallest x goes to the sample quantile of Y at level (i - 1/2) / n, which for equally many points is the
    i-th smallest y; in between T is linear. Tied x go to the mean of their partners. The map is non-decreasing
    everywhere, also where it leaves the sample. Santambrogio 2015, Optimal Transport for Applied Mathematicians,
    theorem 2.9.

    Use it as the reference in one dimension, where it assumes nothing; a smooth truth leaves room for smoother maps.

    Parameters
    ----------
    extrapolation
        How T continues beyond the smallest and the largest x, from its values there: "gaussian" with slope
        sd(Y) / sd(X), exact between Gaussians and a guess elsewhere; "constant" with slope 0, so that no value leaves
        the range of Y; "shift" with slope 1. Where X is constant there is no sd(X) to divide by, and "gaussian" is
        "shift".
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset(Claim)
    any_size = True
    invertible = True

    def __init__(self, extrapolation: Literal["gaussian", "constant", "shift"] = "gaussian") -> None:
        self.extrapolation = extrapolation

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether the problem has one dimension."""
        return Support(True) if problem.dim == 1 else Support(False, _one_dimension_only(problem.dim))

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Learn the knots `x_` (increasing) and `y_` (non-decreasing), both (k,), and the `tail_slope_` beyond them.

        Raises
        ------
        InvalidInput
            Samples of more than one dimension.
        """
        del seed, trace
        if source.samples.shape[1] != 1:
            raise InvalidInput(_one_dimension_only(source.samples.shape[1]))
        x, y = np.sort(source.samples[:, 0]), np.sort(target.samples[:, 0])
        self.tail_slope_ = _tail_slope(self.extrapolation, x, y)
        if len(x) != len(y):
            y = np.interp(_levels(len(x)), _levels(len(y)), y)
        self.x_, self.y_ = _merge_ties(x, y)
        return self

    def transform(self, X: Any) -> Any:
        """The monotone map, (n, 1) -> (n, 1)."""
        beyond = np.minimum(X - self.x_[0], 0) + np.maximum(X - self.x_[-1], 0)
        return np.interp(X, self.x_, self.y_) + self.tail_slope_ * beyond

    def inverse_transform(self, Y: Any) -> Any:
        """The monotone map back, (n, 1) -> (n, 1): one of the x where many have the image y, the nearest where none."""
        inner = np.interp(Y, self.y_, self.x_)
        if self.tail_slope_ == 0:
            return inner
        beyond = np.minimum(Y - self.y_[0], 0) + np.maximum(Y - self.y_[-1], 0)
        return inner + beyond / self.tail_slope_


def _one_dimension_only(dim: int) -> str:
    return f"Sorting gives the Monge map in one dimension only, d = {dim} was given; use bures, exact or entropic."


def _levels(n: int) -> Values:
    return (np.arange(n) + 0.5) / n


def _tail_slope(extrapolation: str, x: Values, y: Values) -> float:
    if extrapolation == "gaussian":
        return float(y.std() / x.std()) if x[0] < x[-1] else 1.0
    return {"constant": 0.0, "shift": 1.0}[extrapolation]


def _merge_ties(x: Values, y: Values) -> tuple[Values, Values]:
    """Sorted x without repetitions, and the means of the y of each; no copy where there are none."""
    new = x[1:] != x[:-1]
    if new.all():
        return x, y
    starts = np.concatenate(([0], np.flatnonzero(new) + 1))
    counts = np.diff(starts, append=len(x))
    # A mean of equal numbers can be off by a rounding, which would break the order.
    return x[starts], np.maximum.accumulate(np.add.reduceat(y, starts) / counts)
