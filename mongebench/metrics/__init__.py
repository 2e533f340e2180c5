"""Metrics of a map, one file each: error against T*, distance of the push-forward to gamma, membership in K.

`mongebench.metrics` is this package and, called, the list of registered names: `mongebench.metrics()`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from types import ModuleType

from mongebench.core.errors import PluginError
from mongebench.core.estimator import Map
from mongebench.core.problem import Problem
from mongebench.metrics.base import Direction, Evaluation, EvaluationPoints, Metric, NonFiniteMap, Value
from mongebench.plugins import METRICS, available, find

__all__ = ["Direction", "Evaluation", "EvaluationPoints", "Metric", "NonFiniteMap", "Value", "compute", "evaluate"]


class _CallablePackage(ModuleType):
    def __call__(self) -> list[str]:
        from mongebench.plugins import metrics

        return metrics()


sys.modules[__name__].__class__ = _CallablePackage


def compute(evaluation: Evaluation, names: Iterable[str] | None = None) -> dict[str, Value]:
    """All metrics of `names` (default: every registered one) that the problem's knowledge allows.

    A registered metric that cannot be imported is left out with a warning; one of `names` raises.
    """
    chosen = _importable() if names is None else {name: find(METRICS, name).load() for name in names}
    exact = evaluation.points.exact is not None
    return {name: metric(evaluation) for name, metric in chosen.items() if exact or not metric.needs_truth}


def _importable() -> dict[str, Metric]:
    found = {}
    for name, plugin in available(METRICS).items():
        try:
            found[name] = plugin.load()
        except (ImportError, PluginError) as error:
            warnings.warn(f"metric {name!r} is left out: {error}", stacklevel=3)
    return found


def evaluate(map: Map, problem: Problem, *, n: int = 10_000, seed: int = 0) -> dict[str, Value]:
    """Compute every metric of any map (n, d) -> (n, d) on a problem.

    Parameters
    ----------
    map
        A function, or a fitted estimator's `transform`; it is given NumPy arrays, and may return those of any library.
    problem
        From `mongebench.problem`.
    n
        Evaluation points per side; point clouds give what they hold.
    seed
        Seed of the evaluation points, which are never those of a fit.

    Returns
    -------
    Name -> `Value`; metrics against T* are left out where the problem has none.

    Raises
    ------
    InvalidInput
        Fewer than 2 points per side, or a map that returns NaN or infinite values.
    ContractViolation
        A map that returns another shape, something other than real numbers (`UnrealValues`), or changes its input.
    """
    return compute(Evaluation.of(map, EvaluationPoints.draw(problem, n, seed)))
