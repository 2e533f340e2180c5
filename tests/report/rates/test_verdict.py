"""The rate verdict on curves of known answer: by construction, by Euler schemes, by the Gaussian matrix flow."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_sylvester, sqrtm

from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.report.rates.inequalities import step_bounds
from mongebench.report.rates.verdict import RESOLUTION, Scheme, Verdict, rate_verdict
from mongebench.run.record import TracePoint

from ..conftest import simulated

HOLDS, PLATEAU, BROKEN, INCONCLUSIVE, NOT_APPLICABLE = Verdict
TIMES = 0.2 * np.arange(16)
LAMBDA = 0.8


def trace(times, errors, **columns):
    """A trace; `l2_error_se` and `l2_ratio_se` are fields, other columns diagnostics: one number, or one per point."""
    columns = {name: np.broadcast_to(values, len(times)) for name, values in columns.items()}
    return [
        TracePoint(
            iteration=k,
            flow_time=time,
            oracle_calls=0,
            fit_seconds=0.0,
            l2_error=error,
            **{name: float(column[k]) for name, column in columns.items() if name.startswith("l2")},
            diagnostics={name: float(column[k]) for name, column in columns.items() if not name.startswith("l2")},
        )
        for k, (time, error) in enumerate(zip(times, errors, strict=True))
    ]


def exponential(rate, times=TIMES, start=7.0):
    return start * np.exp(-rate * times)


# Curves without noise


@pytest.mark.parametrize(("share", "verdict"), [(1.0, HOLDS), (1.3, HOLDS), (0.8, BROKEN)])
@pytest.mark.parametrize("start", [1e-8, 1e8])
def test_exponential(share, verdict, start):
    result = rate_verdict(trace(TIMES, exponential(share * 2 * LAMBDA, start=start)), LAMBDA)
    assert result.verdict == verdict
    assert result.rate == pytest.approx(share * 2 * LAMBDA)
    assert result.points == len(TIMES)
    assert result.floor == 0
    # C is reached at the end by a slow curve, at the first step by a fast one; without noise, its band has no width.
    at = TIMES[-1] if share < 1 else TIMES[1]
    assert (result.constant, *result.constant_interval) == pytest.approx((np.exp((1 - share) * 2 * LAMBDA * at),) * 3)
    assert result.interval == pytest.approx((result.rate, result.rate))
    assert result.bound == pytest.approx(2 * LAMBDA)
    assert str(result) == result.reason
    assert result.line == "e^{-2 lambda t}"


def test_every_verdict_has_its_own_sentence_and_word():
    assert len({verdict.meaning for verdict in Verdict}) == len(Verdict) == 5
    assert [str(verdict) for verdict in Verdict] == ["holds", "plateau", "broken", "inconclusive", "not applicable"]


def test_steps_need_not_be_equal_and_time_may_start_anywhere():
    times = 3.0 + np.cumsum(np.random.default_rng(0).uniform(0.05, 0.4, size=12))
    for share, verdict in ((1.0, HOLDS), (0.8, BROKEN)):
        result = rate_verdict(trace(times, exponential(share * 2 * LAMBDA, times)), LAMBDA)
        assert result.verdict == verdict
        assert result.rate == pytest.approx(share * 2 * LAMBDA)
    assert result.reason.startswith(f"broken at t = {times[1]:.3g}: ")


def test_a_fast_start_pays_for_a_slow_end():
    """The bound is on the curve: at a slope of 1.2 of 1.6 at the end, e^{-2} of the start's is enough until t = 5."""
    errors = np.append(7.0, 7.0 * np.exp(-2.0 - 1.2 * TIMES[1:]))
    assert rate_verdict(trace(TIMES, errors), LAMBDA).verdict == HOLDS
    # The same slope without that start breaks it.
    assert rate_verdict(trace(TIMES[1:], errors[1:]), LAMBDA).verdict == BROKEN


def test_a_jump_above_the_bound_breaks_it_whatever_the_slope():
    errors = exponential(2 * LAMBDA)
    errors[1:] *= 1.5
    result = rate_verdict(trace(TIMES, errors), LAMBDA)
    assert result.verdict == BROKEN
    assert result.constant == pytest.approx(1.5)


def test_a_bound_that_underflows_is_broken_infinitely():
    times = 100.0 * np.arange(16)
    result = rate_verdict(trace(times, exponential(1e-3, times)), LAMBDA)
    assert result.verdict == BROKEN
    assert result.constant == np.inf


# Horizon and plateau


@pytest.mark.parametrize("horizon", [2.0, 3.0, 6.0, None])
def test_a_stall_is_found_at_every_horizon_and_begins_at_the_same_time(horizon):
    times = 0.1 * np.arange(61)
    result = rate_verdict(trace(times, exponential(2.0, np.minimum(times, 1.0))), 1.0, horizon=horizon)
    assert result.verdict == PLATEAU
    assert result.until == pytest.approx(1.0)
    assert result.plateau == pytest.approx(np.exp(-2.0))
    assert result.floor == 0  # never fitted away
    assert "holds until t = 1, then a plateau at 13.5 % of the start's error" in result.reason
    assert result.rate == pytest.approx(2.0)  # of the points before


def test_the_horizon_decides_what_is_asked():
    """Before the stall the bound holds, and that is the verdict up to there."""
    times = 0.1 * np.arange(61)
    points = trace(times, exponential(2.0, np.minimum(times, 1.0)))
    assert rate_verdict(points, 1.0, horizon=1.0).verdict == HOLDS
    assert "holds up to t = 1: " in rate_verdict(points, 1.0, horizon=1.0).reason
    # A point at the horizon counts although the sum of its steps was rounded up.
    assert rate_verdict(trace(times * (1 + 1e-9), exponential(1.0, times)), 1.0, horizon=0.5).points == 6


def test_a_trace_that_ends_before_the_horizon_does_not_hold_up_to_it():
    points = trace(TIMES, exponential(2 * LAMBDA))
    result = rate_verdict(points, LAMBDA, horizon=6.0)
    assert result.verdict == INCONCLUSIVE
    assert "ends at t = 3, before the horizon 6" in result.reason
    assert rate_verdict(points, LAMBDA, horizon=3.1).verdict == HOLDS  # no other step would have been within it
    assert rate_verdict(trace(TIMES, exponential(LAMBDA)), LAMBDA, horizon=6.0).verdict == BROKEN


# The curve of `flow_implicit` with 16 ridges on the published mixture (lambda = 1, tau = 0.1, batches of 2048, seed 0):
# squared error over the start's, to t = 6. It is under the line until t = 2.2, and stays at 1.1 % from t = 3 on.
MIXTURE = np.fromstring(
    "1 .7364 .5415 .4013 .2972 .2221 .1669 .1259 .0968 .0756 .06 .0478 .0391 .0328 .0281 .0245 .0214 .0198 .0178 .0165 "
    ".0157 .0149 .0141 .0135 .013 .0126 .0124 .0122 .0121 .0118 .0118 .0116 .0116 .0116 .0114 .0115 .0114 .0113 .0112 "
    ".0112 .0113 .0114 .0113 .0113 .0113 .0113 .0113 .0113 .0114 .0115 .0115 .0115 .0115 .0117 .0116 .0116 .0115 .0114 "
    ".0115 .0115 .0114",
    sep=" ",
)


def test_the_flow_on_the_published_mixture_ends_at_a_plateau_at_every_horizon():
    points = trace(0.1 * np.arange(61), 4.0 * MIXTURE)
    results = {h: rate_verdict(points, 1.0, scheme=Scheme.IMPLICIT, horizon=h) for h in (2.0, 3.0, 4.0, 6.0)}
    # At t = 2 the error is still under the line, by less than noise and the bend of the curve tell.
    assert results.pop(2.0).verdict in (INCONCLUSIVE, HOLDS)
    assert results[3.0].verdict in (PLATEAU, BROKEN)
    assert results[4.0].verdict == results[6.0].verdict == PLATEAU
    assert [result.until for result in results.values()] == pytest.approx([2.2] * 3)
    assert results[6.0].plateau == pytest.approx(0.0115, rel=0.02)
    assert results[6.0].constant > 500


# Floor


def test_a_known_floor_is_cut_and_its_slack_excuses():
    floor = 0.1
    errors = exponential(2 * LAMBDA) + floor
    result = rate_verdict(trace(TIMES, errors), LAMBDA, floor=floor)
    assert result.verdict == INCONCLUSIVE  # the triangle inequality does not tell more
    assert result.points == (errors > 4 * floor).sum() < len(TIMES)
    assert rate_verdict(trace(TIMES, errors), LAMBDA).verdict in (BROKEN, PLATEAU)
    fast = rate_verdict(trace(TIMES[:8], exponential(4 * LAMBDA, TIMES[:8])), LAMBDA, floor=1e-4)
    assert fast.verdict == HOLDS


def test_the_familys_own_floor_is_taken_off():
    """A linear space at distance sqrt f from T*: the error is that in the space and f."""
    floor = 0.1
    errors = exponential(2 * LAMBDA) + floor
    result = rate_verdict(trace(TIMES, errors), LAMBDA, family_floor=floor)
    assert result.verdict == HOLDS
    assert "where the known floor is reached" in result.reason
    assert result.rate == pytest.approx(2 * LAMBDA)
    assert result.floor == floor
    assert rate_verdict(trace(TIMES, exponential(LAMBDA) + floor), LAMBDA, family_floor=floor).verdict == BROKEN


def test_the_bound_is_broken_only_by_what_the_floor_cannot_explain():
    """An exact flow towards a map at distance sqrt f from T*, which lies in whatever direction from there."""
    floor = 0.05
    flow = np.sqrt(exponential(2 * LAMBDA))
    for cosine in (-1.0, -0.5, 0.0, 0.5, 1.0):
        errors = flow**2 + 2 * cosine * flow * np.sqrt(floor) + floor
        assert rate_verdict(trace(TIMES, errors), LAMBDA, floor=floor).verdict not in (BROKEN, PLATEAU)
    # Without a floor, such errors break it.
    assert rate_verdict(trace(TIMES, errors), LAMBDA).verdict in (BROKEN, PLATEAU)


# Noise


@pytest.fixture(scope="module")
def simulation():
    return simulated("rates")


@pytest.mark.parametrize("horizon", [2.0, 4.0])
@pytest.mark.parametrize("size", [0.01, 0.1])
def test_a_curve_on_the_line_is_called_broken_in_few(simulation, size, horizon):
    trials = 240
    found = simulation.verdicts("2, with equality", size, horizon, trials)
    # 2.5 %, and three standard deviations of such a count.
    assert (found[BROKEN] + found[PLATEAU]) / trials < 0.025 + 3 * np.sqrt(0.025 * 0.975 / trials)


@pytest.mark.parametrize("horizon", [2.0, 4.0])
@pytest.mark.parametrize(
    ("curve", "verdicts", "share"),
    [("1.6", (BROKEN,), 0.95), ("stall from t = 1", (PLATEAU, BROKEN), 0.95), ("2.5", (HOLDS,), 0.55)],
)
def test_other_curves_are_told_from_the_line_through_noise_of_three_percent(
    simulation, curve, verdicts, share, horizon
):
    trials = 60
    found = simulation.verdicts(curve, 0.03, horizon, trials)
    assert sum(found[verdict] for verdict in verdicts) / trials >= share
    assert sum(found.values()) == trials
    assert set(found) <= {*verdicts, INCONCLUSIVE}


def test_noise_that_hides_the_bound_is_inconclusive():
    rng = np.random.default_rng(4)
    times = TIMES[:8]
    errors = exponential(2 * LAMBDA, times) * np.exp(rng.normal(size=8) * (times > 0))
    result = rate_verdict(trace(times, errors), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert result.reason.startswith("noise: ")
    low, high = result.constant_interval
    assert low < 1 < high


@pytest.mark.parametrize(("share", "without"), [(1.05, HOLDS), (0.95, BROKEN)])
def test_the_noise_of_the_evaluation_points_counts(share, without):
    errors = exponential(share * 2 * LAMBDA)
    points = trace(TIMES, errors)
    assert rate_verdict(points, LAMBDA).verdict == without
    assert "tells no noise of its evaluation points" in rate_verdict(points, LAMBDA).reason
    # A paired standard error of a tenth of the ratio hides what 5 % in the rate do by t = 3, which is 27 %.
    paired = rate_verdict(trace(TIMES, errors, l2_ratio_se=0.1 * errors / errors[0]), LAMBDA)
    assert paired.verdict == INCONCLUSIVE
    assert "tells no noise" not in paired.reason
    # One of a thousandth does not; errors that are not paired add up.
    assert rate_verdict(trace(TIMES, errors, l2_ratio_se=1e-3 * errors / errors[0]), LAMBDA).verdict == without
    unpaired = rate_verdict(trace(TIMES, errors, l2_error_se=0.05 * errors), LAMBDA)
    assert unpaired.constant_interval == pytest.approx(paired.constant_interval, rel=1e-9)


def test_the_seed_decides():
    rng = np.random.default_rng(0)
    points = trace(TIMES, exponential(2 * LAMBDA) * np.exp(0.1 * rng.normal(size=16)))
    assert rate_verdict(points, LAMBDA, seed=1) == rate_verdict(points, LAMBDA, seed=1)
    assert rate_verdict(points, LAMBDA, seed=1).interval != rate_verdict(points, LAMBDA, seed=2).interval


# Step size


def euler(tau, implicit, final_time=4.0, lam=LAMBDA):
    """Euler steps for F(T) = lambda |T - T*|^2 / 2, by their own recursion."""
    times = tau * np.arange(round(final_time / tau) + 1)
    distance = np.empty(len(times))
    distance[0] = 2.0
    for k in range(1, len(times)):
        distance[k] = distance[k - 1] / (1 + tau * lam) if implicit else distance[k - 1] * (1 - tau * lam)
    return trace(times, distance**2)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.4, 1.0])
def test_implicit_steps_are_held_against_their_own_bound(tau):
    times = 10 * tau
    kept = rate_verdict(euler(tau, True, times), LAMBDA, scheme=Scheme.IMPLICIT)
    assert kept.verdict == HOLDS
    assert "(1 + lambda tau)^{-2k}, the bound of k implicit steps" in kept.reason
    assert kept.line in kept.reason
    assert kept.constant == pytest.approx(1.0)
    # The flow's line would call them slow, and their own calls steps of a smaller convexity slow.
    assert rate_verdict(euler(tau, True, times), LAMBDA).verdict == BROKEN
    assert rate_verdict(euler(tau, True, times, 0.9 * LAMBDA), LAMBDA, scheme=Scheme.IMPLICIT).verdict == BROKEN


@pytest.mark.parametrize("implicit", [False, True])
def test_discretisation_is_extrapolated(implicit):
    result = rate_verdict(euler(0.1, implicit), LAMBDA, refined=euler(0.05, implicit))
    assert result.extrapolated
    assert result.line == "e^{-2 lambda t}"
    assert "e^{-2 lambda t}, extrapolated to tau -> 0" in result.reason
    assert result.verdict in (HOLDS, INCONCLUSIVE)  # on the line, up to what Richardson leaves
    low, high = result.constant_interval
    assert low < 1 < high < 1.1
    # 2 r(tau/2) - r(tau) = 2 lambda - lambda^3 tau^2 / 3 + O(tau^3), for both schemes.
    gaps = [
        2 * LAMBDA - rate_verdict(euler(tau, implicit), LAMBDA, refined=euler(tau / 2, implicit)).rate
        for tau in (0.1, 0.05)
    ]
    assert gaps[1] == pytest.approx(2 * LAMBDA**3 * 0.05**2 / 6, rel=0.1)
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)


def test_where_extrapolation_does_not_tell_the_bound_of_the_shorter_implicit_steps_does():
    result = rate_verdict(euler(0.4, True), LAMBDA, refined=euler(0.2, True), scheme=Scheme.IMPLICIT)
    assert result.verdict == HOLDS
    assert not result.extrapolated
    assert result.points == 21
    slow = rate_verdict(euler(0.4, True, lam=0.7), LAMBDA, refined=euler(0.2, True, lam=0.7), scheme=Scheme.IMPLICIT)
    assert slow.verdict in (INCONCLUSIVE, BROKEN)


def test_a_slow_flow_stays_slow_at_half_the_step():
    slow = trace(TIMES, exponential(LAMBDA))
    result = rate_verdict(slow, LAMBDA, refined=trace(TIMES / 2, exponential(LAMBDA, TIMES / 2)))
    assert result.verdict == BROKEN
    # Discretised, but slow in the limit as well: the scheme follows a flow of half the convexity.
    assert rate_verdict(euler(0.4, True), 2 * LAMBDA, refined=euler(0.2, True)).verdict == BROKEN
    fast = rate_verdict(euler(0.4, True), LAMBDA / 2, refined=euler(0.2, True))
    assert fast.verdict == HOLDS


def test_refined_must_be_refined():
    with pytest.raises(InvalidInput, match=r"steps of 0\.4"):
        rate_verdict(euler(0.2, True), LAMBDA, refined=euler(0.4, True))
    result = rate_verdict(euler(0.4, True), LAMBDA, refined=euler(0.2, True)[:3], scheme=Scheme.IMPLICIT)
    assert not result.extrapolated  # too short to compare
    assert result.verdict == HOLDS


def test_step_bounds():
    assert step_bounds(0.5, 1.0) == (0.25, pytest.approx(4 / 9))
    tau = np.array([1e-3, 1e-2])
    for bound in step_bounds(tau, LAMBDA):
        # Both agree with the flow to first order: exp(-2 z) (1 -+ z^2 + ...).
        assert np.abs(bound / np.exp(-2 * LAMBDA * tau) - 1) == pytest.approx((LAMBDA * tau) ** 2, rel=0.03)
    implicit = euler(0.3, True)
    assert implicit[1].l2_error / implicit[0].l2_error == pytest.approx(step_bounds(0.3, LAMBDA).implicit)


# Inner solves


def test_an_unsolved_subproblem_excuses_as_much_flow_time_as_it_may_have_lost():
    """A first step that went a tenth of its way: from there on the flow is late by nine tenths of a step."""
    late = exponential(2 * LAMBDA, np.maximum(TIMES - 0.9 * 0.2, 0.0))
    late[1] = exponential(2 * LAMBDA, np.array([0.02]))[0]
    late[2:] = exponential(2 * LAMBDA, TIMES[2:] - 0.18)
    first_step = np.where(np.arange(len(TIMES)) == 1, 0.9, 1e-4)
    result = rate_verdict(trace(TIMES, late, decrement=first_step), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert result.reason.startswith("inner solve: broken at t = 0.2: ")
    assert rate_verdict(trace(TIMES, late, decrement=1e-4), LAMBDA).verdict == BROKEN
    assert rate_verdict(trace(TIMES, late, decrement=first_step), LAMBDA, inner_tolerance=1.0).verdict == BROKEN
    # A flow that is slow for ever is not excused by one step, but by all of them, or where nobody knows.
    slow = exponential(LAMBDA)
    assert rate_verdict(trace(TIMES, slow, decrement=first_step), LAMBDA).verdict == BROKEN
    assert rate_verdict(trace(TIMES, slow, decrement=0.3), LAMBDA).verdict == INCONCLUSIVE
    assert rate_verdict(trace(TIMES, slow, decrement=float("nan")), LAMBDA).verdict == INCONCLUSIVE
    # Nor does it cost a flow that keeps the bound its verdict.
    assert rate_verdict(trace(TIMES, exponential(2 * LAMBDA), decrement=0.3), LAMBDA).verdict == HOLDS


# What has no verdict


@pytest.mark.parametrize("lam", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_without_strong_convexity_the_inequality_says_nothing(lam):
    result = rate_verdict(trace(TIMES, exponential(1.0)), lam)
    assert result.verdict == NOT_APPLICABLE
    assert "lambda" in result.reason
    assert result.rate == pytest.approx(1.0)
    assert np.isnan([result.constant, result.bound]).all()


def test_an_obstacle_makes_it_not_applicable():
    result = rate_verdict(trace(TIMES, exponential(LAMBDA)), LAMBDA, obstacle="a fixed sample of 100 points")
    assert str(result) == "not applicable: a fixed sample of 100 points"
    assert result.verdict == NOT_APPLICABLE
    assert result.rate == pytest.approx(LAMBDA)
    assert rate_verdict([], LAMBDA, obstacle="a fixed sample").verdict == NOT_APPLICABLE


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_points(count):
    result = rate_verdict(trace(TIMES[:count], exponential(2 * LAMBDA)[:count]), LAMBDA)
    assert result.verdict == INCONCLUSIVE
    assert result.reason.startswith(f"too few points: {count} of {count} ")
    assert result.points == count
    assert np.isnan([result.rate, *result.interval, result.constant]).all()


def test_five_points_are_enough_where_there_is_no_noise():
    assert rate_verdict(trace(TIMES[:5], exponential(2 * LAMBDA)[:5]), LAMBDA).verdict == HOLDS
    assert rate_verdict(trace(TIMES[:5], exponential(LAMBDA)[:5]), LAMBDA).verdict == BROKEN


def test_an_exact_map_ends_the_trace():
    result = rate_verdict(trace(TIMES, np.where(TIMES < 1.1, exponential(2 * LAMBDA), 0.0)), LAMBDA)
    assert result.points == 6
    assert result.verdict == HOLDS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("refine", [False, True])
def test_errors_that_are_not_finite(bad, refine):
    points = trace(TIMES, np.where(np.arange(len(TIMES)) == 11, bad, exponential(2 * LAMBDA)))
    if refine:
        result = rate_verdict(trace(2 * TIMES, exponential(2 * LAMBDA, 2 * TIMES)), LAMBDA, refined=points)
    else:
        result = rate_verdict(points, LAMBDA)
        assert result.points == 11
    assert result.verdict == INCONCLUSIVE
    assert str(bad) in result.reason
    assert result.rate == pytest.approx(2 * LAMBDA)
    # What comes after the horizon is not asked for, and what was broken before stays broken.
    assert rate_verdict(points, LAMBDA, horizon=2.0).verdict == HOLDS
    slow = trace(TIMES, np.where(np.arange(len(TIMES)) == 11, bad, exponential(LAMBDA)))
    assert rate_verdict(slow, LAMBDA).verdict == BROKEN


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
        for name in ("floor", "family_floor"):
            with pytest.raises(InvalidParameter, match=name):
                rate_verdict(trace(TIMES, exponential(1.0)), LAMBDA, **{name: floor})
    for horizon in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidParameter, match="horizon"):
            rate_verdict(trace(TIMES, exponential(1.0)), LAMBDA, horizon=horizon)


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
    assert result.verdict == HOLDS, str(result)
    assert result.constant <= 1 + RESOLUTION
    # The bound can fail: no flow is as fast as twice its rate for ever.
    assert rate_verdict(trace(times, errors), 2 * lam).verdict == BROKEN
