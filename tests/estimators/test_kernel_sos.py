"""Kernel sums of squares against a generic SDP solver, the Monge maps of Gaussians, and the cost of transport."""

from __future__ import annotations

import tracemalloc

import cvxpy
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mongebench.core.errors import InvalidInput, InvalidParameter, NotConverged
from mongebench.core.estimator import ProblemInfo
from mongebench.estimators.discrete import Exact
from mongebench.estimators.entropic import Entropic
from mongebench.estimators.held_out import c_transform
from mongebench.estimators.kernel_sos import (
    DELTA,
    KernelSOS,
    Setting,
    Solver,
    filling_pairs,
    low_rank_factor,
    select,
    solve_dual,
)
from mongebench.estimators.radial import RadialSum, gaussian_kernel

FIXED = {"bandwidth": 2.0, "lambda1": 1e-3, "lambda2": 1e-4}
"""One setting, so that a test takes one solve."""


@pytest.fixture
def pair(gaussian_pair):
    return gaussian_pair(2, shift=0.5)


def test_dual_optimum_is_that_of_a_generic_solver_on_the_primal():
    """(P) over functions of the samples, solved by an interior point method for cones that knows nothing of (D)."""
    rng = np.random.default_rng(0)
    n, s, lambda1, lambda2 = 8, 1.5, 1e-2, 1e-2
    x, y = rng.normal(size=(n, 2)), 0.5 * rng.normal(size=(n, 2))
    i, j = filling_pairs(x, y, 100, rng).T
    gram_x, gram_y = gaussian_kernel(x, x, s), gaussian_kernel(y, y, s)
    cost = cdist(x, y, "sqeuclidean")[i, j] / 2
    gram = gram_x[np.ix_(i, i)] * gram_y[np.ix_(j, j)]
    size = len(i)

    values, axes = np.linalg.eigh(gram)
    feature = (axes * np.sqrt(np.maximum(values, 0))).T  # another square root than the solver's
    alpha, beta, residual = cvxpy.Variable(n), cvxpy.Variable(n), cvxpy.Variable(size)
    squares = cvxpy.Variable((size, size), PSD=True)
    gap = cost - gram_x[i] @ alpha - gram_y[j] @ beta
    norms = cvxpy.quad_form(alpha, cvxpy.psd_wrap(gram_x)) + cvxpy.quad_form(beta, cvxpy.psd_wrap(gram_y))
    objective = cvxpy.sum(gram_x @ alpha + gram_y @ beta) / n - lambda1 * cvxpy.trace(squares)
    primal = cvxpy.Problem(
        cvxpy.Maximize(objective - lambda2 * norms - cvxpy.sum_squares(residual) / (2 * DELTA)),
        [gap[k] == feature[:, k] @ squares @ feature[:, k] + residual[k] for k in range(size)],
    )
    expected = primal.solve(solver="CLARABEL")

    quadratic = (gram_x[np.ix_(i, i)] + gram_y[np.ix_(j, j)]) / (2 * lambda2) + DELTA * np.eye(size)
    linear = (gram_x.mean(axis=1)[i] + gram_y.mean(axis=1)[j]) / (2 * lambda2) - cost
    gamma = solve_dual(low_rank_factor(gram), quadratic, linear, lambda1, 1e-7, 200).gamma
    constant = (gram_x.mean() + gram_y.mean()) / (4 * lambda2)
    # the barrier leaves at most r * 1e-7, the cone solver 1e-8 of numbers of order 1
    assert gamma @ quadratic @ gamma / 2 - linear @ gamma + constant == pytest.approx(expected, abs=1e-5)
    f = gram_x @ (1 / n - np.bincount(i, gamma, n)) / (2 * lambda2)
    # the primal is lambda2-strongly concave in f: values within 1e-5 leave sqrt(1e-5 / lambda2) in norm, at most
    np.testing.assert_allclose(f, gram_x @ alpha.value, atol=np.sqrt(1e-5 / lambda2))


def test_multipliers_minimise_the_dual_among_the_feasible():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 3))
    pairs = filling_pairs(x, y, 100, rng)
    i, j = pairs.T
    gram = gaussian_kernel(x, x, 3.0)[np.ix_(i, i)] * gaussian_kernel(y, y, 3.0)[np.ix_(j, j)]
    factor, quadratic, linear = low_rank_factor(gram), gram / 2e-3 + DELTA * np.eye(len(i)), rng.normal(size=len(i))
    gamma = solve_dual(factor, quadratic, linear, 1e-3, 1e-6, 200).gamma

    def value(point):
        return point @ quadratic @ point / 2 - linear @ point

    def smallest(point):
        return np.linalg.eigvalsh((factor * point) @ factor.T)[0] + 1e-3

    assert smallest(gamma) > 0
    others = gamma + 1e-2 * rng.normal(size=(200, len(i))) * rng.random((200, 1)) ** 8
    feasible = [point for point in others if smallest(point) >= 0]
    assert len(feasible) > 20
    assert min(map(value, feasible)) >= value(gamma) - len(i) * 1e-6


def test_constraints_hold_at_the_pairs_and_between_all_samples(pair):
    fitted = KernelSOS(**FIXED).fit(*pair.samples(100))
    assert 0 <= fitted.kkt_residual_ <= 1e-5  # a tenth of the tolerance; Newton's method may stop at rounding
    x, y = fitted.source_pairs_, fitted.target_pairs_
    gap = ((x - y) ** 2).sum(axis=1) / 2 - fitted.source_potential(x) - fitted.target_potential(y)
    # A is psd, hence what lies below 0 is the residual e_j = delta gamma_j and that of Newton's method
    allowed = DELTA * np.abs(fitted.multipliers_) + fitted.kkt_residual_
    assert (gap >= -(fitted.scale_**2) * allowed - 1e-10).all()
    x, y = pair.samples(100)
    over_all = fitted.source_potential(x)[:, None] + fitted.target_potential(y) - cdist(x, y, "sqeuclidean") / 2
    assert fitted.violation_ == pytest.approx(over_all.max(), abs=1e-9)


def test_violated_pairs_are_added_and_mend_the_violation(gaussian_pair):
    x, y = gaussian_pair(4).samples(100)
    rounds = [KernelSOS(1.0, 1e-3, 1e-4, rounds=count).fit(x, y) for count in (0, 2)]
    assert rounds[0].violation_ > 0.1
    assert rounds[1].violation_ < rounds[0].violation_ / 5
    assert rounds[1].n_pairs_ > rounds[0].n_pairs_


def test_trace_sees_every_round_and_ends_the_fit(gaussian_pair):
    x, y = gaussian_pair(4).samples(100)
    seen = []

    def trace(map, *, flow_time=None, **diagnostics):
        seen.append((map(x), diagnostics))
        return len(seen) < 2

    fitted = KernelSOS(1.0, 1e-3, 1e-4, rounds=5).fit(x, y, trace=trace)
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[-1][0], fitted.transform(x))
    assert all(set(diagnostics) == {"kkt_residual", "violation"} for _, diagnostics in seen)


@pytest.mark.slow  # the named checks have wider bounds
def test_potential_has_the_map_as_gradient_and_the_map_goes_back(pair):
    x, y = pair.samples(60)
    fitted = KernelSOS(**FIXED).fit(x + 3, y)
    h = 1e-4
    slopes = [(fitted.potential(x + 3 + h * e) - fitted.potential(x + 3 - h * e)) / (2 * h) for e in np.eye(2)]
    # h^2 / 6 times the third derivative; rounding of phi, of order 10, over h
    np.testing.assert_allclose(np.transpose(slopes), fitted.transform(x + 3), atol=1e-6)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(x + 3)), x + 3, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(pair, scale):
    x, y = pair.samples(60)
    expected = KernelSOS(**FIXED).fit(x, y).transform(x)
    # rounding of the units, amplified by the condition of the Newton system
    np.testing.assert_allclose(
        KernelSOS(**FIXED).fit(scale * x, scale * y).transform(scale * x) / scale, expected, atol=1e-5
    )


def test_order_of_the_samples_and_a_shift_of_both_do_not_matter(pair):
    x, y = pair.samples(60, 45)
    rng = np.random.default_rng(0)
    shift = np.array([3.0, -7.0])
    expected = KernelSOS(**FIXED).fit(x, y).transform(x)
    permuted = KernelSOS(**FIXED).fit(rng.permutation(x), rng.permutation(y)).transform(x)
    moved = KernelSOS(**FIXED).fit(x + shift, y + shift).transform(x + shift) - shift
    np.testing.assert_allclose(permuted, expected, atol=1e-6)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_equal_seeds_give_equal_maps_and_others_nearly_the_same(gaussian_pair):
    x, y = gaussian_pair(4).samples(80)
    maps = [KernelSOS(**FIXED).fit(x, y, seed=seed).transform(x) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.abs(maps[0] - maps[2]).max() > 0


def test_in_one_dimension_the_map_is_the_increasing_one():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(200, 1))
    y = np.sinh(1.5 * rng.uniform(-1, 1, size=(200, 1)))
    grid = np.linspace(-0.95, 0.95, 50)[:, None]
    image = KernelSOS().fit(x, y).transform(grid)
    assert (np.diff(image[:, 0]) > 0).all()
    # the quantiles of 200 draws are within 1.36 sqrt(2 / 200) of each other (Kolmogorov and Smirnov, 95 %), times the
    # slope of the map, 1.5 cosh 1.5 = 3.5 at most; the smooth map is a third of that away in the mean
    assert np.abs(image - np.sinh(1.5 * grid)).mean() < 0.15


def test_a_rank_that_is_not_needed_changes_nothing_and_a_small_one_little(pair):
    x, y = pair.samples(80)
    full = KernelSOS(**FIXED).fit(x, y)
    assert np.array_equal(KernelSOS(**FIXED, rank=10_000).fit(x, y).transform(x), full.transform(x))
    # exact up to the rank that 1e-10 of the kernel needs: fewer rows cost what the pivoted Cholesky leaves out
    errors = [
        np.sqrt(((KernelSOS(**FIXED, rank=rank).fit(x, y).transform(x) - full.transform(x)) ** 2).sum(axis=1).mean())
        for rank in (20, 60)
    ]
    assert errors[1] < 0.02
    assert errors[1] < errors[0]


def test_low_rank_factor_is_a_square_root_of_the_gram_matrix():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(80, 2))
    gram = gaussian_kernel(points, points, 3.0)
    factor = low_rank_factor(gram)
    assert len(factor) < 80  # a wide kernel has numerical rank far below its size
    np.testing.assert_allclose(factor.T @ factor, gram, atol=80 * 1e-10)
    np.testing.assert_allclose(low_rank_factor(gram, 10), factor[:10])


def test_c_transform_finds_the_minimum_that_a_grid_finds():
    rng = np.random.default_rng(0)
    starts, y = rng.uniform(-1, 1, size=(200, 2)), rng.uniform(-1, 1, size=(15, 2))
    bumps = RadialSum(rng.uniform(-1, 1, size=(5, 2)), rng.normal(size=5), 0.5)
    axes = [np.linspace(low, high, 300) for low, high in zip(starts.min(axis=0), starts.max(axis=0), strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    expected = (cdist(y, grid, "sqeuclidean") / 2 - bumps.value(grid)).min(axis=1)
    # the spacing of the grid is 0.007, second derivatives are at most about 10
    np.testing.assert_allclose(c_transform(bumps, y, starts), expected, atol=10 * 0.007**2)


def test_selection_is_not_fooled_by_a_setting_that_breaks_the_constraint():
    """With next to no penalty f + g overshoots the cost between the pairs, and the map is worse than a constant.

    The value of the dual on fresh points, mean f + mean g, then even exceeds the cost of transport; that of the
    semi-dual, with the c-transform of f in the place of g, cannot.
    """
    rng = np.random.default_rng(0)
    x, y, x_out, y_out = (
        scale * rng.uniform(-1, 1, size=(n, 4)) for n, scale in ((80, 1), (80, 0.5), (2000, 1), (2000, 0.5))
    )
    good, bad = Setting(4.0, 1e-3, 1e-5), Setting(2.0, 1e-3, 1e-7)
    solver = Solver(max_pairs=200, rounds=0, rank=None, tolerance=1e-4, max_steps=200)
    dual, semidual, error = {}, {}, {}
    for setting in (good, bad):
        *_, solution = solver.rounds_of(x, y, filling_pairs(x, y, 200, np.random.default_rng(0)), setting)
        f, g = solution.f, solution.g
        dual[setting] = f.value(x_out).mean() + g.value(y_out).mean()
        semidual[setting] = f.value(x_out).mean() + c_transform(f, y_out, x).mean()
        error[setting] = ((x_out / 2 - f.gradient(x_out)) ** 2).sum(axis=1).mean()  # T* = x / 2
    cost, variance = 4 * (1 / 3) / 8, 4 / 12  # E |x - x/2|^2 / 2, and of the target
    assert error[good] < 0.1 * variance
    assert error[bad] > variance
    assert dual[bad] > 1.2 * cost > dual[good]
    # |x|^2/8 has standard deviation 0.04: the mean over 2000 points is within 0.002
    assert semidual[bad] < semidual[good] <= cost + 0.004
    assert select(x, y, [bad, good], solver, 4, np.random.default_rng(1)) == good


def test_selection_takes_what_is_given_and_chooses_the_rest(pair):
    fitted = KernelSOS(bandwidth=1.5, lambda2=1e-3).fit(*pair.samples(40))
    assert fitted.setting_.bandwidth == pytest.approx(1.5 * np.sqrt(2 * 2))
    assert fitted.setting_.lambda2 == 1e-3
    assert KernelSOS(**FIXED).fit(*pair.samples(3)).n_pairs_ >= 3


@pytest.mark.parametrize(
    "parameters",
    [
        {"bandwidth": 0.0},
        {"bandwidth": "wide"},
        {"lambda1": float("nan")},
        {"lambda2": -1.0},
        {"max_pairs": 1},
        {"rounds": -1},
        {"rank": 0},
        {"folds": 1},
        {"tolerance": 0.0},
        {"max_steps": 0},
    ],
)
def test_parameters_out_of_range_are_named(parameters):
    with pytest.raises(InvalidParameter, match=next(iter(parameters))):
        KernelSOS(**parameters).fit(np.eye(2), np.eye(2))


def test_not_converging_is_an_error_that_says_what_to_do(pair):
    with pytest.raises(NotConverged, match=r"after 5 steps.*raise lambda1"):
        KernelSOS(**FIXED, max_steps=5).fit(*pair.samples(30))


def test_more_samples_than_were_measured_are_refused():
    info = ProblemInfo(dim=2, n_source=100_000, n_target=100, offers=frozenset(), strong_convexity=None)
    support = KernelSOS().supports(info)
    assert not support.ok
    assert "100000 x 100" in support.reason
    with pytest.raises(InvalidInput, match="Take fewer samples"):
        KernelSOS().fit(np.zeros((100_000, 1)), np.zeros((10, 1)))


def test_transform_needs_blocks_not_the_whole_matrix():
    rng = np.random.default_rng(0)
    potential = RadialSum(rng.normal(size=(4000, 4)), rng.normal(size=4000), 1.0)
    query = rng.normal(size=(5000, 4))
    tracemalloc.start()
    potential.gradient(query)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # the 5000 x 4000 matrix has 160 MB


@pytest.mark.long
@pytest.mark.parametrize("dim", [2, 4])
def test_beats_the_coupling_and_the_entropic_map_on_gaussians(gaussian_pair, dim):
    """n = 200, the mean over five pairs; kernel sums of squares choose their setting themselves."""
    means = []
    for estimator in (KernelSOS(), Entropic(), Exact()):
        pairs = [gaussian_pair(dim, seed) for seed in range(5)]
        means.append(np.mean([pair.uvp(estimator.fit(*pair.samples(200)).transform) for pair in pairs]))
    assert means[0] < means[1] / 1.5
    assert means[1] < means[2]


@pytest.mark.long
def test_five_thousand_samples_fit_into_memory(gaussian_pair):
    pair = gaussian_pair(4)
    x, y = pair.samples(5000)
    tracemalloc.start()
    fitted = KernelSOS(**FIXED).fit(x, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a handful of 5000 x 5000 arrays of 0.2 GB
    assert peak < 2e9
    assert fitted.kkt_residual_ <= 1e-4
    assert pair.uvp(fitted.transform) < 1


@pytest.mark.long
def test_a_low_rank_serves_as_many_pairs_as_two_thousand_samples_fill(gaussian_pair):
    pair = gaussian_pair(4)
    fitted = KernelSOS(**FIXED, max_pairs=4000, rank=400).fit(*pair.samples(2000))
    assert fitted.n_pairs_ >= 2500
    assert fitted.kkt_residual_ <= 1e-4
    assert pair.uvp(fitted.transform) < 1
