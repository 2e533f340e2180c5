"""Differences at many places, judged together: noise that places lend each other, and levels that they share.

Few fits tell little about their own noise: two differences leave one degree of freedom. The places of a run have noise
of a kind, and how alike it is can be estimated from all of them; each place's variance is drawn towards theirs by as
much as that warrants (Smyth, Linear models and empirical Bayes methods, 2004), and gains degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

DOUBT = 2.0
"""Standard errors by which places are taken to be less alike than they look."""
POWER = 0.8
"""Probability with which a change of the size called findable is found."""

Vector = NDArray[np.float64]


def moderated(variance: Vector, freedom: Vector, scatter: Vector | None = None) -> tuple[Vector, Vector]:
    """Variances drawn towards each other, and their degrees of freedom.

    Parameters
    ----------
    variance, freedom
        (k,) estimates, each sigma^2 chi^2 / freedom, where the 1 / sigma^2 of the places are Gamma distributed; freedom
        0 is a place that knows nothing of its own noise. A variance of 0 is no estimate: it is kept, and lends nothing.
    scatter
        (k,) what log sigma^2 may grow linearly with: the log of another variance of each place. By default none.

    Returns
    -------
    (k,) posterior variances, NaN where nothing tells them, and (k,) degrees of freedom, those of all places together
    where they are found to have one variance.
    """
    own = (freedom > 0) & (variance > 0)
    design = np.ones((len(variance), 1)) if scatter is None else np.column_stack([np.ones(len(variance)), scatter])
    if np.linalg.matrix_rank(design[own]) < design.shape[1]:
        design = design[:, :1]
    if own.sum() <= design.shape[1]:
        return np.where(freedom > 0, variance, np.nan), freedom.astype(float)
    half = freedom[own] / 2
    logs = np.log(variance[own]) - special.digamma(half) + np.log(half)
    slopes, *_ = np.linalg.lstsq(design[own], logs, rcond=None)
    centre = design @ slopes
    squares, spare = (logs - centre[own]) ** 2, own.sum() - design.shape[1]
    # As unlike as the places may well be: what few of them fail to show is no reason to trust them.
    doubt = DOUBT * squares.std() / np.sqrt(spare)
    excess = squares.sum() / spare - special.polygamma(1, half).mean() + doubt
    if excess > 0:
        prior = 2 * _inverse_trigamma(float(excess))
        common = np.exp(centre + special.digamma(prior / 2) - np.log(prior / 2))
        lent = prior + freedom
        found = (prior * common + freedom * np.nan_to_num(variance)) / lent
    else:
        found, lent = np.exp(centre), np.full(variance.shape, np.inf)
    exact = (freedom > 0) & (variance == 0)
    # All places together know no more than this.
    return np.where(exact, 0.0, found), np.where(exact, freedom, np.minimum(lent, freedom[own].sum()))


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value > 0: Newton's method on 1 / trigamma, which is nearly linear."""
    x = 0.5 + 1 / value
    for _ in range(50):
        slope = float(special.polygamma(1, x))
        step = slope * (1 - slope / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-9 * x:
            break
    return x


@dataclass(frozen=True)
class Claims:
    """Of k differences against zero, the level shared by Holm's procedure.

    Attributes
    ----------
    p
        Of each alone.
    found
        Which differ from zero: none is claimed wrongly with at least the probability asked for.
    low, high
        Of an interval each; it leaves out zero exactly where a difference was found.
    findable
        Size of a difference that would be found with probability `POWER`.
    """

    p: Vector
    found: NDArray[np.bool_]
    low: Vector
    high: Vector
    findable: Vector


def claims(difference: Vector, error: Vector, freedom: Vector, level: float) -> Claims:
    """Of (k,) differences, their standard errors (NaN: unknown, never found) and degrees of freedom."""
    known = np.isfinite(error)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(difference) / error
    # Equal to the last digit at every fit: no difference, or one without noise.
    ratio = np.where(known & (error == 0), np.where(difference == 0, 0.0, np.inf), ratio)
    p = np.where(known, 2 * stats.t.sf(np.nan_to_num(ratio, posinf=np.inf), np.where(known, freedom, 1.0)), 1.0)
    order = np.argsort(p, kind="stable")
    count = len(p)
    share = (1 - level) / np.maximum(count - np.arange(count), 1)
    passed = np.logical_and.accumulate(p[order] < share)
    rejected = int(passed.sum())
    # Those not found share the level at which the procedure stopped.
    steps = np.where(passed, share, share[min(rejected, count - 1)] if count else 1.0)
    alpha, found = np.empty(count), np.empty(count, dtype=bool)
    alpha[order], found[order] = steps, passed
    with np.errstate(invalid="ignore"):
        quantile = stats.t.isf(alpha / 2, freedom)
        half = quantile * error
        findable = half + stats.t.ppf(POWER, freedom) * error
    return Claims(p, found, difference - half, difference + half, findable)


def units(values: Vector, instances: NDArray[np.generic]) -> Vector:
    """(m,) what is independent among values of one place: means of instances where there are two, else the values."""
    names, index = np.unique(instances, return_inverse=True)
    if len(names) < 2:
        return values
    means: Vector = np.bincount(index, values) / np.bincount(index)
    return means
