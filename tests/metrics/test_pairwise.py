"""Energy distance and MMD: hand values, naive sums, closed forms, and the calibration of errors and floors."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.special import gamma, hyp1f1

from mongebench.metrics import pairwise
from mongebench.metrics.energy_distance import energy_distance, energy_distance_v
from mongebench.metrics.mmd import mmd_squared
from mongebench.metrics.pairwise import kernel_sums

METRICS = [energy_distance, energy_distance_v, mmd_squared]
by_name = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)


def test_hand_values(evaluation):
    # x in {0, 1}, y in {0, 2, 4}: E|X-Y| = (0+2+4+1+1+3)/6, E|X-X'| = 1, E|Y-Y'| = (2+4+2)/3.
    e = evaluation([[0.0], [1.0]], [[0.0], [2.0], [4.0]])
    assert energy_distance(e).value == pytest.approx(2 * 11 / 6 - 1 - 8 / 3)
    assert energy_distance_v(e).value == pytest.approx(2 * 11 / 6 - 1 / 2 - 16 / 9)


def test_hand_values_of_mmd(evaluation):
    # Variance 1/2: k = exp(-|x - y|^2).
    e = evaluation([[0.0], [1.0]], [[0.0], [2.0]], total_variance=0.5)
    k = {gap: np.exp(-(gap**2)) for gap in range(3)}
    assert mmd_squared(e).value == pytest.approx(k[1] + k[2] - 2 * (k[0] + k[2] + k[1] + k[1]) / 4)


def test_v_statistic_is_the_square_of_scipys(evaluation, rng):
    # scipy returns sqrt(2 int (F - G)^2), and 2 int (F - G)^2 is the energy distance in 1-D.
    x, y = rng.normal(size=(30, 1)), rng.exponential(size=(50, 1))
    assert energy_distance_v(evaluation(x, y)).value == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]) ** 2)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 1100), (512, 513), (1030, 515)])
@pytest.mark.parametrize("d", [1, 5])
def test_sums_match_naive_ones_across_tiles(rng, n, m, d):
    x, y = rng.normal(size=(n, d)), 1 + rng.normal(size=(m, d))

    def naive(x, y):
        distances = cdist(x, y)
        return np.stack([-distances, np.exp(-(distances**2) / 6.0)])

    # A distance r from the expanded square has error eps / r; the nearest pairs have r ~ 1e-4 in sums of order 1.
    over_y, over_x = kernel_sums(x, y, 3.0)
    np.testing.assert_allclose(over_y, naive(x, y).sum(axis=2), rtol=1e-10)
    np.testing.assert_allclose(over_x, naive(x, y).sum(axis=1), rtol=1e-10)
    within, same = kernel_sums(x, None, 3.0)
    k = naive(x, x)
    np.testing.assert_allclose(within, k.sum(axis=2) - k[:, 0, :1], rtol=1e-10)  # k(x, x) = 0 and 1
    assert same is within


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_far_from_the_origin(evaluation, rng, offset):
    # Multiples of 2^-20 stay exact under the shift, so that the true value does not change. The bound is on the terms:
    # the distance itself is a hundred times smaller.
    x, y = (np.round(rng.normal(size=(600, 3)) * 2**20) / 2**20 for _ in range(2))
    near, far = evaluation(x, y), evaluation(x + offset, y + offset)
    for metric in METRICS:
        assert metric(far).value == pytest.approx(metric(near).value, abs=1e-12)
        assert metric(far).floor == pytest.approx(metric(near).floor, rel=1e-9)


def test_coinciding_points_have_distance_zero(rng):
    # Left to rounding, |p - p| would come out as 1e-8.
    for _ in range(40):
        pair = 1e3 + rng.normal(size=(2, 7))
        distances = -kernel_sums(pair, pair.copy(), 1.0)[0][0]
        np.testing.assert_allclose(distances, np.linalg.norm(pair[0] - pair[1]), rtol=1e-12)


@by_name
def test_scale(evaluation, rng, metric):
    x, y = rng.normal(size=(50, 2)), 0.3 + rng.normal(size=(60, 2))
    unit = metric(evaluation(x, y))
    for scale in (1e-6, 1e6):
        factor = 1.0 if metric is mmd_squared else scale
        scaled = metric(evaluation(scale * x, scale * y))
        for field in ("value", "standard_error", "floor"):
            assert getattr(scaled, field) == pytest.approx(factor * getattr(unit, field), rel=1e-9)


def test_the_kernel_belongs_to_the_problem(evaluation, rng):
    # Far from everything only k(Y, Y') and k(X, X') are left: a map that contracts to a point gets 1 + E k(Y, Y').
    y = rng.normal(size=(300, 2))
    far = evaluation(y, y, lambda x: np.full_like(x, 1e3))
    k = np.exp(-(cdist(y, y) ** 2) / (2 * y.var(axis=0).sum()))
    assert mmd_squared(far).value == pytest.approx(1 + (k.sum() - 300) / (300 * 299))


def mean_distance(d: int, variance: float, shift: float) -> float:
    """E |Z| for Z ~ N(shift e_1, variance I): mean of a noncentral chi."""
    central = np.sqrt(2 * variance) * gamma((d + 1) / 2) / gamma(d / 2)
    return float(central * hyp1f1(-0.5, d / 2, -(shift**2) / (2 * variance)))


def mean_gaussian(d: int, variance: float, shift: float, width: float) -> float:
    """E exp(-|Z|^2 / (2 width)) for the same Z: a product of Gaussian integrals."""
    return float((width / (width + variance)) ** (d / 2) * np.exp(-(shift**2) / (2 * (width + variance))))


def truth(metric, d: int, shift: float, scale: float) -> float:
    """D(N(shift e_1, scale^2 I), N(0, I)), kernel of variance d."""
    laws = ((1 + scale**2, shift), (2 * scale**2, 0.0), (2.0, 0.0))
    if metric is mmd_squared:
        xy, xx, yy = (mean_gaussian(d, *law, d) for law in laws)
        return xx + yy - 2 * xy
    xy, xx, yy = (mean_distance(d, *law) for law in laws)
    return 2 * xy - xx - yy


def draws(evaluation, metric, d, shift, scale, n, m, repeats):
    move = np.zeros(d)
    move[0] = shift
    for seed in range(repeats):
        rng = np.random.default_rng((seed, d, n))
        x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
        yield metric(evaluation(x, y, lambda x: move + scale * x, total_variance=d))


@pytest.mark.parametrize("metric", [energy_distance, mmd_squared], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(("d", "shift", "scale"), [(1, 1.0, 1.0), (2, 1.0, 0.5), (16, 2.0, 1.5)])
def test_two_gaussians(evaluation, metric, d, shift, scale):
    values = list(draws(evaluation, metric, d, shift, scale, 150, 100, 300))
    value, error = (np.array([getattr(v, name) for v in values]) for name in ("value", "standard_error"))
    exact = truth(metric, d, shift, scale)
    assert value.mean() == pytest.approx(exact, abs=3 * value.std() / np.sqrt(300))  # unbiased
    # The spread over 300 draws has relative error 1/sqrt(600) = 4 %, times three.
    assert np.sqrt((error**2).mean()) == pytest.approx(value.std(), rel=0.13)
    # 95 % nominal, less three binomial standard deviations of 1.3 %, less 2 % as the value is a little skew.
    assert np.mean(np.abs(value - exact) <= 2 * error) > 0.89


@by_name
@pytest.mark.parametrize(("d", "n", "m"), [(1, 60, 60), (3, 40, 120), (32, 60, 60)])
def test_null(evaluation, metric, d, n, m):
    values = list(draws(evaluation, metric, d, 0.0, 1.0, n, m, 400))
    value, error, floor = (
        np.array([getattr(v, name) for v in values]) for name in ("value", "standard_error", "floor")
    )
    # Exceeded by 2.3 % to 5.0 %, give or take three binomial standard deviations of at most 1.1 %.
    assert 0 < np.mean(value > floor) < 0.083
    # Not below the null's standard deviation, and hardly above where many small terms make the error estimate steady.
    spread = value.std()
    assert 0.9 * spread < np.sqrt((error**2).mean()) < (1.5 if d == 1 else 1.4 if d == 3 else 1.2) * spread


def test_pair_variance_is_unbiased(evaluation):
    # Two points of mass 1/2 at distance 1: k is 0 or -1, its means are -1/2, so k~ is +-1/2 everywhere.
    estimates = []
    for seed in range(4000):
        y = np.random.default_rng(seed).integers(2, size=(6, 1))
        estimates.append(pairwise.pair_variances(evaluation(y, y, total_variance=1.0).points)[0])
    assert np.mean(estimates) == pytest.approx(1 / 4, abs=3 * np.std(estimates) / np.sqrt(4000))


def test_too_few_target_points_for_a_null(evaluation):
    value = energy_distance(evaluation([[0.0], [1.0]], [[0.0], [2.0], [4.0]]))
    assert np.isnan(value.standard_error)
    assert np.isnan(value.floor)


def test_pairs_are_visited_once(evaluation, rng, monkeypatch):
    calls = []
    real = pairwise.kernel_sums
    counted = lambda x, y, variance: calls.append(y is None) or real(x, y, variance)  # noqa: E731
    monkeypatch.setattr(pairwise, "kernel_sums", counted)
    e = evaluation(rng.normal(size=(20, 2)), rng.normal(size=(30, 2)))
    for metric in METRICS:
        metric(e)
    assert calls == [True, False, True]
    other = type(e).of(lambda x: 2 * x, e.points)
    energy_distance(other)
    assert calls == [True, False, True, True, False]  # the target's own pairs are known


MEMORY = """
import resource, sys, numpy as np
from mongebench.metrics.pairwise import kernel_sums
n = int(sys.argv[1])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(n, 8)), rng.normal(size=(n, 8))
kernel_sums(x[:600], y[:600], 8.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kernel_sums(x, y, 8.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("n", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_memory(n):
    out = subprocess.run([sys.executable, "-c", MEMORY, str(n)], capture_output=True, text=True, check=True).stdout
    # The matrix of distances would be 0.75 GiB (75 GiB); 1 GiB is allowed at 10^5 points, in proportion below.
    assert int(out) / 2**20 < n / 100_000
