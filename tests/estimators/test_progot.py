"""Progressive entropic maps against ott's at two steps, and against the recursion of the paper written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax

from mongebench.core.errors import InvalidParameter
from mongebench.estimators.entropic import Entropic
from mongebench.estimators.progot import ProgOT

pytestmark = pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning")  # some tests import ott themselves
EPSILON = 0.3
"""Absolute, in units of |x - y|^2 / 2: ott, whose cost has no 1/2, is given twice as much."""


def fitted(steps, x, y):
    return ProgOT(steps, EPSILON, scale="absolute", tolerance=1e-10).fit(x, y)


@pytest.fixture
def clouds(gaussian_pair):
    query = np.random.default_rng(5).normal(size=(20, 2))
    return *gaussian_pair(2).samples(60, 40), query


def of_ott(steps, x, y, query):
    """Images of `query` under ott's ProgOT."""
    import jax
    from ott.geometry.pointcloud import PointCloud
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.tools.progot import ProgOT as Theirs
    from ott.tools.progot import get_alpha_schedule

    with jax.enable_x64(True):
        alphas = get_alpha_schedule("lin", num_steps=steps)
        solver = Theirs(alphas, epsilons=jax.numpy.full(steps, 2 * EPSILON))

        @jax.jit
        def images(x, y, query):
            output = solver(LinearProblem(PointCloud(x, y)), threshold=1e-10, max_iterations=10_000)
            return output.transport(query)[1]

        return np.asarray(images(x, y, query))


def by_hand(steps, x, y, query):
    """The recursion of the paper over plain Sinkhorn iterations and the definition of the entropic map."""
    for k in range(steps):
        cost, g = cdist(x, y, "sqeuclidean") / 2, np.zeros(len(y))
        for _ in range(300):
            f = -EPSILON * logsumexp((g - cost) / EPSILON, b=1 / len(y), axis=1)
            g = -EPSILON * logsumexp((f[:, None] - cost) / EPSILON, b=1 / len(x), axis=0)
        part = 1 / (steps - k)
        x, query = (
            (1 - part) * points + part * softmax((g - cdist(points, y, "sqeuclidean") / 2) / EPSILON, axis=1) @ y
            for points in (x, query)
        )
    return query


def test_equals_ott_at_two_steps(clouds):
    np.testing.assert_allclose(fitted(2, *clouds[:2]).transform(clouds[2]), of_ott(2, *clouds), atol=1e-7)


def test_is_the_recursion_of_the_paper(clouds):
    np.testing.assert_allclose(fitted(3, *clouds[:2]).transform(clouds[2]), by_hand(3, *clouds), atol=1e-7)


@pytest.mark.long
def test_ott_is_not_at_three_steps(clouds):
    """A mended ott fails here, and the docstring of the estimator is then out of date."""
    assert np.abs(of_ott(3, *clouds) - by_hand(3, *clouds)).max() > 1e-2


def test_one_step_is_the_entropic_map(clouds):
    x, y, query = clouds
    np.testing.assert_array_equal(ProgOT(1, 0.1).fit(x, y).transform(query), Entropic(0.1).fit(x, y).transform(query))


def test_more_steps_shrink_the_images_less(clouds):
    x, y, _ = clouds
    spreads = [fitted(steps, x, y).transform(x).var(axis=0).sum() for steps in (1, 2, 4)]
    assert spreads == sorted(spreads)
    assert spreads[-1] < y.var(axis=0).sum() * 1.01


def test_the_trace_sees_every_step_and_ends_the_fit(clouds):
    x, y, query = clouds
    seen = []

    def trace(map, **_):
        seen.append(map(query))
        return len(seen) < 2

    stopped = ProgOT(4).fit(x, y, trace=trace)
    assert len(seen) == len(stopped.maps_) == 2
    np.testing.assert_array_equal(seen[-1], stopped.transform(query))


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("epsilon", -1.0), ("epsilon", "validated")])
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(InvalidParameter, match=name):
        ProgOT(**{name: value}).fit(np.eye(2), np.eye(2))
