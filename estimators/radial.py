"""Weighted sums of Gaussian bumps: the functions of a Gaussian kernel's space that estimators learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points, blockwise

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class RadialSum:
    """h(x) = sum_i a_i exp(-|x - x_i|^2 / (2 s^2)), and its first two derivatives.

    Attributes
    ----------
    centres, coefficients
        x, (n, d), and a, (n,).
    bandwidth
        s > 0.
    """

    centres: Points
    coefficients: Vector
    bandwidth: float

    def value(self, x: Points) -> Vector:
        """h, (k, d) -> (k,)."""
        return self._blockwise(lambda x: gaussian_kernel(x, self.centres, self.bandwidth) @ self.coefficients, x)

    def gradient(self, x: Points) -> Points:
        """Grad h, (k, d) -> (k, d)."""

        def of_block(x: Points) -> Points:
            weights = gaussian_kernel(x, self.centres, self.bandwidth) * self.coefficients
            gradients: Points = weights @ self.centres - weights.sum(axis=1, keepdims=True) * x
            return gradients / self.bandwidth**2

        return self._blockwise(of_block, x)

    def hessian(self, x: Points) -> NDArray[np.float64]:
        """D^2 h, (k, d) -> (k, d, d)."""

        def of_block(x: Points) -> NDArray[np.float64]:
            weights = gaussian_kernel(x, self.centres, self.bandwidth) * self.coefficients
            offsets = (self.centres - x[:, None, :]) / self.bandwidth
            outer = np.einsum("kn,kni,knj->kij", weights, offsets, offsets, optimize=True)
            of_all: NDArray[np.float64] = outer - weights.sum(axis=1)[:, None, None] * np.eye(x.shape[1])
            return of_all / self.bandwidth**2

        return self._blockwise(of_block, x, numbers=3 + 2 * x.shape[1])

    def _blockwise(
        self, function: Callable[[Points], NDArray[np.float64]], x: Points, numbers: int = 3
    ) -> NDArray[np.float64]:
        """In blocks, of so many numbers for each point and centre."""
        return blockwise(function, x, row_bytes=8 * numbers * len(self.centres), block_bytes=1 << 24)


def gaussian_kernel(x: Points, y: Points, bandwidth: float) -> Points:
    """exp(-|x_i - y_j|^2 / (2 bandwidth^2)), (n, d) and (m, d) -> (n, m)."""
    values: Points = cdist(x, y, "sqeuclidean")
    values /= -2 * bandwidth**2
    return np.exp(values, out=values)
