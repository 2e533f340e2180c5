"""Piecewise linear maps through given pairs of points, for estimators that know the map at finitely many of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError, cKDTree
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points, blockwise
from mongebench.core.errors import InvalidInput

MAX_DIM = 4
"""A Delaunay triangulation of n points has up to n^(d/2) simplices: 2000 points take seconds in d = 4, not in d = 5."""

MAX_TREE_DIM = 15
"""Above this dimension a search tree visits nearly all points, and all distances are faster."""


@dataclass(frozen=True)
class Nearest:
    """Finds the nearest of some points; its tree follows from them, and is made again where they are loaded.

    All distances are those of differences. |x|^2 - 2 <x, y> + |y|^2, which is faster in high dimension, finds wrong
    neighbours as soon as clusters lie 10^8 times their width apart.

    Attributes
    ----------
    points
        (n, d).
    """

    points: Points

    @functools.cached_property
    def tree(self) -> cKDTree:
        """Of the points."""
        return cKDTree(self.points)

    def __call__(self, x: Points) -> NDArray[np.intp]:
        """The index of the nearest point of each, (k, d) -> (k,)."""
        if self.points.shape[1] <= MAX_TREE_DIM:
            return np.asarray(self.tree.query(x)[1])
        return blockwise(
            lambda x: cdist(x, self.points, "sqeuclidean").argmin(axis=1),
            x,
            row_bytes=8 * len(self.points),
            block_bytes=1 << 22,
        )


@dataclass(frozen=True)
class PiecewiseLinear:
    """x_i -> y_i, linear on the simplices of the Delaunay triangulation of the x_i; y_i + x - x_i outside their hull.

    Attributes
    ----------
    points, images
        (n, d) distinct points x_i and their images y_i.
    """

    points: Points
    images: Points

    @classmethod
    def through(cls, points: Points, images: Points) -> PiecewiseLinear:
        """Triangulate. Raises `InvalidInput` above `MAX_DIM` dimensions."""
        dim = points.shape[1]
        if dim > MAX_DIM:
            raise InvalidInput(f"Interpolation needs d <= {MAX_DIM}, got d = {dim}.")
        made = cls(points, images)
        made.inside, made.nearest.tree  # noqa: B018  made now, at the expense of the fit
        return made

    @functools.cached_property
    def inside(self) -> LinearNDInterpolator | None:
        """The interpolation, NaN outside the hull; None where the points span no simplex."""
        if not 1 < self.points.shape[1] < len(self.points):
            return None
        try:
            return LinearNDInterpolator(self.points, self.images)
        except QhullError:  # all points in one hyperplane
            return None

    @functools.cached_property
    def nearest(self) -> Nearest:
        """Of the x_i."""
        return Nearest(self.points)

    def __call__(self, x: Points) -> Points:
        """(k, d) -> (k, d)."""
        near = self.nearest(x)
        translated: Points = self.images[near] + x - self.points[near]
        if x.shape[1] == 1:
            order = np.argsort(self.points[:, 0])
            knots, values = self.points[order, 0], self.images[order, 0]
            hull = (x[:, 0] >= knots[0]) & (x[:, 0] <= knots[-1])
            return np.where(hull[:, None], np.interp(x[:, 0], knots, values)[:, None], translated)
        if self.inside is None:
            return translated
        interpolated = self.inside(x)
        return np.where(np.isnan(interpolated), translated, interpolated)
