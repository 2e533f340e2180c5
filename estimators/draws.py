"""What the steps of a fit see of one measure, and what is held out of it to stop by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mongebench.core.arrays import Points
from mongebench.core.oracle import View

FIRST = 1 << 14
"""Fresh draws that tell the place and the scale of a measure."""


@dataclass(frozen=True)
class Side:
    """One measure's draws: what steps see, and what is held out of them.

    Attributes
    ----------
    batches
        (count, n) -> (count, at most n, d): of NumPy, or fresh draws of JAX.
    size
        Points that steps see; None for fresh draws.
    held_out
        (m, d); none of fresh draws.
    """

    batches: Callable[[int, int], Any]
    size: int | None
    held_out: Points

    @classmethod
    def of(cls, view: View, share: float, seed: tuple[int, int], *, on_device: bool = False) -> Self:
        """A view's draws with `share` of a fixed sample held out; all of the rest is seen. Each side has a seed.

        With `on_device` fresh draws may be arrays of JAX, see `View.batches`.
        """
        if not share or view.budget is None:
            return cls(functools.partial(view.batches, on_device=on_device), view.budget, np.empty((0, 0)))
        return cls._of_points(view.batch(view.budget), share, seed)

    @classmethod
    def of_set(cls, view: View, share: float, seed: tuple[int, int], *, on_device: bool = False) -> Self:
        """The same, whatever the order of a fixed sample."""
        if view.budget is None:
            return cls.of(view, share, seed, on_device=on_device)
        points = view.batch(view.budget)
        return cls._of_points(points[np.lexsort(points.T)], share, seed)

    @classmethod
    def _of_points(cls, points: Points, share: float, seed: tuple[int, int]) -> Self:
        rng = np.random.default_rng(seed)
        held_out, seen = points[:0], points
        if share:
            held_out, seen = np.split(rng.permutation(points), [round(share * len(points))])

        def batches(count: int, n: int) -> Points:
            if n >= len(seen):
                return np.broadcast_to(seen, (count, *seen.shape))
            return np.stack([seen[rng.permutation(len(seen))[:n]] for _ in range(count)])

        return cls(batches, len(seen), held_out)

    def beginning(self) -> Points:
        """All that steps see of a fixed sample, or `FIRST` fresh draws, (n, d), of NumPy."""
        return np.asarray(self.batches(1, FIRST if self.size is None else self.size)[0])


def scaled(points: Any, mean: Points, scale: float, dtype: np.dtype[Any]) -> Any:
    """(points - mean) / scale in float64, and then in `dtype`: in NumPy, or in JAX where the points are JAX's."""
    if isinstance(points, np.ndarray):
        return np.asarray((points - mean) / scale, dtype)
    import jax

    with jax.enable_x64(True):
        return _scaled()(points, *jax.device_put((mean, np.float64(scale))), dtype)


@functools.cache
def _scaled() -> Callable[..., Any]:
    import jax

    return jax.jit(lambda points, mean, scale, dtype: ((points - mean) / scale).astype(dtype), static_argnums=3)
