"""The one boundary between the caller's arrays (NumPy, torch, JAX, lists, frames) and our (n, d) float64."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput

Points = NDArray[np.float64]
"""(n, d) float64."""


def _to_numpy(array: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    return array


def as_points(array: Any, *, name: str = "X", dim: int | None = None, min_rows: int = 1) -> Points:
    """A read-only float64 (n, d) view of `array`, copied only where type or layout ask for it.

    Raises `InvalidInput` on anything that is not a finite real (n, d) array with n >= `min_rows` and, where
    `dim` is given, d = `dim`. The caller's array is never changed: what we hand on cannot be written to.
    """
    try:
        points = np.asarray(_to_numpy(array))
        if points.dtype.kind == "c":
            raise TypeError("complex numbers")
        points = np.ascontiguousarray(points, dtype=np.float64) if points.ndim else points
    except (TypeError, ValueError) as reason:
        raise InvalidInput(f"{name} is not a real numeric array ({reason}); expected shape (n, d).") from None
    if points.ndim != 2:
        hint = f" Did you mean {name}.reshape(-1, 1)?" if points.ndim == 1 else ""
        raise InvalidInput(f"{name} has shape {points.shape}; expected two axes (n, d).{hint}")
    n, d = points.shape
    if n < min_rows:
        raise InvalidInput(f"{name} has {n} rows; expected at least {min_rows}.")
    if d < 1 or (dim is not None and d != dim):
        raise InvalidInput(f"{name} has {d} columns; expected d = {dim if dim is not None else 'at least 1'}.")
    finite = np.isfinite(points)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise InvalidInput(
            f"{name} holds {int((~finite).sum())} NaN or infinite entries (first in row {row}); remove or impute them."
        )
    points = points.view()
    points.flags.writeable = False
    return points


def like(values: Points, original: Any) -> Any:
    """`values` as the same kind of array as `original`: type, floating dtype and device."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(original, torch.Tensor):
        dtype = original.dtype if original.dtype.is_floating_point else torch.float64
        return torch.tensor(values, dtype=dtype, device=original.device)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(original, jax.Array):
        dtype = original.dtype if original.dtype.kind == "f" else None
        return jax.device_put(jax.numpy.asarray(values, dtype=dtype), original.sharding)
    dtype = getattr(original, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return np.asarray(values, dtype=dtype)
    return np.asarray(values, dtype=np.float64)


def row_blocks(n_rows: int, row_bytes: int, block_bytes: int = 1 << 27) -> list[slice]:
    """Slices over `n_rows` so that a block of rows of `row_bytes` each stays near `block_bytes` (128 MiB)."""
    size = max(1, block_bytes // max(1, row_bytes))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
