"""Errors of mean and covariance in the target's deviations, against closed forms, with their errors and floors."""

import numpy as np
import pytest

from mongebench.metrics.moments import covariance_error, mean_error

SCALES = np.array([1e-3, 1.0, 50.0])


@pytest.fixture
def normal(evaluation):
    def build(map, seed=0, n=4000, m=3000):
        rng = np.random.default_rng(seed)
        turn = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
        x, y = (rng.standard_normal((count, 3)) @ turn * SCALES for count in (n, m))
        return evaluation(x, y, map)

    return build


def test_a_shift_is_told_in_deviations(normal) -> None:
    deviations = SCALES * np.sqrt([1.0, 1.25, 1.25])
    value = mean_error(normal(lambda x: x + deviations * [0.3, -0.3, 0.3]))
    assert value.value == pytest.approx(0.3, abs=4 * value.standard_error)
    assert covariance_error(normal(lambda x: x + deviations)).value < covariance_error(normal(lambda x: x)).floor


def test_a_stretch_is_told_in_variances(normal) -> None:
    """Of 1.2 in each direction: every standardised covariance grows by 0.44 of itself."""
    value = covariance_error(normal(lambda x: 1.2 * x))
    correlation = np.array([[1, 0.5 / np.sqrt(1.25), 0], [0, 1, 0.5 / 1.25], [0, 0, 1]])
    correlation = np.maximum(correlation, correlation.T)
    assert value.value == pytest.approx(0.44 * np.sqrt((correlation**2).mean()), abs=4 * value.standard_error)


@pytest.mark.parametrize("metric", [mean_error, covariance_error])
def test_standard_errors_are_the_spread_over_draws(normal, metric) -> None:
    values = [metric(normal(lambda x: 1.2 * x + 0.5 * SCALES, seed, 400, 300)) for seed in range(200)]
    spread = np.std([value.value for value in values])
    # Of 200 draws the spread itself is known to 5 %, and of 300 points the error of one to about as much.
    assert np.mean([value.standard_error for value in values]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("metric", [mean_error, covariance_error])
def test_the_exact_map_is_below_the_floor_nearly_always(normal, metric) -> None:
    values = [metric(normal(lambda x: x, seed, 400, 300)) for seed in range(200)]
    above = np.mean([value.value > value.floor for value in values])
    assert above < 0.1  # two deviations of a weighted sum of chi-squares: about 5 %
    assert np.mean([value.value for value in values]) > values[0].floor / 4  # and it is no idle floor
