"""Products of rings -> Gaussian: sources with a hole in every plane, and maps that fill the holes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from scipy.special import gammaln

from mongebench.core.device_draws import Generator, traceable
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, Split, TruthTier
from mongebench.datasets.laws import LogConcave, monotone
from mongebench.datasets.linear import Array, constants, rotation, spectrum, unit_vector


def rings(
    dim: PositiveInt = 2,
    *,
    hollow: Annotated[float, Field(ge=3, le=100)] = 6.0,
    condition: Annotated[float, Field(ge=1, le=1e6)] = 4.0,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Rotated product of planar rings -> N(m, S), the rings of the target's own planes; T* is radial in each.

    x = U w and y = m + U (s z): in each pair of coordinates (the last one alone if d is odd) w is a ring with density
    proportional to |w|^(hollow m - m) exp(-hollow |w|^2 / 2), m = 2 the number of coordinates, and z is N(0, I). Within
    a pair T* multiplies w by s g(|w|) / |w|, g the increasing map between the laws of the two radii: the gradient of a
    convex function. The rings' centres are empty, so that T* has slope 0 and its inverse an infinite one there; a
    single coordinate has two lumps. What T* does in a plane does not fade with d.

    Parameters
    ----------
    dim
        Dimension d.
    hollow
        h: |w|^2 has a law Gamma(h m / 2) of mean m, of relative deviation (h m / 2)^-1/2. 1 would be N(0, I).
    condition
        Condition number of S, whose eigenvalues (one for each plane) are log-uniform in
        [condition^-1/2, condition^1/2], both ends among them if there are two planes.
    seed
        Of U, of the scales s and of the target's mean m, which has norm 1.
    """
    rng = np.random.default_rng(seed)
    axes, mean = rotation(dim, rng), unit_vector(dim, rng)
    sizes = [2] * (dim // 2) + [1] * (dim % 2)
    of_size = {size: _Plane.of(size, hollow) for size in set(sizes)}
    planes = [of_size[size] for size in sizes]
    variances = spectrum(len(sizes), condition, rng)
    scales = np.repeat(np.sqrt(variances), sizes)
    ends = np.cumsum(sizes)
    parts = [(plane, slice(end - plane.size, end)) for plane, end in zip(planes, ends, strict=True)]
    source_constant = sum(plane.log_normaliser for plane in planes)

    def sample_source(n: int, rng: np.random.Generator) -> Array:
        w = rng.standard_normal((n, dim))
        for plane, columns in parts:
            w[:, columns] *= plane.sample_radius(n, rng) / np.linalg.norm(w[:, columns], axis=1, keepdims=True)
        return w @ axes.T

    def sample_target(n: int, rng: Generator) -> Any:
        z = rng.standard_normal((n, dim))
        _, centre, widths, directions = constants(z, mean, scales, axes)
        return centre + (widths * z) @ directions.T

    def log_density(x: Any) -> Any:
        _, to_w = constants(x, axes)
        w = x @ to_w
        return sum(plane.log_density(w[:, columns]) for plane, columns in parts) - source_constant

    def score(x: Any) -> Any:
        xp, to_w = constants(x, axes)
        w = x @ to_w
        return xp.concat([plane.score(w[:, columns]) for plane, columns in parts], axis=1) @ to_w.T

    def truth(x: Array) -> Array:
        w = x @ axes
        z = np.concatenate([plane.fill(w[:, columns]) for plane, columns in parts], axis=1)
        y: Array = mean + (scales * z) @ axes.T
        return y

    def truth_inverse(y: Array) -> Array:
        z = (y - mean) @ axes / scales
        w = np.concatenate([plane.hollow_out(z[:, columns]) for plane, columns in parts], axis=1)
        x: Array = w @ axes.T
        return x

    def gradient(y: Any) -> Any:
        _, centre, whitening = constants(y, mean, axes / scales)
        return (y - centre) @ whitening @ whitening.T

    def potential(y: Any) -> Any:
        xp, centre, whitening = constants(y, mean, axes / scales)
        z = (y - centre) @ whitening
        return xp.sum(z * z, axis=1) / 2

    return Problem(
        source=Source(dim=dim, sampler=sample_source, log_density=log_density, score=score),
        target=Target(
            dim=dim,
            sampler=traceable(sample_target),
            potential=potential,
            gradient=gradient,
            log_normaliser=float(dim / 2 * np.log(2 * np.pi) + np.log(scales).sum()),
            total_variance=float((scales**2).sum()),
        ),
        dim=dim,
        version=1,
        truth=truth,
        truth_inverse=truth_inverse,
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=float(1 / variances.max()),
        split=Split.TUNE,
    )


@dataclass(frozen=True, eq=False)
class _Plane:
    """The law on R^size with density proportional to |w|^power exp(-decay |w|^2), and its radial map to N(0, I)."""

    size: int
    power: float
    decay: float
    radius: LogConcave
    normal_radius: LogConcave

    @classmethod
    def of(cls, size: int, hollow: float) -> _Plane:
        """Scaled to covariance I."""
        return cls(
            size, hollow * size - size, hollow / 2, _log_radius(hollow * size, hollow / 2), _log_radius(size, 0.5)
        )

    @property
    def log_normaliser(self) -> float:
        """log of the integral of |w|^power exp(-decay |w|^2)."""
        shape = (self.power + self.size) / 2
        # 2 pi^(m/2) / Gamma(m/2), the area of the sphere, times Gamma(shape) / (2 decay^shape).
        log_area = self.size / 2 * np.log(np.pi) - gammaln(self.size / 2)
        return float(log_area + gammaln(shape) - shape * np.log(self.decay))

    def sample_radius(self, n: int, rng: np.random.Generator) -> Array:
        """(n, 1)."""
        return np.sqrt(rng.gamma((self.power + self.size) / 2, 1 / self.decay, (n, 1)))

    def log_density(self, w: Any) -> Any:
        """Up to `log_normaliser`, (n, size) -> (n,), in any array namespace."""
        xp, squared = self._squared(w)
        squared = squared[:, 0]
        return self.power / 2 * xp.log(squared) - self.decay * squared

    def score(self, w: Any) -> Any:
        """(n, size) -> (n, size), in any array namespace."""
        _, squared = self._squared(w)
        return (self.power / squared - 2 * self.decay) * w

    def fill(self, w: Array) -> Array:
        """To the normal law, (n, size) -> (n, size)."""
        return _stretched(w, self.radius, self.normal_radius)

    def hollow_out(self, z: Array) -> Array:
        """From the normal law, (n, size) -> (n, size)."""
        return _stretched(z, self.normal_radius, self.radius)

    @staticmethod
    def _squared(w: Any) -> tuple[Any, Any]:
        """|w|^2, (n, 1); the density is 0 at the origin, to whose logarithm a smallest number stands in."""
        (xp,) = constants(w)
        squared = xp.sum(w * w, axis=1, keepdims=True)
        return xp, xp.where(squared > 0, squared, xp.full_like(squared, float(np.finfo(np.float32).tiny)))


def _log_radius(shape: float, decay: float) -> LogConcave:
    """The law of log r, where r has density proportional to r^(shape - 1) exp(-decay r^2)."""
    return LogConcave(
        lambda s: decay * np.exp(2 * s) - shape * s, lambda s: 2 * decay * np.exp(2 * s) - shape, strong_convexity=0.0
    )


def _stretched(points: Array, first: LogConcave, second: LogConcave) -> Array:
    """Points with their radii rearranged; the origin stays."""
    radius = np.linalg.norm(points, axis=1)
    ratio = np.zeros_like(radius)
    log_radius = np.log(radius[radius > 0])
    ratio[radius > 0] = np.exp(monotone(first, second, log_radius) - log_radius)
    stretched: Array = ratio[:, None] * points
    return stretched
