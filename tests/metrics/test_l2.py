"""L2 error, UVP, cosine and cost gap: hand values, and standard errors against the spread over many draws."""

import numpy as np
import pytest

from mongebench.metrics.cost_gap import cost_gap
from mongebench.metrics.l2 import cosine, l2_error, uvp

AGAINST_TRUTH = [l2_error, uvp, cosine, cost_gap]
X = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]
Y = [[0.0, 0.0], [4.0, 0.0]]  # variance 4


def shift(*by):
    return lambda x: x + np.array(by)


def test_hand_values(evaluation):
    # T* moves by (3, 0), T^ by (0, 4): error 25, displacements orthogonal, costs 16/2 and 9/2.
    e = evaluation(X, Y, shift(0, 4), truth=shift(3, 0))
    assert l2_error(e).value == pytest.approx(25)
    assert uvp(e).value == pytest.approx(100 * 25 / 4)
    assert cosine(e).value == pytest.approx(0, abs=1e-15)
    assert cost_gap(e).value == pytest.approx(3.5)
    for metric in AGAINST_TRUTH:  # the same at every point
        assert metric(e).standard_error == pytest.approx(0, abs=1e-13)


def test_errors_that_differ_between_points(evaluation):
    # Squared errors 0, 1, 4: mean 5/3, sample variance 13/3.
    e = evaluation(X, Y, lambda x: 2 * x, truth=lambda x: x)
    assert l2_error(e).value == pytest.approx(5 / 3)
    assert l2_error(e).standard_error == pytest.approx(np.sqrt(13 / 9))


@pytest.mark.parametrize(("factor", "expected"), [(3.0, 1.0), (0.5, -1.0), (1.0, 0.0)])
def test_cosine_sees_direction_not_length(evaluation, factor, expected):
    e = evaluation(X, Y, lambda x: factor * x, truth=lambda x: 2 * x)
    assert cosine(e).value == pytest.approx(expected)


def test_cosine_weighs_points_by_their_displacements(evaluation):
    # <T^ - id, T* - id> = (0 + 1 + 0)/3 and squared norms 5/3, 1/3.
    e = evaluation(X, Y, lambda x: 2 * x, truth=lambda x: x * [2, 1])
    assert cosine(e).value == pytest.approx(1 / np.sqrt(5))


def test_cosine_is_undefined_where_the_truth_moves_nothing(evaluation):
    assert np.isnan(cosine(evaluation(X, Y, shift(1, 0), truth=lambda x: x)).value)
    nearly = evaluation(X, Y, shift(1, 0), truth=shift(1e-3, 0), truth_error=1e-2)
    assert np.isnan(cosine(nearly).value)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_exact_map_is_at_the_floor(evaluation, rng, scale):
    x, y = scale * rng.normal(size=(100, 5)), scale * rng.normal(size=(80, 5))
    A = rng.normal(size=(5, 5))
    A = A @ A.T
    # The same map by another order of operations: equal up to rounding.
    e = evaluation(x, y, lambda x: (x @ (A / 7)) * 7 + scale, truth=lambda x: x @ A + scale)
    assert l2_error(e).value <= l2_error(e).floor < (1e-12 * scale) ** 2 * (A**2).sum()
    assert uvp(e).value <= uvp(e).floor < 1e-20
    assert abs(cost_gap(e).value) <= cost_gap(e).floor < 1e-11 * scale**2 * (A**2).sum()
    assert cosine(e).value >= 1 - cosine(e).floor > 1 - 1e-12


def test_floor_bounds_what_an_inexact_truth_does_to_a_perfect_map(evaluation, rng):
    x, y = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    for _ in range(50):
        noise = rng.normal(size=x.shape) + rng.normal(size=3) + rng.normal() * x
        noise *= 0.1 / np.sqrt((noise**2).sum(axis=1).mean())  # mean square error 0.1^2, on these points exactly
        e = evaluation(x, y, lambda x: 2 * x, truth=lambda x, noise=noise: 2 * x + noise, truth_error=0.1)
        assert l2_error(e).value == pytest.approx(l2_error(e).floor)
        assert abs(cost_gap(e).value) <= cost_gap(e).floor
        assert cosine(e).value >= 1 - cosine(e).floor
    # Attained: an error along the displacement for the cost, across it for the cosine.
    along = evaluation(
        x, y, lambda x: 2 * x, truth=lambda x: 2 * x - 0.1 * x, truth_error=0.1 * np.sqrt((x**2).sum(1).mean())
    )
    assert cost_gap(along).value == pytest.approx(cost_gap(along).floor)
    moved = evaluation(x, y, shift(1, 0, 0), truth=shift(1, 0.1, 0), truth_error=0.1)
    assert 1 - cosine(moved).value == pytest.approx(cosine(moved).floor, rel=0.02)  # sin and tan of 0.1


def test_best_constant_map_has_uvp_100(evaluation, rng):
    x = rng.normal(size=(100, 2))
    y = 3 * x
    e = evaluation(x, y, lambda x: np.broadcast_to(y.mean(axis=0), x.shape), truth=lambda x: 3 * x)
    assert uvp(e).value == pytest.approx(100)


def test_cost_gap_without_cancellation(evaluation):
    # The costs are 1e12 / 2, their gap 1e-3 (1e6 + 5e-4): formed from the costs it would have two digits.
    e = evaluation(X, Y, shift(1e6 + 2**-20, 0), truth=shift(1e6, 0))
    assert cost_gap(e).value == pytest.approx(2**-20 * (1e6 + 2**-21), rel=1e-9)


@pytest.mark.parametrize("metric", AGAINST_TRUTH, ids=lambda metric: metric.__name__)
def test_standard_error_is_the_spread_over_draws(evaluation, metric):
    def draw(seed):
        x = np.random.default_rng(seed).normal(size=(500, 2))
        return metric(evaluation(x, Y, lambda x: x + 0.1 * x * np.abs(x) + [0.5, 0], truth=lambda x: 2 * x))

    values = [draw(seed) for seed in range(400)]
    spread = np.std([value.value for value in values])
    # The spread over 400 draws has relative error 1/sqrt(800) = 3.5 %, times three.
    assert np.mean([value.standard_error for value in values]) == pytest.approx(spread, rel=0.12)
