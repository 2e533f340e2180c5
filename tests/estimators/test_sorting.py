"""The one-dimensional map against quantiles, ties, tails and the definition of monotone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.core.estimator import ProblemInfo
from mongebench.estimators.sorting import Sorting

EXTRAPOLATIONS = ("gaussian", "constant", "shift")


def column(values):
    return np.asarray(values, dtype=np.float64)[:, None]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_matches_order_statistics(rng):
    x, y = rng.normal(size=(100, 1)), rng.exponential(size=(100, 1))
    image = Sorting().fit(x, y).transform(x)
    np.testing.assert_array_equal(image[np.argsort(x[:, 0])], np.sort(y, axis=0))


def test_the_map_back_sorts_the_exchanged_samples(rng):
    x, y = rng.normal(size=(100, 1)), rng.exponential(size=(100, 1))
    query = np.linspace(-3, 12, 301)[:, None]  # both tails, whose slopes are the inverse ones
    back = Sorting().fit(x, y).inverse_transform(query)
    np.testing.assert_allclose(back, Sorting().fit(y, x).transform(query), rtol=1e-12, atol=1e-12)


def test_the_map_back_of_a_flat_piece_is_a_point_of_it():
    fitted = Sorting("constant").fit(column([0, 1, 2, 3]), column([0, 5, 5, 6]))
    back = fitted.inverse_transform(column([-9, 5, 5.5, 9]))[:, 0]
    assert 1 <= back[1] <= 2
    np.testing.assert_allclose(back[[0, 2, 3]], [0, 2.5, 3])


@pytest.mark.parametrize(("n", "m"), [(50, 200), (200, 50), (3, 1000)])
def test_unequal_sizes_match_quantile_levels(rng, n, m):
    x, y = rng.normal(size=(n, 1)), rng.normal(size=(m, 1))
    levels = (stats.rankdata(x[:, 0]) - 0.5) / n
    expected = np.quantile(y[:, 0], levels, method="hazen")  # the same levels (j - 1/2) / m on the other side
    np.testing.assert_allclose(Sorting().fit(x, y).transform(x)[:, 0], expected, atol=1e-13)


def test_ties_go_to_the_mean_of_their_partners():
    fitted = Sorting().fit(column([2, 1, 1, 2, 2, 3]), column([60, 10, 20, 30, 40, 50]))
    np.testing.assert_allclose(fitted.transform(column([1, 2, 3])), column([15, 40, 60]))


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 70), (1, 5), (5, 1), (1, 1)])
def test_never_decreases(rng, extrapolation, n, m):
    x, y = rng.normal(size=(n, 1)).round(1), rng.normal(size=(m, 1)).round(1)
    grid = column(np.linspace(-20, 20, 5001))
    image = Sorting(extrapolation).fit(x, y).transform(grid)
    assert np.isfinite(image).all()
    assert np.diff(image[:, 0]).min() >= -1e-13  # rounding of values up to 40


@pytest.mark.parametrize(("extrapolation", "slope"), [("constant", 0.0), ("shift", 1.0), ("gaussian", 2.0)])
def test_tails_continue_with_the_stated_slope(rng, extrapolation, slope):
    x = rng.normal(size=(100, 1))
    y = 2 * x + 1
    fitted = Sorting(extrapolation).fit(x, y)
    for end, step in ((x.min(), -10.0), (x.max(), 10.0)):
        expected = 2 * end + 1 + slope * step
        np.testing.assert_allclose(fitted.transform([[end + step]]), [[expected]], rtol=1e-12)


def test_constant_source_is_shifted(rng):
    y = rng.normal(size=(40, 1))
    fitted = Sorting().fit(np.full((40, 1), 3.0), y)
    np.testing.assert_allclose(fitted.transform([[3.0], [5.0]]), [[y.mean()], [y.mean() + 2]])


def test_error_falls_like_one_over_n():
    """N(0, 1) -> Exp(1): E |T_n - T|^2 is of order log(n) / n; three quarters of a decade apart in n must show."""
    x = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    exact = stats.expon.ppf(stats.norm.cdf(x))
    errors = []
    for n in (200, 3200):
        runs = [
            Sorting().fit(rng.normal(size=(n, 1)), rng.exponential(size=(n, 1))).transform(x)
            for rng in map(np.random.default_rng, range(20))
        ]
        errors.append(np.mean([(run - exact) ** 2 for run in runs]))
    assert errors[1] < errors[0] / 5  # 16 in n; 16 up to the logarithm


def test_one_dimension_only():
    info = ProblemInfo(dim=3, n_source=10, n_target=10, offers=frozenset(), strong_convexity=None)
    support = Sorting().supports(info)
    assert not support.ok
    assert "d = 3" in support.reason
    with pytest.raises(InvalidInput, match="d = 3"):
        Sorting().fit(np.eye(3), np.eye(3))


def test_unknown_extrapolation_is_named():
    with pytest.raises(InvalidParameter, match=r"must be 'gaussian', 'constant' or 'shift'.*did you mean 'gaussian'"):
        Sorting("gausian").fit([[1.0]], [[2.0]])
