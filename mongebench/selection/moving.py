"""A map on the rows of a file: coordinates moved, everything else as it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mongebench.core.arrays import as_points
from mongebench.core.csvfile import Layout, read_csv
from mongebench.core.errors import InvalidInput, one_of
from mongebench.core.estimator import MapEstimator
from mongebench.core.npz import DAMAGED

SUFFIXES = (".csv", ".parquet", ".npy")


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

    rows: pd.DataFrame
    unmoved: int
    outside: int | None


def read_rows(path: Path, layout: Layout | None = None) -> pd.DataFrame:
    """All columns of a .csv, .parquet or .npy file; of a .csv file, numbers where a whole column is numbers, else text.

    Raises `InvalidInput` for a file that is missing, of another kind, or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        if suffix == ".npy":
            return pd.DataFrame(as_points(np.load(path, allow_pickle=False), name=str(path)))
    except (OSError, *DAMAGED) as error:
        raise InvalidInput(f"{path} cannot be read as {suffix}: {error}") from error
    asked = layout or Layout()
    cells = read_csv(path, Layout(asked.header, False, asked.separator, asked.decimal))
    columns = {}
    for j in range(cells.width):
        name = cells.names[j] if cells.names else j
        if name in columns:
            raise InvalidInput(f"{path} has several columns called {name!r}; give each a name of its own.")
        try:
            columns[name] = cells.numbers([j], missing=True)[:, 0]
        except InvalidInput:  # ids, text: kept as they are
            columns[name] = np.array([row.fields[j] for row in cells.rows], dtype=object)
    return pd.DataFrame(columns)


def moved(map: MapEstimator, rows: pd.DataFrame, where: str) -> Moved:
    """The rows with their coordinates moved by a fitted map.

    The coordinates are the columns that the map was fitted to by name; of a map without names all columns, which must
    be as many. `where` is how errors call the rows.

    Raises
    ------
    InvalidInput
        A column that is missing, or holds something other than numbers.
    """
    names = map.column_names_
    if names is None:
        names = tuple(rows.columns)
        if len(names) != map.n_features_in_:
            raise InvalidInput(
                f"{where} has {len(names)} columns, and the map was fitted to {map.n_features_in_} without names; "
                "give those columns alone."
            )
    for name in names:
        if name not in rows.columns:
            raise InvalidInput(f"{where}: {one_of(str(name), [str(known) for known in rows.columns], 'column')}")
    chosen = rows[list(names)]
    whole = ~chosen.isna().any(axis=1).to_numpy()
    for name in names:
        as_points(chosen.loc[whole, [name]], name=f"{where}, column {name!r},", min_rows=0)
    points = as_points(chosen[whole], name=where, min_rows=0)
    pushed = np.asarray(map.transform(points))
    result = rows.copy()
    for j, name in enumerate(names):
        column = result[name].astype(float).to_numpy(copy=True)
        column[whole] = pushed[:, j]
        result[name] = column
    seen = getattr(map, "seen_", None)
    outside = None if seen is None else int(((points < seen[0]) | (points > seen[1])).any(axis=1).sum())
    return Moved(result, int((~whole).sum()), outside)


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write rows as .csv (comma, decimal point), .parquet, or, where all are numbers, .npy. Raises `InvalidInput`."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows.to_csv(path, index=False, header=not isinstance(rows.columns, pd.RangeIndex))
    elif suffix == ".parquet":
        rows.set_axis([str(name) for name in rows.columns], axis=1).to_parquet(path, index=False)
    elif suffix == ".npy":
        np.save(path, as_points(rows, name="The moved rows"))
    else:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
