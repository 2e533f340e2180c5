"""Membership in K: linear maps with known answers, gradients, piecewise constant maps, float32."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mongebench.metrics import monotonicity
from mongebench.metrics.energy_distance import energy_distance
from mongebench.metrics.monotonicity import jacobian_asymmetry, monotonicity_violation, resolution


def rotation(degrees):
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.fixture
def on_gaussian(evaluation, rng):
    def evaluate(map, d=2, n=2000, offset=0.0, scale=1.0):
        x, y = (offset + scale * rng.normal(size=(n, d)) for _ in range(2))
        return evaluation(x, y, map)

    return evaluate


@pytest.mark.parametrize(
    ("degrees", "violation", "asymmetry"), [(0, 0, 0), (45, 0, 0.5), (90, 0, 1), (120, 1, 0.75), (180, 1, 0)]
)
def test_rotations(on_gaussian, degrees, violation, asymmetry):
    # <v, Rv> = cos |v|^2 and |R - R'|^2 / (4 |R|^2) = sin^2. Monotone up to 90 degrees: only the Jacobian tells.
    e = on_gaussian(lambda x: x @ rotation(degrees).T)
    assert monotonicity_violation(e).value == violation
    assert jacobian_asymmetry(e).value == pytest.approx(asymmetry, abs=1e-10)


def test_quarter_turn_pushes_forward_rightly(evaluation, rng):
    x, y = rng.normal(size=(2, 2000, 2))
    e = evaluation(x, y, lambda x: x @ rotation(90).T)
    assert energy_distance(e).value < energy_distance(e).floor  # a perfect push-forward is no Monge map


@pytest.mark.parametrize("d", [3, 8, 20])
def test_asymmetry_of_a_linear_map(on_gaussian, rng, d):
    A = rng.normal(size=(d, d))
    exact = ((A - A.T) ** 2).sum() / (4 * (A**2).sum())
    value = jacobian_asymmetry(on_gaussian(lambda x: x @ A.T, d=d))
    # Up to d = 8 the frame is the whole space and the differences are exact up to rounding over the step, 1e-12.
    assert value.value == pytest.approx(exact, abs=1e-10 if d <= 8 else 3 * value.standard_error)
    assert value.standard_error < (1e-10 if d <= 8 else 0.02)


def test_asymmetry_weighs_by_the_size_of_the_jacobian(on_gaussian):
    # J = [[1, 0], [0, 1]] for x_1 < 0, [[0, -3], [3, 0]] for x_1 > 0: E|J - J'|^2 / (4 E|J|^2) = 9/10.
    def map(x):
        return np.where(x[:, :1] < 0, x, 3 * x @ rotation(90).T)

    value = jacobian_asymmetry(on_gaussian(map))
    assert value.value == pytest.approx(0.9, abs=3 * value.standard_error)
    assert 0 < value.standard_error < 0.01  # half of 2000 points have either: 0.1 * 0.9 * 2 / sqrt(2000) = 0.004


def softplus_gradient(x):
    W = np.random.default_rng(0).normal(size=(12, x.shape[1]))
    return 0.1 * x + (1 / (1 + np.exp(-3 * x @ W.T))) @ W


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (0, 1e-6), (0, 1e6), (1e4, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradients_of_convex_functions_are_at_the_floor(on_gaussian, offset, scale, dtype):
    def map(x):  # float32 inside, float64 outside: nothing but its noise gives it away
        return scale * softplus_gradient(((x - offset) / scale).astype(dtype)).astype(float) + offset

    e = on_gaussian(map, d=5, offset=offset, scale=scale)
    assert monotonicity_violation(e).value == 0
    assert jacobian_asymmetry(e).value <= jacobian_asymmetry(e).floor < 1e-4


def test_float32_noise_on_flat_ground_is_no_violation(on_gaussian):
    # Slope 1e-6: every difference at small scale is rounding, of either sign.
    def map(x):
        return 7.3 * (np.float32(1) + x.astype(np.float32) * np.float32(1e-6)).astype(float)

    assert monotonicity_violation(on_gaussian(map)).value == 0


def test_resolution_tells_float32_from_float64(on_gaussian):
    double = resolution(on_gaussian(softplus_gradient, d=5))
    single = resolution(on_gaussian(lambda x: softplus_gradient(x.astype(np.float32)).astype(float) + x, d=5))
    # Curvature times the squared step of 1e-5 (a few 1e-10), against a few roundings of 6e-8.
    assert double < 1e-8 < single < 1e-6


@pytest.mark.parametrize("map", [np.ones_like, np.zeros_like, np.sign], ids=["ones", "zeros", "sign"])
def test_constant_pieces(on_gaussian, map):
    e = on_gaussian(map, d=3)
    assert monotonicity_violation(e).value == 0
    assert jacobian_asymmetry(e).value == 0


def test_nearest_neighbour_map(on_gaussian, rng):
    sites = rng.normal(size=(500, 2))
    tree = cKDTree(sites)
    e = on_gaussian(lambda x: sites[tree.query(x)[1]])
    # Monotone across its pieces too: the gradient of max_i <x, s_i> - |s_i|^2 / 2.
    assert monotonicity_violation(e).value == 0
    assert jacobian_asymmetry(e).value == 0


def test_noise_is_no_rounding(on_gaussian):
    e = on_gaussian(lambda x: np.sin(1e12 * x))
    # Independent values: half of all pairs, but for those at scales below the cap of the resolution, a third at most.
    assert 0.3 < monotonicity_violation(e).value < 0.5
    assert not jacobian_asymmetry(e).value < 0.1


def test_share_of_pairs_and_its_error(on_gaussian):
    # diag(1, -1): <v, Tv> = v_1^2 - v_2^2, negative for half of all directions.
    value = monotonicity_violation(on_gaussian(lambda x: x * [1, -1]))
    assert value.standard_error == pytest.approx(np.sqrt(0.25 / 1000), rel=0.01)
    assert value.value == pytest.approx(0.5, abs=3 * value.standard_error)
    assert value.floor == 1 / 1000


def test_one_dimension_is_symmetric_by_definition(on_gaussian):
    value = jacobian_asymmetry(on_gaussian(np.exp, d=1))
    assert (value.value, value.standard_error, value.floor) == (0, 0, 0)


@pytest.mark.parametrize("d", [2, 40])
def test_number_of_evaluations(on_gaussian, d):
    seen = []

    def map(x):
        seen.append(len(x))
        return x

    e = on_gaussian(map, d=d, n=5000)
    seen.clear()
    jacobian_asymmetry(e)
    assert sum(seen) <= monotonicity.EVALUATIONS
    seen.clear()
    monotonicity_violation(e)
    assert sum(seen) <= 5000 // 2 + 2 * monotonicity.PROBES
