"""CSV files, read by what the whole file says: a layout that the file leaves open is refused, never guessed.

A layout is a separator, a decimal sign, whether the first line names the columns and whether the first column numbers
the rows. Each may be given; what is "auto" is inferred where exactly one answer agrees with every line. The errors
name the parameter that decides.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput

Auto = Literal["auto"]
SEPARATORS = (",", ";", "\t", "|", " ")
"""What is looked for; " " stands for any number of blanks."""
RARE = 0.05
"""Share of the rows up to which they do not tell that a first row like them is a point."""
_MARKS = (
    "|na|n/a|#n/a|#na|<na>|nan|-nan|nat|null|none|nil|missing|?|-|--|.|..|*|"
    "#value!|#ref!|#div/0!|#num!|#null!|#name?|1.#ind|-1.#ind|1.#qnan|-1.#qnan"
)
MISSING = frozenset(_MARKS.split("|"))
"""How programs write that a value is missing, in small letters."""

_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_INFINITE = r"[+-]?[iI][nN][fF](?:[iI][nN][iI][tT][yY])?"
_NUMBER = {
    ".": re.compile(rf"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+){_EXPONENT}|{_INFINITE}"),
    ",": re.compile(rf"[+-]?(?:[0-9]+(?:,[0-9]+)?|,[0-9]+){_EXPONENT}|{_INFINITE}"),
}
"""By decimal sign; read by Python and by Arrow alike."""
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_GROUPED = {sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}[{sign}]\d{{3}}", re.ASCII) for sign in ".,"}


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


class Row(NamedTuple):
    """The fields of a line, and its number in the file."""

    line: int
    fields: list[str]


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
    """

    path: Path
    names: tuple[str, ...] | None
    rows: list[Row]
    decimal: str

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.rows[0].fields) if self.rows else len(self.names or ())

    def numbers(self, columns: Sequence[int], *, missing: bool = False) -> NDArray[np.float64]:
        """(n, len(columns)) float64, with NaN for missing fields where they are allowed.

        Raises `InvalidInput` naming the first field that is missing and must not be, or no number.
        """
        values, text = _parsed([[row.fields[j] for j in columns] for row in self.rows], self.decimal)
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
        return Cells(self.path, names, [Row(row.line, row.fields[1:]) for row in self.rows], self.decimal)

    def label(self, column: int) -> str:
        """How errors call a column."""
        return repr(self.names[column]) if self.names and self.names[column] else str(column + 1)


def read_csv(path: Path, layout: Layout) -> Cells:
    """The cells of a CSV file, with the header and the row numbers taken off. Raises `InvalidInput`."""
    lines, separator = _lines(path, layout.separator)
    reading = _Chooser(path, lines, separator, layout.decimal).choose()
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


# From bytes to lines


def _lines(path: Path, separator: str) -> tuple[list[str], str]:
    """The lines of a file, comments left empty, and the separator if it is given, here or by the file itself."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} cannot be read as .csv: it is not {encoding} text ({error}); save it as UTF-8."
        ) from None
    if "\0" in text:
        raise InvalidInput(f"{path} cannot be read as .csv: it holds NUL characters, which no text does.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if declared := re.fullmatch(r"sep=(.)", lines[0]):  # Excel's own first line
        lines[0] = ""
        separator = declared[1] if separator == "auto" else separator
    return lines, separator


def _is_comment(line: str) -> bool:
    return line.startswith("#") and re.split(r"[,;\t| ]", line.lower())[0] not in MISSING


# Which separator and decimal sign


@dataclass
class _Reading:
    """One way to read the lines, and how well the whole file agrees with it."""

    separator: str | None
    decimal: str
    rows: list[Row]
    comment: list[str] = field(default_factory=list)

    def assess(self, most: int | None = None) -> None:
        """Count the columns that hold numbers alone, and those that do not, in the first `most` rows."""
        body = self.rows[1:] or self.rows
        widths = {len(row.fields) for row in body}
        self.even = len(widths) == 1 and max(widths) - len(self.rows[0].fields) in (0, 1)
        self.text_columns = self.number_columns = 0
        if self.even:
            _, text = _parsed([row.fields for row in body[:most]], self.decimal)
            self.text_columns = int(text.any(axis=0).sum())
            self.number_columns = text.shape[1] - self.text_columns


@dataclass
class _Chooser:
    path: Path
    lines: list[str]
    separator: str
    decimal: str

    def choose(self) -> _Reading:
        """The one reading that all lines agree with. Raises `InvalidInput`."""
        readings = list(self._readings())
        for reading in readings:
            reading.assess(most=100)
        # Most wrong readings show in the first rows; where all of them do, they are compared by the whole file.
        clean = [reading for reading in readings if reading.even and not reading.text_columns]
        for reading in clean:
            reading.assess()
        if all(reading.text_columns for reading in clean):
            for reading in readings:
                reading.assess()
        even = [reading for reading in readings if reading.even and reading.number_columns]
        if not even and not readings[0].even:
            raise InvalidInput(self._ragged(readings[0]))
        even = even or readings[:1]
        numeric = [reading for reading in even if not reading.text_columns]
        if len(numeric) > 1:
            numeric = [reading for reading in numeric if _may_be(reading, numeric)]
            if len(numeric) != 1:
                raise InvalidInput(
                    f"{self.path} can be read in several ways, as "
                    f"{' or as '.join(_described(reading) for reading in even if not reading.text_columns)}: "
                    'give separator or decimal, separator = "," for instance.'
                )
        best = numeric[0] if numeric else min(even, key=lambda one: (one.text_columns, -one.number_columns))
        self._check_groups(best)
        return best

    def _readings(self) -> list[_Reading]:
        data = [line for line in self.lines if not _is_comment(line)]
        separators: list[str | None] = [self.separator]
        if self.separator == "auto":
            shared = {one: sum(one in line.strip() for line in data) for one in SEPARATORS}
            separators = [one for one in sorted(SEPARATORS, key=lambda one: -shared[one]) if shared[one]]
            if "\t" in separators and " " in separators:
                separators.remove(" ")  # among blanks, a tab that ends an empty field would be lost
            # A single column of numbers with a decimal comma has no separator.
            separators = [*separators, None] if "," in separators else separators or [","]
        readings = [reading for separator in separators for reading in self._readings_with(separator)]
        return readings or list(self._readings_with(separators[0], plain=True))

    def _readings_with(self, separator: str | None, *, plain: bool = False) -> Iterator[_Reading]:
        """With every decimal sign that makes a difference; `plain`: even where the sign separates, too."""
        rows, comment = self._rows(separator)
        commas = any("," in one for row in rows[1:] for one in row.fields)
        signs = [self.decimal] if self.decimal != "auto" else [".", ","] if commas else ["."]
        first = rows[0].fields[0]
        for sign in signs:
            if separator is None and (sign == "." or ("," in first and not _is_number(first, ","))):
                continue  # a line of several fields, or of names
            if separator == "," == sign and not commas and self.separator == "auto" and not plain:
                continue  # no field is quoted, so that each comma would be both
            yield _Reading(separator, sign, rows, comment)

    def _rows(self, separator: str | None) -> tuple[list[Row], list[str]]:
        """The rows, and the fields of the last comment above them."""
        prepared = ["" if _is_comment(line) else line for line in self.lines]
        try:
            rows = _split(prepared, separator)
        except csv.Error as error:
            raise InvalidInput(f"{self.path} cannot be read as .csv: {error}.") from None
        if not rows:
            raise InvalidInput(f"{self.path} cannot be read as .csv: it holds no rows, hence no columns.")
        above = [line for line in self.lines[: rows[0].line - 1] if _is_comment(line)]
        comment = _split([above[-1].lstrip("# ")], separator) if above else []
        return rows, comment[0].fields if comment else []

    def _check_groups(self, reading: _Reading) -> None:
        """Refuse 1,234 where it may be one thousand."""
        if self.decimal != "auto" or (reading.decimal == "." and reading.separator != ";"):
            return
        sign = reading.decimal
        signed = [one for row in reading.rows for one in row.fields if sign in one and _is_number(one, sign)]
        if signed and all(_GROUPED[sign].fullmatch(one) for one in signed):
            raise InvalidInput(
                f"{self.path}: {signed[0]!r} may be a fraction or a number of thousands, and so may all others: give "
                f'decimal = "{sign}" if it is a fraction.'
            )

    def _ragged(self, reading: _Reading) -> str:
        first = reading.rows[0]
        other = next((row for row in reading.rows if len(row.fields) != len(first.fields)), first)
        names = not any(_is_number(one, reading.decimal) for one in first.fields)
        return (
            f"{self.path} cannot be read as .csv: line {first.line} {'names' if names else 'has'} {len(first.fields)} "
            f"{'columns' if names else 'fields'}, line {other.line} has {len(other.fields)} fields, separated by "
            f"{reading.separator!r}; all lines must have the same number. separator = ... tells another one."
        )


def _split(lines: list[str], separator: str | None) -> list[Row]:
    """Fields of the lines that are not blank, stripped. Raises `csv.Error`."""
    if separator is None:
        return [Row(number, [line.strip()]) for number, line in enumerate(lines, 1) if line.strip()]
    if separator == " ":
        lines = [re.sub(r"[ \t]+", "\t", line.strip()) for line in lines]
    else:
        lines = [line if line.strip(" ") else "" for line in lines]
    rows = csv.reader(lines, delimiter="\t" if separator == " " else separator, strict=True)
    return [Row(rows.line_num, [one.strip() for one in fields]) for fields in rows if fields]


def _may_be(reading: _Reading, readings: list[_Reading]) -> bool:
    """Whether two whole numbers, or one with a decimal comma, would have been written as these lines are.

    Programs write whole numbers without leading zeros, and fractions either without closing zeros or all with as many
    digits.
    """
    lines = next((one for one in readings if one.separator is None), None)
    if lines is None:
        return True
    body = [row.fields for row in lines.rows[1:]]
    ends = [re.split("[eE]", one[0].partition(",")[2])[0] for one in body if "," in one[0]]
    if len({len(end) for end in ends}) == 1:
        return True
    if reading.separator is None:
        return not any(len(end) > 1 and end.endswith("0") for end in ends)
    return not any(len(end) > 1 and end.startswith("0") for end in ends)


def _described(reading: _Reading) -> str:
    if reading.separator is None:
        return f"one column with the decimal sign {reading.decimal!r}"
    count = len(reading.rows[-1].fields)
    return f"{count} columns separated by {reading.separator!r} with the decimal sign {reading.decimal!r}"


def _is_number(text: str, decimal: str) -> bool:
    return _NUMBER[decimal].fullmatch(text) is not None


def _parsed(rows: list[list[str]], decimal: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers, NaN where there is none, (n, d); and whether that is for text, and not for a missing value."""
    shape = (len(rows), len(rows[0]) if rows else 0)
    fields = pa.array(itertools.chain.from_iterable(rows), pa.string())
    is_number = pc.match_substring_regex(fields, f"^(?:{_NUMBER[decimal].pattern})$")
    plain = pc.replace_substring(pc.utf8_ltrim(fields, "+"), ",", ".")
    values = pc.fill_null(pc.cast(pc.if_else(is_number, plain, None), pa.float64()), np.nan)
    is_missing = pc.is_in(pc.utf8_lower(fields), pa.array(sorted(MISSING)))
    text = pc.invert(pc.or_(is_number, is_missing))
    return values.to_numpy().reshape(shape), text.to_numpy(zero_copy_only=False).reshape(shape)


# Header and row numbers


def _check_width(path: Path, reading: _Reading, layout: Layout) -> None:
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


def _with_header(path: Path, reading: _Reading, layout: Layout) -> Cells:
    rows, decimal = reading.rows, reading.decimal
    first, body = rows[0].fields, rows[1:]
    if len(first) < len(rows[-1].fields):
        first, named = ["", *first], True
    else:
        named = layout.header if isinstance(layout.header, bool) else _names_columns(path, reading, layout.index)
    if named:
        return _without_index(Cells(path, tuple(first), body, decimal), layout.index)
    commented = [one for one in reading.comment if one and not _is_number(one, decimal)]
    names = tuple(commented) if len(commented) == len(reading.comment) == len(first) else None
    return _without_index(Cells(path, names, rows, decimal), layout.index)


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


def _names_columns(path: Path, reading: _Reading, index: Auto | bool) -> bool:
    """Whether the first row names the columns. Raises `InvalidInput` where it may, or may not."""
    rows, decimal = reading.rows, reading.decimal
    first, body = rows[0].fields, [row.fields for row in rows[1:]]
    if index is True and len(first) > 1:
        if not first[0] and all(fields[0] for fields in body):
            return True  # the empty corner above the labels of the rows
        first, body = first[1:], [fields[1:] for fields in body]
    numbers = [_is_number(one, decimal) for one in first]
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
    values, text = _parsed(body, decimal)
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
