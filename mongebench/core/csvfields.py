"""The lines of a CSV file as fields: which separator and which decimal sign all of them agree with.

What is "auto" is inferred where exactly one answer agrees with every line. Header and row numbers are for
`mongebench.core.csvfile` to find.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mongebench.core.errors import InvalidInput

SEPARATORS = (",", ";", "\t", "|", " ")
"""What is looked for; " " stands for any number of blanks."""
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
_GROUPED = {sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}[{sign}]\d{{3}}", re.ASCII) for sign in ".,"}


class Row(NamedTuple):
    """The fields of a line, its number in the file, and the fields as written, with the blanks at their ends."""

    line: int
    fields: list[str]
    written: list[str]

    @classmethod
    def of(cls, line: int, written: list[str]) -> Row:
        """From the fields as they are written."""
        return cls(line, [one.strip() for one in written], written)


@dataclass
class Reading:
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
            _, text = parsed([row.fields for row in body[:most]], self.decimal)
            self.text_columns = int(text.any(axis=0).sum())
            self.number_columns = text.shape[1] - self.text_columns


def fields_of(path: Path, separator: str, decimal: str) -> tuple[Reading, list[str]]:
    """The one reading of a file that all its lines agree with, and those lines. Raises `InvalidInput`."""
    lines, separator = _lines(path, separator)
    return _Chooser(path, lines, separator, decimal).choose(), lines


def is_number(text: str, decimal: str) -> bool:
    """Whether a field is a number, with this decimal sign."""
    return _NUMBER[decimal].fullmatch(text) is not None


def parsed(rows: list[list[str]], decimal: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers, NaN where there is none, (n, d); and whether that is for text, and not for a missing value."""
    shape = (len(rows), len(rows[0]) if rows else 0)
    fields = pa.array(itertools.chain.from_iterable(rows), pa.string())
    numbers = pc.match_substring_regex(fields, f"^(?:{_NUMBER[decimal].pattern})$")
    plain = pc.replace_substring(pc.utf8_ltrim(fields, "+"), ",", ".")
    values = pc.fill_null(pc.cast(pc.if_else(numbers, plain, None), pa.float64()), np.nan)
    is_missing = pc.is_in(pc.utf8_lower(fields), pa.array(sorted(MISSING)))
    text = pc.invert(pc.or_(numbers, is_missing))
    return values.to_numpy().reshape(shape), text.to_numpy(zero_copy_only=False).reshape(shape)


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


@dataclass
class _Chooser:
    path: Path
    lines: list[str]
    separator: str
    decimal: str
    misquoted: InvalidInput | None = None
    """Of a separator with which the quotes make no sense, and that more lines have than any other that can be read."""

    def choose(self) -> Reading:
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
            raise self.misquoted or InvalidInput(self._ragged(readings[0]))
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

    def _readings(self) -> list[Reading]:
        data = [line for line in self.lines if not _is_comment(line)]
        separators: list[str | None] = [self.separator]
        if self.separator == "auto":
            shared = {one: sum(one in line.strip() for line in data) for one in SEPARATORS}
            separators = [one for one in sorted(SEPARATORS, key=lambda one: -shared[one]) if shared[one]]
            if "\t" in separators and " " in separators:
                separators.remove(" ")  # among blanks, a tab that ends an empty field would be lost
            # A single column of numbers with a decimal comma has no separator.
            separators = [*separators, None] if "," in separators else separators or [","]
        readings: list[Reading] = []
        for separator in separators:
            try:
                readings += self._readings_with(separator)
            except csv.Error as error:
                if not readings and not self.misquoted:
                    self.misquoted = InvalidInput(f"{self.path} cannot be read as .csv: {error}")
        if not readings and self.misquoted:
            raise self.misquoted
        return readings or list(self._readings_with(separators[0], plain=True))

    def _readings_with(self, separator: str | None, *, plain: bool = False) -> Iterator[Reading]:
        """With every decimal sign that makes a difference; `plain`: even where the sign separates, too."""
        rows, comment = self._rows(separator)
        commas = any("," in one for row in rows[1:] for one in row.fields)
        signs = [self.decimal] if self.decimal != "auto" else [".", ","] if commas else ["."]
        first = rows[0].fields[0]
        for sign in signs:
            if separator is None and (sign == "." or ("," in first and not is_number(first, ","))):
                continue  # a line of several fields, or of names
            if separator == "," == sign and not commas and self.separator == "auto" and not plain:
                continue  # no field is quoted, so that each comma would be both
            yield Reading(separator, sign, rows, comment)

    def _rows(self, separator: str | None) -> tuple[list[Row], list[str]]:
        """The rows, and the fields of the last comment above them."""
        rows = _split(self.lines, separator)
        if not rows:
            raise InvalidInput(f"{self.path} cannot be read as .csv: it holds no rows, hence no columns.")
        above = [line for line in self.lines[: rows[0].line - 1] if _is_comment(line)]
        try:
            comment = _split([above[-1].lstrip("# ")], separator) if above else []
        except csv.Error:  # a remark, and no names
            comment = []
        return rows, comment[0].fields if comment else []

    def _check_groups(self, reading: Reading) -> None:
        """Refuse 1,234 where it may be one thousand."""
        if self.decimal != "auto" or (reading.decimal == "." and reading.separator != ";"):
            return
        sign = reading.decimal
        signed = [one for row in reading.rows for one in row.fields if sign in one and is_number(one, sign)]
        if signed and all(_GROUPED[sign].fullmatch(one) for one in signed):
            raise InvalidInput(
                f"{self.path}: {signed[0]!r} may be a fraction or a number of thousands, and so may all others: give "
                f'decimal = "{sign}" if it is a fraction.'
            )

    def _ragged(self, reading: Reading) -> str:
        first = reading.rows[0]
        other = next((row for row in reading.rows if len(row.fields) != len(first.fields)), first)
        names = not any(is_number(one, reading.decimal) for one in first.fields)
        return (
            f"{self.path} cannot be read as .csv: line {first.line} {'names' if names else 'has'} {len(first.fields)} "
            f"{'columns' if names else 'fields'}, line {other.line} has {len(other.fields)} fields, separated by "
            f"{reading.separator!r}; all lines must have the same number. separator = ... tells another one."
        )


def _split(lines: list[str], separator: str | None) -> list[Row]:
    """Fields of the lines that are neither blank nor comments. Raises `csv.Error`, in a sentence."""
    if separator is None:
        kept = ((number, line) for number, line in enumerate(lines, 1) if line.strip() and not _is_comment(line))
        return [Row.of(number, [line]) for number, line in kept]
    inside = False  # a field in quotes, whose lines may be blank or start with #

    def ended() -> Iterator[str]:
        nonlocal inside
        for line in lines:
            skipped = not inside and (_is_comment(line) or not line.strip(" "))
            inside = True
            yield "\n" if skipped else (re.sub(r"[ \t]+", "\t", line.strip()) if separator == " " else line) + "\n"

    reader = csv.reader(ended(), delimiter="\t" if separator == " " else separator, strict=True)
    rows: list[Row] = []
    try:
        for fields in reader:
            inside = False
            rows += [Row.of(reader.line_num, fields)] if fields else []
    except csv.Error as error:
        raise csv.Error(
            f"line {reader.line_num}: {error}, with the separator {separator!r}. In a field between quotes a quote is "
            'written twice, "".'
        ) from None
    return rows


def _may_be(reading: Reading, readings: list[Reading]) -> bool:
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


def _described(reading: Reading) -> str:
    if reading.separator is None:
        return f"one column with the decimal sign {reading.decimal!r}"
    count = len(reading.rows[-1].fields)
    return f"{count} columns separated by {reading.separator!r} with the decimal sign {reading.decimal!r}"
