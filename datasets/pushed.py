"""Problems whose map is known by construction: the source is the law of grad psi(Y), Y of the target, psi convex.

T* = (grad psi)^-1 = grad psi*. The source has an exact density although nothing about it is simple.
"""

from __future__ import annotations

import abc
from typing import Any, Protocol

import numpy as np

from mongebench.core.arrays import as_points, blockwise, like
from mongebench.core.device_draws import Generator, traceable
from mongebench.core.measure import Source
from mongebench.core.problem import Problem, Split, TruthTier
from mongebench.datasets.linear import Array
from mongebench.datasets.product import RotatedProduct


class Brenier(Protocol):
    """A smooth strongly convex psi on R^d, of Hessian H."""

    @property
    def traceable(self) -> bool:
        """Whether `gradient` takes arrays of any namespace."""
        ...

    def gradient(self, y: Any) -> Any:
        """(n, d) -> (n, d)."""
        ...

    def inverse_gradient(self, x: Array) -> Array:
        """The y with gradient(y) = x, (n, d) -> (n, d); raises `MongebenchError` where it is not found."""
        ...

    def solve(self, y: Array, right_side: Array) -> Array:
        """H(y)^-1 right_side, (n, d) and (n, d) -> (n, d)."""
        ...

    def log_determinant(self, y: Array) -> Array:
        """log det H, (n, d) -> (n,)."""
        ...

    def log_determinant_gradient(self, y: Array) -> Array:
        """Gradient of log det H, (n, d) -> (n, d)."""
        ...


def pushed(target: RotatedProduct, psi: Brenier, *, split: Split = Split.TEST) -> Problem:
    """Law of grad psi(Y) -> law of Y, with density and score of the source in NumPy."""
    dim = len(target.laws)

    def log_density(x: Any) -> Any:
        y = psi.inverse_gradient(as_points(x, name="x", dim=dim))
        return like(-target.potential(y) - target.log_normaliser - psi.log_determinant(y), x)

    def score(x: Any) -> Any:
        y = psi.inverse_gradient(as_points(x, name="x", dim=dim))
        return like(-psi.solve(y, target.gradient(y) + psi.log_determinant_gradient(y)), x)

    def sample(n: int, rng: Generator) -> Any:
        return psi.gradient(target.sample(n, rng))

    return Problem(
        source=Source(
            dim=dim,
            sampler=traceable(sample) if target.traceable and psi.traceable else sample,
            log_density=log_density,
            score=score,
        ),
        target=target.as_target(),
        dim=dim,
        version=1,
        truth=psi.inverse_gradient,
        truth_inverse=psi.gradient,
        truth_tier=TruthTier.BY_CONSTRUCTION,
        strong_convexity=target.strong_convexity,
        split=split,
    )


class ByHessian(abc.ABC):
    """What a convex function has from its Hessian, a block of points at a time."""

    @property
    @abc.abstractmethod
    def row_bytes(self) -> int:
        """Memory that one point takes."""

    @abc.abstractmethod
    def hessian(self, y: Array) -> Array:
        """(n, d) -> (n, d, d)."""

    def solve(self, y: Array, right_side: Array) -> Array:
        """H(y)^-1 right_side, (n, d) and (n, d) -> (n, d)."""

        def of_block(y: Array, right_side: Array) -> Array:
            return np.asarray(np.linalg.solve(self.hessian(y), right_side[:, :, None])[:, :, 0], dtype=np.float64)

        return blockwise(of_block, y, right_side, row_bytes=self.row_bytes)

    def log_determinant(self, y: Array) -> Array:
        """log det H, (n, d) -> (n,)."""
        return blockwise(lambda y: np.linalg.slogdet(self.hessian(y))[1], y, row_bytes=self.row_bytes)
