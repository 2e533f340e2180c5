"""Sliced W2 against POT, closed forms and duality; its error and floor against the spread over draws."""

import numpy as np
import ot
import pytest

from mongebench.metrics.sliced_w2 import PROJECTIONS, Coupling, _potential, directions, sliced_w2


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 45), (7, 11), (2, 3)])
@pytest.mark.parametrize("d", [2, 5])
def test_matches_pot_on_the_same_directions(evaluation, rng, n, m, d):
    e = evaluation(rng.normal(size=(n, d)), rng.exponential(size=(m, d)), lambda x: 2 * x)
    expected = ot.sliced_wasserstein_distance(e.pushed, e.points.y, projections=directions(e.points).T)
    assert sliced_w2(e).value == pytest.approx(expected, rel=1e-9)


def test_hand_value_in_one_dimension(evaluation):
    # Thirds of {0, 3, 6} against halves of {0, 2}: 1/3 at gap 0, 1/6 at 3, 1/6 at 1, 1/3 at 4.
    e = evaluation([[6.0], [0.0], [3.0]], [[2.0], [0.0]])
    assert sliced_w2(e).value ** 2 == pytest.approx(9 / 6 + 1 / 6 + 16 / 3)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 6), (5, 7), (100, 100)])
def test_coupling_has_the_right_marginals(n, m):
    i, j, mass = Coupling.of(n, m)
    assert (mass > 0).all()
    np.testing.assert_allclose(np.bincount(i, mass), np.full(n, 1 / n), rtol=1e-12)
    np.testing.assert_allclose(np.bincount(j, mass), np.full(m, 1 / m), rtol=1e-12)
    assert len(mass) == n + m - np.gcd(n, m)


def test_potentials_solve_the_dual(rng):
    x, y = np.sort(rng.normal(size=40)), np.sort(rng.exponential(size=40))
    f, g = _potential(x, x - y), _potential(y, y - x)
    cost = (x[:, None] - y) ** 2
    slack = cost - f[:, None] - g - (cost[0, 0] - f[0] - g[0])
    np.testing.assert_allclose(np.diag(slack), 0, atol=1e-12)  # tight on the coupling
    assert slack.min() > -1e-12  # feasible everywhere


def test_directions_are_those_of_the_points(evaluation, rng):
    e = evaluation(rng.normal(size=(9, 3)), rng.normal(size=(9, 3)))
    assert directions(e.points).shape == (PROJECTIONS, 3)
    np.testing.assert_allclose(np.linalg.norm(directions(e.points), axis=1), 1)
    other = type(e).of(lambda x: x + 1, e.points)
    np.testing.assert_array_equal(directions(e.points), directions(other.points))


def test_shift_of_one_dimension(evaluation, rng):
    # A shift of the very same points by s has W2 = s; far from the origin too.
    for offset in (0.0, 1e6):
        x = offset + rng.normal(size=(100, 1))
        e = evaluation(x, x, lambda x: x + 3)
        assert sliced_w2(e).value == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale(evaluation, rng, scale):
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(40, 2))
    unit, scaled = sliced_w2(evaluation(x, y)), sliced_w2(evaluation(scale * x, scale * y))
    for field in ("value", "standard_error", "floor"):
        assert getattr(scaled, field) == pytest.approx(scale * getattr(unit, field), rel=1e-9)


@pytest.mark.parametrize(("d", "scale"), [(1, 2.0), (8, 1.5)])
def test_gaussians(evaluation, d, scale):
    # One-dimensional projections of N(s e_1, scale^2 I) and N(0, I): W2^2 = (s theta_1)^2 + (scale - 1)^2.
    values = []
    for seed in range(100):
        rng = np.random.default_rng((seed, d))
        x, y = rng.normal(size=(300, d)), rng.normal(size=(200, d))
        x[:, 0] += 2.0 / scale
        values.append(sliced_w2(evaluation(x, y, lambda x: scale * x, seed=seed)))
    value, error = (np.array([getattr(v, name) for v in values]) for name in ("value", "standard_error"))
    exact = np.sqrt(4 / d + (scale - 1) ** 2)
    # Bias of the plug-in squared distance: about that of the null, (1 + scale^2) log log n (1/n + 1/m) / 2 < 0.06.
    assert exact - 3 * value.std() / np.sqrt(100) < value.mean() < exact + 0.06 / (2 * exact)
    # The spread over 100 draws has relative error 1/sqrt(200) = 7 %, times three.
    assert error.mean() == pytest.approx(value.std(), rel=0.21)


@pytest.mark.parametrize(("d", "n", "m"), [(2, 60, 60), (8, 40, 80)])
def test_null(evaluation, d, n, m):
    values = []
    for seed in range(120):
        rng = np.random.default_rng((seed, d))
        values.append(sliced_w2(evaluation(rng.normal(size=(n, d)), rng.normal(size=(m, d)), seed=seed)))
    value, error, floor = (
        np.array([getattr(v, name) for v in values]) for name in ("value", "standard_error", "floor")
    )
    # One in twenty, give or take three binomial standard deviations of 2 %.
    assert 0 < np.mean(value > floor) < 0.11
    assert 0.9 * value.std() < error.mean() < 1.7 * value.std()


def test_no_distance_at_all(evaluation, rng):
    x = rng.normal(size=(20, 2))
    value = sliced_w2(evaluation(x, x))
    assert value.value == 0
    assert np.isfinite(value.standard_error)
    assert value.floor > 0
