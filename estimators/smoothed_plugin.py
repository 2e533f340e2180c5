"""Plug-in maps smoothed: the exact coupling of the samples as a regression problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points, blockwise, row_blocks
from mongebench.core.errors import InvalidInput
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.discrete import cost_too_large, optimal_coupling, weighted
from mongebench.estimators.interpolation import MAX_DIM, PiecewiseLinear

BLOCK_BYTES = 1 << 24
"""Memory that fits at several points take at once."""
BANDWIDTHS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2.4)
"""What "leave_one_out" chooses from."""
RIDGE = 0.05
"""Of the local slopes, in units of h^2 or of the variance of a coordinate, whichever is less. Without it, two samples
of the tail that happen to be close decide the slope at which T leaves the sample (27 % UVP for 2 % in d = 1)."""


class SmoothedPlugin(MapEstimator):
    """Smoothed plug-in map: a local linear regression through the exact coupling of the samples.

    The optimal coupling sends x_i to the mean of its partners, B_i (see `Exact`), which are noisy values of the map at
    the samples. A linear smoother turns them into a map (Manole, Balakrishnan, Niles-Weed, Wasserman 2024, Plugin
    estimation of smooth optimal transport maps, section 3; the nearest neighbour of `Exact` is theirs for maps that are
    merely Lipschitz). With a_i the mass of x_i,

        local_linear:   T(x) = x + u,  where u and S minimise the mean of |B_i - x_i - u - S (x_i - x)|^2 over i with
                        the weights a_i exp(-|x - x_i|^2 / (2 h^2)),
        interpolation:  T linear on the simplices of the Delaunay triangulation of the x_i, T(x_i) = B_i.

    The displacement B_i - x_i is smoothed rather than B_i, with a slight penalty of S: where the samples say nothing of
    the slope, T is a translation. h is chosen by leaving one sample out, the mean of |B_i - T_{-i}(x_i)|^2 being least,
    which needs no truth; the B_i of neighbours are not independent, so that h errs on the small side.

    Use it for smooth maps with some hundred samples or more, also in d = 8, where the smoothing takes out most of what
    the exact coupling suffers; in d = 32 what is left is a linear regression. It is not the gradient of a convex
    function.

    Parameters
    ----------
    smoother
        "local_linear", or "interpolation" for d <= 4, which has no parameter and passes through all B_i.
    bandwidth
        h, in units of the root-mean-square distance between two source samples, or "leave_one_out".
    max_cost_bytes
        As in `Exact`.

    Attributes
    ----------
    bandwidth_
        h in units of the data; NaN for an interpolation.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.ROTATION_EQUIVARIANT, Claim.UNIT_FREE})
    matters_with: ClassVar[dict[str, Any]] = {"bandwidth": {"smoother": ["local_linear"]}}

    def __init__(
        self,
        smoother: Literal["local_linear", "interpolation"] = "local_linear",
        bandwidth: PositiveFloat | Literal["leave_one_out"] = "leave_one_out",
        max_cost_bytes: PositiveInt = 2 * 1024**3,
    ) -> None:
        self.smoother = smoother
        self.bandwidth = bandwidth
        self.max_cost_bytes = max_cost_bytes

    @property
    def modules(self) -> tuple[str, ...]:
        """POT, for the exact coupling."""
        return ("ot",)

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether the cost matrix fits into `max_cost_bytes`, and for an interpolation whether d <= 4."""
        reason = cost_too_large(problem.n_source or 0, problem.n_target or 0, self.max_cost_bytes)
        if self.smoother == "interpolation" and problem.dim > MAX_DIM:
            reason = (
                f"The Delaunay triangulation of samples in d = {problem.dim} has too many simplices; "
                f'interpolation serves d <= {MAX_DIM}, smoother="local_linear" any d.'
            )
        return Support(not reason, reason)

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Couple the samples, and choose the bandwidth.

        Raises
        ------
        InvalidInput
            A cost matrix beyond `max_cost_bytes`, or an interpolation in d > 4.
        NotConverged
            The network simplex did not end.
        """
        del seed, trace
        x, a = weighted(source.samples, None, "source_weights")
        y, b = weighted(target.samples, None, "target_weights")
        if reason := cost_too_large(len(x), len(y), self.max_cost_bytes):
            raise InvalidInput(reason)
        coupling = optimal_coupling(x, y, a, b)
        images = coupling @ y / coupling.sum(axis=1, keepdims=True)
        self.centre_, self.bandwidth_ = a @ x, float("nan")
        x, displacements = x - self.centre_, images - x
        if self.smoother == "interpolation":
            self.displacement_: PiecewiseLinear | LocalLinear = PiecewiseLinear.through(x, x + displacements)
            return self
        # One point without any extent: any bandwidth gives the translation.
        unit = float(np.sqrt(2 * a @ (x**2).sum(axis=1))) or 1.0
        candidates = BANDWIDTHS if self.bandwidth == "leave_one_out" else (self.bandwidth,)
        fits = [LocalLinear(x, a, displacements, unit * bandwidth) for bandwidth in candidates]
        if len(fits) > 1 and len(x) > 1:
            self.displacement_ = min(fits, key=lambda fit: fit.leave_one_out())
        else:
            self.displacement_ = fits[-1]
        self.bandwidth_ = self.displacement_.bandwidth
        return self

    def transform(self, X: Any) -> Any:
        """The smoothed coupling, (n, d) -> (n, d)."""
        centred = X - self.centre_
        values = self.displacement_(centred)
        return values + self.centre_ if self.smoother == "interpolation" else X + values


@dataclass(frozen=True)
class LocalLinear:
    """The local linear regression of values v_i at points x_i of mass a_i, with a Gaussian window.

    Attributes
    ----------
    points, masses, values
        (n, d), (n,) and (n, c).
    bandwidth
        Standard deviation of the window.
    """

    points: Points
    masses: NDArray[np.float64]
    values: Points
    bandwidth: float

    def __call__(self, x: Points) -> Points:
        """(k, d) -> (k, c)."""
        return blockwise(
            lambda x: self._fit(x, self._distances(x)), x, row_bytes=self._row_bytes, block_bytes=BLOCK_BYTES
        )

    def leave_one_out(self) -> float:
        """Weighted mean of |v_i - v^_{-i}(x_i)|^2, the fit at x_i being that of all other points."""
        total = 0.0
        for rows in row_blocks(len(self.points), self._row_bytes, BLOCK_BYTES):
            squared = self._distances(self.points[rows])
            squared[np.arange(len(squared)), np.arange(len(self.points))[rows]] = np.inf
            residual = self.values[rows] - self._fit(self.points[rows], squared)
            total += float(self.masses[rows] @ (residual**2).sum(axis=1))
        return total

    @property
    def _row_bytes(self) -> int:
        """Memory that the fit at one point takes."""
        n, d = len(self.points), int(self.points.shape[1])
        return 8 * (3 * n + 4 * (d + 1) ** 2)

    def _distances(self, x: Points) -> Points:
        squared: Points = cdist(x, self.points, "sqeuclidean")
        return squared

    def _fit(self, x: Points, squared: Points) -> Points:
        """From squared distances (k, n), infinite for points that are left out."""
        # Relative to the nearest point, so that a window far from all points does not come out empty.
        logs = (squared.min(axis=1, keepdims=True) - squared) / (2 * self.bandwidth**2)
        weights = self.masses * np.exp(logs)
        weights /= weights.sum(axis=1, keepdims=True)
        k, d = x.shape
        mean_x, mean_v = weights @ self.points, weights @ self.values
        squares = (self.points[:, :, None] * self.points[:, None, :]).reshape(-1, d * d)
        products = (self.points[:, :, None] * self.values[:, None, :]).reshape(len(self.points), -1)
        covariance = (weights @ squares).reshape(k, d, d) - mean_x[:, :, None] * mean_x[:, None, :]
        cross = (weights @ products).reshape(k, d, -1) - mean_x[:, :, None] * mean_v[:, None, :]
        variance = float(self.masses @ (self.points**2).sum(axis=1)) / d
        covariance[:, np.arange(d), np.arange(d)] += RIDGE * (min(self.bandwidth**2, variance) or 1.0)
        slopes = np.linalg.solve(covariance, cross)  # (k, d, c)
        fitted: Points = mean_v + ((x - mean_x)[:, None, :] @ slopes)[:, 0, :]
        return fitted
