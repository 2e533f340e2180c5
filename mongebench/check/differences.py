"""Finite differences that bound their own error, and a search for the least curvature of a potential.

All steps are taken in the coordinates of a `Frame`, where a cloud of points has mean 0 and identity covariance: a step
then suits the narrow directions of an ill-conditioned law as well as the wide ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import minimize

from mongebench.core.arrays import Points

Array = NDArray[np.float64]
Function = Callable[[Points], Array]

STEP = 1e-4
"""Of central differences of fourth order, in standard deviations of the cloud that made the frame."""
VALUE_ERROR = 1e-12
"""Relative error of the values of maps and potentials, and of the points they are taken at: rounding, mostly."""
WIDE_STEP = 1e-2
"""Of differences whose truncation does no harm, in standard deviations."""
SCALES = (0.25, 1.0, 4.0, 16.0, 64.0)
"""Distances from the centre at which the search for the least curvature begins, in units of the samples'."""
DESCENTS, DESCENT_STEPS = 6, 60
"""How many of the starting points a descent leaves from, and how long it may be."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Principal axes of a cloud: `centre + w @ axes.T` has its mean and covariance where w has 0 and I.

    Attributes
    ----------
    centre
        (d,).
    axes, inverse
        (d, d) each: principal axes (columns) times standard deviations, and the inverse of that matrix.
    """

    centre: Array
    axes: Array
    inverse: Array

    @classmethod
    def of(cls, points: Points) -> Frame:
        """The frame of (n, d) points; fewer than 2 d are taken to be as wide in all directions as on average."""
        n, d = points.shape
        centre = points.mean(axis=0)
        centred = points - centre
        if n < 2 * d:
            centred = np.concatenate([centred, np.eye(d) * np.sqrt((centred**2).sum() / d)])
        _, deviations, axes = np.linalg.svd(centred, full_matrices=False)
        deviations = np.maximum(deviations / np.sqrt(n), 1e-12 * deviations.max() or 1.0)
        return cls(centre, axes.T * deviations, axes / deviations[:, None])

    @property
    def log_determinant(self) -> float:
        """log |det axes|."""
        return float(np.linalg.slogdet(self.axes)[1])

    @property
    def narrowest(self) -> float:
        """The smallest standard deviation."""
        return float(1 / np.linalg.norm(self.inverse, axis=1).max())

    def misplaced(self, points: Points) -> Array:
        """How far, in coordinates, rounding moves points: (n, d) -> (n, d)."""
        return 16 * np.finfo(float).eps * np.abs(points) @ np.abs(self.inverse).T

    def coordinates(self, points: Points) -> Array:
        """The w of points, (n, d) -> (n, d)."""
        return (points - self.centre) @ self.inverse.T


def difference(
    function: Function, at: Points, directions: Points, frame: Frame, left: Array | None = None
) -> tuple[Array, Array]:
    """Derivatives of `function` (times the matrix `left`) in directions of a frame, and a bound of their error.

    Parameters
    ----------
    function
        (n, d) -> (n, k).
    at
        (n, d).
    directions
        (n, d), in coordinates of `frame`; of norm about 1.
    left
        (j, k), applied to the values; None for the identity.

    Returns
    -------
    (n, j) each: differences of fourth order, and what rounding and truncation leave uncertain of them.
    """
    offsets = STEP * np.array([1.0, -1.0, 2.0, -2.0, 4.0, -4.0])
    moved = at + offsets[:, None, None] * (directions @ frame.axes.T)
    values = np.asarray(function(moved.reshape(-1, at.shape[1])))
    size = np.abs(values).reshape(len(offsets), len(at), -1).max(axis=0)
    if left is not None:
        values, size = values @ left.T, size @ np.abs(left).T
    values = values.reshape(len(offsets), len(at), -1)
    narrow, middle, wide = (values[::2] - values[1::2]) / (2 * offsets[::2, None, None])
    fine, coarse = (4 * narrow - middle) / 3, (4 * middle - wide) / 3
    misplaced = VALUE_ERROR + frame.misplaced(at).max()
    rounding = (VALUE_ERROR * (1 + size) + misplaced * np.abs(fine).max()) / STEP
    return fine, rounding + 4 * np.abs(fine - coarse).max(axis=1, keepdims=True)


def jacobian(function: Function, at: Points, frame: Frame, left: Array | None = None) -> tuple[Array, Array]:
    """Jacobians `left` D`function` `frame.axes`, (n, j, d), and a bound of the error of every entry."""
    n, d = at.shape
    columns, error = difference(function, np.repeat(at, d, axis=0), np.tile(np.eye(d), (n, 1)), frame, left)
    return np.swapaxes(columns.reshape(n, d, -1), 1, 2), np.swapaxes(error.reshape(n, d, -1), 1, 2)


def gradient_of(potential: Function, frame: Frame) -> Function:
    """The gradient of a potential by finite differences, (n, d) -> (n, d), where no better one is known."""

    def gradient(y: Points) -> Array:
        slopes, _ = jacobian(lambda z: np.asarray(potential(z))[:, None], y, frame)
        return slopes[:, 0] @ frame.inverse

    return gradient


def least_curvature(gradient: Function, samples: Points, frame: Frame) -> tuple[float, float]:
    """The smallest curvature of a potential that a search finds, and what rounding leaves uncertain of it.

    Returned is <grad V(y + e) - grad V(y - e), e> / (2 |e|^2) for some y and e. Whatever lambda V is strongly convex
    with, this is no smaller, exactly: it disproves any larger lambda without a limit of small steps.

    The smallest eigenvalue of V'' is evaluated at samples, at their multiples up to 64 times further out and along the
    principal axes, and then decreased by quasi-Newton descents from the lowest points. NaN if grad V is finite nowhere.
    """
    search = _Curvature(gradient, frame)
    some = frame.coordinates(samples[:16])
    axes = np.eye(len(frame.centre))[:32]
    starts = np.concatenate([np.zeros((1, some.shape[1])), *(scale * some for scale in SCALES),
                             *(scale * axes for scale in (-32, -4, 4, 32))])  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = [search.at(w) for w in starts]
        lowest = starts[np.argsort([curvature for curvature, _ in found], kind="stable")[:DESCENTS]]
        options = {"maxiter": DESCENT_STEPS}
        descents = [minimize(search.descend, w, jac=True, method="L-BFGS-B", options=options) for w in lowest]
        bounds = [search.bound(w) for w in (*some, *lowest, *(descent.x for descent in descents))]
    finite = (bound for bound in bounds if np.isfinite(bound).all())
    return min(finite, key=lambda bound: bound[0] + bound[1], default=(np.nan, np.nan))


@dataclass(frozen=True, eq=False)
class _Curvature:
    """The smallest eigenvalue of V'' as a function of the coordinates w of a point; infinite where V'' overflows."""

    gradient: Function
    frame: Frame

    def at(self, w: Array) -> tuple[float, Array]:
        """The eigenvalue, and its eigenvector in coordinates, of norm 1 there."""
        axes, d = self.frame.axes, len(w)
        offsets = WIDE_STEP / 10 * np.concatenate([np.eye(d), -np.eye(d)])
        slopes = np.asarray(self.gradient(self._points(w + offsets))) @ axes
        hessian = (slopes[:d] - slopes[d:]) / (WIDE_STEP / 5)
        if not np.isfinite(hessian).all():
            return np.inf, np.ones(d) / np.sqrt(d)
        hessian = (hessian + hessian.T) / 2
        values, vectors = np.linalg.eigh(hessian)
        vector = vectors[:, 0]
        if values[0] > 1e-9 * values[-1]:
            # V'' is a congruence of `hessian`: e^T V'' e / |e|^2 is smallest where the inverse ratio is largest, which
            # loses no digit where V'' is ill-conditioned and `hessian` is not.
            vector = scipy.linalg.eigh(axes.T @ axes, hessian, subset_by_index=(d - 1, d - 1))[1][:, 0]
            vector /= np.linalg.norm(vector)
        return float(vector @ hessian @ vector / np.linalg.norm(axes @ vector) ** 2), vector

    def descend(self, w: Array) -> tuple[float, Array]:
        """The eigenvalue and its gradient, the second difference of grad V along the eigenvector, in scaled units."""
        value, vector = self.at(w)
        step = WIDE_STEP / 10 * vector
        ahead, here, behind = np.asarray(self.gradient(self._points(np.stack([w + step, w, w - step]))))
        third = (ahead - 2 * here + behind) @ self.frame.axes
        slope = third / np.linalg.norm(self.frame.axes @ step) ** 2
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return 1e300, np.zeros_like(w)
        unit = (self.frame.axes**2).sum() / len(w)  # a curvature of 1 / variance becomes 1, which L-BFGS expects
        return unit * value, unit * slope

    def bound(self, w: Array) -> tuple[float, float]:
        """An upper bound of lambda that the point w gives, and its rounding error."""
        _, vector = self.at(w)
        step = WIDE_STEP * vector
        points = self._points(np.stack([w + step, w - step]))
        ahead, behind = np.asarray(self.gradient(points))
        move = self.frame.axes @ step
        squared = float(move @ move)
        slope = float((ahead - behind) @ move) / (2 * squared)
        rounding = VALUE_ERROR * float(np.abs(move) @ (1 + np.abs(ahead) + np.abs(behind))) / squared
        misplaced = float((self.frame.misplaced(points) @ np.abs(vector)).max()) / WIDE_STEP
        return slope, rounding + misplaced * abs(slope)

    def _points(self, w: Array) -> Points:
        return self.frame.centre + w @ self.frame.axes.T
