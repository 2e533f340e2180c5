"""Geometric means of error ratios, and how far they can be told apart: resampling, without tables or words.

An array of ratios is (estimators, places, instances, seeds), NaN where there is no fit: places and estimators may have
different numbers of both. The mean ratio of a place is arithmetic (what a fit may be expected to cost there, so that a
few good fits do not pay for bad ones), the mean over places is geometric (errors of unlike problems have no common
unit), and each place has equal weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mongebench.report.tables.paired import moderated

DRAWS = 2000
"""Of the bootstrap."""
LEVEL = 0.95
"""Of an interval, and of all claims that one estimator is better than another, together."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """What `rank` finds of k estimators.

    Attributes
    ----------
    log_mean
        (k,) log of the geometric mean ratio.
    low, high
        (k,) of its interval at `LEVEL`; NaN where there is nothing to resample.
    best
        (k,) share of the draws in which each is the lowest; ties share.
    error
        (k, k) standard errors of the differences of `log_mean`.
    quantile
        Standard errors that separate two: all pairs together keep the `LEVEL`.
    """

    log_mean: Array
    low: Array
    high: Array
    best: Array
    error: Array
    quantile: float

    def versus(self, one: int, other: int) -> tuple[float, float, float]:
        """Log-ratio of one estimator to another, and its interval, all pairs together."""
        difference = float(self.log_mean[one] - self.log_mean[other])
        half = self.quantile * float(self.error[one, other]) if one != other else 0.0
        return difference, difference - half, difference + half


Counts = Callable[[int], Array]
"""Members of a level -> (draws, members) how often each is drawn."""


def log_means(ratio: Array) -> Array:
    """(k,) log of the geometric mean over places of the mean ratio over instances, and over seeds within them."""
    found: Array = _by_place(ratio, lambda members: np.ones((1, members)))[0].mean(axis=1)
    return found


def resampled(ratio: Array, family: NDArray[np.intp], draws: int = DRAWS, seed: int = 0) -> Array:
    """(draws, k) `log_means` of resampled families, instances within them, seeds within those; the same for all.

    A level with a single member is kept as it is.
    """
    rng = np.random.default_rng(seed)

    def counts(members: int) -> Array:
        return rng.multinomial(members, np.full(members, 1 / members), size=draws).astype(float)

    by_place = _by_place(ratio, counts)
    weight = counts(int(family.max()) + 1)[:, family]
    found: Array = np.einsum("bkp,bp->bk", by_place, weight) / weight.sum(axis=1, keepdims=True)
    return found


def _by_place(ratio: Array, counts: Counts) -> Array:
    """(draws, k, places) log of the mean ratio."""
    return np.stack([_place(ratio[:, place], counts) for place in range(ratio.shape[1])], axis=-1)


def _place(ratio: Array, counts: Counts) -> Array:
    """(draws, k) log of the mean ratio of one place: ratio is (k, instances, seeds)."""
    instances = [own for own in np.moveaxis(ratio, 1, 0) if not np.isnan(own).all()]
    seeds = [own[:, ~np.isnan(own).all(axis=0)] for own in instances]
    means = np.stack([_mean(own, counts(own.shape[1])) for own in seeds], axis=-1)
    logs: Array = np.log(_mean(means, counts(len(instances))[:, None, :]))
    return logs


def _mean(values: Array, weight: Array) -> Array:
    """Weighted means along the last axis of (..., k, members): of those an estimator has, and of all if none weighs."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    if values.ndim == 2:
        sums, total = weight @ filled.T, weight @ there.T.astype(float)
    else:
        sums, total = (weight * filled).sum(axis=-1), (weight * there).sum(axis=-1)
    with np.errstate(invalid="ignore"):  # 0 / 0 where an estimator has none at all
        means: Array = np.where(total > 0, sums, filled.sum(axis=-1)) / np.where(total > 0, total, there.sum(axis=-1))
    return means


def freedom(ratio: Array, family: NDArray[np.intp]) -> tuple[float, int]:
    """(n / (n - 1), degrees of freedom) of the highest level with two members or more; (NaN, 0) where none has.

    A bootstrap of n members finds (n - 1) / n of their variance.
    """
    there = np.asarray(~np.isnan(ratio).all(axis=0))  # (places, instances, seeds)
    families = len(np.unique(family))
    if families > 1:
        return families / (families - 1), families - 1
    for members in (there.any(axis=2).sum(axis=1)[:, None], there.sum(axis=2)):
        counts = members[members > 0]
        if (counts > 1).any():
            return float(counts.sum() / (counts - 1).sum()), int((counts - 1).sum())
    return np.nan, 0


def rank(ratio: Array, family: NDArray[np.intp], draws: int = DRAWS, seed: int = 0) -> Ranking:
    """Judge k estimators at places of families 0, 1, ...; `ratio` as above, `family` (places,).

    Variances are those of the bootstrap, of differences also `moderated` over all pairs; Student's t and the
    studentized range (Tukey) allow for the few members of the highest level.
    """
    count = len(ratio)
    log_mean, found = log_means(ratio), resampled(ratio, family, draws, seed)
    lowest = found == found.min(axis=1, keepdims=True)
    best = (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0)
    scale, degrees = freedom(ratio, family)
    if not degrees:
        nothing = np.full(count, np.nan)
        return Ranking(log_mean, nothing, nothing, best, np.full((count, count), np.nan), np.nan)
    half = stats.t.isf((1 - LEVEL) / 2, degrees) * np.sqrt(scale) * found.std(axis=0)
    covariance = np.atleast_2d(np.cov(found.T, ddof=0))
    spread = np.diag(covariance)
    variance = scale * np.clip(spread[:, None] + spread - 2 * covariance, 0, None)
    upper = np.triu_indices(count, 1)
    pooled, gained = moderated(_cleaned(variance[upper]), np.full(len(upper[0]), float(degrees)))
    error = np.zeros((count, count))
    error[upper] = np.sqrt(pooled)
    # Pairs are not independent: k estimators have k - 1 times the freedom of one difference, and no more.
    most = degrees * max(1, count - 1)
    lent = int(min(float(gained.max()), most)) if count > 1 else 0
    # In steps of five: the quantile takes a tenth of a second, and differs little there.
    quantile = _range(count, lent if lent < 10 else lent // 5 * 5) if count > 1 else np.nan
    return Ranking(log_mean, log_mean - half, log_mean + half, best, error + error.T, quantile)


def _cleaned(variance: Array) -> Array:
    """Zero where only rounding differs from it."""
    return np.where(variance > 1e-20, variance, 0.0)


@functools.cache
def _range(count: int, degrees: int) -> float:
    """Of the studentized range of `count` means, over sqrt(2): what a difference of two of them is held against."""
    return float(stats.studentized_range.ppf(LEVEL, count, degrees) / np.sqrt(2))
