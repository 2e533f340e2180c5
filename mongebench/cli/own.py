"""Commands for samples of one's own: choose an estimator, take its map home, move other rows by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from mongebench.core.errors import InvalidInput, InvalidParameter, one_of

if TYPE_CHECKING:
    from mongebench.core.csvfile import Layout

Side = Literal["auto", "yes", "no"]
Decimal = Literal["auto", ".", ","]
Header = Annotated[Side, typer.Option(help="Whether the first line of a .csv file names the columns.")]
Index = Annotated[
    str,
    typer.Option(
        metavar="auto|yes|no|NAME",
        help="Whether the first column of each file numbers the rows, or the name of a column that does.",
    ),
]
Separator = Annotated[str, typer.Option(help="Separator of a .csv file, one character.")]
DecimalSign = Annotated[Decimal, typer.Option(help="Decimal sign of a .csv file.")]

OPTIONS = (
    (r"columns = 'position' matches them by position, ", ""),
    (r"columns = 'position' does without", "Name those of both files, or of neither"),
    (r"columns = \[names\]", "--columns a,b"),
    (r"\b(header|index) = true", r"--\1 yes"),
    (r"\b(header|index) = false", r"--\1 no"),
    (r"\b(separator) = ", r"--\1 "),
)
"""What errors call by the parameters of the problem `files`, and the options that these commands have for it."""
REMEDIES = (
    ("--columns", r"[Cc]olumns? '", "--columns a,b chooses the coordinates"),
    ("--drop-missing", "missing value|NaN", "--drop-missing leaves out rows with a missing value"),
)
"""An option of `fit`, which errors it helps with, and how."""


def fit(
    source: Annotated[Path, typer.Option(help="Points to move: .csv, .parquet, .npy or .npz.")],
    target: Annotated[Path, typer.Option(help="Points to move them to.")],
    estimator: Annotated[
        str, typer.Option(help="Names separated by commas; `all` for every estimator that learns from samples.")
    ] = "",
    columns: Annotated[str, typer.Option(help="Names of the coordinates, separated by commas.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the map, the table and the page.")] = Path("selection"),
    scale: Annotated[
        Literal["joint", "none"], typer.Option(help="Divide each coordinate by its spread in both files, or not.")
    ] = "joint",
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Leave out rows with a missing value.")] = False,
    folds: Annotated[int, typer.Option(help="Number of folds: parts of the data, each held out once.")] = 5,
    most: Annotated[int, typer.Option(help="Number of points per file that the ranking uses; 0 for all.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the folds, the draws and the fits.")] = 0,
    header: Header = "auto",
    index: Index = "auto",
    separator: Separator = "auto",
    decimal: DecimalSign = "auto",
) -> None:
    """Choose an estimator for two files of points, without an exact map, and save the fitted map."""
    from mongebench.cli.progress import sentences
    from mongebench.core.tablefile import Columns, read_pair
    from mongebench.report.site import selection as page
    from mongebench.report.tables import terminal
    from mongebench.saved import save
    from mongebench.selection.choose import candidates, select

    by_name = index not in get_args(Side)
    layout = _layout(header, "no" if by_name else index, separator, decimal)
    with _remedies():
        others = _beside(index, source, target, layout) if by_name else []
        chosen: Columns = _names(columns) or others or "auto"
        x, y = read_pair(source, target, layout, columns=chosen, drop_missing=drop_missing)
    for table, path in ((x, source), (y, target)):
        if table.dropped:
            rows = len(table.points) + table.dropped
            typer.echo(f"{path}: {table.dropped} of {rows} rows have a missing value and were left out.")
    names = candidates() if estimator == "all" else _names(estimator) or None
    with _folder(out), sentences() as say, _remedies():
        found = select(
            x.frame(), y.frame(), names, scale=scale, folds=folds, most=most or None, seed=seed, progress=say
        )
        save(found.best, out / "map.npz")
    for used, fitted, given, path in zip(found.used, found.fitted, found.given, (source, target), strict=True):
        if used < given:
            typer.echo(
                f"{path}: ranked on a random {used} of {given} points, the map fitted to {fitted}; --most 0 uses all."
            )
    found.table.to_csv(out / "selection.csv", index=False)
    terminal.show(terminal.selection(found))
    typer.echo(str(found))
    typer.echo(f"map: {out / 'map.npz'} (mongebench apply {out / 'map.npz'} NEW.csv --out MOVED.csv)")
    typer.echo(f"page: {page.build(found, x, y, (str(source), str(target)), out)}")


def apply(
    map: Annotated[Path, typer.Argument(metavar="MAP", help="Map written by `mongebench fit` or `mongebench.save`.")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="Rows to move: .csv, .parquet, .npy or .npz.")],
    out: Annotated[Path, typer.Option(help="Output file: .csv, .parquet, .npy or .npz.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")] = False,
    header: Header = "auto",
    separator: Separator = "auto",
    decimal: DecimalSign = "auto",
) -> None:
    """Move the rows of a file with a fitted map; ids and text stay as they are, to the character."""
    from mongebench.saved import load
    from mongebench.selection.moving import moved, read_rows, write_rows

    fitted = load(map)
    if out.resolve() == rows.resolve():
        raise InvalidParameter(f"--out {out} is the file that is read; give another name.")
    if not out.parent.is_dir():
        raise InvalidParameter(f"--out {out}: there is no folder {out.parent}.")
    if out.exists() and not overwrite:
        raise InvalidParameter(f"--out {out} exists; give another name, or --overwrite to replace it.")
    with _remedies(()):
        result = moved(fitted, read_rows(rows, _layout(header, "no", separator, decimal)), str(rows))
    write_rows(result.rows, out)
    count = len(result.rows.frame)
    if result.unmoved:
        typer.echo(f"{result.unmoved} of {count} rows have a missing coordinate and were not moved.")
    if result.outside:
        typer.echo(
            f"{result.outside} of {count} rows lie outside of the box of the points that the map was fitted to: "
            "there it extrapolates."
        )
    typer.echo(f"written: {out}")


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Make a folder before the work that fills it; what it leaves empty goes again."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidParameter(f"--out {out} cannot be made a folder: {error.strerror}.") from error
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _remedies(remedies: tuple[tuple[str, str, str], ...] = REMEDIES) -> Iterator[None]:
    """Say what is wrong with a file in this command's options, with those that help and are not named yet."""
    try:
        yield
    except InvalidInput as error:
        said = str(error)
        for parameter, option in OPTIONS:
            said = re.sub(parameter, option, said)
        helpful = [remedy for option, error_, remedy in remedies if option not in said and re.search(error_, said)]
        raise InvalidInput(f"{said} ({', '.join(helpful)}.)" if helpful else said) from error


def _beside(index: str, source: Path, target: Path, layout: Layout) -> list[str]:
    """The columns of the source but the one that numbers or labels the rows, which one file alone may have."""
    from mongebench.selection.moving import read_rows

    named = {path: [str(name) for name in read_rows(path, layout).frame.columns] for path in (source, target)}
    every = {name for names in named.values() for name in names}
    if index not in every:
        raise InvalidParameter(f"--index: {one_of(index, every, 'column')}")
    first, second = ([name for name in names if name != index] for names in named.values())
    if odd := sorted({*first} ^ {*second}):
        raise InvalidInput(f"{source} and {target} do not share the column {odd[0]!r}.")
    return first


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _layout(header: Side, index: str, separator: str, decimal: Decimal) -> Layout:
    from mongebench.core.csvfile import Layout

    given = {"auto": "auto", "yes": True, "no": False}
    return Layout(given[header], given[index], separator, decimal)  # type: ignore[arg-type]
