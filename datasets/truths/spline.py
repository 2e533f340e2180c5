"""Convex tensor-product B-spline potentials: the stored form of a Brenier potential in the plane.

A truth T* = grad phi that has no closed form is stored as the coefficients of a spline

    phi(x) = sum_ij c_ij B_i(x_1) B_j(x_2)        on the box  [a_1, b_1] x [a_2, b_2],

with clamped knots.  Value, gradient and Hessian are exact derivatives of one function, so that T = grad phi
is a gradient to rounding error, all in double precision. SciPy evaluates it (`NdBSpline`).

Outside the box
---------------
The stored potentials have constant normal slopes on the four sides of the box (T_1 = -s on the left side and
+s on the right, T_2 = -s below and +s above), hence d^2 phi / dx_1 dx_2 = 0 on the boundary.  With p the
point of the box nearest to x (the coordinates clipped), the extension

    Phi(x) = phi(p) + grad phi(p) . (x - p) + |x - p|^2 / 2,        grad Phi(x) = grad phi(p) + (x - p)

is then a C^1 function on the whole plane whose gradient really is the second formula, and it is convex:
beyond a side its Hessian is diagonal with entries 1 and the tangential second derivative of phi; beyond a
corner it is the identity.  For a general spline the same formula would be neither a gradient nor certainly
monotone, which is why the constructor refuses coefficients whose normal slopes are not constant.

References: C. de Boor, A Practical Guide to Splines, rev. ed., Springer 2001, chapters IX-X.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import NdBSpline

Array = NDArray[np.float64]


def normal_slopes(
    knots_x: Array, knots_y: Array, coefficients: Array, degree: int
) -> tuple[Array, Array, Array, Array]:
    """Spline coefficients of d/dx_1 on the left and right side, and of d/dx_2 on the lower and upper side."""

    def step(knots: Array, at_end: bool) -> float:
        inner = knots[-degree - 2] if at_end else knots[degree + 1]
        return float(abs(inner - knots[-1 if at_end else 0])) / degree

    return (
        (coefficients[1] - coefficients[0]) / step(knots_x, False),
        (coefficients[-1] - coefficients[-2]) / step(knots_x, True),
        (coefficients[:, 1] - coefficients[:, 0]) / step(knots_y, False),
        (coefficients[:, -1] - coefficients[:, -2]) / step(knots_y, True),
    )


@dataclass(frozen=True, eq=False)
class SplinePotential:
    """A convex C^1 potential on the plane: a spline on a box, extended as the module docstring says.

    `knots_x` (k_1 + degree + 1,) and `knots_y` (k_2 + degree + 1,) are clamped knot vectors, `coefficients`
    is (k_1, k_2), first axis x_1.  The points x of all methods are (n, 2), in the units of the data.
    """

    knots_x: Array
    knots_y: Array
    coefficients: Array
    degree: int

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and normal slopes that are not constant along a side."""
        shape = (len(self.knots_x) - self.degree - 1, len(self.knots_y) - self.degree - 1)
        if self.coefficients.shape != shape:
            raise ValueError(f"coefficients have shape {self.coefficients.shape}, the knots ask for {shape}")
        slopes = normal_slopes(self.knots_x, self.knots_y, self.coefficients, self.degree)
        if max(float(np.ptp(slope)) for slope in slopes) > 1e-7:
            raise ValueError("the normal slope is not constant on every side, so that the extension is not a gradient")

    @classmethod
    def load(cls, path: str | Path) -> SplinePotential:
        """Read the arrays `knots_x`, `knots_y`, `coefficients` and `degree` of an npz file."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                knots_x=np.asarray(stored["knots_x"], dtype=np.float64),
                knots_y=np.asarray(stored["knots_y"], dtype=np.float64),
                coefficients=np.asarray(stored["coefficients"], dtype=np.float64),
                degree=int(stored["degree"]),
            )

    @property
    def box(self) -> Array:
        """(2, 2): lower corner, then upper corner of the box on which the spline itself is used."""
        return np.array([[self.knots_x[0], self.knots_y[0]], [self.knots_x[-1], self.knots_y[-1]]])

    def value(self, x: Array) -> Array:
        """phi(x): (n, 2) -> (n,)."""
        return self._value_and_gradient(x)[0]

    def gradient(self, x: Array) -> Array:
        """T(x) = grad phi(x): (n, 2) -> (n, 2)."""
        nearest, excess = self._to_the_box(x)
        return self._slopes(nearest) + excess

    def hessian(self, x: Array) -> Array:
        """D^2 phi(x) = DT(x), symmetric: (n, 2) -> (n, 2, 2); outside the box the one of the extension."""
        nearest, excess = self._to_the_box(x)
        first, mixed, second = (self._spline(nearest, nu=order) for order in ((2, 0), (1, 1), (0, 2)))
        outside = excess != 0.0
        mixed[outside.any(axis=1)] = 0.0
        diagonal = np.where(outside, 1.0, np.column_stack([first, second]))
        return np.stack([diagonal[:, 0], mixed, mixed, diagonal[:, 1]], axis=1).reshape(-1, 2, 2)

    def inverse(self, y: Array, tolerance: float = 1e-10, max_iterations: int = 500) -> Array:
        """Solve grad phi(x) = y for every row of y: (n, 2) -> (n, 2), with |grad phi(x) - y| <= `tolerance`.

        x minimises the convex function phi(x) - x . y.  Each row runs Newton steps with Armijo backtracking
        of its own, from the image of y under the affine map that takes grad phi(box), a rectangle, to the
        box. Beyond a side of that rectangle the coordinate across the side is exact from the start.

        Raises RuntimeError when some row does not reach the tolerance in `max_iterations` steps.
        """
        y = _points(y)
        low, high = self.box[0], self.box[1]
        corner_low, corner_high = self.gradient(self.box)
        nearest = np.clip(y, corner_low, corner_high)
        x: Array = low + (high - low) * (nearest - corner_low) / (corner_high - corner_low) + (y - nearest)
        active = np.arange(len(y))
        for _ in range(max_iterations):
            residual = self.gradient(x[active]) - y[active]
            open_rows = np.sqrt(np.sum(residual**2, axis=1)) > tolerance
            active, residual = active[open_rows], residual[open_rows]
            if active.size == 0:
                break
            x[active] = self._line_search(x[active], y[active], residual)
        else:
            raise RuntimeError(
                f"inverse: {active.size} of {len(y)} rows above {tolerance:g} after {max_iterations} steps"
            )
        return x

    def _line_search(self, x: Array, y: Array, residual: Array) -> Array:
        """One damped Newton step for phi(x) - x . y in every row: (n, 2) -> (n, 2)."""
        direction = -np.linalg.solve(self.hessian(x), residual[:, :, None])[:, :, 0]
        slope = np.sum(direction * residual, axis=1)
        objective = self.value(x) - np.sum(x * y, axis=1)
        size = np.ones(len(x))
        best = x + direction
        searching = np.arange(len(x))
        for _ in range(60):
            trial = x[searching] + size[searching, None] * direction[searching]
            best[searching] = trial
            trial_value, trial_gradient = self._value_and_gradient(trial)
            trial_objective = trial_value - np.sum(trial * y[searching], axis=1)
            decrease = objective[searching] + 1e-4 * size[searching] * slope[searching] - trial_objective
            # Near the solution the objective is flat to rounding error; only there a smaller residual
            # decides. (Taking either criterion anywhere lets the iteration cycle across the sides of the
            # box.)
            length = np.sum((trial_gradient - y[searching]) ** 2, axis=1)
            flat = np.abs(slope[searching]) < 1e-10 * (1 + np.abs(objective[searching]))
            shorter = flat & (length < np.sum(residual[searching] ** 2, axis=1))
            searching = searching[~((decrease >= 0) | shorter)]
            if searching.size == 0:
                break
            size[searching] *= 0.5
        return best

    def _value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """(n,) and (n, 2) of the potential extended to the whole plane."""
        nearest, excess = self._to_the_box(x)
        slopes = self._slopes(nearest)
        value: Array = self._spline(nearest, nu=(0, 0)) + np.sum(slopes * excess + 0.5 * excess**2, axis=1)
        return value, slopes + excess

    def _to_the_box(self, x: Array) -> tuple[Array, Array]:
        """The nearest points of the closed box, and what is left to x, (n, 2) each."""
        x = _points(x)
        nearest = np.clip(x, self.box[0], self.box[1])
        return nearest, x - nearest

    def _slopes(self, x: Array) -> Array:
        """Gradient of the spline at points of the closed box, (n, 2) -> (n, 2)."""
        return np.column_stack([self._spline(x, nu=order) for order in ((1, 0), (0, 1))])

    @functools.cached_property
    def _spline(self) -> NdBSpline:
        return NdBSpline((self.knots_x, self.knots_y), self.coefficients, self.degree)


def _points(x: Array) -> Array:
    """Check the shape (n, 2) and return the points in double precision."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"points must have shape (n, 2), got {x.shape}")
    return x
