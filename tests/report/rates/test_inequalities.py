"""The inequalities on curves of known answer: Gaussian flows, gradient flows and proximal steps in one dimension."""

import numpy as np
import pytest

from mongebench.report.rates.inequalities import INEQUALITIES, KL, KL_CONVEX, MAP, MAP_BY_KL, PROPOSITION, speaking
from mongebench.report.rates.verdict import Scheme, Verdict, rate_verdict
from mongebench.run.record import TracePoint

from ..conftest import simulated

HOLDS, PLATEAU, BROKEN, INCONCLUSIVE, NOT_APPLICABLE = Verdict
TIMES = 0.1 * np.arange(31)


def trace(times, errors, kl, noise=0.0):
    """A trace with paired standard errors of `noise` relative to each ratio, 0 where a quantity meets its own start."""
    return [
        TracePoint(
            iteration=k,
            flow_time=float(times[k]),
            oracle_calls=0,
            fit_seconds=0.0,
            l2_error=float(errors[k]),
            l2_error_se=noise * errors[k],
            l2_ratio_se=noise * errors[k] / errors[0] * (k > 0),
            kl=float(kl[k]),
            kl_se=noise * kl[k],
            kl_ratio_se=noise * kl[k] / kl[0] * (k > 0),
            l2_to_kl_se=noise * errors[k] / kl[0],
            kl_to_l2_se=noise * kl[k] / errors[0],
        )
        for k in range(len(times))
    ]


def flow_of_a_gaussian(variance, times):
    """N(0, 1) -> N(1, v) on the line: T_t(x) = a x + b, a' = 1/a - a/v, b' = (1 - b)/v; and KL in closed form."""
    a = np.sqrt(variance + (1 - variance) * np.exp(-2 * times / variance))
    b = 1 - np.exp(-times / variance)
    errors = (a - np.sqrt(variance)) ** 2 + (b - 1) ** 2
    kl = (a**2 + (b - 1) ** 2) / (2 * variance) - 0.5 + 0.5 * np.log(variance / a**2)
    return errors, kl


@pytest.mark.parametrize("variance", [0.25, 0.5, 2.0, 4.0])
def test_the_gaussian_flow_keeps_all_and_no_flow_keeps_twice_the_rate(variance):
    times = variance * TIMES
    points = trace(times, *flow_of_a_gaussian(variance, times))
    for inequality in (MAP, MAP_BY_KL, KL):
        found = rate_verdict(points, 1 / variance, inequality=inequality)
        assert found.verdict == HOLDS, str(found)
        assert found.inequality == inequality.name
        assert rate_verdict(points, 4 / variance, inequality=inequality).verdict == BROKEN
    # (4 / lambda) (D_0 - D*) is at least twice |T_0 - T*|^2: the bound by KL is the weaker one.
    by_map, by_kl = (rate_verdict(points, 1 / variance, inequality=one).constant for one in (MAP, MAP_BY_KL))
    assert by_kl <= by_map / 2


def test_each_constant_is_the_ratio_to_its_own_line():
    errors, kl = 3.0 * np.exp(-2.5 * TIMES), 2.0 * np.exp(-2.2 * TIMES)
    points = trace(TIMES, errors, kl)
    at = TIMES[1]  # all fall faster than their lines, and so come closest after the first step
    expected = {
        MAP: errors[1] / (3.0 * np.exp(-2 * at)),
        MAP_BY_KL: errors[1] / (4 * 2.0 * np.exp(-2 * at)),
        KL: kl[1] / (2.0 * np.exp(-2 * at)),
    }
    for inequality, constant in expected.items():
        assert rate_verdict(points, 1.0, inequality=inequality).constant == pytest.approx(constant)
    # t D_t is largest at t = 1 / 2.2.
    largest = (2 * TIMES * kl / 3.0).max()
    assert rate_verdict(points, 0.0, inequality=KL_CONVEX).constant == pytest.approx(largest)


@pytest.mark.parametrize("start", [0.3, 1.0, 3.0])
def test_without_strong_convexity_kl_falls_like_one_over_t(start):
    """x' = -x^3 goes down x^4 / 4 from x_0: x_t = x_0 / (1 + 2 t x_0^2)^(1/2)."""
    position = start / np.sqrt(1 + 2 * TIMES * start**2)
    points = trace(TIMES, position**2, position**4 / 4)
    found = rate_verdict(points, 0.0, inequality=KL_CONVEX)
    assert found.verdict == HOLDS, str(found)
    assert found.line == "W2^2 / (2 t)"
    assert np.isnan(found.bound)
    # A D that stays where it is breaks it in the end, and it does not depend on the unit of D and of squared lengths.
    for unit in (1e-6, 1e6):
        stays = trace(TIMES, np.full(31, 4.0 * unit), np.full(31, 1.0 * unit))
        assert rate_verdict(stays, 0.0, inequality=KL_CONVEX).verdict in (BROKEN, PLATEAU)
    assert rate_verdict(stays, 0.0, inequality=KL_CONVEX, horizon=1.9).verdict == HOLDS  # 4 / (2 t) >= 1 until t = 2


def proximal(lam, tau, steps):
    """Implicit steps for lambda x^2 / 2 from x = 2."""
    position = 2.0 / (1 + lam * tau) ** np.arange(steps + 1)
    return trace(tau * np.arange(steps + 1), position**2, lam * position**2 / 2)


@pytest.mark.parametrize("tau", [0.1, 0.4])
def test_implicit_steps_have_their_own_line_in_kl_too(tau):
    points = proximal(0.8, tau, 12)
    for inequality in (MAP, MAP_BY_KL, KL):
        found = rate_verdict(points, 0.8, inequality=inequality, scheme=Scheme.IMPLICIT)
        assert found.verdict == HOLDS, str(found)
        # Equality in `map` and `KL`; D_0 = lambda |x_0|^2 / 2 makes the line of `map by KL` twice the error.
        assert found.constant == pytest.approx(0.5 if inequality is MAP_BY_KL else 1.0)
        assert "(1 + lambda tau)^{-2k}" in found.line
    assert rate_verdict(points, 0.8, inequality=KL).verdict == BROKEN  # as if it were the flow
    assert rate_verdict(points, 0.0, inequality=KL_CONVEX, scheme=Scheme.IMPLICIT).verdict == HOLDS


def test_steps_that_break_the_sharper_factor_are_asked_for_that_of_the_proposition():
    slow = rate_verdict(proximal(0.5, 0.4, 12), 0.8, scheme=Scheme.IMPLICIT)
    assert slow.verdict == BROKEN
    assert slow.weaker == "holds"
    assert slow.reason.endswith(f"it keeps {PROPOSITION.implicit_line}")
    # (1 + 0.32^2 / 4)^{-1} a step is what lambda = 0.8 and tau = 0.4 promise by the proposition: 2.5 % of the square.
    slower = rate_verdict(proximal(0.02, 0.4, 12), 0.8, scheme=Scheme.IMPLICIT)
    assert slower.verdict == BROKEN
    assert slower.weaker in ("broken", "plateau")
    assert "it keeps" not in slower.reason
    # Nobody proved it of other schemes, or of KL.
    assert rate_verdict(proximal(0.5, 0.4, 12), 0.8).weaker == ""
    assert rate_verdict(proximal(0.5, 0.4, 12), 0.8, inequality=KL, scheme=Scheme.IMPLICIT).weaker == ""


def test_a_flow_on_the_line_is_said_to_be_on_it():
    points = trace(TIMES, 3.0 * np.exp(-2.0 * TIMES), np.exp(-2.0 * TIMES), noise=0.01)
    for inequality in (MAP, KL):
        found = rate_verdict(points, 1.0, inequality=inequality)
        assert found.verdict == INCONCLUSIVE
        assert found.reason.startswith("on the line, within ")
        assert found.reason.endswith("% of " + inequality.line + " at every point")
    noisy = trace(TIMES, 3.0 * np.exp(-2.0 * TIMES), np.exp(-2.0 * TIMES), noise=0.1)
    assert rate_verdict(noisy, 1.0).reason.startswith("noise: ")


def test_the_noise_of_the_start_counts_where_two_quantities_meet():
    errors, kl = 3.9 * np.exp(-2.0 * TIMES), np.exp(-2.0 * TIMES)
    assert rate_verdict(trace(TIMES, errors, kl), 1.0, inequality=MAP_BY_KL).verdict == HOLDS
    assert rate_verdict(trace(TIMES, errors, kl, noise=0.05), 1.0, inequality=MAP_BY_KL).verdict == INCONCLUSIVE


def test_a_record_without_the_exact_kl_has_no_verdict_on_it():
    points = [
        point.model_copy(update={"kl_se": None, "kl_ratio_se": None})
        for point in trace(TIMES, np.exp(-3 * TIMES), np.exp(-3 * TIMES))
    ]
    for inequality in (MAP_BY_KL, KL):
        found = rate_verdict(points, 1.0, inequality=inequality)
        assert found.verdict == INCONCLUSIVE
        assert "no D_t - D*" in found.reason
    assert rate_verdict(points, 1.0).verdict == HOLDS


def test_which_speak_of_which_lambda():
    assert speaking(0.5) == (MAP, MAP_BY_KL, KL)
    assert speaking(0.0) == (MAP, KL_CONVEX)
    for nothing in (None, -1.0, float("nan"), float("inf")):
        assert speaking(nothing) == (MAP,)
    assert len({one.name for one in INEQUALITIES}) == 4
    found = rate_verdict(trace(TIMES, np.exp(-TIMES), np.exp(-TIMES)), -1.0, inequality=KL_CONVEX)
    assert str(found) == "not applicable: lambda = -1: the inequality is one for lambda >= 0"


@pytest.mark.parametrize("inequality", [MAP_BY_KL, KL, KL_CONVEX], ids=lambda one: one.name)
def test_curves_on_the_lines_of_kl_are_called_broken_in_few(inequality):
    simulation = simulated("rates")
    trials = 96
    found = simulation.verdicts_beside(inequality, 0.0, 0.1, trials)
    # 2.5 %, and three standard deviations of such a count.
    assert (found[BROKEN] + found[PLATEAU]) / trials < 0.025 + 3 * np.sqrt(0.025 * 0.975 / trials)
    found = simulation.verdicts_beside(inequality, 0.2, 0.03, 24)
    assert found[BROKEN] / 24 > 0.9
