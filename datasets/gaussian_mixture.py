"""Mixtures of Gaussians in any dimension: draws, densities and scores."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import is_numpy_array

from mongebench.core.device_draws import Generator
from mongebench.datasets.linear import Array, constants


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """The law sum_k p_k N(m_k, F_k F_k^T) on R^d; draws, density and score in any array namespace.

    Parameters
    ----------
    weights
        p, (K,), of sum 1.
    means
        m, (K, d).
    factors
        F, (K, d, d), invertible.
    """

    weights: Array
    means: Array
    factors: Array

    @property
    def total_variance(self) -> float:
        """Trace of the covariance."""
        centred = self.means - self.weights @ self.means
        return float(self.weights @ ((self.factors**2).sum(axis=(1, 2)) + (centred**2).sum(axis=1)))

    def sample(self, n: int, rng: Generator) -> Any:
        """Independent draws, (n, d)."""
        component = rng.choice(len(self.weights), size=n, p=self.weights)
        noise = rng.standard_normal((n, self.means.shape[1], 1))
        xp, means, factors = constants(noise, self.means, self.factors)
        draws = means[component]
        for k in range(len(self.weights)):  # no (n, d, d) array of factors
            here = component == k
            if is_numpy_array(draws):  # in place, and no product in vain: neither can be compiled
                draws[here] += (factors[k] @ noise[here])[:, :, 0]
            else:
                draws += xp.where(here[:, None], noise[:, :, 0] @ factors[k].T, 0)
        return draws

    def log_density(self, x: Any) -> Any:
        """Normalised, (n, d) -> (n,)."""
        xp, _, log_terms = self._log_terms(x)
        top = xp.max(log_terms, axis=1, keepdims=True)
        return xp.log(xp.sum(xp.exp(log_terms - top), axis=1)) + top[:, 0]

    def score(self, x: Any) -> Any:
        """Gradient of the log-density, (n, d) -> (n, d)."""
        xp, slopes, log_terms = self._log_terms(x)
        shares = xp.exp(log_terms - xp.max(log_terms, axis=1, keepdims=True))
        return -xp.sum(shares[:, :, None] * slopes, axis=1) / xp.sum(shares, axis=1)[:, None]

    @functools.cached_property
    def _precisions(self) -> Array:
        inverses = np.linalg.inv(self.factors)
        precisions: Array = np.swapaxes(inverses, 1, 2) @ inverses
        return precisions

    @functools.cached_property
    def _log_heights(self) -> Array:
        dim = self.means.shape[1]
        heights: Array = np.log(self.weights) - dim / 2 * np.log(2 * np.pi) - np.linalg.slogdet(self.factors)[1]
        return heights

    def _log_terms(self, x: Any) -> tuple[Any, Any, Any]:
        """Namespace, then by component the gradient of its potential (n, K, d) and the log of its density (n, K)."""
        xp, means, precisions, heights = constants(x, self.means, self._precisions, self._log_heights)
        centred = x[:, None, :] - means
        slopes = xp.sum(precisions * centred[:, :, None, :], axis=3)
        return xp, slopes, heights - xp.sum(slopes * centred, axis=2) / 2
