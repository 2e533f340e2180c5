"""The race between settings: the largest value wins, and only a setting that is clearly behind is given up."""

from __future__ import annotations

import numpy as np

from mongebench.estimators.held_out import BEHIND, Race, Value


def values(rng: np.random.Generator, gaps: list[float], own: float = 0.01, samples: int = 60) -> dict[int, Value]:
    """One fold: noise of the samples that all settings share, of size 1, and `own` noise of each."""
    shared = rng.normal(size=(2, samples))
    return {k: Value(*(shared - gap / 2 + own * rng.normal(size=shared.shape))) for k, gap in enumerate(gaps)}


def test_noise_that_settings_share_does_not_keep_a_worse_one_running():
    """Values have a standard error of 0.18, differences one of 0.0026: 0.05 is twenty of these."""
    race = Race(3)
    race.fold(values(np.random.default_rng(0), [0.05, 0.0, 0.001]))
    assert race.running == [1, 2]
    assert race.best in (1, 2)


def test_the_better_of_two_equals_is_rarely_given_up():
    """A setting falls out after the first fold beyond `BEHIND` standard errors: both ways 0.3 %, so 6 of 2000."""
    rng = np.random.default_rng(1)
    out = 0
    for _ in range(2000):
        race = Race(2)
        race.fold(values(rng, [0.0, 0.0]))
        out += len(race.running) < 2
    assert BEHIND == 3.0
    assert 0 < out <= 16  # four standard deviations above 6


def test_what_is_behind_by_less_than_one_fold_tells_falls_out_after_several():
    """0.006 is 2.3 standard errors of one fold, and 5.2 of five."""
    rng = np.random.default_rng(2)
    race = Race(2)
    after = []
    for _ in range(5):
        race.fold({k: value for k, value in values(rng, [0.0, 0.006]).items() if k in race.running})
        after.append(len(race.running))
    assert after[0] == 2
    assert after[-1] == 1
    assert race.best == 0


def test_a_setting_that_could_not_be_fitted_is_out():
    rng = np.random.default_rng(3)
    race = Race(3)
    race.fold({k: value for k, value in values(rng, [0.0, 0.0, 0.0]).items() if k != 1})
    assert race.running == [0, 2]
    race.fold({})
    assert race.running == []


def test_a_value_that_is_not_finite_is_out():
    race = Race(2)
    good = values(np.random.default_rng(4), [0.0, 0.0])
    race.fold({0: Value(np.full(60, -np.inf), good[0].f_c), 1: good[1]})
    assert race.running == [1]
