"""Noise and failures cannot buy a place, equal ones are not told apart, and differences that are there are found."""

import numpy as np
import pytest
from scipy import stats

from mongebench.report.tables import paired, ranking

from ..conftest import simulated


@pytest.fixture(scope="module")
def simulations():
    return simulated("board")


RUNS = 200
FALSE = 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS)
"""Share that five percent may show in so many runs: three deviations of the binomial."""


@pytest.mark.parametrize("law", ["lognormal", "gamma"])
@pytest.mark.parametrize("steady", [0.3, 1.0])
def test_twice_the_error_is_not_above_however_noisy(simulations, rng, law, steady) -> None:
    draw = lambda: simulations.errors(rng, [2.0, 1.0], [1.0, steady], law)  # noqa: E731
    found = simulations.share(simulations.above, draw, RUNS)
    assert found["board"] <= 0.05
    assert found["ranks"] > 0.2  # what this replaced


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_failing_badly_on_some_seeds_is_always_below(simulations, rng, bad) -> None:
    found = simulations.share(simulations.above, lambda: simulations.failing(rng, bad), RUNS)
    assert found["board"] == 0
    assert found["ranks"] == (bad < 3)


@pytest.mark.parametrize(
    ("law", "cv", "together"), [("lognormal", 1.0, 0.0), ("gamma", 1.0, 0.0), ("lognormal", 0.5, 0.86)]
)
def test_of_twelve_equal_ones_nobody_is_told_apart(simulations, rng, law, cv, together) -> None:
    draw = lambda: simulations.errors(rng, [1.0] * 12, [cv] * 12, law, together)  # noqa: E731
    found = simulations.share(simulations.told_apart, draw, RUNS // 4)
    assert found["board"] <= 0.05
    assert found["ranks"] > 0.4


def test_equal_ones_whose_families_differ_are_seldom_told_apart(rng) -> None:
    """Each estimator has families that suit it: none is better on the next family. Here the bootstrap alone errs."""
    false = 0
    for _ in range(RUNS):
        suits = np.exp(0.5 * rng.normal(size=(12, 6)))[:, [0, 0, 1, 2, 3, 4, 5], None, None]
        ratio = suits * np.exp(0.1 * rng.normal(size=(12, 7, 1, 4)))
        result = ranking.rank(ratio, np.array([0, 0, 1, 2, 3, 4, 5]), draws=200)
        leader = int(result.log_mean.argmin())
        false += any(result.versus(k, leader)[1] > 0 for k in range(12))
    assert false / RUNS < FALSE


def test_half_as_much_again_is_found_where_seeds_are_shared(simulations, rng) -> None:
    """The power that goes with it: fits of a CV of a half, correlated as in the reference run."""
    draw = lambda: simulations.errors(rng, [1.0] + [1.5] * 11, [0.5] * 12, "lognormal", 0.86)  # noqa: E731
    assert simulations.share(simulations.told_apart, draw, 40)["board"] > 0.9


def test_the_interval_of_a_mean_over_families_is_students(rng) -> None:
    """Families alone, one fit each: the interval of the mean log-ratio, up to the noise of 4000 draws."""
    logs = rng.normal(size=8)
    result = ranking.rank(np.exp(logs)[None, :, None, None], np.arange(8), draws=4000)
    half = stats.t.isf(0.025, 7) * stats.sem(logs)
    assert result.log_mean[0] == pytest.approx(logs.mean())
    assert result.high[0] - result.log_mean[0] == pytest.approx(half, rel=0.05)


def test_intervals_hold_the_truth(rng) -> None:
    """Log errors that vary with family, instance and seed; the truth is the mean over families. At least 95 %."""
    held = 0
    for _ in range(RUNS):
        family, instance = rng.normal(size=(6, 1, 1)), 0.5 * rng.normal(size=(6, 5, 1))
        noise = 0.1 * rng.normal(size=(6, 5, 2))
        expected = 0.5**2 / 2 + 0.1**2 / 2  # of the log of a mean over many instances and seeds, by the lognormal
        result = ranking.rank(np.exp(family + instance + noise)[None], np.arange(6), draws=200)
        held += result.low[0] <= expected <= result.high[0]
    assert held / RUNS > 1 - FALSE


def test_one_fit_of_one_family_has_no_interval() -> None:
    result = ranking.rank(np.ones((2, 1, 1, 1)), np.zeros(1, dtype=int))
    assert np.isnan(result.low).all()
    assert not result.versus(0, 1)[1] > 0


def test_without_families_instances_are_resampled_and_without_those_seeds(rng) -> None:
    logs = 0.01 * rng.normal(size=8)
    for shape in ((1, 1, 8, 1), (1, 1, 1, 8)):
        result = ranking.rank(np.exp(logs).reshape(shape), np.zeros(1, dtype=int), draws=4000)
        half = stats.t.isf(0.025, 7) * stats.sem(logs)  # the log of a mean of small logs is their mean
        assert result.high[0] - result.log_mean[0] == pytest.approx(half, rel=0.06)


def test_estimators_may_have_fewer_fits_than_others() -> None:
    ratio = np.full((2, 2, 3, 2), 0.5)
    ratio[1] = 0.25
    ratio[1, :, :, 1] = np.nan  # one seed
    ratio[1, 0, 1:] = np.nan  # of one instance
    ratio[:, 1, 2] = np.nan  # a place of two instances
    result = ranking.rank(ratio, np.array([0, 1]), draws=50)
    np.testing.assert_allclose(np.exp(result.log_mean), [0.5, 0.25])
    np.testing.assert_allclose(result.best, [0.0, 1.0])
    np.testing.assert_allclose(np.exp(result.low), [0.5, 0.25])


def test_moderated_variances_find_the_law_they_come_from(rng, monkeypatch) -> None:
    """sigma^2 = s d / chi^2_d with d = 8: degrees of freedom to a third, and posterior means nearer to the truth.

    What is reported is less, by the doubt.
    """
    truth = 0.3 * 8 / rng.chisquare(8, size=3000)
    freedom = rng.integers(1, 6, size=3000).astype(float)
    estimate = truth * rng.chisquare(freedom) / freedom
    assert 2 < np.median(paired.moderated(estimate, freedom)[1] - freedom) < 8
    monkeypatch.setattr(paired, "DOUBT", 0.0)
    found, gained = paired.moderated(estimate, freedom)
    assert np.median(gained - freedom) == pytest.approx(8, rel=0.33)
    assert np.abs(np.log(found / truth)).mean() < 0.5 * np.abs(np.log(estimate / truth)).mean()


def test_moderated_intervals_hold_at_two_fits_and_are_short(rng) -> None:
    """1000 places of two differences each: at most 5 % miss the truth, and each has more than its one degree."""
    sigma = np.exp(rng.normal(size=1000))
    values = sigma * rng.normal(size=(2, 1000))
    variance, freedom = paired.moderated(values.var(axis=0, ddof=1), np.ones(1000), 2 * np.log(sigma))
    claims = paired.claims(values.mean(axis=0), np.sqrt(variance / 2), freedom, 0.95)
    assert (claims.p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert freedom.min() > 2
    half = np.sqrt(variance / 2) * stats.t.isf(0.025, freedom) / sigma
    alone = np.abs(values[0] - values[1]) / 2 * stats.t.isf(0.025, 1) / sigma
    assert np.median(half) < 0.5 * np.median(alone)


def test_places_without_noise_of_their_own_take_that_of_the_others() -> None:
    variance = np.array([1.0, 1.0, 1.0, np.nan, 0.0])
    found, gained = paired.moderated(variance, np.array([5.0, 5.0, 5.0, 0.0, 5.0]))
    np.testing.assert_allclose(found[:3], found[0])
    assert found[3] == pytest.approx(found[0])
    assert (found[4], gained[4]) == (0.0, 5.0)  # equal to the last digit: no noise to speak of
    alone, _ = paired.moderated(np.array([np.nan, np.nan]), np.zeros(2))
    assert np.isnan(alone).all()


def test_holm_claims_what_holm_claims() -> None:
    """Levels 0.05 / 3, / 2, / 1: the second passes only because the first did, and its interval says so."""
    p = np.array([0.02, 0.9, 0.01])
    difference = stats.norm.isf(p / 2)
    claims = paired.claims(difference, np.ones(3), np.full(3, np.inf), 0.95)
    assert claims.found.tolist() == [True, False, True]
    np.testing.assert_allclose(claims.p, p)
    assert ((claims.low > 0) == claims.found).all()
    none = paired.claims(stats.norm.isf(np.array([0.02, 0.9, 0.02]) / 2), np.ones(3), np.full(3, np.inf), 0.95)
    assert not none.found.any()
    assert (none.low < 0).all()
    assert not paired.claims(np.array([5.0]), np.array([np.nan]), np.array([0.0]), 0.95).found.any()
    assert paired.claims(np.array([5.0, 0.0]), np.zeros(2), np.ones(2), 0.95).found.tolist() == [True, False]
