"""Metrics of a map, one file each: error against T*, distance of the push-forward to gamma, membership in K."""

from __future__ import annotations

from collections.abc import Iterable

from mongebench.errors import InvalidInput
from mongebench.estimator import Map
from mongebench.metrics.base import Direction, Evaluation, EvaluationPoints, Metric, NonFiniteMap, Value
from mongebench.plugins import METRICS, available, find
from mongebench.problem import Problem

__all__ = ["Direction", "Evaluation", "EvaluationPoints", "Metric", "NonFiniteMap", "Value", "compute", "evaluate"]


def metrics() -> list[str]:
    """Names of all metrics."""
    return list(available(METRICS))


def compute(evaluation: Evaluation, names: Iterable[str] | None = None) -> dict[str, Value]:
    """All metrics of `names` (default: every registered one) that the problem's knowledge allows."""
    chosen = {name: find(METRICS, name).load() for name in (metrics() if names is None else names)}
    exact = evaluation.points.exact is not None
    return {name: metric(evaluation) for name, metric in chosen.items() if exact or not metric.needs_truth}


def evaluate(map: Map, problem: Problem, *, n: int = 10_000, seed: int = 0) -> dict[str, Value]:
    """Every metric of any map (n, d) -> (n, d) on a problem.

    Parameters
    ----------
    map
        A function, or a fitted estimator's `transform`.
    problem
        From `mongebench.problem`.
    n
        Evaluation points a side; point clouds give what they hold.
    seed
        Of the evaluation points, which are never those of a fit.

    Returns
    -------
    Name -> `Value`; metrics against T* are left out where the problem has none.

    Raises
    ------
    InvalidInput
        n below 2, or a map that returns NaN or infinite values.
    ContractViolation
        A map that returns another shape or changes its input.
    """
    if n < 2:
        raise InvalidInput(f"evaluate needs at least 2 points for a standard error, got n = {n}.")
    return compute(Evaluation.of(map, EvaluationPoints.draw(problem, n, seed)))
