"""Gaussian pairs: the Monge map is affine and known in closed form."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets.linear import Array, constants, rotation, spectrum, symmetric, unit_vector


def gaussian(
    dim: PositiveInt = 2,
    *,
    condition: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0,
    commuting: bool = False,
    seed: NonNegativeInt = 0,
) -> Problem:
    """N(m0, S0) -> N(m, S), both with random spectrum and orientation; T*(x) = m + A (x - m0).

    A = S0^-1/2 (S0^1/2 S S0^1/2)^1/2 S0^-1/2 (Dowson and Landau 1982; Olkin and Pukelsheim 1982).

    Parameters
    ----------
    dim
        Dimension d.
    condition
        Condition number of both covariances: eigenvalues are log-uniform in [condition^-1/2, condition^1/2], both
        ends among them if d >= 2.
    commuting
        Both covariances have the same eigenvectors, instead of independent Haar ones.
    seed
        Of spectra, eigenvectors and the means, which have norm 1.
    """
    rng = np.random.default_rng(seed)
    source_axes, target_axes = rotation(dim, rng), rotation(dim, rng)
    source_values, target_values = spectrum(dim, condition, rng), spectrum(dim, condition, rng)
    if commuting:
        target_axes, target_values = source_axes, rng.permutation(target_values)
    source_mean, target_mean = unit_vector(dim, rng), unit_vector(dim, rng)

    root, root_inverse = (symmetric(source_axes, source_values**power) for power in (0.5, -0.5))
    values, axes = np.linalg.eigh(root @ symmetric(target_axes, target_values) @ root)
    forward = root_inverse @ symmetric(axes, np.sqrt(values)) @ root_inverse
    backward = root @ symmetric(axes, 1 / np.sqrt(values)) @ root

    source = _Normal(source_mean, source_axes, source_values)
    target = _Normal(target_mean, target_axes, target_values)
    return Problem(
        source=Source(
            dim=dim,
            sampler=source.sample,
            log_density=lambda x: -source.potential(x) - source.log_normaliser,
            score=lambda x: -source.gradient(x),
        ),
        target=Target(
            dim=dim,
            sampler=target.sample,
            potential=target.potential,
            gradient=target.gradient,
            log_normaliser=target.log_normaliser,
            total_variance=float(target_values.sum()),
        ),
        dim=dim,
        version=1,
        truth=lambda x: target_mean + (x - source_mean) @ forward,
        truth_inverse=lambda y: source_mean + (y - target_mean) @ backward,
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=float(1 / target_values.max()),
    )


class _Normal:
    """N(mean, axes diag(values) axes^T)."""

    def __init__(self, mean: Array, axes: Array, values: Array) -> None:
        self.mean = mean
        self.factor = axes * np.sqrt(values)
        self.precision = symmetric(axes, 1 / values)
        self.log_normaliser = float(np.log(2 * np.pi * values).sum() / 2)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        return self.mean + rng.standard_normal((n, len(self.mean))) @ self.factor.T

    def potential(self, y: Any) -> Any:
        xp, mean = constants(y, self.mean)
        return xp.sum((y - mean) * self.gradient(y), axis=1) / 2

    def gradient(self, y: Any) -> Any:
        _, mean, precision = constants(y, self.mean, self.precision)
        return (y - mean) @ precision
