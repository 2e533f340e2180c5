"""The Monge map between the Gaussians that two samples look like."""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from mongebench.core.arrays import Points
from mongebench.core.estimator import Claim, MapEstimator, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.standard import standardised


class Bures(MapEstimator):
    """Linear map between sample Gaussians: T(x) = m + A (x - m0), from means and covariances alone.

    A = S0^{-1/2} (S0^{1/2} S S0^{1/2})^{1/2} S0^{-1/2} is the symmetric positive matrix with A S0 A = S: Peyre and
    Cuturi 2019, Computational optimal transport, remark 2.31; rates in Flamary, Lounici, Ferrari 2019, Concentration
    bounds for linear Monge mapping estimation and optimal transport domain adaptation.

    Use it first: it is exact between elliptical measures of one family, costs O(n d^2 + d^3), and any estimator that
    loses to it has found no structure beyond second moments. It cannot bend, and with n < 2 d the small eigenvalues
    of the source covariance, hence the slopes, are noise.

    Parameters
    ----------
    regularisation
        Eigenvalues of the source covariance up to this multiple of their mean count as zero (no unit). Directions
        without variance show no slope and get the overall one, sqrt(tr S / tr S0); a source without any variance
        (n = 1) gets the slope 1: the mean shift.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset(Claim)
    anchor = True
    any_size = True
    invertible = True

    def __init__(self, regularisation: Annotated[float, Field(ge=0, lt=1)] = 1e-6) -> None:
        self.regularisation = regularisation

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Learn `source_mean_` (d,), `target_mean_` (d,) and `slope_` = A (d, d)."""
        del seed, trace
        x, y, self.source_mean_, self.target_mean_, _ = standardised(source.samples, target.samples)
        self.slope_ = bures_slope(x, y, self.regularisation)
        return self

    def transform(self, X: Any) -> Any:
        """m + A (x - m0), (n, d) -> (n, d)."""
        return (X - self.source_mean_) @ self.slope_ + self.target_mean_

    def inverse_transform(self, Y: Any) -> Any:
        """m0 + A^+ (y - m), (n, d) -> (n, d).

        The pseudo-inverse A^+ is the inverse but where the target has no variance: of all points with the image that is
        nearest to y, the one nearest to m0.
        """
        return (Y - self.target_mean_) @ np.linalg.pinv(self.slope_, hermitian=True) + self.source_mean_

    def potential(self, X: Any) -> Any:
        """phi(x) = <x - m0, A (x - m0)> / 2 + <x, m>, (n, d) -> (n,)."""
        centred = X - self.source_mean_
        return ((centred @ self.slope_) * centred).sum(axis=1) / 2 + X @ self.target_mean_


def bures_slope(x: Points, y: Points, regularisation: float = 1e-6) -> Points:
    """A (d, d) of the Gaussian map between centred clouds x (n, d) and y (m, d), see `Bures`."""
    return _slope(x.T @ x / len(x), y.T @ y / len(y), regularisation)


def _slope(source: Points, target: Points, regularisation: float) -> Points:
    variances, axes = np.linalg.eigh(source)
    seen = variances > regularisation * variances.mean()
    if not seen.any():
        return np.eye(len(source))
    scale, seen_axes, unseen_axes = np.sqrt(variances[seen]), axes[:, seen], axes[:, ~seen]
    root, inverse_root = seen_axes * scale, seen_axes / scale
    overall = np.sqrt(np.trace(target) / np.trace(source))
    slope: Points = inverse_root @ _sqrt(root.T @ target @ root) @ inverse_root.T
    slope += overall * unseen_axes @ unseen_axes.T
    return slope


def _sqrt(matrix: Points) -> Points:
    eigenvalues, axes = np.linalg.eigh(matrix)
    return np.asarray((axes * np.sqrt(np.maximum(eigenvalues, 0))) @ axes.T)
