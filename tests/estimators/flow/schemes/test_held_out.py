"""Plain descent stops by points that its steps never see."""

from __future__ import annotations

import numpy as np
import pytest

import mongebench as mb
from mongebench.core.errors import InvalidParameter
from mongebench.core.oracle import Meter, Oracle, SourceView
from mongebench.estimators.draws import Side

NEEDS = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_POTENTIAL})


def view(problem, n):
    return SourceView(problem.source, declared=NEEDS, budget=n, seed=0, meter=Meter())


def test_what_is_held_out_is_in_no_batch_and_the_rest_is():
    problem = mb.problem("gaussian", dim=2, seed=0)
    source = view(problem, 50)
    side = Side.of(source, 0.2, seed=(0, 0))
    assert side.held_out.shape == (10, 2)
    assert side.size == 40
    held_out = {tuple(point) for point in side.held_out}
    seen = {tuple(point) for batch in side.batches(100, 8) for point in batch}
    assert not held_out & seen
    assert held_out | seen == {tuple(point) for point in source.batch(50)}
    assert side.batches(3, 100).shape == (3, 40, 2)


def test_fresh_draws_hold_nothing_out():
    problem = mb.problem("gaussian", dim=2, seed=0)
    side = Side.of(view(problem, None), 0.2, seed=(0, 0))
    assert side.size is None
    assert len(side.held_out) == 0
    assert side.batches(3, 7).shape == (3, 7, 2)


def test_the_map_that_is_kept_is_the_best_on_what_was_held_out():
    """A network of a thousand parameters on 48 points; the objective is computed again, by differences."""
    problem = mb.problem("gaussian", dim=2, seed=1)
    source = view(problem, 60)
    side = Side.of(source, 0.2, seed=(0, 0))
    values = []

    def trace(map, *, flow_time=None, **diagnostics):
        moved = map(side.held_out)
        columns = [(map(side.held_out + shift) - moved) / 1e-5 for shift in 1e-5 * np.eye(2)]
        determinant = np.linalg.det(np.stack(columns, axis=2))
        values.append(float(np.mean(problem.target.potential(moved) - np.log(determinant))))
        return True

    estimator = mb.estimator("grad_icnn", units=32, learning_rate=0.02, steps=25, inner_steps=20, batch_size=48)
    mb.fit(problem, estimator, n_source=60, n_target=60, seed=0, trace=trace)
    assert len(values) == 26
    assert np.all(np.diff(values) <= 1e-6)  # of finite differences
    assert values[-1] < values[0]
    assert values[-1] == values[-2], "the last steps learn the points, and are not kept"


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InvalidParameter, match="held_out"):
        mb.estimator("euclidean", held_out=share)
