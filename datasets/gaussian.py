"""Gaussian pairs: the Monge map is affine and known in closed form."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from scipy.linalg import polar

from mongebench.core.device_draws import Generator, traceable
from mongebench.core.errors import InvalidParameter
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, Split, TruthTier
from mongebench.datasets.linear import Array, constants, rotation, spectrum, unit_vector

MOST_CONDITION = 1e12
"""Rounding of the points themselves moves them by 1e-16 condition^1/2 of the narrowest deviation: here by 1e-10."""


def gaussian(
    dim: PositiveInt = 2,
    *,
    condition: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0,
    commuting: bool = False,
    seed: NonNegativeInt = 0,
) -> Problem:
    """N(m0, S0) -> N(m, S), both with random spectrum and orientation; T*(x) = m + A (x - m0).

    A = S0^-1/2 (S0^1/2 S S0^1/2)^1/2 S0^-1/2 (Dowson and Landau 1982; Olkin and Pukelsheim 1982). Images are right to
    about 1e-14 condition^1/2 in units of the target's deviation in each of its principal directions.

    Parameters
    ----------
    dim
        Dimension d.
    condition
        Condition number of both covariances: eigenvalues are log-uniform in [condition^-1/2, condition^1/2], both
        ends among them if d >= 2. At most 1e12.
    commuting
        Both covariances have the same eigenvectors, instead of independent Haar ones.
    seed
        Of spectra, eigenvectors and the means, which have norm 1.
    """
    if condition > MOST_CONDITION:
        raise InvalidParameter(
            f"Problem 'gaussian' was given condition = {condition:g}, expected at most {MOST_CONDITION:g}: beyond it "
            "float64 cannot hold points and covariances to the digits that an exact map needs. Choose a smaller one."
        )
    rng = np.random.default_rng(seed)
    source_axes, target_axes = rotation(dim, rng), rotation(dim, rng)
    source_values, target_values = spectrum(dim, condition, rng), spectrum(dim, condition, rng)
    if commuting:
        target_axes, target_values = source_axes, rng.permutation(target_values)
    source_mean, target_mean = unit_vector(dim, rng), unit_vector(dim, rng)

    source = Normal(source_mean, source_axes, source_values)
    target = Normal(target_mean, target_axes, target_values)
    return normal_pair(source, target, version=1)


def normal_pair(source: Normal, target: Normal, *, version: int, split: Split = Split.TEST) -> Problem:
    """The problem between two Gaussians.

    With factors F0, F of the covariances (S0 = F0 F0^T, S = F F^T) the matrix of T* is F O F0^-1, O the orthogonal
    polar factor of F^T F0: what is nearly singular is never multiplied out.
    """
    dim = len(source.mean)
    turn, _ = polar(target.factor.T @ source.factor)
    return Problem(
        source=source.as_source(),
        target=Target(
            dim=dim,
            sampler=traceable(target.sample),
            potential=target.potential,
            gradient=target.gradient,
            log_normaliser=target.log_normaliser,
            total_variance=float(target.values.sum()),
        ),
        dim=dim,
        version=version,
        truth=lambda x: target.from_standard(source.to_standard(x) @ turn.T),
        truth_inverse=lambda y: source.from_standard(target.to_standard(y) @ turn),
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=float(1 / target.values.max()),
        split=split,
    )


class Normal:
    """N(mean, axes diag(values) axes^T)."""

    def __init__(self, mean: Array, axes: Array, values: Array) -> None:
        self.mean = mean
        self.values = values
        self.factor = axes * np.sqrt(values)
        self.whitening = axes / np.sqrt(values)
        self.log_normaliser = float(np.log(2 * np.pi * values).sum() / 2)

    @classmethod
    def standard(cls, dim: int) -> Normal:
        """N(0, I)."""
        return cls(np.zeros(dim), np.eye(dim), np.ones(dim))

    def as_source(self) -> Source:
        """The source of this law, with its density and score."""
        return Source(
            dim=len(self.mean),
            sampler=traceable(self.sample),
            log_density=lambda x: -self.potential(x) - self.log_normaliser,
            score=lambda x: -self.gradient(x),
        )

    def sample(self, n: int, rng: Generator) -> Any:
        """(n, d) independent draws."""
        return self.from_standard(rng.standard_normal((n, len(self.mean))))

    def from_standard(self, z: Any) -> Any:
        """The points of standardised ones, (n, d) -> (n, d), in any array namespace."""
        _, mean, factor = constants(z, self.mean, self.factor)
        return mean + z @ factor.T

    def to_standard(self, y: Any) -> Any:
        """The standardised points, (n, d) -> (n, d), in any array namespace."""
        _, mean, whitening = constants(y, self.mean, self.whitening)
        return (y - mean) @ whitening

    def potential(self, y: Any) -> Any:
        """-log density up to a constant, (n, d) -> (n,), in any array namespace."""
        (xp,) = constants(y)
        z = self.to_standard(y)
        return xp.sum(z * z, axis=1) / 2

    def gradient(self, y: Any) -> Any:
        """Gradient of the potential, (n, d) -> (n, d), in any array namespace."""
        _, whitening = constants(y, self.whitening)
        return self.to_standard(y) @ whitening.T
