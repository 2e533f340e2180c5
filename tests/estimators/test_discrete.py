"""The exact coupling against the assignment problem and linear programming, and its two extensions by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

from mongebench.core.errors import InvalidInput, InvalidParameter, NotConverged
from mongebench.core.estimator import ProblemInfo
from mongebench.estimators.discrete import Exact, weighted
from mongebench.estimators.interpolation import Nearest


@pytest.mark.parametrize("dim", [1, 2, 8])
def test_agrees_with_the_assignment_problem(gaussian_pair, dim):
    x, y = gaussian_pair(dim).samples(150)
    _, partner = linear_sum_assignment(cdist(x, y, "sqeuclidean"))
    np.testing.assert_allclose(Exact().fit(x, y).transform(x), y[partner], atol=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_do_not_matter(gaussian_pair, scale):
    x, y = gaussian_pair(2).samples(100)
    expected = Exact().fit(x, y).transform(x)
    np.testing.assert_allclose(Exact().fit(scale * x, scale * y).transform(scale * x) / scale, expected, rtol=1e-12)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e7, 1e9])
@pytest.mark.parametrize("law", ["one point", "one each way", "ten points", "half of them"])
def test_far_points_do_not_blur_the_near_ones(far, law):
    """Y = x + atan(x) + 5 is the gradient of a convex function, so that every sample has its own image as partner."""
    x = np.random.default_rng(0).normal(size=(200, 2))
    if law == "one each way":
        x[0], x[1] = far, -far
    else:
        x[: {"one point": 1, "ten points": 10, "half of them": 100}[law]] += far
    y = x + np.arctan(x) + 5
    np.testing.assert_allclose(Exact().fit(x, y[::-1]).transform(x), y, rtol=1e-13)


@pytest.mark.parametrize("far", [1e6, 1e8, 1e10])
def test_far_points_without_a_partner_near_them(far):
    """One far point on the right of X, one on the left of Y: in one dimension both are sorted."""
    x, y = np.random.default_rng(1).normal(size=(2, 200, 1))
    x[7], y[3] = far, -far
    order = np.argsort(x[:, 0])
    np.testing.assert_allclose(Exact().fit(x, y).transform(x[order]), np.sort(y, axis=0), rtol=1e-13)


@pytest.mark.parametrize(("scale", "offset"), [(1e-7, 0.0), (1.0, 1e6), (1.0, 1e9), (1e-150, 0.0), (1e150, 0.0)])
def test_a_cluster_within_the_sample_is_resolved(scale, offset):
    """Half of X is 10^6 times narrower than the rest; both halves keep their order along each coordinate."""
    x = np.random.default_rng(2).normal(size=(100, 2))
    x[:50] *= 1e-6 if offset == 0 else 1.0
    x *= scale
    y = 3 * x + offset
    np.testing.assert_allclose(Exact().fit(x, y).transform(x), y, rtol=1e-13)


@pytest.mark.parametrize("law", ["grid", "one line", "two points", "many in one place"])
def test_ties_are_no_reason_to_refuse(law):
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 4, size=(2, 200, 2)).astype(float)
    if law == "one line":  # all couplings cost the same
        x[:, 0], y[:, 1] = 0.0, 0.0
    elif law == "two points":
        x, y = x[:2], y[:2]
    elif law == "many in one place":
        x = 1 + 1e-13 * rng.normal(size=(200, 2))
    a, b = weighted(x, None, ""), weighted(y, None, "")
    images = Exact().fit(x, y).transform(a[0])
    np.testing.assert_allclose(a[1] @ images, b[1] @ b[0], atol=1e-9)


def test_an_answer_that_is_not_optimal_is_refused(monkeypatch):
    """Whatever the simplex says: here it exchanges the partners of two points, with potentials that hide nothing."""
    import ot

    honest = ot.emd

    def exchanged(*problem, **options):
        coupling, log = honest(*problem, **options)
        coupling[[0, 1]] = coupling[[1, 0]]
        return coupling, log

    monkeypatch.setattr("ot.emd", exchanged)
    with pytest.raises(NotConverged, match="cannot be shown to be optimal"):
        Exact().fit(*np.random.default_rng(4).normal(size=(2, 50, 2)))


def test_weights_agree_with_a_linear_program():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(9, 2))
    a, b = rng.uniform(1, 2, 6), rng.uniform(1, 2, 9)
    marginals = np.vstack([np.kron(np.eye(6), np.ones(9)), np.kron(np.ones(6), np.eye(9))])
    program = linprog(
        cdist(x, y, "sqeuclidean").ravel(), A_eq=marginals, b_eq=np.concatenate([a / a.sum(), b / b.sum()])
    )
    coupling = program.x.reshape(6, 9)
    fitted = Exact().fit(x, y, source_weights=a, target_weights=7 * b)
    np.testing.assert_allclose(fitted.transform(x), coupling @ y / coupling.sum(axis=1, keepdims=True), atol=1e-9)


def test_repeating_points_is_weighting_them():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(12, 2))
    counts = np.array([1, 2, 3, 4, 2])
    repeated = Exact().fit(np.repeat(x, counts, axis=0), y)
    weighted = Exact().fit(x, y, source_weights=counts)
    np.testing.assert_allclose(repeated.transform(x), weighted.transform(x), atol=1e-12)


def test_points_without_weight_are_nobodys_neighbour():
    x, y = [[0.0], [10.0], [20.0]], [[1.0], [2.0]]
    fitted = Exact().fit(x, y, source_weights=[1, 0, 1])
    np.testing.assert_allclose(fitted.transform([[9.0], [11.0]]), [[1.0], [2.0]])


def test_extensions_by_hand():
    x, y, query = [[0.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [5.0, 1.0]], [[0.5, 2.0], [3.0, -1.0]]
    np.testing.assert_allclose(Exact("nearest").fit(x, y).transform(query), [[1.0, 1.0], [5.0, 1.0]])
    np.testing.assert_allclose(Exact("translated").fit(x, y).transform(query), [[1.5, 3.0], [4.0, 0.0]])


def test_ten_thousand_queries_in_high_dimension_find_their_neighbour():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 40)) + 1e4  # far from the origin, where |x|^2 - 2 <x, y> + |y|^2 cancels
    y = rng.normal(size=(50, 40))
    query = np.repeat(x, 200, axis=0) + 1e-6 * rng.normal(size=(10_000, 40))
    fitted = Exact().fit(x, y)
    np.testing.assert_array_equal(fitted.transform(query), np.repeat(fitted.transform(x), 200, axis=0))


@pytest.mark.parametrize("dim", [2, 15, 16, 40])
@pytest.mark.parametrize("apart", [1e4, 1e8])
def test_clusters_far_apart_find_their_neighbour(dim, apart):
    """The nearest of 150 points is the one that the query was made from; clusters are `apart` times their width apart.

    By |x|^2 - 2 <x, y> + |y|^2 in dimension 16 and at 1e8, most were wrong.
    """
    rng = np.random.default_rng(5)
    points = rng.normal(size=(150, dim))
    points[50:100] += apart
    points[100:] -= apart
    query = points + 1e-5 * rng.normal(size=points.shape)
    np.testing.assert_array_equal(Nearest(points)(query), np.arange(150))
    y = points + 1.0
    np.testing.assert_allclose(Exact().fit(points, y).transform(query), y, rtol=1e-13)


@pytest.mark.parametrize("weights", [[1, 1], [1, -1, 1], [0, 0, 0], [1, np.nan, 1], [[1, 1, 1]]])
def test_weights_that_make_no_measure_are_refused(weights):
    with pytest.raises(InvalidInput, match="target_weights"):
        Exact().fit(np.eye(3), np.eye(3), target_weights=weights)


def test_a_cost_matrix_beyond_the_limit_is_refused():
    info = ProblemInfo(dim=2, n_source=20_000, n_target=20_000, offers=frozenset(), strong_convexity=None)
    support = Exact().supports(info)
    assert not support.ok
    assert "3.0 GiB" in support.reason  # 8 * 20000^2 bytes
    assert Exact(max_cost_bytes=4 * 1024**3).supports(info).ok
    with pytest.raises(InvalidInput, match="max_cost_bytes"):
        Exact(max_cost_bytes=100).fit(np.eye(4), np.eye(4))


def test_a_simplex_that_gives_up_is_an_error(gaussian_pair, monkeypatch):
    monkeypatch.setattr("mongebench.estimators.discrete.PIVOTS", 10)
    with pytest.raises(NotConverged, match="100 x 100"):
        Exact().fit(*gaussian_pair(2).samples(100))


def test_unknown_extension_is_named():
    with pytest.raises(InvalidParameter, match="extension must be 'nearest' or 'translated', got 'near'"):
        Exact("near").fit(np.eye(2), np.eye(2))


@pytest.mark.parametrize(("extension", "low", "high"), [("nearest", 75, 110), ("translated", 40, 60)])
@pytest.mark.long
def test_high_dimension_shows_the_curse(gaussian_pair, extension, low, high):
    """n = 2000, d = 16 on Gaussian pairs: POT alone gives 93 % and 51 %."""
    pair = gaussian_pair(16)
    assert low < pair.uvp(Exact(extension).fit(*pair.samples(2000)).transform) < high
