"""What a metric is: a value with a standard error, a floor, a unit and a direction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np

from mongebench.arrays import Points, as_points
from mongebench.errors import ContractViolation, InvalidInput
from mongebench.estimator import Map
from mongebench.problem import Problem

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
        In the metric's unit.
    standard_error
        Of `value`, over the draw of the evaluation points; 0 where it is exact.
    floor
        What a perfect map would show at this number of points: below it (above 1 - floor for `HIGHER`, within it for
        `ZERO`) nothing is ranked.
    """

    value: float
    standard_error: float
    floor: float


class NonFiniteMap(InvalidInput):
    """A map that returned NaN or infinite values."""


@dataclass(frozen=True)
class EvaluationPoints:
    """The points a problem is evaluated on: the same for every estimator, so that differences are paired.

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
        Of the draws, and of every random choice a metric makes.
    """

    problem: Problem
    x: Points
    y: Points
    exact: Points | None
    seed: int
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def draw(cls, problem: Problem, n: int, seed: int) -> EvaluationPoints:
        """Draw up to n points a side (all there are, for point clouds)."""
        source, target = problem.evaluation
        # A stream of their own: fits draw with seeds (seed,) and (seed, k), evaluation with (seed, "eval").
        stream = (seed, 0x6576616C)
        x = source.sample(n if source.size is None else min(n, source.size), seed=stream)
        y = target.sample(n if target.size is None else min(n, target.size), seed=stream)
        return cls(problem, x, y, problem.truth(x) if problem.truth else None, seed)

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """`compute()`, kept: what depends on the points alone is computed once for all maps."""
        if key not in self._cache:
            self._cache[key] = compute()
        result: Result = self._cache[key]
        return result

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of a metric's own random choices; the same for every map."""
        return np.random.default_rng((self.seed, purpose))


@dataclass(frozen=True)
class Evaluation:
    """One map on the evaluation points of one problem: what a metric sees.

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
        """Push the points through `map`. Raises `ContractViolation` (shape, changed input) and `NonFiniteMap`."""
        checked = _checked(map)
        return cls(points, checked, checked(points.x))


def _checked(map: Map) -> Callable[[Points], Points]:
    def call(x: Points) -> Points:
        frozen = as_points(x)  # cannot be written to
        try:
            values = np.asarray(map(frozen), dtype=np.float64)
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
        functools.update_wrapper(self, self.compute)

    def __call__(self, evaluation: Evaluation) -> Value:
        """The metric of one map on one problem's evaluation points."""
        return self.compute(evaluation)


def metric(
    *, unit: str, direction: Direction, needs_truth: bool = False
) -> Callable[[Callable[[Evaluation], Value]], Metric]:
    """Decorator that makes a function a `Metric`; register it as an entry point of group `mongebench.metrics`."""
    return lambda compute: Metric(compute, unit, direction, needs_truth)
