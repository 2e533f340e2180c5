"""Clouds in units of their own, and the estimators that work in them, at both ends of double precision."""

from __future__ import annotations

import numpy as np
import pytest

import mongebench as mb
from mongebench.estimators.standard import mean, power_of_two, standardised


@pytest.mark.parametrize("unit", [1e-300, 1e-8, 1.0, 3e8, 1e300])
def test_clouds_of_unit_variance_whatever_their_unit(unit):
    x, y = np.random.default_rng(0).normal(size=(2, 50, 3)) * [[[1.0]], [[2.0]]]
    clouds = standardised(unit * x, unit * y)
    assert clouds.scale == pytest.approx(unit * np.sqrt((x.var(axis=0).mean() + y.var(axis=0).mean()) / 2), rel=1e-12)
    for cloud, points, middle in ((clouds.x, x, clouds.source_mean), (clouds.y, y, clouds.target_mean)):
        np.testing.assert_allclose(middle / unit, points.mean(axis=0), atol=1e-14)
        np.testing.assert_allclose(cloud * (clouds.scale / unit), points - points.mean(axis=0), atol=1e-13)


def test_points_without_extent_stay_as_they_are():
    clouds = standardised(np.full((3, 2), 7.0), np.full((1, 2), -1e9))
    assert clouds.scale == 1.0
    assert not clouds.x.any()
    assert not clouds.y.any()


def test_the_mean_far_away_is_off_by_one_rounding():
    steps = np.random.default_rng(1).normal(size=(20_000, 2))
    assert np.abs(mean(steps + 1e9) - 1e9 - (steps + 1e9 - 1e9).mean(axis=0)).max() <= np.spacing(1e9)


@pytest.mark.parametrize(("size", "expected"), [(0.0, 1.0), (1.0, 1.0), (3.0, 4.0), (0.3, 0.5), (1e-320, 2.0**-1063)])
def test_powers_of_two(size, expected):
    assert power_of_two(size) == expected


@pytest.mark.parametrize("unit", [1e-150, 1e150])
@pytest.mark.parametrize("name", ["mean_shift", "bures", "exact", "smoothed_plugin"])
def test_units_at_the_ends_of_double_precision(name, unit):
    x, y = np.random.default_rng(2).normal(size=(2, 60, 2))
    y = 1.5 * y + 1
    expected = mb.estimator(name).fit(x, y).transform(x)
    images = mb.estimator(name).fit(unit * x, unit * y).transform(unit * x)
    np.testing.assert_allclose(images / unit, expected, atol=1e-12)
