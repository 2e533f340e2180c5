"""CSV files, read by what the whole file says: a layout that the file leaves open is refused, never guessed.

A layout is a separator, a decimal sign, whether the first line names the columns and whether the first column numbers
the rows. Each may be given; what is "auto" is inferred where exactly one answer agrees with every line. The errors
name the parameter that decides. `mongebench.core.csvfields` tells the first two, and this module the others.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mongebench.core.csvfields import MISSING, Reading, Row, fields_of, is_number, parsed
from mongebench.core.errors import InvalidInput

Auto = Literal["auto"]
RARE = 0.05
"""Share of the rows up to which they do not tell that a first row like them is a point."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """How a table lies in a file; every field "auto" unless the user knows better.

    Attributes
    ----------
    header
        Whether the first line names the columns.
    index
        Whether the first column numbers or labels the rows, and is not a coordinate.
    separator
        Between the fields of a line, one character; " " for any number of blanks.
    decimal
        "." or ",".
    """

    header: Auto | bool = "auto"
    index: Auto | bool = "auto"
    separator: str = "auto"
    decimal: Literal["auto", ".", ","] = "auto"


@dataclass(frozen=True)
class Cells:
    """What a CSV file says: the text of its fields, and under which names.

    Attributes
    ----------
    path
        Path of the file.
    names
        Of the columns, where the file names them; "" for a column that it leaves without.
    rows
        The points, still as text.
    decimal
        Sign of the numbers.
    separator
        Between the fields of a line; None in a file of one column, where that is open.
    """

    path: Path
    names: tuple[str, ...] | None
    rows: list[Row]
    decimal: str
    separator: str | None

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.rows[0].fields) if self.rows else len(self.names or ())

    def numbers(self, columns: Sequence[int], *, missing: bool = False) -> NDArray[np.float64]:
        """(n, len(columns)) float64, with NaN for missing fields where they are allowed.

        Raises `InvalidInput` naming the first field that is missing and must not be, or no number.
        """
        values, text = parsed([[row.fields[j] for j in columns] for row in self.rows], self.decimal)
        wrong = text if missing else text | np.isnan(values)
        for i, k in itertools.islice(np.argwhere(wrong), 1):
            row, j = self.rows[i], columns[k]
            place = f"in row {i} (line {row.line}), column {self.label(j)}"
            if not text[i, k]:
                raise InvalidInput(
                    f"{self.path} has a missing value, {row.fields[j]!r}, {place}; remove or impute it. Of its "
                    f"{len(self.rows)} rows {int(np.isnan(values).any(axis=1).sum())} have one."
                )
            whole = "index = true leaves out a first column of labels, " if j == 0 else ""
            raise InvalidInput(
                f"{self.path} is not a real numeric array: {row.fields[j]!r} {place} is not a number. "
                f"{whole}columns = [names] chooses among the columns."
            )
        return values

    def without_first(self) -> Cells:
        """All columns but the first."""
        names = self.names[1:] if self.names else None
        return replace(self, names=names, rows=[Row(row.line, row.fields[1:], row.written[1:]) for row in self.rows])

    def label(self, column: int) -> str:
        """How errors call a column."""
        return repr(self.names[column]) if self.names and self.names[column] else str(column + 1)


def read_csv(path: Path, layout: Layout) -> Cells:
    """The cells of a CSV file, with the header and the row numbers taken off. Raises `InvalidInput`."""
    reading, lines = fields_of(path, layout.separator, layout.decimal)
    _check_width(path, reading, layout)
    cells = _with_header(path, reading, layout)
    if len(reading.rows[0].fields) == 1:
        _check_holes(cells, lines, first=reading.rows[0].line)
    return cells


def numbers_rows(values: NDArray[np.float64], others: NDArray[np.float64], name: str | None) -> bool:
    """Whether a first column looks like numbers of the rows: consecutive, or whole and increasing beside others.

    Parameters
    ----------
    values
        (n,), of the column.
    others
        (n, d - 1), of the others.
    name
        Of the column; None where there are no names, "" where it alone has none.
    """
    if not others.shape[1] or len(values) < 2 or not np.array_equal(values, np.round(values)):
        return False
    steps = np.diff(values)
    if (steps == 1).all() or ((steps > 0).all() and not (others == np.round(others)).all()):
        return True
    called = name is not None and re.fullmatch(
        r"|id|index|row[ _.]?(names?|id|number)?|unnamed: 0(\.\d+)?", name.lower()
    )
    return bool(called) and len(np.unique(values)) == len(values)


def _check_width(path: Path, reading: Reading, layout: Layout) -> None:
    first, body = reading.rows[0].fields, reading.rows[1:] or reading.rows
    width = len(body[0].fields)
    if width > 1 and all(not row.fields[-1] for row in body) and (len(first) < width or not first[-1]):
        raise InvalidInput(
            f"{path} cannot be read as .csv: its lines end with the separator {reading.separator!r}, which makes "
            "an empty last column; remove it from the end of each line."
        )
    if len(first) < width and not (layout.index is True and layout.header is not False):
        raise InvalidInput(
            f"{path} cannot be read as .csv: line {reading.rows[0].line} has {len(first)} fields, the others have "
            f"{width}. If the first column numbers or labels the rows and has no name, give index = true; else name "
            "every column."
        )


def _with_header(path: Path, reading: Reading, layout: Layout) -> Cells:
    rows, decimal = reading.rows, reading.decimal
    first, body = rows[0].fields, rows[1:]
    if len(first) < len(rows[-1].fields):
        first, named = ["", *first], True
    else:
        named = layout.header if isinstance(layout.header, bool) else _names_columns(path, reading, layout.index)
    if named:
        return _without_index(Cells(path, tuple(first), body, decimal, reading.separator), layout.index)
    commented = [one for one in reading.comment if one and not is_number(one, decimal)]
    names = tuple(commented) if len(commented) == len(reading.comment) == len(first) else None
    return _without_index(Cells(path, names, rows, decimal, reading.separator), layout.index)


def _check_holes(cells: Cells, lines: list[str], first: int) -> None:
    """In a file of one column an empty line is a missing value, unless it is above or below all of them."""
    for i, row in enumerate(cells.rows):
        start = cells.rows[i - 1].line if i else first
        for line in range(start + 1, row.line):
            if not lines[line - 1].strip():
                raise InvalidInput(
                    f"{cells.path} has a missing value, '', in row {i} (line {line}): empty, in its only column; "
                    "remove or impute it."
                )


def _names_columns(path: Path, reading: Reading, index: Auto | bool) -> bool:
    """Whether the first row names the columns. Raises `InvalidInput` where it may, or may not."""
    rows, decimal = reading.rows, reading.decimal
    first, body = rows[0].fields, [row.fields for row in rows[1:]]
    if index is True and len(first) > 1:
        if not first[0] and all(fields[0] for fields in body):
            return True  # the empty corner above the labels of the rows
        first, body = first[1:], [fields[1:] for fields in body]
    numbers = [is_number(one, decimal) for one in first]
    missing = [one.lower() in MISSING for one in first]
    if not any(numbers) and not any(missing):
        return True
    corner = not first[0] and len(first) > 1 and not any(missing[1:])
    if corner and (not any(numbers) or _counts([fields[0] for fields in body])):
        return True  # the empty corner above the labels or numbers of the rows, as pandas writes it
    if all(number or absent for number, absent in zip(numbers, missing, strict=True)):
        if any(missing) or not body or not _stands_out(first, body, decimal):
            return False
        doubt = "may name the columns or be a point"
    else:
        doubt = "is neither names alone nor numbers alone"
    shown = (reading.separator or "").join(rows[0].fields)
    raise InvalidInput(
        f"{path}: line {rows[0].line}, {shown!r:.80}, {doubt}: give header = true if it names the columns, "
        "header = false if it is a point."
    )


def _stands_out(first: list[str], body: list[list[str]], decimal: str) -> bool:
    """Whether a first row of numbers is written, or lies, unlike all others: then it may be names that are numbers."""
    whole = [_INTEGER.fullmatch(one) is not None for one in first]
    columns = list(zip(*body, strict=True))
    for is_whole, column in zip(whole, columns, strict=True):
        if is_whole and sum(_INTEGER.fullmatch(one) is not None for one in column) <= RARE * len(column):
            return True  # 0 above 0.25, 1.5, ...
    # The first of n points has the fewest digits in all d columns with a chance of n^-d.
    fewer = 1 if len(body) ** len(first) > 1 / RARE**2 else 2
    if all(
        all(_places(top, decimal) + fewer <= _places(one, decimal) for one in column)
        for top, column in zip(first, columns, strict=True)
    ):
        return True  # 0.5 above 0.12573, -0.1321, ...
    if not all(whole):
        return False
    start = [int(one) for one in first]
    if start == list(range(len(start))):
        return True  # what pandas writes for columns without names
    values, text = parsed(body, decimal)
    if text.any() or np.isnan(values).any():
        return False
    if _regular(np.array([start], dtype=float))[0] and _regular(values).mean() <= RARE:
        return True  # 2019, 2020, or 10, 20, 30
    low, high = values.min(axis=0), values.max(axis=0)
    return bool(((start < 2 * low - high) | (start > 2 * high - low)).all())


def _regular(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows go up as numbers of columns do and few points: steadily, and of two numbers by one."""
    steps = np.diff(rows, axis=1)
    width = rows.shape[1]
    if width > 4:
        return np.asarray((steps > 0).all(axis=1))
    steady = (steps == steps[:, :1]).all(axis=1) & (steps > 0).all(axis=1) & (width > 1)
    return np.asarray(steady & ((steps == 1).all(axis=1) | (width > 2)))


def _places(text: str, decimal: str) -> int:
    """Digits after the decimal sign, those of the exponent included."""
    return len(text.partition(decimal)[2])


def _counts(column: list[str]) -> bool:
    """Whether a column counts the rows from 0 or 1."""
    return any(column == [str(number) for number in range(start, start + len(column))] for start in (0, 1))


def _without_index(cells: Cells, index: Auto | bool) -> Cells:
    if index is True:
        if cells.width < 2:
            raise InvalidInput(f"{cells.path} has one column: index = true leaves none to be a coordinate.")
        return cells.without_first()
    if index == "auto" and cells.names and not cells.names[0] and cells.width > 1:
        if _counts([row.fields[0] for row in cells.rows]):
            return cells.without_first()
        raise InvalidInput(
            f"{cells.path} has a first column without a name: give index = true if it labels the rows, "
            "index = false if it is a coordinate."
        )
    return cells
