"""Metrics that visit all pairs, or sort many projections: what an evaluation waits for."""

import numpy as np
import pytest

from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem
from mongebench.metrics import Evaluation, EvaluationPoints, compute
from mongebench.metrics.pairwise import kernel_sums
from mongebench.metrics.sliced_w2 import null_replicates


def points(n, d=32):
    sampler = lambda n, rng: rng.normal(size=(n, d))  # noqa: E731
    problem = Problem(
        source=Source(dim=d, sampler=sampler), target=Target(dim=d, sampler=sampler, total_variance=d), dim=d, version=1
    )
    return EvaluationPoints.draw(problem, n, 0)


@pytest.mark.parametrize("d", [2, 32, 256])
def test_kernel_sums(benchmark, d):
    drawn = points(2000, d)
    benchmark(kernel_sums, drawn.x, drawn.y, float(d))


def test_kernel_sums_within(benchmark):
    benchmark(kernel_sums, points(2000).x, None, 32.0)


def test_null_of_sliced_w2(benchmark):
    benchmark(null_replicates, points(2000))


@pytest.mark.parametrize("name", ["energy_distance", "sliced_w2", "monotonicity_violation", "jacobian_asymmetry"])
def test_metric_of_one_more_map(benchmark, name):
    drawn = points(2000)
    compute(Evaluation.of(np.tanh, drawn), [name])  # what depends on the points alone is known by now
    benchmark(lambda: compute(Evaluation.of(np.tanh, drawn), [name]))
