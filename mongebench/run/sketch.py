"""A few points of one fitted map, kept beside its record where they can be drawn: in the plane, or as a picture."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput, MongebenchError
from mongebench.core.npz import read_arrays
from mongebench.metrics import Evaluation

POINTS = 500
"""Points of each kind."""
DRAWABLE = 2
"""Highest dimension that has a sketch."""
THINNED = 4
"""A picture keeps every pixel of this many, in both directions."""
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
    pictures
        (3, height, width, 3) of 0 to 255: the source's picture, the same after the map, the target's; None where the
        problem has none.
    """

    x: NDArray[np.float32]
    pushed: NDArray[np.float32]
    y: NDArray[np.float32]
    pictures: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, evaluation: Evaluation) -> Sketch | None:
        """Of a map on its evaluation points; None where it cannot be drawn."""
        pictures = _pictures(evaluation)
        if evaluation.points.x.shape[1] > DRAWABLE and pictures is None:
            return None
        arrays = (evaluation.points.x, evaluation.pushed, evaluation.points.y)
        x, pushed, y = (array[:POINTS].astype(np.float32) for array in arrays)
        return cls(x, pushed, y, pictures)

    def to_bytes(self) -> bytes:
        """As an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: array for name, array in asdict(self).items() if array is not None})
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
        if arrays.keys() | {"pictures"} != cls.__dataclass_fields__.keys():
            return None
        sketch = cls(**arrays)
        x, pushed, y, pictures = sketch.x, sketch.pushed, sketch.y, sketch.pictures
        if pictures is not None and (
            pictures.dtype != np.uint8 or (*pictures.shape[:1], *pictures.shape[3:]) != (3, 3)
        ):
            return None
        most = DRAWABLE if pictures is None else 3
        drawn = x.ndim == y.ndim == 2 and x.shape == pushed.shape and 1 <= x.shape[1] == y.shape[1] <= most
        whole = drawn and all(array.dtype == np.float32 and len(array) for array in (x, pushed, y))
        return sketch if whole and all(np.isfinite(array).all() for array in (x, pushed, y)) else None


def _pictures(evaluation: Evaluation) -> NDArray[np.uint8] | None:
    """What `Sketch.pictures` is of a map; None also where it fails on a pixel."""
    pictures = evaluation.points.problem.pictures
    if pictures is None or pictures[0].shape != pictures[1].shape:
        return None
    before, after = (picture[::THINNED, ::THINNED] for picture in pictures)
    try:
        pushed = evaluation.map(before.reshape(-1, before.shape[2])).reshape(before.shape)
    except MongebenchError:
        return None
    shown: NDArray[np.uint8] = np.round(255 * np.clip(np.stack([before, pushed, after]), 0, 1)).astype(np.uint8)
    return shown
