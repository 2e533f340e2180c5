"""Choosing a setting without the truth: the semi-dual of optimal transport on samples that were held out.

Whatever f is, E f(X) + E f^c(Y) with f^c(y) = min_x |x - y|^2 / 2 - f(x) is at most the cost of transport, and the true
potential attains it (Villani 2009, Optimal transport: old and new, theorem 5.10). So of several fitted potentials the
one with the largest value on fresh samples is the best, in the mean over the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points

Vector = NDArray[np.float64]


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


def held_out_value(f: Potential, fold: Fold) -> float:
    """Mean f(x) + mean f^c(y) over what was held out.

    f^c is computed from f alone and not taken from a fitted partner: a potential that leaves f + g <= c violated gains
    nothing, because a bump of f lowers f^c.
    """
    return float(f.value(fold.x_out).mean() + c_transform(f, fold.y_out, fold.x_fit).mean())


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
