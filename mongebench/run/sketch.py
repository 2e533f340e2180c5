"""A few points of one fitted map, kept beside its record where they can be drawn: in one or two dimensions."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mongebench.metrics import Evaluation

POINTS = 500
"""Points of each kind."""
DRAWABLE = 2
"""Highest dimension that has a sketch."""


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
        """Of an .npz file, nothing unpickled; None where it is missing or unreadable."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["x"], stored["pushed"], stored["y"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
