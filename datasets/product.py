"""Rotated products of one-dimensional laws: the Monge map is monotone in each coordinate, with exact tails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mongebench.core.device_draws import Generator, traceable
from mongebench.core.measure import Sampler, Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets.laws import LAW_NAMES, Law, LawName, NormalMixture, monotone, named_law
from mongebench.datasets.linear import Array, constants, rotation, spectrum, unit_vector

LawChoice = LawName | Literal["mixed"]


def product(
    dim: PositiveInt = 2,
    *,
    law: LawChoice = "logistic",
    quadratic: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
    source_law: LawChoice = "normal",
    condition: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0,
    rotate: bool = True,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Rotated product of standardised laws -> the same rotation of a product of log-concave laws.

    x = U w and y = U z with independent coordinates, hence T*(x) = U t(U^T x) with t_i = Q_i(F_i(w_i)) increasing: the
    gradient of a convex function, computed by quadrature through the lighter tail (see `laws`).

    Parameters
    ----------
    dim
        Dimension d.
    law
        Of the target's coordinates (`laws.named_law` has the formulas); "mixed" uses all of them in turn.
    quadratic
        q >= 0: coordinates of the target have density proportional to exp(-v(z) - q z^2/2) before they are scaled.
    source_law
        Of the source's coordinates, scaled to mean 0 and variance 1; "normal" gives N(0, I).
    condition
        Condition number of the target's covariance: the eigenvalues (the variances of its coordinates) are
        log-uniform in [condition^-1/2, condition^1/2], both ends among them if d >= 2.
    rotate
        Haar rotation U; without it U = I.
    seed
        Of U, of the scales and of the target's mean, which has norm 1.
    """
    rng = np.random.default_rng(seed)
    axes = rotation(dim, rng) if rotate else np.eye(dim)
    source = RotatedProduct.with_moments(laws(source_law, dim), axes)
    target = RotatedProduct.with_moments(
        laws(law, dim, quadratic), axes, mean=unit_vector(dim, rng), variances=spectrum(dim, condition, rng)
    )
    return Problem(
        source=source.as_source(),
        target=target.as_target(),
        dim=dim,
        version=1,
        truth=rearrangement(source, target),
        truth_inverse=rearrangement(target, source),
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=target.strong_convexity,
    )


def product_mixture(
    dim: PositiveInt = 2,
    *,
    modes: PositiveInt = 3,
    separation: PositiveFloat = 4.0,
    rotate: bool = True,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Rotated product of Gaussian mixtures (modes^d of them) -> N(0, I), with an exact map in any dimension.

    T*(x) = U Phi^-1(F(U^T x)) coordinate by coordinate, F the distribution functions of the mixtures.

    Parameters
    ----------
    dim
        Dimension d.
    modes
        Components of each coordinate's mixture.
    separation
        Distance of neighbouring components, in units of their mean deviation (each is moved by up to a quarter).
    rotate
        Haar rotation U; without it U = I.
    seed
        Of U and of the weights, centres and deviations; each coordinate is then scaled to mean 0 and variance 1.
    """
    rng = np.random.default_rng(seed)
    axes = rotation(dim, rng) if rotate else np.eye(dim)
    source = RotatedProduct.with_moments([_random_mixture(modes, separation, rng) for _ in range(dim)], axes)
    target = RotatedProduct.with_moments(laws("normal", dim), axes)
    return Problem(
        source=source.as_source(),
        target=target.as_target(),
        dim=dim,
        version=1,
        truth=rearrangement(source, target),
        truth_inverse=rearrangement(target, source),
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=target.strong_convexity,
    )


def laws(choice: LawChoice, dim: int, quadratic: float = 0.0) -> list[Law]:
    """One law for each coordinate, equal ones side by side."""
    names = sorted(LAW_NAMES[i % len(LAW_NAMES)] if choice == "mixed" else choice for i in range(dim))
    return [named_law(name, quadratic) for name in names]


def _random_mixture(modes: int, separation: float, rng: np.random.Generator) -> NormalMixture:
    weights = rng.dirichlet(np.full(modes, 10.0))
    centres = separation * (np.arange(modes) + rng.uniform(-0.25, 0.25, modes))
    return NormalMixture(weights, centres, rng.uniform(0.5, 1.5, modes))


@dataclass(frozen=True, eq=False)
class RotatedProduct:
    """The law of y = U (shift + scales z) with independent z_i of one-dimensional laws.

    Parameters
    ----------
    laws
        d of them; runs of the same object are evaluated together.
    axes
        (d, d), U.
    shift, scales
        (d,) each.
    """

    laws: Sequence[Law]
    axes: Array
    shift: Array
    scales: Array

    @classmethod
    def with_moments(
        cls, laws: Sequence[Law], axes: Array, mean: Array | float = 0.0, variances: Array | float = 1.0
    ) -> RotatedProduct:
        """Shifted and scaled so that U^T y has this mean and these variances."""
        scales = np.sqrt(variances / np.array([law.variance for law in laws]))
        return cls(laws, axes, mean - scales * np.array([law.mean for law in laws]), scales)

    @property
    def log_normaliser(self) -> float:
        """log of the integral of exp(-potential)."""
        return float(sum(law.log_normaliser for law in self.laws) + np.log(self.scales).sum())

    @property
    def total_variance(self) -> float:
        """Trace of the covariance."""
        return float(self.scales**2 @ np.array([law.variance for law in self.laws]))

    @property
    def strong_convexity(self) -> float:
        """Largest lambda for which potential - lambda/2 |y|^2 is convex; -inf where it is not known."""
        return float(min(law.strong_convexity / scale**2 for law, scale in zip(self.laws, self.scales, strict=True)))

    @property
    def sampler(self) -> Sampler:
        """Of all of these draws, marked where JAX can make them."""
        return traceable(self.sample) if self.traceable else self.sample

    @property
    def traceable(self) -> bool:
        """Whether `sample` takes a `DeviceGenerator` too: all laws must."""
        return all(law.traceable for law in self.laws)

    def sample(self, n: int, rng: Generator) -> Any:
        """(n, d) independent draws."""
        z = [law.sample((n, columns.stop - columns.start), rng) for law, columns in self._runs()]
        return self.from_coordinates(constants(z[0])[0].concat(z, axis=1))

    def coordinates(self, y: Any) -> Any:
        """The coordinates z of points y, (n, d) -> (n, d), in any array namespace."""
        _, axes, shift, scales = constants(y, self.axes, self.shift, self.scales)
        return (y @ axes - shift) / scales

    def from_coordinates(self, z: Any) -> Any:
        """The points y of coordinates z, (n, d) -> (n, d), in any array namespace."""
        _, axes, shift, scales = constants(z, self.axes, self.shift, self.scales)
        return (shift + scales * z) @ axes.T

    def potential(self, y: Any) -> Any:
        """-log density up to a constant, (n, d) -> (n,), in any array namespace."""
        (xp,) = constants(y)
        z = self.coordinates(y)
        return sum(xp.sum(law.potential(z[:, columns]), axis=1) for law, columns in self._runs())

    def gradient(self, y: Any) -> Any:
        """Gradient of the potential, (n, d) -> (n, d), in any array namespace."""
        xp, axes, scales = constants(y, self.axes, self.scales)
        z = self.coordinates(y)
        slopes = xp.concat([law.derivative(z[:, columns]) for law, columns in self._runs()], axis=1)
        return (slopes / scales) @ axes.T

    def as_source(self) -> Source:
        """As the source of a problem."""
        log_normaliser = self.log_normaliser
        return Source(
            dim=len(self.laws),
            sampler=self.sampler,
            log_density=lambda x: -self.potential(x) - log_normaliser,
            score=lambda x: -self.gradient(x),
        )

    def as_target(self) -> Target:
        """As the target of a problem."""
        return Target(
            dim=len(self.laws),
            sampler=self.sampler,
            potential=self.potential,
            gradient=self.gradient,
            log_normaliser=self.log_normaliser,
            total_variance=self.total_variance,
        )

    def _runs(self) -> Iterator[tuple[Law, slice]]:
        start = 0
        for _, run in itertools.groupby(self.laws, key=id):
            same = list(run)
            yield same[0], slice(start, start := start + len(same))


def rearrangement(source: RotatedProduct, target: RotatedProduct) -> Callable[[Array], Array]:
    """The Monge map between two products with the same axes: increasing in each coordinate."""

    def apply(x: Array) -> Array:
        w = source.coordinates(x)
        z = np.empty_like(w)
        start = 0
        for (first, second), run in itertools.groupby(zip(source.laws, target.laws, strict=True)):
            columns = slice(start, start := start + len(list(run)))
            z[:, columns] = monotone(first, second, w[:, columns])
        y: Array = target.from_coordinates(z)
        return y

    return apply
