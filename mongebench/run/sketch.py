"""A few points of one fitted map, kept beside its record where they can be drawn: in one or two dimensions."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput
from mongebench.core.npz import read_arrays
from mongebench.metrics import Evaluation

POINTS = 500
"""Points of each kind."""
DRAWABLE = 2
"""Highest dimension that has a sketch."""
LARGEST = 1 << 20
"""Bytes that a sketch may unpack to: many times what one has."""


@dataclass(frozen=True)
class Sketch:
    """The first `POINTS` evaluation points of a cell, float32.

    Attributes
    ----------
    x
        (n, d), of the source.
    pushed
        (n, d), the fitted map there.
    y
        (m, d), of the target.
    """

    x: NDArray[np.float32]
    pushed: NDArray[np.float32]
    y: NDArray[np.float32]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Sketch | None:
        """Of a map on its evaluation points; None where it cannot be drawn."""
        if evaluation.points.x.shape[1] > DRAWABLE:
            return None
        arrays = (evaluation.points.x, evaluation.pushed, evaluation.points.y)
        return cls(*(array[:POINTS].astype(np.float32) for array in arrays))

    def to_bytes(self) -> bytes:
        """As an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **asdict(self))
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Sketch | None:
        """Of an .npz file, nothing unpickled; None where it is missing, unreadable, or holds anything but a sketch."""
        try:
            if not path.is_file():  # which a pipe is not: to open one may take for ever
                return None
            with open(path, "rb") as file:
                arrays = read_arrays(file, LARGEST)
        except (OSError, InvalidInput):
            return None
        if arrays.keys() != cls.__dataclass_fields__.keys():
            return None
        sketch = cls(**arrays)
        x, pushed, y = sketch.x, sketch.pushed, sketch.y
        drawn = x.ndim == y.ndim == 2 and x.shape == pushed.shape and 1 <= x.shape[1] == y.shape[1] <= DRAWABLE
        whole = drawn and all(array.dtype == np.float32 and len(array) for array in (x, pushed, y))
        return sketch if whole and all(np.isfinite(array).all() for array in (x, pushed, y)) else None
