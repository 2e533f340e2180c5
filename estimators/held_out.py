"""Choosing a setting without the truth: the semi-dual of optimal transport on samples that were held out.

Whatever f is, E f(X) + E f^c(Y) with f^c(y) = min_x |x - y|^2 / 2 - f(x) is at most the cost of transport, and the true
potential attains it (Villani 2009, Optimal transport: old and new, theorem 5.10). So of several fitted potentials the
one with the largest value on fresh samples is the best, in the mean over the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points

Vector = NDArray[np.float64]

BEHIND = 3.0
"""Standard errors by which a setting may trail the best one and still be fitted on the next fold."""


class Potential(Protocol):
    """A dual potential of the source: T(x) = x - grad f(x)."""

    def value(self, x: Points) -> Vector:
        """f, (n, d) -> (n,)."""

    def gradient(self, x: Points) -> Points:
        """Grad f, (n, d) -> (n, d)."""


class Fold(NamedTuple):
    """Samples to fit on, and the held-out rest."""

    x_fit: Points
    x_out: Points
    y_fit: Points
    y_out: Points


def folds_of(x: Points, y: Points, folds: int, rng: np.random.Generator) -> Iterator[Fold]:
    """Every part of the samples x (n, d) and y (m, d), cut into `folds` at random, held out in turn."""
    parts_x, parts_y = (rng.permutation(np.arange(len(points)) % folds) for points in (x, y))
    for fold in range(folds):
        held_x, held_y = parts_x == fold, parts_y == fold
        yield Fold(x[~held_x], x[held_x], y[~held_y], y[held_y])


def held_out_value(f: Potential, fold: Fold) -> Value:
    """f and f^c on what was held out.

    f^c is computed from f alone and not taken from a fitted partner: a potential that leaves f + g <= c violated gains
    nothing, because a bump of f lowers f^c.
    """
    return Value(f.value(fold.x_out), c_transform(f, fold.y_out, fold.x_fit))


class Value(NamedTuple):
    """The semi-dual of a potential on the held-out samples of one fold, sample by sample: f (n,) and f^c (m,)."""

    f: Vector
    f_c: Vector

    @property
    def mean(self) -> float:
        """Mean f + mean f^c."""
        return float(self.f.mean() + self.f_c.mean())

    @property
    def variance(self) -> float:
        """Of `mean`, over the draw of the samples."""
        return float(sum(part.var(ddof=1) / len(part) for part in self if len(part) > 1))

    def minus(self, other: Self) -> Self:
        """The difference at each sample: two potentials of one fold have most of their noise in common."""
        return type(self)(self.f - other.f, self.f_c - other.f_c)


class Race:
    """Which of several settings has the largest held-out value, without fitting all of them on every fold.

    A setting that trails the best one by more than `BEHIND` standard errors of their difference, paired by sample,
    is not fitted on the folds that are left (Maron and Moore 1994, Hoeffding races).

    Parameters
    ----------
    count
        Settings.
    """

    def __init__(self, count: int) -> None:
        self._values: dict[int, list[Value]] = {setting: [] for setting in range(count)}

    @property
    def running(self) -> list[int]:
        """Settings that are still in the race, in order."""
        return list(self._values)

    @property
    def best(self) -> int:
        """The setting with the largest value so far, the first of equals."""
        return max(self._values, key=lambda setting: sum(value.mean for value in self._values[setting]))

    def fold(self, values: dict[int, Value]) -> None:
        """Count the values of one more fold; a setting without a finite one could not be fitted, and is out."""
        fitted = {setting: value for setting, value in values.items() if np.isfinite(value.mean)}
        self._values = {setting: [*self._values[setting], value] for setting, value in fitted.items()}
        if not fitted:
            return
        leader = self._values[self.best]
        for setting, own in list(self._values.items()):
            gaps = [ours.minus(theirs) for ours, theirs in zip(leader, own, strict=True)]
            if sum(gap.mean for gap in gaps) > BEHIND * np.sqrt(sum(gap.variance for gap in gaps)):
                del self._values[setting]


def c_transform(f: Potential, y: Points, starts: Points) -> Vector:
    """min_x |x - y_j|^2 / 2 - f(x) over the box around `starts`, (m, d) -> (m,), by L-BFGS from the best start of each.

    A minimum over the starts alone would be above the true one wherever f has a bump between them: a semi-dual value
    computed with it rewards potentials that break the constraint there.
    """
    at_starts = cdist(y, starts, "sqeuclidean") / 2 - f.value(starts)
    best = starts[at_starts.argmin(axis=1)]

    def total(flat: Vector) -> tuple[float, Vector]:
        x = flat.reshape(y.shape)
        return float(((x - y) ** 2).sum() / 2 - f.value(x).sum()), (x - y - f.gradient(x)).ravel()

    bounds = list(zip(starts.min(axis=0), starts.max(axis=0), strict=True)) * len(y)
    found = minimize(total, best.ravel(), jac=True, method="L-BFGS-B", bounds=bounds).x.reshape(y.shape)
    at_found = ((found - y) ** 2).sum(axis=1) / 2 - f.value(found)
    return np.asarray(np.minimum(at_found, at_starts.min(axis=1)))
