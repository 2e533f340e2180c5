"""Gaussian pairs with their exact map, built here so that these tests lean on no problem family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from mongebench.core.arrays import Points


@dataclass(frozen=True)
class GaussianPair:
    """N(0, S0) -> N(m, S), eigenvalues log-uniform in [1/2, 2], random rotations; T(x) = A x + m."""

    source_covariance: Points
    target_covariance: Points
    target_mean: Points
    slope: Points
    seed: int

    def samples(self, n: int, m: int | None = None) -> tuple[Points, Points]:
        rng = np.random.default_rng([self.seed, 1])
        dim = len(self.target_mean)
        return (
            rng.multivariate_normal(np.zeros(dim), self.source_covariance, n),
            rng.multivariate_normal(self.target_mean, self.target_covariance, m or n),
        )

    def uvp(self, map: Callable[[Points], Points], n: int = 4000) -> float:
        rng = np.random.default_rng([self.seed, 2])
        x = rng.multivariate_normal(np.zeros(len(self.target_mean)), self.source_covariance, n)
        error = map(x) - self.exact_map(x)
        return float(100 * (error**2).sum(axis=1).mean() / np.trace(self.target_covariance))

    def exact_map(self, x: Points) -> Points:
        return x @ self.slope + self.target_mean


def _covariance(dim: int, rng: np.random.Generator) -> Points:
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return (rotation * np.exp(rng.uniform(np.log(0.5), np.log(2), dim))) @ rotation.T


@pytest.fixture(scope="session")
def gaussian_pair() -> Callable[..., GaussianPair]:
    """(dim, seed, shift) -> pair; `shift` is the standard deviation of each entry of the target's mean."""

    def build(dim: int, seed: int = 0, shift: float = 1.0) -> GaussianPair:
        from scipy.linalg import sqrtm

        rng = np.random.default_rng([seed, dim])
        source, target, mean = _covariance(dim, rng), _covariance(dim, rng), shift * rng.normal(size=dim)
        # Another form of the geometric mean of S0^{-1} and S than the one Bures computes.
        slope = np.real(sqrtm(target @ source)) @ np.linalg.inv(source)
        return GaussianPair(source, target, mean, slope, seed)

    return build
