"""The two measures of a problem: the source mu0 and the target gamma = exp(-V)/Z.

A measure is whatever of {sampler, density, score} or {sampler, potential, gradient} is known. Densities and
potentials are written once against the array API standard, so that one function serves NumPy, JAX and torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np

from mongebench.core import device_draws, guard
from mongebench.core.arrays import Points, as_points
from mongebench.core.device_draws import Generator, Traceable
from mongebench.core.errors import InvalidInput, OracleUnavailable
from mongebench.core.pointwise import Batched, batched

Sampler = Callable[[int, Any], Any]
"""(n, generator) -> (n, d), the generator NumPy's, or for a `Traceable` one of either kind."""
Pointwise = Callable[[Any], Any]
"""(n, d) -> (n,) or (n, d), in any array namespace."""
Seed = int | tuple[int, ...]


class Unknown:
    """Stands where a function is not known: false, and a clear error when called."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Raise `OracleUnavailable`."""
        raise OracleUnavailable(f"The {self.what} is not known.")

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Unknown({self.what!r})"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What the source and the target have in common: samples.

    Parameters
    ----------
    dim
        Dimension d; None where only the user's data will tell.
    sampler
        (n, generator) -> (n, d) independent draws; marked by `traceable` where JAX can make them on its device.
    size
        How many points there are, for a point cloud (draws are then without replacement); None if unlimited.
    """

    dim: int | None = None
    sampler: Sampler = Unknown("sampler of this measure")
    size: int | None = None
    # Source and target draw from different streams under equal seeds: equal streams would hand every estimator the
    # optimal pairing of a problem whose two sides transform the same noise.
    stream: ClassVar[int] = 0

    def __post_init__(self) -> None:
        # A fit may make measures of what it was given, and hand them to another estimator: those it may draw from.
        if self.sampler and not guard.is_closed():
            object.__setattr__(self, "sampler", _guarded(self.sampler, f"a sample of a {type(self).__name__.lower()}"))

    def sample(self, n: int, *, seed: Seed = 0) -> Points:
        """n independent draws, (n, d); the same for the same seed.

        Raises `OracleUnavailable`, `InvalidInput`, and `OracleNotDeclared` inside a fit: there the views draw.
        """
        points = self.sampler(self._count(n), np.random.default_rng(self._sequence(seed)))
        return self._checked(points, n)

    def sample_on_device(self, n: int, *, seed: Seed = 0) -> Any:
        """n independent draws by JAX, (n, d) float64; the same for the same seed, and not the points of `sample`.

        Of a `Traceable` sampler. Raises as `sample` does.
        """
        points, finite = device_draws.draw(self.sampler, self._count(n), self._sequence(seed))
        if not finite or points.shape != (n, self.dim or points.shape[-1]):
            self._checked(points, n)  # on the host, to say what is wrong with them
        return points

    @property
    def draws_on_device(self) -> bool:
        """Whether a fit in JAX should be given `sample_on_device`."""
        return isinstance(self.sampler, Traceable) and device_draws.are_wanted()

    def _count(self, n: int) -> int:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise InvalidInput(f"sample(n) needs a positive whole number of points, got n = {n!r}.")
        if self.size is not None and n > self.size:
            raise InvalidInput(f"This measure is a cloud of {self.size} points; {n} were asked for.")
        return int(n)

    def _sequence(self, seed: Seed) -> np.random.SeedSequence:
        return np.random.SeedSequence(seed, spawn_key=(self.stream,))

    def _checked(self, points: Any, n: int) -> Points:
        return as_points(points, name=f"sample of the {type(self).__name__.lower()}", dim=self.dim, min_rows=int(n))


def drawn_from(points: Points) -> Sampler:
    """The sampler of a point cloud (n, d): without replacement."""

    def draw(n: int, rng: np.random.Generator) -> Points:
        return points[rng.choice(len(points), n, replace=False)]

    return draw


def cloud(points: Points, size: int | None = None) -> dict[str, Any]:
    """What a `Source` or `Target` is made with to be a point cloud (n, d); `size` where less than n are promised."""
    return {"dim": points.shape[1], "size": len(points) if size is None else size, "sampler": drawn_from(points)}


def _guarded(sampler: Sampler, what: str) -> Sampler:
    """The same, and refused inside a fit."""

    def sample(n: int, generator: Generator) -> Any:
        guard.refuse(what)
        return sampler(n, generator)

    return Traceable(sample) if isinstance(sampler, Traceable) else sample


@dataclass(frozen=True, kw_only=True)
class Source(Measure):
    """The source mu0: samples, perhaps the normalised log-density and its gradient.

    Parameters
    ----------
    log_density
        log mu0(x), normalised, (n, d) -> (n,), or of one point, (d,) -> ().
    score
        grad log mu0(x), (n, d) -> (n, d).
    dim, sampler, size
        As in `Measure`.
    """

    log_density: Pointwise = Unknown("density of the source")
    score: Pointwise = Unknown("score of the source")
    stream: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "log_density", batched(self.log_density))


@dataclass(frozen=True, kw_only=True)
class Target(Measure):
    """The target gamma = exp(-V)/Z: samples, perhaps the potential V and its gradient.

    Parameters
    ----------
    potential
        V, up to a constant: of a batch, (n, d) -> (n,), or of one point, (d,) -> (), told apart by trying shapes (see
        `mongebench.core.pointwise`). Written for the array API, or for JAX for the estimators that differentiate it.
        Infinite outside of a bounded support.
    log_density
        -V in its place, in the same two ways.
    gradient
        grad V, (n, d) -> (n, d).
    log_normaliser
        log Z, where known: 0 where `log_density` is normalised.
    strong_convexity
        lambda >= 0 such that V - lambda/2 |y|^2 is convex, where known: it bounds the error of a map (`diagnose`).
    total_variance
        Trace of Cov(gamma): the scale of UVP and of the MMD kernel.
    dim, sampler, size
        As in `Measure`.

    Raises
    ------
    InvalidInput
        Both a potential and a log-density, or a negative `strong_convexity`.
    """

    potential: Pointwise = Unknown("potential V of the target")
    gradient: Pointwise = Unknown("gradient of the target's potential V")
    log_density: InitVar[Pointwise | None] = None
    log_normaliser: float | None = None
    strong_convexity: float | None = None
    total_variance: float | None = None
    stream: ClassVar[int] = 2

    def __post_init__(self, log_density: Pointwise | None) -> None:
        super().__post_init__()
        if self.potential and log_density is not None:
            raise InvalidInput("A target was given both its potential V and its log_density -V; give one of them.")
        if self.strong_convexity is not None and not self.strong_convexity >= 0:
            raise InvalidInput(
                f"strong_convexity is lambda >= 0, or None where it is not known; got {self.strong_convexity}."
            )
        of_batch = batched(self.potential) if log_density is None else Batched(log_density, sign=-1.0)
        object.__setattr__(self, "potential", of_batch)
