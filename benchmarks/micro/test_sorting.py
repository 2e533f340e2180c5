"""Fitting `Sorting` against the two sorts it cannot do without, in one run: the ratio is kept, nothing is asserted."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from mongebench.estimators.sorting import Sorting

ROUNDS = 5


def best_seconds(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.parametrize("n", [10**4, 10**6])
def test_fit_time_over_two_sorts(benchmark, n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 1)), rng.normal(size=(n, 1))
    fitted = benchmark.pedantic(Sorting().fit, args=(x, y), rounds=ROUNDS, warmup_rounds=1)
    sorts = best_seconds(lambda: (np.sort(x[:, 0]), np.sort(y[:, 0])))
    if benchmark.stats is not None:  # none under --benchmark-disable
        benchmark.extra_info["fit_over_two_sorts"] = benchmark.stats.stats.min / sorts
    np.testing.assert_array_equal(fitted.x_, np.sort(x[:, 0]))
