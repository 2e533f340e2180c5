"""Sources made by smoothed steps in random directions, which couple all coordinates: the map is known by construction.

As in `potential` the target and a convex psi are chosen first, and the source is the law of grad psi(Y). Here psi is a
sum of ridge functions in more directions than there are dimensions: no rotation takes it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.special import expit

from mongebench.core.arrays import blockwise
from mongebench.core.problem import Problem, Split
from mongebench.datasets.linear import Array, rotation, spectrum, unit_vector
from mongebench.datasets.newton import inverse_gradient
from mongebench.datasets.product import LawChoice, RotatedProduct, laws
from mongebench.datasets.pushed import ByHessian, pushed

CONTRACTION = 0.3
"""Curvature of psi where no ridge bends it."""


def ridges(
    dim: PositiveInt = 2,
    *,
    per_dimension: PositiveInt = 2,
    height: PositiveFloat = 2.0,
    sharpness: PositiveFloat = 5.0,
    target_law: LawChoice = "logistic",
    quadratic: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5,
    condition: Annotated[float, Field(ge=1, le=1e6)] = 4.0,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Law of grad psi(Y) -> law of Y, psi a sum of random ridge functions; T* = (grad psi)^-1 by Newton's method.

    psi(y) = 0.15 |y|^2 + sum_j a_j softplus(sharpness (w_j . y - b_j)) / sharpness. Each term parts the source along a
    hyperplane, by a_j and across a width 1 / sharpness; the directions w_j are independent, and so psi is no sum over
    coordinates or blocks of any basis.

    Density and score of the source are exact. They invert grad psi, and so they run in NumPy and cannot be traced by
    JAX or differentiated by torch.

    Parameters
    ----------
    dim
        Dimension d.
    per_dimension
        Ridges for each dimension.
    height
        Mean of the a_j, which are uniform in [height / 2, 3 height / 2].
    sharpness
        How abruptly the map changes across a ridge.
    target_law
        Of the target's coordinates, in a rotated basis, before they are scaled; "mixed" uses all laws in turn.
    quadratic
        q >= 0: the laws have density proportional to exp(-v(z) - q z^2/2) before they are scaled.
    condition
        Condition number of the target's covariance, whose eigenvalues are log-uniform in
        [condition^-1/2, condition^1/2], both ends among them if d >= 2.
    seed
        Of the basis, the scales and the mean (of norm 1) of the target, and of the ridges: directions w_j from the
        sphere, and b_j = w_j . y_j for draws y_j of the target.
    """
    rng = np.random.default_rng(seed)
    target = RotatedProduct.with_moments(
        laws(target_law, dim, quadratic),
        rotation(dim, rng),
        mean=unit_vector(dim, rng),
        variances=spectrum(dim, condition, rng),
    )
    psi = _Ridges.random(per_dimension * dim, height, sharpness, target, rng)
    return pushed(target, psi, split=Split.TUNE)


@dataclass(frozen=True, eq=False)
class _Ridges(ByHessian):
    """CONTRACTION/2 |y|^2 + sum_j a_j softplus(sharpness (w_j . y - b_j)) / sharpness; directions w is (J, d)."""

    directions: Array
    offsets: Array
    heights: Array
    sharpness: float
    traceable: ClassVar[bool] = False

    @classmethod
    def random(
        cls, count: int, height: float, sharpness: float, target: RotatedProduct, rng: np.random.Generator
    ) -> _Ridges:
        directions = rng.standard_normal((count, len(target.laws)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        offsets = (directions * target.sample(count, rng)).sum(axis=1)
        return cls(directions, offsets, height * rng.uniform(0.5, 1.5, count), sharpness)

    @property
    def row_bytes(self) -> int:
        """Memory that one point takes."""
        return 8 * 4 * self.directions.size

    def value(self, y: Array) -> Array:
        """(n, d) -> (n,)."""
        softplus = np.logaddexp(0.0, self._arguments(y)) / self.sharpness
        value: Array = CONTRACTION / 2 * (y**2).sum(axis=1) + softplus @ self.heights
        return value

    def gradient(self, y: Array) -> Array:
        """(n, d) -> (n, d)."""
        gradient: Array = CONTRACTION * y + (self.heights * expit(self._arguments(y))) @ self.directions
        return gradient

    def hessian(self, y: Array) -> Array:
        """(n, d) -> (n, d, d)."""
        bends = self.heights * self.sharpness * self._bells(y)
        hessian: Array = (self.directions.T * bends[:, None, :]) @ self.directions
        return hessian + CONTRACTION * np.eye(y.shape[1])

    def log_determinant_gradient(self, y: Array) -> Array:
        """Gradient of log det H, (n, d) -> (n, d): sum_j a_j softplus'''_j (w_j^T H^-1 w_j) w_j."""

        def of_block(y: Array) -> Array:
            lengths = ((self.directions @ np.linalg.inv(self.hessian(y))) * self.directions).sum(axis=2)
            third = self._bells(y) * (1 - 2 * expit(self._arguments(y)))
            gradient: Array = (self.heights * self.sharpness**2 * third * lengths) @ self.directions
            return gradient

        return blockwise(of_block, y, row_bytes=self.row_bytes)

    def inverse_gradient(self, x: Array) -> Array:
        """The y with gradient(y) = x, (n, d) -> (n, d); raises `MongebenchError` where it is not found."""
        # The solution where every ridge is halfway up and psi is as curved as there, on average over directions.
        start = (x - self.heights @ self.directions / 2) / (
            CONTRACTION + self.heights.sum() * self.sharpness / (4 * x.shape[1])
        )
        return inverse_gradient(self, x, start, f"a smaller sharpness than {self.sharpness} would help")

    def _arguments(self, y: Array) -> Array:
        return self.sharpness * (y @ self.directions.T - self.offsets)

    def _bells(self, y: Array) -> Array:
        """sigma (1 - sigma) of every ridge, without cancellation, (n, J)."""
        arguments = self._arguments(y)
        bells: Array = expit(arguments) * expit(-arguments)
        return bells
