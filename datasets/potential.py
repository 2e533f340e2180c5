"""Multimodal sources made from a random convex potential: the Monge map is known by construction.

The target gamma and a convex psi are chosen first; the source is the law of grad psi(Y), Y ~ gamma, and so
T* = (grad psi)^-1 = grad psi*. The source has an exact density although nothing about it is simple.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mongebench.core.arrays import blockwise
from mongebench.core.problem import Problem
from mongebench.datasets.linear import Array, constants, rotation
from mongebench.datasets.newton import inverse_gradient
from mongebench.datasets.product import LawChoice, RotatedProduct, laws
from mongebench.datasets.pushed import ByHessian, pushed

# Within a cell x = CONTRACTION * y + site: the smaller, the further apart the modes of the source.
CONTRACTION = 0.2
# Coordinates that share one random potential. One potential for all d would bend the map in a few directions only,
# so that its distance from a linear map would fade as 1/d.
BLOCK = 4


def potential(
    dim: PositiveInt = 2,
    *,
    components: Annotated[int, Field(ge=2)] = 8,
    sharpness: PositiveFloat = 4.0,
    target_law: LawChoice = "normal",
    quadratic: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Law of grad psi(Y) -> law of Y, for a random convex psi; T* = (grad psi)^-1 by Newton's method.

    psi(y) = sum over blocks u of at most four of the rotated coordinates U^T y of
    0.1 |u|^2 + log(sum_k exp(sharpness (w_k . u - |w_k|^2 / 2))) / sharpness. The second term is a smoothed maximum
    of planes: it moves the smoothed Voronoi cells of the sites w_k apart, which gives the source up to `components`
    modes in each block, while the target stays log-concave.

    Density and score of the source are exact. They invert grad psi, and so they run in NumPy and cannot be traced by
    JAX or differentiated by torch.

    Parameters
    ----------
    dim
        Dimension d.
    components
        Sites K of each block; blocks have at most K - 1 coordinates.
    sharpness
        How abruptly the map changes between cells (that of the cells' walls is its inverse).
    target_law
        Of the target's coordinates, scaled to mean 0 and variance 1; "normal" gives N(0, I), "mixed" all laws in turn.
    quadratic
        q >= 0: the laws have density proportional to exp(-v(z) - q z^2/2) before they are scaled.
    seed
        Of U and of the sites, which are centred with identity covariance within their block.
    """
    rng = np.random.default_rng(seed)
    target = RotatedProduct.with_moments(laws(target_law, dim, quadratic), rotation(dim, rng))
    return pushed(target, _Blocks.random(target.axes, components, sharpness, rng))


@dataclass(frozen=True, eq=False)
class _SmoothMaximum(ByHessian):
    """CONTRACTION/2 |u|^2 + log(sum_k exp(sharpness (w_k . u - |w_k|^2 / 2))) / sharpness on R^m; sites w is (K, m)."""

    sites: Array
    sharpness: float

    @classmethod
    def random(cls, dim: int, components: int, sharpness: float, rng: np.random.Generator) -> _SmoothMaximum:
        sites = rng.standard_normal((components, dim))
        left, _, right = np.linalg.svd(sites - sites.mean(axis=0), full_matrices=False)
        return cls(np.sqrt(components) * left @ right, sharpness)

    @property
    def row_bytes(self) -> int:
        """Memory that one point takes."""
        return 8 * 8 * self.sites.size

    def value(self, u: Array) -> Array:
        """(..., m) -> (...)."""
        logits = self._logits(u)
        top = logits.max(axis=-1)
        maximum = top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))
        value: Array = CONTRACTION / 2 * (u**2).sum(axis=-1) + maximum / self.sharpness
        return value

    def gradient(self, u: Any) -> Any:
        """(n, m) -> (n, m), in any array namespace."""
        return CONTRACTION * u + self._shares(u) @ constants(u, self.sites)[1]

    def hessian(self, u: Array) -> Array:
        """(n, m) -> (n, m, m)."""
        shares, centred = self._centred(u)
        covariance = np.swapaxes(centred * shares[:, :, None], 1, 2) @ centred
        return CONTRACTION * np.eye(u.shape[1]) + self.sharpness * covariance

    def log_determinant_gradient(self, u: Array) -> Array:
        """Gradient of log det H, (n, m) -> (n, m): sharpness^2 sum_k p_k (w_k - w) (w_k - w)^T H^-1 (w_k - w)."""
        shares, centred = self._centred(u)
        inverse = np.linalg.inv(self.hessian(u))
        lengths = ((centred @ inverse) * centred).sum(axis=2)
        gradient: Array = np.einsum("nk,nkm->nm", self.sharpness**2 * shares * lengths, centred)
        return gradient

    def inverse_gradient(self, x: Array) -> Array:
        """The u with gradient(u) = x, (n, m) -> (n, m), by Newton steps from the centres of the smoothed cells.

        Raises `MongebenchError` where they do not converge.
        """
        candidates = (x[:, None, :] - self.sites) / CONTRACTION  # exact far inside each cell
        best = self._tilted(candidates, x[:, None, :]).argmin(axis=1)
        cure = f"a smaller sharpness than {self.sharpness} would help"
        return inverse_gradient(self, x, candidates[np.arange(len(x)), best], cure)

    def _tilted(self, u: Array, x: Array) -> Array:
        tilted: Array = self.value(u) - (u * x).sum(axis=-1)
        return tilted

    def _logits(self, u: Any) -> Any:
        _, sites, heights = constants(u, self.sites, (self.sites**2).sum(axis=1) / 2)
        return self.sharpness * (u @ sites.T - heights)

    def _shares(self, u: Any) -> Any:
        (xp,) = constants(u)
        logits = self._logits(u)
        shares = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
        return shares / xp.sum(shares, axis=-1, keepdims=True)

    def _centred(self, u: Array) -> tuple[Array, Array]:
        """Shares (n, K), and sites around their mean under these shares (n, K, m)."""
        shares = self._shares(u)
        return shares, self.sites - (shares @ self.sites)[:, None, :]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A sum of potentials of consecutive blocks of the coordinates along `axes`, (d, d), orthogonal columns."""

    axes: Array
    parts: list[_SmoothMaximum]
    traceable: ClassVar[bool] = True

    @classmethod
    def random(cls, axes: Array, components: int, sharpness: float, rng: np.random.Generator) -> _Blocks:
        dim = len(axes)
        count = -(-dim // min(BLOCK, components - 1))
        sizes = [len(block) for block in np.array_split(np.arange(dim), count)]
        return cls(axes, [_SmoothMaximum.random(size, components, sharpness, rng) for size in sizes])

    def gradient(self, y: Any) -> Any:
        """(n, d) -> (n, d), in any array namespace."""
        return self._each(_SmoothMaximum.gradient, y) @ constants(y, self.axes)[1].T

    def inverse_gradient(self, x: Array) -> Array:
        """The y with gradient(y) = x, (n, d) -> (n, d); raises `MongebenchError` where it is not found."""
        return self._each(_SmoothMaximum.inverse_gradient, x) @ self.axes.T

    def solve(self, y: Array, right_side: Array) -> Array:
        """H(y)^-1 right_side, (n, d) and (n, d) -> (n, d)."""
        return self._each(_SmoothMaximum.solve, y, right_side) @ self.axes.T

    def log_determinant(self, y: Array) -> Array:
        """log det of the Hessian, (n, d) -> (n,)."""
        values: Array = self._each(_SmoothMaximum.log_determinant, y).sum(axis=1)
        return values

    def log_determinant_gradient(self, y: Array) -> Array:
        """(n, d) -> (n, d)."""
        return self._each(_SmoothMaximum.log_determinant_gradient, y) @ self.axes.T

    def _each(self, function: Callable[..., Any], *points: Any) -> Array:
        """The results of one method for the coordinates of every block, (n, d) arrays -> (n, ...), side by side."""
        xp, axes = constants(points[0], self.axes)
        turned, columns, start = [array @ axes for array in points], [], 0
        for part in self.parts:
            block = slice(start, start + part.sites.shape[1])
            own = (array[:, block] for array in turned)
            found = blockwise(functools.partial(function, part), *own, row_bytes=part.row_bytes)
            columns.append(found if found.ndim == 2 else found[:, None])
            start = block.stop
        together: Array = xp.concat(columns, axis=1)
        return together
