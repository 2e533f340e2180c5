"""A function of points that somebody wrote for one point or for a batch: the two are told apart by trying shapes.

blackjax and most samplers take log-densities of one point, (d,) -> (); estimators and metrics ask for a batch,
(n, d) -> (n,). `Batched` makes either answer a batch, in the array library that the points come in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np


class Batched:
    """(n, d) -> (n,), of a function of a batch, or of one point, (d,) -> ().

    Which one it is, is decided at the first call, on copies of its first point: d + 1 of them, and d + 2, so that a
    function of one point that reads rows as coordinates has the wrong shape for one of them. A function of a batch
    stays as it is. One of a single point is vectorised by JAX if it answers in JAX's arrays; else it is called point
    by point. A function that is neither is called with the batch, and what comes of that is its caller's to judge.

    Parameters
    ----------
    function
        Of either kind.
    sign
        Factor of its values: -1 makes a log-density a potential.
    """

    def __init__(self, function: Callable[[Any], Any], sign: float = 1.0) -> None:
        self.function = function
        self.sign = sign
        self._of_one_point: bool | None = None

    def __call__(self, points: Any) -> Any:
        """(n, d) -> (n,)."""
        if self._of_one_point is None:
            self._of_one_point = _is_of_one_point(self.function, points)
        values = _each(self.function, points) if self._of_one_point else self.function(points)
        return values if self.sign == 1 else self.sign * values


def batched(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function as one of a batch; what is `Batched` already, or not known at all, as it is."""
    return Batched(function) if function and not isinstance(function, Batched) else function


def _is_of_one_point(function: Callable[[Any], Any], points: Any) -> bool:
    """Whether it fails for batches, or answers in another shape than (n,), and answers () for a point."""
    if getattr(points, "ndim", None) != 2 or not array_api_compat.is_array_api_obj(points):
        return False
    count, dim = points.shape
    if count == 0:
        return False
    xp = array_api_compat.array_namespace(points)
    sizes = (dim + 1, dim + 2)
    copies = [xp.concat([points[:1]] * size, axis=0) for size in sizes]
    if all(_shape(function, batch) == (size,) for batch, size in zip(copies, sizes, strict=True)):
        return False
    return _shape(function, points[0]) == ()


def _shape(function: Callable[[Any], Any], points: Any) -> tuple[int, ...] | None:
    """Of the function's values; None where it has none, for whatever reason: it was asked whether it can."""
    try:
        return tuple(function(points).shape)
    except Exception:
        return None


def _each(function: Callable[[Any], Any], points: Any) -> Any:
    """A function of one point at each of (n, d), n >= 1."""
    if array_api_compat.is_jax_array(points):
        import jax

        return jax.vmap(function)(points)
    if isinstance(points, np.ndarray):
        first = function(points[0])
        if not array_api_compat.is_jax_array(first):
            return np.array([function(point) for point in points])
        import jax

        with jax.enable_x64(points.dtype == np.float64):
            return np.asarray(jax.vmap(function)(jax.numpy.asarray(points)))
    xp = array_api_compat.array_namespace(points)
    return xp.stack([function(point) for point in points])
