"""The one boundary between arrays of NumPy, torch, JAX, lists and frames, and our (n, d) float64.

It is the same in both directions: what a caller hands in and what a map hands back are read by one function, so that
what is accepted and what is refused does not depend on the side.
"""

from __future__ import annotations

import decimal
import numbers
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput, UnrealValues

Points = NDArray[np.float64]
"""(n, d) float64."""


class _NotReal(Exception):
    """Why something is not an array of real numbers."""


def as_points(array: Any, *, name: str = "X", dim: int | None = None, min_rows: int = 1) -> Points:
    """A read-only float64 (n, d) view of `array`, copied only where type or layout ask for it.

    Raises `InvalidInput` on anything that is not a finite real (n, d) array with n >= `min_rows` and, where
    `dim` is given, d = `dim`: complex numbers, text, dates, and missing values of every kind (NaN, None, pandas.NA,
    masked entries) among them. The caller's array is never changed: what we hand on cannot be written to.
    """
    try:
        points = _real(array)
    except _NotReal as reason:
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


def as_values(returned: Any, what: str) -> NDArray[np.float64]:
    """What a map returned as float64 of any shape, NaN and infinite values included; `what` names the map.

    Raises `UnrealValues` on what `as_points` would refuse for its kind.
    """
    try:
        return _real(returned)
    except _NotReal as reason:
        raise UnrealValues(f"{what} returned no real numbers ({reason}); expected an array of them.") from None


def _real(array: Any) -> NDArray[np.float64]:
    """`array` as float64, of any shape. Raises `_NotReal`."""
    try:
        values = np.asarray(_plain(array))
        if values.dtype.kind == "O":
            values = _from_objects(values)
        elif not (values.dtype.kind in "biuf" or _is_floating(values.dtype)):
            raise _NotReal(_kind(values.dtype))
        with np.errstate(over="ignore"):  # a long double beyond float64 is infinite, and refused as that
            return np.ascontiguousarray(values, dtype=np.float64).reshape(values.shape)
    except (TypeError, ValueError, OverflowError, RuntimeError, NotImplementedError) as reason:
        raise _NotReal(str(reason)) from None


def _plain(array: Any) -> Any:
    """`array` without what NumPy cannot read (torch) or reads wrongly: it drops masks without a word."""
    if isinstance(array, (list, tuple)):
        return [_plain(item) for item in array]
    if isinstance(array, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(array)
        if mask.any():
            first = f", the first in row {np.argwhere(mask)[0][0]}" if mask.ndim else ""
            raise _NotReal(
                f"{int(mask.sum())} of its entries are masked{first}; np.ma.compress_rows(X) drops their rows"
            )
        return array.data
    if isinstance(array, (np.ndarray, numbers.Number)):
        return array
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        if array.layout is not torch.strided:
            raise _NotReal("a sparse tensor; give X.to_dense()")
        if array.is_complex():
            raise _NotReal(_kind(np.dtype(complex)))
        tensor = array.detach().cpu().resolve_neg()
        # Of its floating types NumPy has not all: bfloat16 is none.
        return (tensor.to(torch.float64) if tensor.is_floating_point() else tensor).numpy()
    for dense in ("toarray", "todense"):
        if callable(getattr(array, dense, None)):
            raise _NotReal(f"a sparse {type(array).__name__}; give X.{dense}()")
    return array


_NUMBERS = (numbers.Real, np.bool_, decimal.Decimal)


def _from_objects(values: NDArray[Any]) -> NDArray[Any]:
    """Python numbers, which frames of several types hold. Raises `_NotReal` naming the first that is none."""
    if not values.ndim:
        raise _NotReal(f"a {type(values[()]).__name__}")
    if all(issubclass(kind, _NUMBERS) for kind in set(map(type, values.ravel()))):
        return values
    place = next(index for index, value in np.ndenumerate(values) if not isinstance(value, _NUMBERS))
    value = values[place]
    missing = value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")
    what = "a missing value; remove or impute it" if missing else f"a {type(value).__name__}"
    raise _NotReal(f"{value!r:.40} in row {place[0]} is {what}")


def _kind(dtype: np.dtype[Any]) -> str:
    """What entries of a type that holds no real numbers are, and what to do."""
    return {
        "c": "complex numbers; take X.real where the imaginary part means nothing",
        "M": f"dates, {dtype}; subtract a first date and divide by a unit of time",
        "m": f"times, {dtype}; divide by a unit of time",
        "U": f"text, dtype {dtype}; X.astype(float) reads numbers that are written as text",
        "S": f"text, dtype {dtype}; X.astype(float) reads numbers that are written as text",
        "T": f"text, dtype {dtype}; X.astype(float) reads numbers that are written as text",
    }.get(dtype.kind, f"dtype {dtype}")


def _is_floating(dtype: Any) -> bool:
    """Whether a dtype of NumPy is one of floating numbers, or of those that JAX adds (bfloat16, float8)."""
    return isinstance(dtype, np.dtype) and (dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name))


def like(values: Points, original: Any) -> Any:
    """`values` as the same kind of array as `original`: type, floating dtype, device; points of a frame as a frame."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and values.ndim == 2 and isinstance(original, pandas.DataFrame):
        return pandas.DataFrame(values, index=original.index, columns=original.columns)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(original, torch.Tensor):
        dtype = original.dtype if original.dtype.is_floating_point else torch.float64
        return torch.tensor(values, dtype=dtype, device=original.device)
    dtype = getattr(original, "dtype", None)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(original, jax.Array):
        dtype = dtype if _is_floating(dtype) else None
        return jax.device_put(jax.numpy.asarray(values, dtype=dtype), original.sharding)
    return np.asarray(values, dtype=dtype if _is_floating(dtype) else np.float64)


def column_names(table: Any) -> tuple[str | int, ...] | None:
    """Names of a frame's columns (pandas, polars, pyarrow), numbers or text; None for what names none, as arrays do."""
    labels = getattr(table, "column_names", None)  # of pyarrow, whose `columns` are the values
    if labels is None:
        labels = getattr(table, "columns", None)
    if labels is None or isinstance(table, np.ndarray):
        return None
    return tuple(int(label) if isinstance(label, (int, np.integer)) else str(label) for label in labels)


def order_by_name(
    given: Sequence[str | int], wanted: Sequence[str | int], *, name: str, other: str, remedy: str
) -> list[int]:
    """Where the columns `wanted` are among those that `name` gives, all of them once.

    Raises `InvalidInput` where the names are not the same, or where one of several orders could be meant; `other` is
    what they are compared with, `remedy` a sentence.
    """
    if list(given) == list(wanted):
        return list(range(len(given)))
    if len(set(given)) < len(given) or set(given) != set(wanted) or len(given) != len(wanted):
        raise InvalidInput(f"{name} has the columns {_listed(given)}, {other} {_listed(wanted)}. {remedy}")
    return [list(given).index(label) for label in wanted]


def _listed(names: Sequence[str | int], most: int = 12) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown}, and {len(names) - most} more"


def row_blocks(n_rows: int, row_bytes: int, block_bytes: int = 1 << 27) -> list[slice]:
    """Slices over `n_rows` so that a block of rows of `row_bytes` each stays near `block_bytes` (128 MiB)."""
    size = max(1, block_bytes // max(1, row_bytes))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def blockwise(
    function: Callable[..., NDArray[Any]], *arrays: NDArray[Any], row_bytes: int, block_bytes: int = 1 << 27
) -> NDArray[Any]:
    """`function` of arrays with as many rows, (n, ...) -> (n, ...), worked out for `row_blocks` of them in turn.

    Of any one array namespace.
    """
    blocks = row_blocks(max(1, len(arrays[0])), row_bytes, block_bytes)
    results = [function(*(array[rows] for array in arrays)) for rows in blocks]
    together: NDArray[Any] = array_namespace(*results).concat(results)
    return together


def padded_blocks(function: Callable[[NDArray[Any]], Any], x: NDArray[Any], rows: int | None = None) -> NDArray[Any]:
    """`function` of points x (n, d), (rows, d) -> (rows, ...) as NumPy reads it, called with so many rows each time.

    The last block is filled up with copies of its first point, so that one compilation serves any number of points. By
    default a block is what suits the device that JAX computes on.
    """
    rows = rows or _rows_of_a_call(len(x))

    def of_block(block: NDArray[Any]) -> NDArray[Any]:
        filled = np.concatenate([block, np.repeat(block[:1], rows - len(block), axis=0)])
        return np.asarray(function(filled))[: len(block)]

    return blockwise(of_block, x, row_bytes=1, block_bytes=rows)


def _rows_of_a_call(n: int) -> int:
    """1024 on the CPU; on a GPU, where each call goes there and back, a power of two that holds all n, up to 65536."""
    jax = sys.modules.get("jax")
    if jax is None or jax.default_backend() == "cpu":
        return 1024
    return min(max(1024, 1 << (n - 1).bit_length()), 1 << 16)
