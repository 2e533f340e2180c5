"""What the steps of a fit see of one measure, and what is held out of it to stop by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mongebench.core.arrays import Points
from mongebench.core.oracle import View


@dataclass(frozen=True)
class Side:
    """One measure's draws: what steps see, and what is held out of them.

    Attributes
    ----------
    batches
        (count, n) -> (count, at most n, d).
    size
        Points that steps see; None for fresh draws.
    held_out
        (m, d); none of fresh draws.
    """

    batches: Callable[[int, int], Points]
    size: int | None
    held_out: Points

    @classmethod
    def of(cls, view: View, share: float, seed: tuple[int, int]) -> Side:
        """A view's draws with `share` of a fixed sample held out; all of the rest is seen. Each side has a seed."""
        if not share or view.budget is None:
            return cls(view.batches, view.budget, np.empty((0, 0)))
        rng = np.random.default_rng(seed)
        pool = rng.permutation(view.batch(view.budget))
        held_out, seen = np.split(pool, [round(share * len(pool))])

        def batches(count: int, n: int) -> Points:
            if n >= len(seen):
                return np.broadcast_to(seen, (count, *seen.shape))
            return np.stack([seen[rng.permutation(len(seen))[:n]] for _ in range(count)])

        return cls(batches, len(seen), held_out)
