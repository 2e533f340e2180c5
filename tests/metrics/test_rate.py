"""The rate verdict on curves of known rate: by construction, by Euler schemes, by the Gaussian matrix flow."""

from collections import Counter

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_sylvester, sqrtm
from scipy.stats import linregress, t

from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.metrics.rate import RESOLUTION, Verdict, rate_verdict, step_bounds
from mongebench.run.record import TracePoint

CONSISTENT, FASTER, SLOWER, INCONCLUSIVE = Verdict
TIMES = 0.2 * np.arange(16)
LAMBDA = 0.8


def trace(times, errors, **diagnostics):
    """A trace; each diagnostic is one number for all points or one a point."""
    columns = {name: np.broadcast_to(values, len(times)) for name, values in diagnostics.items()}
    return [
        TracePoint(
            iteration=k,
            flow_time=time,
            oracle_calls=0,
            fit_seconds=0.0,
            l2_error=error,
            diagnostics={name: float(column[k]) for name, column in columns.items()},
        )
        for k, (time, error) in enumerate(zip(times, errors, strict=True))
    ]


def exponential(rate, times=TIMES, start=7.0):
    return start * np.exp(-rate * times)


def ar1(rng, n, correlation):
    """(n,) of variance 1."""
    noise = rng.normal(size=n)
    for k in range(1, n):
        noise[k] = correlation * noise[k - 1] + np.sqrt(1 - correlation**2) * noise[k]
    return noise


# Curves without noise


@pytest.mark.parametrize(("share", "verdict"), [(1.0, CONSISTENT), (1.3, FASTER), (0.8, SLOWER)])
@pytest.mark.parametrize("start", [1e-8, 1e8])
def test_exponential(share, verdict, start):
    result = rate_verdict(trace(TIMES, exponential(share * 2 * LAMBDA, start=start)), LAMBDA)
    assert result.verdict == verdict
    assert result.rate == pytest.approx(share * 2 * LAMBDA)
    assert result.points == len(TIMES)
    assert result.floor == 0
    # C is reached at the end by a slow curve, at the first step by a fast one.
    at = TIMES[-1] if share < 1 else TIMES[1]
    assert result.constant == pytest.approx(np.exp((1 - share) * 2 * LAMBDA * at))
    # Without noise, the interval is what the resolution leaves.
    assert np.diff(result.interval) == pytest.approx(2 * RESOLUTION / (TIMES[-1] - TIMES[1]), rel=1e-6)
    assert result.bound == pytest.approx(2 * LAMBDA)
    assert str(result).startswith(f"{verdict}: {result.reason}; rate {result.rate:.3g} in [")


def test_every_verdict_has_its_own_sentence():
    assert len({verdict.meaning for verdict in Verdict}) == len(Verdict) == 4


def test_steps_need_not_be_equal():
    times = np.cumsum(np.random.default_rng(0).uniform(0.05, 0.4, size=12))
    result = rate_verdict(trace(times, exponential(2 * LAMBDA, times)), LAMBDA)
    assert result.verdict == CONSISTENT
    assert result.rate == pytest.approx(2 * LAMBDA)


def test_a_fast_start_pays_for_a_slow_end():
    """The bound is on the curve: at a slope of 1.2 of 1.6 at the end, e^{-2} of the start's is enough until t = 5."""
    errors = np.append(7.0, 7.0 * np.exp(-2.0 - 1.2 * TIMES[1:]))
    result = rate_verdict(trace(TIMES, errors), LAMBDA)
    assert result.interval[0] < 2 * LAMBDA
    assert result.verdict == CONSISTENT
    # The same slope without that start breaks it.
    assert rate_verdict(trace(TIMES[1:], errors[1:]), LAMBDA).verdict == SLOWER


def test_a_jump_above_the_bound_is_slower_whatever_the_slope():
    errors = exponential(2 * LAMBDA)
    errors[1:] *= 1.5
    result = rate_verdict(trace(TIMES, errors), LAMBDA)
    assert result.verdict == SLOWER
    assert result.constant == pytest.approx(1.5)
    assert result.rate == pytest.approx(2 * LAMBDA)


def test_a_bound_that_underflows_is_broken_infinitely():
    times = 100.0 * np.arange(16)
    result = rate_verdict(trace(times, exponential(1e-3, times)), LAMBDA)
    assert result.verdict == SLOWER
    assert result.constant == np.inf


# Floor


def test_a_given_floor_is_cut_and_taken_off():
    floor = 0.1
    result = rate_verdict(trace(TIMES, exponential(2 * LAMBDA) + floor), LAMBDA, floor=floor)
    assert result.verdict == CONSISTENT
    assert result.rate == pytest.approx(2 * LAMBDA)  # of log(error - floor): left in, it would be 6 % lower
    assert result.points == (exponential(2 * LAMBDA) > 3 * floor).sum() < len(TIMES)
    assert result.floor == floor


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_the_plateau_is_found(share):
    times = 0.4 * np.arange(40)
    rng = np.random.default_rng(1)
    errors = (exponential(share * 2 * LAMBDA, times) + 0.01) * np.exp(0.02 * rng.normal(size=40))
    result = rate_verdict(trace(times, errors), LAMBDA)
    assert result.floor == pytest.approx(0.01, rel=0.05)
    assert result.rate == pytest.approx(share * 2 * LAMBDA, rel=0.05)
    assert result.verdict == {0.5: SLOWER, 1.0: CONSISTENT, 2.0: FASTER}[share]
    assert rate_verdict(trace(times, errors), LAMBDA, floor=0.1).floor == 0.1  # the higher of the two


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_slow_decay_is_no_plateau(share):
    times = 0.2 * np.arange(60)
    errors = exponential(share * 2 * LAMBDA, times)
    assert rate_verdict(trace(times, errors), LAMBDA).floor == 0
    # Nor is decay at the bound's own rate, after a start a hundred times as fast.
    errors = np.append(7e9, errors)
    assert rate_verdict(trace(np.append(-0.2, times), errors), share * LAMBDA).floor == 0


def test_the_bound_is_broken_only_by_what_the_floor_cannot_explain():
    """An exact flow towards a map at distance sqrt f from T*, which lies in whatever direction from there."""
    floor = 0.05
    flow = np.sqrt(exponential(2 * LAMBDA))
    for cosine in (-1.0, -0.5, 0.0, 0.5, 1.0):
        errors = flow**2 + 2 * cosine * flow * np.sqrt(floor) + floor
        assert rate_verdict(trace(TIMES, errors), LAMBDA, floor=floor).verdict != SLOWER
    # The start counts too: a flow that begins towards T* and goes on away from it, by little.
    floor = 0.1
    turned = flow[:5] ** 2 + 2 * np.sign(TIMES[:5] - 0.1) * flow[:5] * np.sqrt(floor) + floor
    assert rate_verdict(trace(TIMES[:5], turned), LAMBDA, floor=floor).verdict != SLOWER
    # Without a floor, such errors are called slow.
    assert rate_verdict(trace(TIMES[:8], errors[:8]), LAMBDA).verdict == SLOWER


# Noise


def noisy(seed, n, correlation, share=1.0):
    """A trace of n points in a flow time of 3, with relative noise of 0.1."""
    rng = np.random.default_rng(seed)
    times = 3 * np.arange(n) / (n - 1)
    return times, exponential(share * 2 * LAMBDA, times) * np.exp(0.1 * ar1(rng, n, correlation))


@pytest.mark.parametrize("n", [6, 12, 30])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_coverage_and_verdicts_under_serially_dependent_noise(n, correlation):
    seeds = 300
    results = [rate_verdict(trace(*noisy(seed, n, correlation)), LAMBDA, seed=seed) for seed in range(seeds)]
    # 95 % less three standard deviations of a count of 300 (1.3 % each).
    assert np.mean([low <= 2 * LAMBDA <= high for low, high in (result.interval for result in results)]) > 0.91
    counts = Counter(result.verdict for result in results)
    for wrong in (FASTER, SLOWER):
        assert counts[wrong] / seeds < 0.025 + 3 * np.sqrt(0.025 * 0.975 / seeds)
    assert counts[CONSISTENT] / seeds > 0.9


def test_intervals_of_independent_errors_are_not_shorter_than_students():
    """Least squares under correlated noise has a Student-t interval that misses the rate half of the time."""
    widths, ours, students = [], 0, 0
    for seed in range(100):
        times, errors = noisy(seed, 30, 0.9)
        line = linregress(times[1:], np.log(errors[1:]))
        margin = t.ppf(0.975, 27) * line.stderr
        result = rate_verdict(trace(times, errors), LAMBDA, seed=seed)
        assert result.rate == pytest.approx(-line.slope)
        ours += result.interval[0] <= 2 * LAMBDA <= result.interval[1]
        students += abs(line.slope + 2 * LAMBDA) <= margin
        times, errors = noisy(seed, 30, 0.0)
        independent = rate_verdict(trace(times, errors), LAMBDA, seed=seed)
        line = linregress(times[1:], np.log(errors[1:]))
        resolution = RESOLUTION / np.ptp(times[1:])
        widths.append((np.ptp(independent.interval) / 2 - resolution) / (t.ppf(0.975, 27) * line.stderr))
    assert students < 70 < 90 <= ours
    # The price of not knowing the correlation, where there is none.
    assert 1.0 < np.median(widths) < 2.5


def test_noise_is_no_plateau():
    """Of 200 steps, many short tails rise by chance."""
    assert all(rate_verdict(trace(*noisy(seed, 200, 0.5)), LAMBDA).floor == 0 for seed in range(10))


@pytest.mark.parametrize(("share", "verdict"), [(0.6, SLOWER), (1.5, FASTER)])
def test_other_rates_are_told_from_the_bound(share, verdict):
    results = [rate_verdict(trace(*noisy(seed, 12, 0.6, share)), LAMBDA).verdict for seed in range(100)]
    opposite = FASTER if verdict == SLOWER else SLOWER
    assert results.count(verdict) >= 95
    assert opposite not in results


def test_noise_that_hides_the_rate_is_inconclusive():
    rng = np.random.default_rng(4)
    times = TIMES[:8]
    errors = exponential(2 * LAMBDA, times) * np.exp(rng.normal(size=8) * (times > 0))
    result = rate_verdict(trace(times, errors), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert "noise" in result.reason


def test_the_seed_decides():
    points = trace(*noisy(0, 12, 0.5))
    assert rate_verdict(points, LAMBDA, seed=1) == rate_verdict(points, LAMBDA, seed=1)
    assert rate_verdict(points, LAMBDA, seed=1).interval != rate_verdict(points, LAMBDA, seed=2).interval


# Step size


def euler(tau, implicit, final_time=4.0):
    """Euler steps for F(T) = lambda |T - T*|^2 / 2, by their own recursion."""
    times = tau * np.arange(round(final_time / tau) + 1)
    distance = np.empty(len(times))
    distance[0] = 2.0
    for k in range(1, len(times)):
        distance[k] = (
            distance[k - 1] / (1 + tau * LAMBDA) if implicit else distance[k - 1] - tau * LAMBDA * distance[k - 1]
        )
    return trace(times, distance**2)


@pytest.mark.parametrize("implicit", [False, True])
def test_discretisation_is_recognised_and_extrapolated(implicit):
    coarse, fine = euler(0.4, implicit), euler(0.2, implicit)
    assert rate_verdict(coarse, LAMBDA).verdict == (SLOWER if implicit else FASTER)
    result = rate_verdict(coarse, LAMBDA, refined=fine)
    assert result.extrapolated
    assert result.verdict == CONSISTENT
    assert "extrapolated to tau -> 0" in result.reason
    # 2 r(tau/2) - r(tau) = 2 lambda - lambda^3 tau^2 / 3 + O(tau^3), for both schemes.
    gaps = [
        2 * LAMBDA - rate_verdict(euler(tau, implicit), LAMBDA, refined=euler(tau / 2, implicit)).rate
        for tau in (0.1, 0.05)
    ]
    assert gaps[1] == pytest.approx(LAMBDA**3 * 0.05**2 / 3, rel=0.1)
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)


def test_a_slow_flow_stays_slow_at_half_the_step():
    slow = trace(TIMES, exponential(LAMBDA))
    result = rate_verdict(slow, LAMBDA, refined=trace(TIMES / 2, exponential(LAMBDA, TIMES / 2)))
    assert result.verdict == SLOWER
    assert not result.extrapolated
    assert "halving tau does not move the rate" in result.reason
    # Discretised, but slow in the limit as well: the scheme follows a flow of half the convexity.
    result = rate_verdict(euler(0.4, True), 2 * LAMBDA, refined=euler(0.2, True))
    assert result.extrapolated
    assert result.verdict == SLOWER


def test_noise_is_not_taken_for_discretisation():
    extrapolated = 0
    for seed in range(100):
        coarse, fine = trace(*noisy(seed, 10, 0.5)), trace(*noisy(1000 + seed, 19, 0.5))
        extrapolated += rate_verdict(coarse, LAMBDA, refined=fine).extrapolated
    assert extrapolated <= 11  # 5 % and three standard deviations of a count of 100


@pytest.mark.parametrize("implicit", [False, True])
def test_discretisation_that_noise_hides_is_not_taken_for_the_flow(implicit):
    """At the bound, with steps whose own error is about as large as the noise of the comparison with half the step."""
    tau, seeds, wrong, found = 0.15, 200, Counter(), 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        traces = []
        for step in (tau, tau / 2):
            times = step * np.arange(round(2.4 / step) + 1)
            factor = getattr(step_bounds(step, LAMBDA), "implicit" if implicit else "explicit")
            noise = np.append(0.0, 0.03 * ar1(rng, len(times) - 1, 0.7))
            traces.append(trace(times, 7.0 * factor ** np.arange(len(times)) * np.exp(noise)))
        result = rate_verdict(traces[0], LAMBDA, refined=traces[1], seed=seed)
        wrong[result.verdict] += 1
        found += result.interval[0] <= 2 * LAMBDA <= result.interval[1]
    for verdict in (FASTER, SLOWER):
        assert wrong[verdict] / seeds < 0.025 + 3 * np.sqrt(0.025 * 0.975 / seeds), wrong
    assert found / seeds > 0.9


@pytest.mark.parametrize(("share", "verdict"), [(0.6, SLOWER), (1.6, FASTER)])
def test_other_rates_are_told_from_the_bound_although_noise_hides_the_discretisation(share, verdict):
    results = [
        rate_verdict(
            trace(*noisy(seed, 12, 0.6, share)), LAMBDA, refined=trace(*noisy(1000 + seed, 23, 0.6, share))
        ).verdict
        for seed in range(100)
    ]
    opposite = FASTER if verdict == SLOWER else SLOWER
    assert results.count(verdict) >= 90
    assert opposite not in results


def test_refined_must_be_refined():
    with pytest.raises(InvalidInput, match=r"steps of 0\.4"):
        rate_verdict(euler(0.2, True), LAMBDA, refined=euler(0.4, True))
    short = euler(0.2, True)[:3]
    result = rate_verdict(euler(0.4, True), LAMBDA, refined=short)
    assert not result.extrapolated
    assert "too short" in result.reason


def test_step_bounds():
    assert step_bounds(0.5, 1.0) == (0.25, pytest.approx(4 / 9))
    tau = np.array([1e-3, 1e-2])
    for bound in step_bounds(tau, LAMBDA):
        # Both agree with the flow to first order: exp(-2 z) (1 -+ z^2 + ...).
        assert np.abs(bound / np.exp(-2 * LAMBDA * tau) - 1) == pytest.approx((LAMBDA * tau) ** 2, rel=0.03)
    implicit = euler(0.3, True)
    assert implicit[1].l2_error / implicit[0].l2_error == pytest.approx(step_bounds(0.3, LAMBDA).implicit)


# Inner solves


def test_an_unsolved_subproblem_is_not_called_slow_flow():
    errors = exponential(LAMBDA)
    first_step = np.where(np.arange(len(TIMES)) == 1, 0.3, 1e-4)
    result = rate_verdict(trace(TIMES, errors, decrement=first_step), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert result.reason.startswith("inner solve: ")
    assert result.rate == pytest.approx(LAMBDA)
    assert rate_verdict(trace(TIMES, errors, decrement=1e-4), LAMBDA).verdict == SLOWER
    assert rate_verdict(trace(TIMES, errors, decrement=1e-4), LAMBDA, inner_tolerance=1e-5).verdict == INCONCLUSIVE
    assert rate_verdict(trace(TIMES, errors, decrement=float("nan")), LAMBDA).verdict == INCONCLUSIVE
    # What happens after the bound is broken excuses nothing.
    last_step = np.where(np.arange(len(TIMES)) == len(TIMES) - 1, 0.3, 1e-4)
    assert rate_verdict(trace(TIMES, errors, decrement=last_step), LAMBDA).verdict == SLOWER
    # Nor does it cost a flow that keeps the bound its verdict.
    assert rate_verdict(trace(TIMES, exponential(2 * LAMBDA), decrement=0.3), LAMBDA).verdict == CONSISTENT


# What has no verdict


@pytest.mark.parametrize("lam", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_without_strong_convexity_the_theorem_does_not_apply(lam):
    result = rate_verdict(trace(TIMES, exponential(1.0)), lam)
    assert result.verdict == INCONCLUSIVE
    assert "the theorem does not apply" in result.reason
    assert result.rate == pytest.approx(1.0)
    assert np.isnan(result.constant)
    with_plateau = rate_verdict(trace(4 * TIMES, exponential(1.0, 4 * TIMES) + 0.01), lam)
    assert with_plateau.rate == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_points(count):
    result = rate_verdict(trace(TIMES[:count], exponential(2 * LAMBDA)[:count]), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert f"{count} of {count} points" in result.reason
    assert result.points == count
    assert np.isnan([result.rate, *result.interval, result.constant]).all()


def test_four_points_are_enough_where_there_is_no_noise():
    assert rate_verdict(trace(TIMES[:4], exponential(2 * LAMBDA)[:4]), LAMBDA).verdict == CONSISTENT
    assert rate_verdict(trace(TIMES[:4], exponential(LAMBDA)[:4]), LAMBDA).verdict == SLOWER


def test_an_exact_map_ends_the_trace():
    result = rate_verdict(trace(TIMES, np.where(TIMES < 1.1, exponential(2 * LAMBDA), 0.0)), LAMBDA)
    assert result.points == 6
    assert result.verdict == CONSISTENT


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("refine", [False, True])
def test_errors_that_are_not_finite(bad, refine):
    points = trace(TIMES, np.where(np.arange(len(TIMES)) == 8, bad, exponential(2 * LAMBDA)))
    if refine:
        result = rate_verdict(trace(2 * TIMES, exponential(2 * LAMBDA, 2 * TIMES)), LAMBDA, refined=points)
    else:
        result = rate_verdict(points, LAMBDA)
        assert result.points == 8
    assert result.verdict == INCONCLUSIVE
    assert str(bad) in result.reason
    assert result.rate == pytest.approx(2 * LAMBDA)


def test_no_flow_time_and_no_error():
    errors = exponential(2 * LAMBDA)
    result = rate_verdict(trace([None] * len(TIMES), errors), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert "no flow time" in result.reason
    result = rate_verdict(trace(TIMES, [None] * len(TIMES)), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert "exact map" in result.reason


def test_invalid_input():
    with pytest.raises(InvalidInput, match="increase"):
        rate_verdict(trace(TIMES[::-1], exponential(1.0)), LAMBDA)
    for floor in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidParameter, match="floor"):
            rate_verdict(trace(TIMES, exponential(1.0)), LAMBDA, floor=floor)


# The Gaussian matrix flow


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("commuting", [True, False])
def test_gaussian_flow_keeps_the_bound(condition, commuting):
    """N(m0, S0) -> N(m, S): T_t(x) = A (x - m0) + b; the solver's relative error 1e-9 is far below the resolution."""
    rng = np.random.default_rng([int(condition), commuting])
    dim = 3
    turns = [np.linalg.qr(rng.normal(size=(dim, dim)))[0] for _ in range(2)]
    S0 = (turns[0] * [0.5, 1.0, 1.5]) @ turns[0].T
    axes = turns[0] if commuting else turns[1]
    S = (axes * condition ** np.linspace(-0.5, 0.5, dim)) @ axes.T
    root = np.real(sqrtm(S0))
    exact = np.linalg.solve(root, np.linalg.solve(root, np.real(sqrtm(root @ S @ root))).T)
    assert exact @ S0 @ exact == pytest.approx(S)
    precision, inverse = np.linalg.inv(S), np.linalg.inv(S0)
    shift = rng.normal(size=dim)  # m - m0, and m0 = 0

    def velocity(_, state):
        A, b = state[:-dim].reshape(dim, dim), state[-dim:]
        C = -precision @ A + np.linalg.inv(A) @ inverse
        return np.append(solve_sylvester(S0, S0, C @ S0 + S0 @ C.T), -precision @ (b - shift))

    lam = 1 / np.linalg.eigvalsh(S).max()
    times = np.linspace(0, 5 / lam, 25)
    start = np.append(np.eye(dim), np.zeros(dim))
    states = solve_ivp(velocity, times[[0, -1]], start, "LSODA", t_eval=times, rtol=1e-9, atol=1e-12).y.T
    A, b = states[:, :-dim].reshape(-1, dim, dim), states[:, -dim:]
    errors = (((A - exact) @ root) ** 2).sum(axis=(1, 2)) + ((b - shift) ** 2).sum(axis=1)
    result = rate_verdict(trace(times, errors), lam)
    assert result.verdict in (CONSISTENT, FASTER), str(result)
    assert result.constant <= 1
    # The bound can fail: no flow is as fast as twice its rate for ever.
    assert rate_verdict(trace(times, errors), 2 * lam).verdict == SLOWER
