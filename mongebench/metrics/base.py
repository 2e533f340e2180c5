"""What a metric is: a value with a standard error, a floor, a unit and a direction."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import Points, as_points, as_values
from mongebench.core.errors import ContractViolation, InvalidInput
from mongebench.core.estimator import Map
from mongebench.core.problem import Problem

Result = TypeVar("Result")


class Direction(StrEnum):
    """What is better."""

    LOWER = "lower"
    HIGHER = "higher"
    ZERO = "zero"


@dataclass(frozen=True)
class Value:
    """One measured number.

    Attributes
    ----------
    value
        In the metric's unit; NaN where it is not defined, for the reason in the metric's documentation.
    standard_error
        Of `value`, over the draw of the evaluation points; 0 where it is exact, NaN where too few points tell it.
    floor
        What a perfect map would show at this number of points: below it (above 1 - floor for `HIGHER`, within it for
        `ZERO`) nothing is ranked.
    """

    value: float
    standard_error: float
    floor: float


class NonFiniteMap(InvalidInput):
    """A map that returned NaN or infinite values."""


def variance_of_mean(samples: NDArray[np.float64]) -> float:
    """Squared standard error of the mean of (n,) independent samples; NaN below two."""
    return float(samples.var(ddof=1) / len(samples)) if len(samples) > 1 else float("nan")


def combined_error(first_order: float, null_variance: float) -> float:
    """Standard error of a two-sample statistic whose first-order term vanishes where the two laws agree.

    `first_order` is the variance of its linear part, estimated from the same points. There the statistic is a
    quadratic form of variance `null_variance`, and the estimated linear part is noise of twice that variance, of which
    one is taken off. Not below the null's standard deviation, hence a little too large there.
    """
    return float(np.sqrt(np.maximum(first_order - null_variance, null_variance)))


@dataclass(frozen=True)
class _Keeping:
    """What keeps intermediate results, so that metrics share them."""

    _cache: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """`compute()`, kept under `key`."""
        if key not in self._cache:
            self._cache[key] = compute()
        result: Result = self._cache[key]
        return result


@dataclass(frozen=True)
class EvaluationPoints(_Keeping):
    """The points a problem is evaluated on: the same for every estimator, so that differences are paired.

    `once` keeps what depends on the points alone: it is computed once for all maps.

    Attributes
    ----------
    problem
        The problem.
    x
        (n, d) draws of mu0, never those an estimator was fitted on.
    y
        (m, d) independent draws of gamma; m = n but for point clouds.
    exact
        T*(x), or None where it is unknown.
    seed
        Seed of the draws, and of every random choice that a metric makes.
    """

    problem: Problem
    x: Points
    y: Points
    exact: Points | None
    seed: int

    @classmethod
    def draw(cls, problem: Problem, n: int, seed: int) -> EvaluationPoints:
        """Draw up to n points per side (all there are, for point clouds). Raises `InvalidInput` below two per side."""
        source, target = problem.evaluation
        # A stream of their own: fits draw with seeds (seed,) and (seed, k), evaluation with (seed, "eval").
        stream = (problem.stream(seed), 0x6576616C)
        x = source.sample(n if source.size is None else min(n, source.size), seed=stream)
        y = target.sample(n if target.size is None else min(n, target.size), seed=stream)
        if min(len(x), len(y)) < 2:
            raise InvalidInput(
                f"Evaluation needs at least 2 points per side for a standard error, got {len(x)} source and {len(y)} "
                "target points; ask for more (n), or give more held-out points."
            )
        return cls(problem, x, y, problem.truth(x) if problem.truth else None, seed)

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of a metric's own random choices; the same for every map."""
        return np.random.default_rng((self.seed, purpose))


@dataclass(frozen=True)
class Evaluation(_Keeping):
    """One map on the evaluation points of one problem: what a metric sees.

    `once` keeps what several metrics of this map share.

    Attributes
    ----------
    points
        The `EvaluationPoints`.
    map
        The map itself, checked at every call: (k, d) -> (k, d) finite float64.
    pushed
        (n, d), the map at `points.x`.
    """

    points: EvaluationPoints
    map: Map
    pushed: Points

    @classmethod
    def of(cls, map: Map, points: EvaluationPoints) -> Evaluation:
        """Push the points through `map`, whatever library its arrays are of.

        Raises `ContractViolation` (shape, changed input), `UnrealValues` (complex numbers, masked entries) and
        `NonFiniteMap`.
        """
        checked = _checked(map)
        return cls(points, checked, checked(points.x))


def _checked(map: Map) -> Callable[[Points], Points]:
    def call(x: Points) -> Points:
        frozen = as_points(x)  # cannot be written to
        try:
            # A copy: a map that fills one buffer at every call must not change the points it pushed before.
            values = np.array(as_values(map(frozen), "The map"))
        except ValueError as error:
            if "read-only" in str(error):
                raise ContractViolation("The map tried to change its input in place; copy it first.") from error
            raise
        if values.shape != x.shape:
            raise ContractViolation(f"The map returned shape {values.shape} for {x.shape}; expected the same shape.")
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise NonFiniteMap(f"The map returned NaN or infinite values at {int(bad.sum())} of {len(x)} points.")
        return values

    return call


@dataclass(frozen=True)
class Metric:
    """A registered metric: `metric(evaluation) -> Value`.

    Attributes
    ----------
    compute
        The function; its docstring is the metric's documentation, with the reference.
    unit
        Of the value; "length^2" is the square of the unit of the data.
    direction
        What is better.
    needs_truth
        Whether it compares with T*; it is left out for problems without one.
    """

    compute: Callable[[Evaluation], Value]
    unit: str
    direction: Direction
    needs_truth: bool

    def __post_init__(self) -> None:
        for name in ("__name__", "__module__", "__doc__"):
            object.__setattr__(self, name, getattr(self.compute, name))

    def __call__(self, evaluation: Evaluation) -> Value:
        """The metric of one map on one problem's evaluation points."""
        # A diverged map is finite but its squares overflow: its numbers are infinite or NaN, without a warning.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.compute(evaluation)


def metric(
    *, unit: str, direction: Direction, needs_truth: bool = False
) -> Callable[[Callable[[Evaluation], Value]], Metric]:
    """Decorator that makes a function a `Metric`; register it as an entry point of group `mongebench.metrics`."""
    return lambda compute: Metric(compute, unit, direction, needs_truth)
