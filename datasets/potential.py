"""Multimodal sources made from a random convex potential: the Monge map is known by construction.

The target gamma and a convex psi are chosen first; the source is the law of grad psi(Y), Y ~ gamma, and so
T* = (grad psi)^-1 = grad psi*. The source has an exact density although nothing about it is simple.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mongebench.core.arrays import as_points, like, row_blocks
from mongebench.core.measure import Source
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets.linear import Array, rotation
from mongebench.datasets.newton import inverse_gradient
from mongebench.datasets.product import LawChoice, RotatedProduct, laws

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
    psi = _Blocks.random(dim, components, sharpness, rng)
    axes = target.axes

    def to_source(y: Array) -> Array:
        return psi.each(_SmoothMaximum.gradient, y @ axes) @ axes.T

    def to_target(x: Array) -> Array:
        return psi.each(_SmoothMaximum.inverse_gradient, x @ axes) @ axes.T

    def log_density(x: Any) -> Any:
        y = to_target(as_points(x, name="x", dim=dim))
        log_determinants = psi.each(_SmoothMaximum.log_determinant, y @ axes)
        return like(-target.potential(y) - target.log_normaliser - log_determinants.sum(axis=1), x)

    def score(x: Any) -> Any:
        y = to_target(as_points(x, name="x", dim=dim))
        slopes = target.gradient(y) @ axes + psi.each(_SmoothMaximum.log_determinant_gradient, y @ axes)
        return like(-psi.each(_SmoothMaximum.solve, y @ axes, slopes) @ axes.T, x)

    return Problem(
        source=Source(
            dim=dim,
            sampler=lambda n, rng: to_source(target.sample(n, rng)),
            log_density=log_density,
            score=score,
        ),
        target=target.as_target(),
        dim=dim,
        version=1,
        truth=to_target,
        truth_inverse=to_source,
        truth_tier=TruthTier.BY_CONSTRUCTION,
        strong_convexity=target.strong_convexity,
    )


@dataclass(frozen=True, eq=False)
class _SmoothMaximum:
    """CONTRACTION/2 |u|^2 + log(sum_k exp(sharpness (w_k . u - |w_k|^2 / 2))) / sharpness on R^m; sites w is (K, m)."""

    sites: Array
    sharpness: float

    @classmethod
    def random(cls, dim: int, components: int, sharpness: float, rng: np.random.Generator) -> _SmoothMaximum:
        sites = rng.standard_normal((components, dim))
        left, _, right = np.linalg.svd(sites - sites.mean(axis=0), full_matrices=False)
        return cls(np.sqrt(components) * left @ right, sharpness)

    def value(self, u: Array) -> Array:
        """(..., m) -> (...)."""
        logits = self._logits(u)
        top = logits.max(axis=-1)
        maximum = top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))
        value: Array = CONTRACTION / 2 * (u**2).sum(axis=-1) + maximum / self.sharpness
        return value

    def gradient(self, u: Array) -> Array:
        """(n, m) -> (n, m)."""
        return CONTRACTION * u + self._shares(u) @ self.sites

    def hessian(self, u: Array) -> Array:
        """(n, m) -> (n, m, m)."""
        shares, centred = self._centred(u)
        covariance = np.swapaxes(centred * shares[:, :, None], 1, 2) @ centred
        return CONTRACTION * np.eye(u.shape[1]) + self.sharpness * covariance

    def log_determinant(self, u: Array) -> Array:
        """log det of the Hessian, (n, m) -> (n, 1)."""
        values: Array = np.linalg.slogdet(self.hessian(u))[1]
        return values[:, None]

    def log_determinant_gradient(self, u: Array) -> Array:
        """Gradient of log det H, (n, m) -> (n, m): sharpness^2 sum_k p_k (w_k - w) (w_k - w)^T H^-1 (w_k - w)."""
        shares, centred = self._centred(u)
        inverse = np.linalg.inv(self.hessian(u))
        lengths = ((centred @ inverse) * centred).sum(axis=2)
        gradient: Array = np.einsum("nk,nkm->nm", self.sharpness**2 * shares * lengths, centred)
        return gradient

    def solve(self, u: Array, right_side: Array) -> Array:
        """H(u)^-1 right_side, (n, m) and (n, m) -> (n, m)."""
        return np.asarray(np.linalg.solve(self.hessian(u), right_side[:, :, None])[:, :, 0], dtype=np.float64)

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

    def _logits(self, u: Array) -> Array:
        logits: Array = self.sharpness * (u @ self.sites.T - (self.sites**2).sum(axis=1) / 2)
        return logits

    def _shares(self, u: Array) -> Array:
        logits = self._logits(u)
        shares: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return shares

    def _centred(self, u: Array) -> tuple[Array, Array]:
        """Shares (n, K), and sites around their mean under these shares (n, K, m)."""
        shares = self._shares(u)
        return shares, self.sites - (shares @ self.sites)[:, None, :]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A sum of potentials of consecutive blocks of coordinates."""

    parts: list[_SmoothMaximum]

    @classmethod
    def random(cls, dim: int, components: int, sharpness: float, rng: np.random.Generator) -> _Blocks:
        count = -(-dim // min(BLOCK, components - 1))
        sizes = [len(block) for block in np.array_split(np.arange(dim), count)]
        return cls([_SmoothMaximum.random(size, components, sharpness, rng) for size in sizes])

    def each(self, function: Callable[..., Array], *points: Array) -> Array:
        """The results of one method for the coordinates of every block, (n, d) arrays -> (n, ...), side by side."""
        columns = []
        start = 0
        for part in self.parts:
            components, size = part.sites.shape
            rows = row_blocks(max(1, len(points[0])), row_bytes=8 * 8 * components * size)
            chunks = [function(part, *(array[block, start : start + size] for array in points)) for block in rows]
            columns.append(np.concatenate(chunks))
            start += size
        return np.concatenate(columns, axis=1)
