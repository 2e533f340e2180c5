"""Evaluations built by hand: given points, a map, and perhaps T*."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.metrics import Evaluation, EvaluationPoints


def build(
    x: Any, y: Any, map: Callable[[Any], Any] = lambda x: x, *, truth: Any = None, seed: int = 0, **knowledge: Any
) -> Evaluation:
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    for points in (x, y):
        points.flags.writeable = False
    if truth is not None:
        knowledge |= {"truth": truth, "truth_tier": TruthTier.CLOSED_FORM}
    variance = knowledge.pop("total_variance", float(y.var(axis=0).sum()))
    d = x.shape[1]
    problem = Problem(
        source=Source(dim=d), target=Target(dim=d, total_variance=variance), dim=d, version=1, **knowledge
    )
    return Evaluation.of(map, EvaluationPoints(problem, x, y, None if truth is None else truth(x), seed))


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """(x, y, map, truth=...) -> Evaluation."""
    return build
