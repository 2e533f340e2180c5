"""Radial targets exp(-|z|^p - q |z|^2 / 2) of Gaussian sources, linearly deformed: maps by radial quantiles."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from scipy.special import gammaln

from mongebench.core.device_draws import Generator, traceable
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets.laws import LogConcave, monotone
from mongebench.datasets.linear import Array, constants, rotation, spectrum, symmetric


def radial(
    dim: PositiveInt = 2,
    *,
    power: Annotated[float, Field(ge=1, le=100)] = 4.0,
    quadratic: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
    condition: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0,
    seed: NonNegativeInt = 0,
) -> Problem:
    """N(0, M^-2) -> the law of M z, z of density proportional to exp(-|z|^power - quadratic |z|^2 / 2).

    T*(x) = M T0(M x) with T0(w) = g(|w|) w/|w|, g increasing from the radial law of N(0, I) to that of z; M symmetric,
    so T* is the gradient of the convex function phi0(M x). Radii are handled by their logarithms, whose laws are
    log-concave and keep their digits near 0 and in high dimension.

    Parameters
    ----------
    dim
        Dimension d.
    power
        1 <= p <= 100 (1: exponential tails, 2: Gaussian, large: nearly uniform on a ball).
    quadratic
        q >= 0.
    condition
        Condition number of M, whose eigenvalues are log-uniform in [condition^-1/2, condition^1/2], both ends among
        them if d >= 2; 1 gives M = I and the plain radial map.
    seed
        Of M.
    """
    rng = np.random.default_rng(seed)
    axes, values = rotation(dim, rng), spectrum(dim, condition, rng)
    matrix, inverse = symmetric(axes, values), symmetric(axes, 1 / values)
    source_radius = LogConcave(
        lambda s: np.exp(2 * s) / 2 - dim * s, lambda s: np.exp(2 * s) - dim, strong_convexity=0.0
    )
    target_radius = LogConcave(
        lambda s: np.exp(power * s) + quadratic / 2 * np.exp(2 * s) - dim * s,
        lambda s: power * np.exp(power * s) + quadratic * np.exp(2 * s) - dim,
        strong_convexity=0.0,
    )

    def potential(y: Any) -> Any:
        xp, to_z = constants(y, inverse)
        z = y @ to_z
        squared = xp.sum(z * z, axis=1)
        # A root has no derivative at 0 that automatic differentiation could multiply by 0.
        positive = xp.where(squared > 0, squared, xp.ones_like(squared))
        return xp.where(squared > 0, positive ** (power / 2), squared) + quadratic / 2 * squared

    def gradient(y: Any) -> Any:
        xp, to_z = constants(y, inverse)
        z = y @ to_z
        squared = xp.sum(z * z, axis=1, keepdims=True)
        positive = xp.where(squared > 0, squared, xp.ones_like(squared))
        return ((power * positive ** (power / 2 - 1) + quadratic) * z) @ to_z

    def stretch(radius: Array, first: LogConcave, second: LogConcave) -> Array:
        """Image of each radius over the radius itself; 1 at the origin, where any number would do."""
        ratio = np.ones_like(radius)
        log_radius = np.log(radius[radius > 0])
        ratio[radius > 0] = np.exp(monotone(first, second, log_radius) - log_radius)
        return ratio[:, None]

    def truth(x: Array) -> Array:
        w = x @ matrix
        return (stretch(np.linalg.norm(w, axis=1), source_radius, target_radius) * w) @ matrix

    def truth_inverse(y: Array) -> Array:
        z = y @ inverse
        return (stretch(np.linalg.norm(z, axis=1), target_radius, source_radius) * z) @ inverse

    def sample_source(n: int, rng: Generator) -> Any:
        w = rng.standard_normal((n, dim))
        return w @ constants(w, inverse)[1]

    def sample_target(n: int, rng: np.random.Generator) -> Array:
        direction = rng.standard_normal((n, dim))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return (np.exp(target_radius.sample((n, 1), rng)) * direction) @ matrix

    curvature = quadratic + (2.0 if power == 2 else 0.0)
    log_sphere = np.log(2) + dim / 2 * np.log(np.pi) - gammaln(dim / 2)
    return Problem(
        source=Source(
            dim=dim,
            sampler=traceable(sample_source),
            log_density=lambda x: _log_normal(x, matrix) + float(np.log(values).sum()),
            score=lambda x: -x @ constants(x, matrix @ matrix)[1],
        ),
        target=Target(
            dim=dim,
            sampler=sample_target,
            potential=potential,
            gradient=gradient,
            log_normaliser=float(log_sphere + target_radius.log_normaliser + np.log(values).sum()),
            total_variance=float(target_radius.expectation(lambda s: np.exp(2 * s)) / dim * (values**2).sum()),
        ),
        dim=dim,
        version=1,
        truth=truth,
        truth_inverse=truth_inverse,
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=float(curvature / values.max() ** 2),
    )


def _log_normal(x: Any, matrix: Array) -> Any:
    """log density of N(0, I) at the rows of x @ matrix."""
    xp, to_w = constants(x, matrix)
    w = x @ to_w
    return -xp.sum(w * w, axis=1) / 2 - x.shape[1] / 2 * float(np.log(2 * np.pi))
