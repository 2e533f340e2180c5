"""A map on the rows of a file: coordinates moved, everything else as it was."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mongebench.core.arrays import as_points
from mongebench.core.csvfields import parsed
from mongebench.core.csvfile import Cells, Layout, read_csv
from mongebench.core.errors import InvalidInput, one_of
from mongebench.core.estimator import MapEstimator
from mongebench.core.npz import DAMAGED

SUFFIXES = (".csv", ".parquet", ".npy", ".npz")
ARRAY = "points"
"""What the cloud of an .npz file is called, where it is not the only array."""


@dataclass(frozen=True)
class Rows:
    """All columns of a file.

    Attributes
    ----------
    frame
        Of a .csv file, the text of its fields; of the others, the values.
    cells
        What the .csv file says, its separator and its decimal sign included; None for other files.
    others
        The arrays of an .npz file beside the cloud, by their names.
    array
        What the .npz file calls the cloud.
    """

    frame: pd.DataFrame
    cells: Cells | None = None
    others: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    array: str = ARRAY

    def numbers(self, names: Sequence[Any], where: str) -> pd.DataFrame:
        """Some columns as numbers, NaN where one is missing. Raises `InvalidInput` for a column of anything else."""
        chosen = self.frame[list(names)]
        if self.cells is not None:
            places = [list(self.frame.columns).index(name) for name in names]
            fields = [[row.fields[place] for place in places] for row in self.cells.rows]
            values, text = parsed(fields, self.cells.decimal)
            for i, j in np.argwhere(text)[:1]:
                line, field = self.cells.rows[i].line, fields[i][j]
                raise InvalidInput(f"{where}, column {names[j]!r}: {field!r} in line {line} is not a number.")
            chosen = pd.DataFrame(values, columns=list(names))
        for name in names:
            as_points(chosen[[name]].dropna(), name=f"{where}, column {name!r},", min_rows=0)
        return chosen


@dataclass(frozen=True)
class Moved:
    """The rows of a file after a map.

    Attributes
    ----------
    rows
        All columns of the file in their order, the coordinates moved; a missing coordinate leaves its row as it was.
    unmoved
        Rows with a missing coordinate.
    outside
        Rows outside of the box of the source sample that the map was fitted to, where it extrapolates; None where the
        map does not tell its sample.
    """

    rows: Rows
    unmoved: int
    outside: int | None


def read_rows(path: Path, layout: Layout | None = None) -> Rows:
    """All columns of a .csv, .parquet, .npy or .npz file.

    The cloud of an .npz file is its only array, or the one called `points`, as for `mongebench fit`; NaN in an array is
    a missing value.

    Raises `InvalidInput` for a file that is missing, of another kind, or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    try:
        if suffix == ".parquet":
            return Rows(pd.read_parquet(path))
        if suffix == ".npy":
            return Rows(_frame(np.load(path, allow_pickle=False), path))
        if suffix == ".npz":
            return _unpacked(path)
    except InvalidInput:
        raise
    except (OSError, *DAMAGED) as error:
        raise InvalidInput(f"{path} cannot be read as {suffix}: {error}") from error
    cells = read_csv(path, replace(layout or Layout(), index=False))
    for name in cells.names or ():
        if cells.names is not None and cells.names.count(name) > 1:
            raise InvalidInput(f"{path} has several columns called {name!r}; give each a name of its own.")
    text = [row.written for row in cells.rows]
    return Rows(pd.DataFrame(text, columns=None if cells.names is None else list(cells.names), dtype=object), cells)


def moved(map: MapEstimator, rows: Rows, where: str) -> Moved:
    """The rows with their coordinates moved by a fitted map.

    The coordinates are the columns that the map was fitted to by name; of a map without names all columns, which must
    be as many. `where` is how errors call the rows.

    Raises
    ------
    InvalidInput
        A column that is missing, or holds something other than numbers.
    """
    names, columns = map.column_names_, rows.frame.columns
    if names is None:
        names = tuple(columns)
        if len(names) != map.n_features_in_:
            raise InvalidInput(
                f"{where} has {len(names)} columns, and the map was fitted to {map.n_features_in_} without names; "
                "give those columns alone."
            )
    elif isinstance(columns, pd.RangeIndex) and names != tuple(columns):
        raise InvalidInput(
            f"{where} does not name its columns, and the map was fitted to {', '.join(repr(name) for name in names)}: "
            "name them, or in Python move the array of these columns, mongebench.load(MAP).transform(X)."
        )
    for name in names:
        if name not in columns:
            raise InvalidInput(f"{where}: {one_of(str(name), [str(known) for known in columns], 'column')}")
    chosen = rows.numbers(names, where)
    whole = ~chosen.isna().any(axis=1).to_numpy()
    points = as_points(chosen[whole], name=where, min_rows=0)
    pushed = np.asarray(map.transform(points))
    result = rows.frame.copy()
    for j, name in enumerate(names):
        column = chosen[name].astype(float).to_numpy(copy=True)
        column[whole] = pushed[:, j]
        result[name] = column
    seen = getattr(map, "seen_", None)
    outside = None if seen is None else int(((points < seen[0]) | (points > seen[1])).any(axis=1).sum())
    return Moved(replace(rows, frame=result), int((~whole).sum()), outside)


def write_rows(rows: Rows, path: Path) -> None:
    """Write rows as .csv, .parquet, or, where all are numbers, .npy or .npz.

    A .csv file of a .csv file keeps its separator, its decimal sign and the text of what was not moved; an .npz file of
    an .npz file keeps its other arrays. Raises `InvalidInput` for what a file of this kind cannot keep.
    """
    suffix, frame, cells = path.suffix.lower(), rows.frame, rows.cells
    if suffix not in SUFFIXES:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if rows.others and suffix != ".npz":
        raise InvalidInput(f"{path} cannot keep the other arrays, {', '.join(rows.others)}: an .npz file does.")
    if suffix == ".csv":
        separator = ","
        if cells is not None:
            separator = cells.separator or (";" if cells.decimal == "," else ",")
            frame = _written(frame, cells)
        frame.to_csv(path, sep=separator, index=False, header=not isinstance(frame.columns, pd.RangeIndex))
    elif suffix == ".parquet":
        frame.set_axis([str(name) for name in frame.columns], axis=1).to_parquet(path, index=False)
    else:
        frame = frame.copy()
        same = [name for name in frame.columns if frame[name].dtype != float]  # what was moved is float
        frame[same] = rows.numbers(same, str(path))
        points = frame.to_numpy(dtype=np.float64, na_value=np.nan)
        if suffix == ".npy":
            np.save(path, points)
        else:
            arrays: dict[str, Any] = {rows.array: points, **rows.others}
            np.savez(path, **arrays)


def _unpacked(path: Path) -> Rows:
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    name = next(iter(arrays)) if len(arrays) == 1 else ARRAY
    if name not in arrays:
        raise InvalidInput(f"{path} holds the arrays {', '.join(arrays) or '(none)'}; call the cloud {ARRAY!r}.")
    return Rows(_frame(arrays.pop(name), path), others=arrays, array=name)


def _frame(array: Any, path: Path) -> pd.DataFrame:
    """The rows of an (n, d) array of real numbers, NaN where one is missing."""
    missing = np.isnan(array) if array.ndim == 2 and array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
    as_points(np.where(missing, 0, array), name=str(path))
    return pd.DataFrame(array)


def _written(frame: pd.DataFrame, cells: Cells) -> pd.DataFrame:
    """As text: what was moved with the file's decimal sign, all else as the file has it."""
    moved_ = frame.select_dtypes(float)
    kept = moved_.isna().any(axis=1)
    written = frame.copy()
    for name in moved_.columns:
        numbers = (repr(value).replace(".", cells.decimal) for value in frame[name].tolist())
        place = frame.columns.get_loc(name)
        text = (row.written[place] for row in cells.rows)
        written[name] = [was if stays else now for was, now, stays in zip(text, numbers, kept, strict=True)]
    return written
