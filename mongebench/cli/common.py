"""What several commands share: exit codes, options, and the steps around a run that is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from mongebench.core.errors import InvalidParameter, MongebenchError, UnknownName, one_of

CHECK_FAILED, USAGE, NOTHING_RAN = 1, 2, 3
"""Exit codes, beside those of `progress`."""

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="File with estimators, problems or metrics of your own: file.py, or file.py:Name for one."
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run (its --out), or a zip file of one.")]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Name of a metric, or a time such as fit_seconds, gpu_fit_seconds or wall_seconds.",
        show_default="UVP, or the energy distance",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(help="Run only what matches: a shell pattern on the estimator, the problem or the cell's label."),
]


def add_plugins(plugin: list[Path] | None) -> None:
    """Register what plugin files define."""
    from mongebench import plugins

    for path in plugin or []:
        plugins.add_file(path)


def checked_metric(metric: str | None) -> str | None:
    """A metric or a time column. Raises `UnknownName`."""
    from mongebench.plugins import METRICS, available
    from mongebench.run.frame import TIME_COLUMNS

    if metric is not None and metric not in (valid := [*available(METRICS), *TIME_COLUMNS]):
        raise UnknownName(one_of(metric, valid, "metric"))
    return metric


def note(rows: Any, before: str = "") -> None:
    """Say which records of a frame do not count."""
    from mongebench.run.frame import notes

    for sentence in notes(rows):
        typer.echo(before + sentence)


def beside(run: Path, name: str) -> Path:
    """Where a file or folder of that name goes: into the run, or beside the zip file that holds it."""
    return run.with_name(f"{run.stem}-{name}") if run.is_file() else run / name


def inside(run: Path, name: str) -> Path:
    """The folder of that name in a run, which may have come from elsewhere. Raises `MongebenchError` on a link."""
    folder = beside(run, name)
    if folder.is_symlink():
        raise MongebenchError(f"{folder} is a link, and what it leads to would be overwritten; say where with --out.")
    return folder


def share(text: str, option: str) -> float:
    """0.1 of "10%" or "0.1"; from one on with a percent sign alone, as 2 may mean either. Raises `InvalidParameter`."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        found = float(number) / (100 if percent else 1)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise InvalidParameter(f"{option} is a share, such as 10% or 0.1; got {text!r}.")
    if found >= 1 and not percent:
        raise InvalidParameter(f"{option} {text} may mean {text}% or {100 * found:g}%: write one of them.")
    return found
