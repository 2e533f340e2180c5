"""Smoothed couplings against weighted least squares, explicit leaving out, and maps that they reproduce exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.core.estimator import ProblemInfo
from mongebench.estimators.discrete import Exact
from mongebench.estimators.interpolation import PiecewiseLinear
from mongebench.estimators.smoothed_plugin import BANDWIDTHS, RIDGE, LocalLinear, SmoothedPlugin


@pytest.fixture
def data(rng):
    x = rng.normal(size=(30, 2))
    masses = rng.uniform(1, 2, 30)
    masses /= masses.sum()
    return x - masses @ x, masses, rng.normal(size=(30, 3))


def test_local_linear_regression_is_weighted_least_squares(data, rng):
    """Centred at the query, with the penalty as further rows, by numpy's least squares."""
    x, masses, values = data
    h, query = 0.7, rng.normal(size=(5, 2))
    fit = LocalLinear(x, masses, values, h)
    ridge = RIDGE * min(h**2, float(masses @ (x**2).sum(axis=1)) / 2)
    for point, got in zip(query, fit(query), strict=True):
        weights = masses * np.exp(-((x - point) ** 2).sum(axis=1) / (2 * h**2))
        root = np.sqrt(weights / weights.sum())
        design = np.column_stack([root, root[:, None] * (x - point)])
        design = np.vstack([design, np.sqrt(ridge) * np.eye(3)[1:]])
        rows = np.vstack([root[:, None] * values, np.zeros((2, 3))])
        expected = np.linalg.lstsq(design, rows, rcond=None)[0][0]
        np.testing.assert_allclose(got, expected, atol=1e-10)


def test_leaving_one_out_is_fitting_without_it(data):
    x, masses, values = data
    # The weight of the penalty is that of all points on both sides, hence a bandwidth below their spread.
    h, total = 0.3, 0.0
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        fit = LocalLinear(x[rest], masses[rest], values[rest], h)
        total += masses[i] * ((values[i] - fit(x[i : i + 1])) ** 2).sum()
    assert LocalLinear(x, masses, values, h).leave_one_out() == pytest.approx(total, rel=1e-9)


def test_the_bandwidth_is_the_one_with_the_least_error_left_out(gaussian_pair):
    x, y = gaussian_pair(2).samples(80)
    fitted = SmoothedPlugin().fit(x, y)
    centred, displacements = x - x.mean(axis=0), Exact().fit(x, y).transform(x) - x
    unit = np.sqrt((cdist(x, x, "sqeuclidean")).mean())
    errors = {
        unit * h: LocalLinear(centred, np.full(80, 1 / 80), displacements, unit * h).leave_one_out() for h in BANDWIDTHS
    }
    assert fitted.bandwidth_ == pytest.approx(min(errors, key=errors.__getitem__), rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_interpolation_passes_through_the_coupling_and_is_exact_for_affine_maps(dim, rng):
    x = rng.normal(size=(60, dim))
    y = x @ np.diag(np.arange(1, dim + 1)) + 2  # gradient of a convex function: x_i and y_i are coupled
    fitted = SmoothedPlugin("interpolation").fit(x, y)
    np.testing.assert_allclose(fitted.transform(x), y, atol=1e-10)
    inside = (x[:20] + x[20:40] + x[40:]) / 3
    np.testing.assert_allclose(fitted.transform(inside), inside @ np.diag(np.arange(1, dim + 1)) + 2, atol=1e-9)


def test_outside_the_hull_and_in_a_hyperplane_interpolation_translates():
    flat = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    map = PiecewiseLinear.through(flat, flat + np.array([[1, 1], [2, 2], [3, 3]]))
    np.testing.assert_allclose(map(np.array([[0.9, 5.0], [9.0, -1.0]])), [[2.9, 7.0], [12.0, 2.0]])
    triangle = PiecewiseLinear.through(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.zeros((3, 2)))
    np.testing.assert_allclose(triangle(np.array([[0.2, 0.2], [3.0, 0.0]])), [[0.0, 0.0], [2.0, 0.0]])


@pytest.mark.parametrize(("dim", "n"), [(2, 200), (8, 200)])
def test_smoothing_beats_the_nearest_neighbour(gaussian_pair, dim, n):
    pair = gaussian_pair(dim)
    x, y = pair.samples(n)
    assert pair.uvp(SmoothedPlugin().fit(x, y).transform) < 0.8 * pair.uvp(Exact().fit(x, y).transform)


def test_what_it_cannot_do_is_said():
    info = ProblemInfo(dim=9, n_source=100, n_target=100, offers=frozenset(), strong_convexity=None)
    assert SmoothedPlugin().supports(info).ok
    assert "d <= 4" in SmoothedPlugin("interpolation").supports(info).reason
    assert "GiB" in SmoothedPlugin(max_cost_bytes=10).supports(info).reason
    with pytest.raises(InvalidInput, match="d = 9"):
        SmoothedPlugin("interpolation").fit(np.eye(9), np.eye(9))
    with pytest.raises(InvalidInput, match="max_cost_bytes"):
        SmoothedPlugin(max_cost_bytes=10).fit(np.eye(3), np.eye(3))
    for parameters in ({"smoother": "spline"}, {"bandwidth": 0.0}):
        with pytest.raises(InvalidParameter, match=next(iter(parameters))):
            SmoothedPlugin(**parameters).fit(np.eye(2), np.eye(2))
