"""Inverse gradients of strongly convex functions, for all points at once, by damped Newton steps."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mongebench.core.errors import MongebenchError
from mongebench.datasets.linear import Array

_MOST_STEPS = 200
_TOLERANCE = 1e-10
"""Of the residual relative to 1 + |x|; one more step from there ends in rounding error."""


class Convex(Protocol):
    """A smooth strongly convex function on R^m."""

    def value(self, u: Array) -> Array:
        """(..., m) -> (...)."""
        ...

    def gradient(self, u: Array) -> Array:
        """(n, m) -> (n, m)."""
        ...

    def solve(self, u: Array, right_side: Array) -> Array:
        """H(u)^-1 right_side, (n, m) and (n, m) -> (n, m), H the Hessian."""
        ...


def inverse_gradient(function: Convex, x: Array, start: Array, cure: str) -> Array:
    """The u with gradient(u) = x, (n, m) -> (n, m): damped Newton steps on value(u) - u . x, from `start`, (n, m).

    Raises `MongebenchError` where they do not converge; `cure` says what would help.
    """
    tolerance = _TOLERANCE * (1 + np.linalg.norm(x, axis=1))
    u = start.copy()
    active = np.arange(len(x))
    for _ in range(_MOST_STEPS):
        residual = function.gradient(u[active]) - x[active]
        far = np.linalg.norm(residual, axis=1) > tolerance[active]
        active, residual = active[far], residual[far]
        if not len(active):
            return u - function.solve(u, function.gradient(u) - x)
        u[active] = _descend(function, u[active], x[active], residual)
    raise MongebenchError(
        f"The exact map was not found at {len(active)} of {len(x)} points, of norm up to "
        f"{np.linalg.norm(x[active], axis=1).max():.3g}; {cure}."
    )


def _descend(function: Convex, u: Array, x: Array, residual: Array) -> Array:
    """One Newton step for every row, halved until it decreases value(u) - u . x."""

    def tilted(u: Array) -> Array:
        values: Array = function.value(u) - (u * x).sum(axis=-1)
        return values

    step = -function.solve(u, residual)
    slope = (step * residual).sum(axis=1)
    start = tilted(u)
    slack = 1e-14 * (1 + np.abs(start))  # the last steps change less than rounding shows
    size = np.ones(len(u))
    for _ in range(60):
        rejected = tilted(u + size[:, None] * step) > start + 1e-4 * size * slope + slack
        if not rejected.any():
            break
        size[rejected] /= 2
    moved: Array = u + size[:, None] * step
    return moved
