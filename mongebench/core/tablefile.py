"""Point clouds from files, with the names of their columns where the file tells them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mongebench.core.arrays import Points, as_points, column_names, order_by_name
from mongebench.core.csvfile import Auto, Layout, numbers_rows, read_csv
from mongebench.core.errors import InvalidInput, one_of

Columns = Auto | Literal["name", "position"] | list[str]
"""How the columns of two tables are matched, or which of them are coordinates; see `read_pair`."""


@dataclass(frozen=True)
class Table:
    """A cloud from a file.

    Attributes
    ----------
    points
        (n, d).
    names
        Of the d columns; None where the file names none.
    dropped
        Rows that were left out because a value was missing.
    """

    points: Points
    names: tuple[str, ...] | None = None
    dropped: int = 0

    def frame(self) -> pd.DataFrame:
        """The points under their names, or under the numbers of the columns."""
        return pd.DataFrame(self.points, columns=None if self.names is None else list(self.names))


def read_table(
    path: Path,
    layout: Layout | None = None,
    *,
    columns: Sequence[str] | None = None,
    min_rows: int = 1,
    drop_missing: bool = False,
) -> Table:
    """The cloud of a .npy, .npz, .csv or .parquet file.

    Parameters
    ----------
    path
        Path of the file.
    layout
        Of .csv and .parquet files, where it is not to be inferred; .npy and .npz files have none.
    columns
        Names of the columns that are coordinates, in their order; None for all columns.
    min_rows
        Fewest points.
    drop_missing
        Whether rows with a missing coordinate are left out; else they are an error.

    Raises
    ------
    InvalidInput
        A missing file, an unknown suffix, a layout that the file leaves open (with the parameter that decides), and
        what is not a finite real (n, d) array.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(_READERS)}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    try:
        return reader(path, layout or Layout(), columns, min_rows, drop_missing)
    except InvalidInput:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as reason:
        raise InvalidInput(f"{path} cannot be read as {path.suffix}: {reason}") from reason


def read_pair(
    source: Path,
    target: Path,
    layout: Layout | None = None,
    *,
    columns: Columns = "auto",
    min_rows: int = 1,
    drop_missing: bool = False,
) -> tuple[Table, Table]:
    """Two clouds, with the target's columns in the source's order.

    Parameters
    ----------
    source, target, layout, min_rows, drop_missing
        As in `read_table`.
    columns
        "auto": by name where both files name their columns, by position where neither does; "name"; "position"; or the
        names of the columns to take from both.

    Raises
    ------
    InvalidInput
        As in `read_table`; names that differ, or that one file alone has; another number of columns.
    """
    chosen = columns if isinstance(columns, list) else None
    one, other = (
        read_table(path, layout, columns=chosen, min_rows=min_rows, drop_missing=drop_missing)
        for path in (source, target)
    )
    if chosen is None and columns != "position":
        remedy = "columns = 'position' matches them by position, columns = [names] takes those that both have."
        if one.names is not None and other.names is not None:
            order = order_by_name(other.names, one.names, name=str(target), other=str(source), remedy=remedy)
            other = replace(other, points=as_points(other.points[:, order], name=str(target)), names=one.names)
        elif columns == "name" or one.names is not other.names:
            named, unnamed = (source, target) if one.names is not None else (target, source)
            which = f"{unnamed} does not name its columns" + ("" if one.names is other.names else f", {named} does")
            raise InvalidInput(f"{which}, so that they cannot be matched by name. columns = 'position' does without.")
    if one.points.shape[1] != other.points.shape[1]:
        raise InvalidInput(
            f"{source} has d = {one.points.shape[1]} columns, {target} has d = {other.points.shape[1]}; "
            "source and target must have the same."
        )
    return one, other


def _select(path: Path, names: Sequence[str] | None, columns: Sequence[str]) -> list[int]:
    """Where the chosen columns are."""
    if names is None:
        raise InvalidInput(f"{path} does not name its columns, so that none can be chosen by name.")
    for name in columns:
        if name not in names:
            raise InvalidInput(f"{path}: {one_of(name, filter(None, names), 'column')}")
        if list(names).count(name) > 1 or list(columns).count(name) > 1:
            raise InvalidInput(f"{path}: the column {name!r} cannot be chosen, because there are several of that name.")
    if not columns:
        raise InvalidInput("columns = [] leaves no coordinate; name at least one column.")
    return [list(names).index(name) for name in columns]


def _checked_index(path: Path, table: Table, index: Auto | bool) -> Table:
    """Refuse row numbers as a coordinate, unless the user says that they are one."""
    points, name = table.points, table.names[0] if table.names else None
    if index is not False and numbers_rows(points[:, 0], points[:, 1:], name):
        called = f"the column {name!r}" if name else "the first column"
        remedy = (
            "index = true leaves it out, index = false makes it a coordinate"
            if index == "auto"
            else "it is the second that does; columns = [names] chooses the coordinates"
        )
        raise InvalidInput(f"{path}: {called} seems to number the rows: {remedy}.")
    return table


def _read_csv(path: Path, layout: Layout, columns: Sequence[str] | None, min_rows: int, drop_missing: bool) -> Table:
    if columns is not None and layout.index == "auto":  # an index is left out unless it is chosen
        layout = replace(layout, index=False)
    cells = read_csv(path, layout)
    places = range(cells.width) if columns is None else _select(path, cells.names, columns)
    names = None if cells.names is None else tuple(cells.names[place] for place in places)
    if not cells.rows:
        raise InvalidInput(f"{path} has 0 rows of points under its columns; expected at least {min_rows}.")
    table = _table(path, cells.numbers(places, missing=drop_missing), names, min_rows, drop_missing)
    return table if columns is not None else _checked_index(path, table, layout.index)


def _read_parquet(
    path: Path, layout: Layout, columns: Sequence[str] | None, min_rows: int, drop_missing: bool
) -> Table:
    frame = pd.read_parquet(path)
    names = tuple(str(name) for name in column_names(frame) or ())
    # What pandas stored as an index it takes off itself.
    own_index = not isinstance(frame.index, pd.RangeIndex)
    start = int(columns is None and layout.index is True and not own_index)
    places = list(range(start, len(names))) if columns is None else _select(path, names, columns)
    if not places:
        raise InvalidInput(f"{path} has {len(names)} columns, and none is left to be a coordinate.")
    chosen = frame.iloc[:, places]
    whole = chosen.dropna() if drop_missing else chosen
    for place in places:
        as_points(whole.loc[:, [frame.columns[place]]], name=f"{path}, column {names[place]!r},", min_rows=0)
    points = as_points(whole, name=str(path), min_rows=min_rows)
    table = Table(points, tuple(names[place] for place in places), len(chosen) - len(whole))
    return table if columns is not None else _checked_index(path, table, layout.index)


def _read_npy(path: Path, layout: Layout, columns: Sequence[str] | None, min_rows: int, drop_missing: bool) -> Table:
    return _unnamed(path, np.load(path, allow_pickle=False), columns, min_rows, drop_missing)


def _read_npz(path: Path, layout: Layout, columns: Sequence[str] | None, min_rows: int, drop_missing: bool) -> Table:
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:
        names = list(stored)
        key = names[0] if len(names) == 1 else "points"
        if key not in names:
            raise InvalidInput(f"{path} holds the arrays {', '.join(names) or '(none)'}; call the cloud 'points'.")
        return _unnamed(path, stored[key], columns, min_rows, drop_missing)


def _unnamed(path: Path, array: Any, columns: Sequence[str] | None, min_rows: int, drop_missing: bool) -> Table:
    if columns is not None:
        _select(path, None, columns)
    return _table(path, array, None, min_rows, drop_missing)


def _table(path: Path, array: Any, names: tuple[str, ...] | None, min_rows: int, drop_missing: bool) -> Table:
    """The cloud of an array, without the rows that have a NaN where these are to be left out."""
    whole = array
    if drop_missing and isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind == "f":
        whole = array[~np.isnan(array).any(axis=1)]
    return Table(as_points(whole, name=str(path), min_rows=min_rows), names, len(array) - len(whole))


_READERS: dict[str, Callable[[Path, Layout, Sequence[str] | None, int, bool], Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
