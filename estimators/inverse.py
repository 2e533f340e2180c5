"""The map back of T = grad phi: the x with T(x) = y, where phi* has its gradient, by damped Newton steps.

One routine for every map with a derivative, whatever computes it. `dual.conjugate` solves the same equation inside of
compiled steps while phi is learnt, for points that it visits hundreds of times as phi moves a little.

Reference: Nocedal and Wright 2006, Numerical optimization, chapter 11.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import Points
from mongebench.core.errors import NotConverged

STEPS = 100
"""Most Newton steps."""
LENGTHS = 0.25 ** np.arange(12)
"""Of a step, in units of the full one: the first that lowers the residual is taken."""
DECREASE = 0.1
"""Share of the decrease that the derivative promises along a step, which it must keep."""
RIDGE = 1e-13
"""Added to a derivative, in units of its largest entry: T may be flat where no point has been."""
TOLERANCE = 1e-8
"""Largest residual that is left, in units of the largest that steps begin with."""


def preimages(
    slope: Callable[[Points], Points], derivative: Callable[[Points], NDArray[np.float64]], y: Points, x: Points
) -> Points:
    """The points whose images under `slope` are y, beginning at x; both (n, d) -> (n, d), float64.

    Parameters
    ----------
    slope
        T, (k, d) -> (k, d).
    derivative
        DT, (k, d) -> (k, d, d), symmetric.
    y, x
        Images, and where to begin, (n, d).

    Raises
    ------
    NotConverged
        Points without a preimage, to rounding: T may not reach them.
    """
    x, residual = x.copy(), slope(x) - y
    error = np.linalg.norm(residual, axis=1)
    rounding = 8 * np.finfo(np.float64).eps * float(np.abs(y).max(initial=0.0))
    allowed = TOLERANCE * float(error.max(initial=0.0)) + 100 * rounding
    left = error > rounding
    for _ in range(STEPS):
        rows = np.flatnonzero(left)
        if not len(rows):
            break
        matrices = derivative(x[rows])
        ridge = RIDGE * np.abs(matrices).max(axis=(1, 2)) + np.finfo(np.float64).tiny
        matrices = matrices + ridge[:, None, None] * np.eye(x.shape[1])
        steps = np.linalg.solve(matrices, residual[rows][:, :, None])[:, :, 0]
        for length in LENGTHS:
            moved = x[rows] - length * steps
            rest = slope(moved) - y[rows]
            size = np.linalg.norm(rest, axis=1)
            lower = size < (1 - DECREASE * length) * error[rows]
            taken = rows[lower]
            x[taken], residual[taken], error[taken] = moved[lower], rest[lower], size[lower]
            rows, steps = rows[~lower], steps[~lower]
            if not len(rows):
                break
        left[rows] = False  # no step leads further
        left &= error > rounding
    failed = ~(error <= allowed)
    if failed.any():
        raise NotConverged(
            f"{failed.sum()} of {len(y)} points are no images: those found are up to {error[failed].max():.1e} away, "
            "and the map may not reach them. Map back points among its images, or fit the other direction."
        )
    return x
