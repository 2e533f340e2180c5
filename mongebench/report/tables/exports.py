"""Results for other programs: every cell as CSV or Parquet, the tables and the leaderboard as LaTeX or Markdown."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mongebench.report.tables import leaderboard, leaderboard_text, results
from mongebench.report.tables.formats import Format
from mongebench.run.reading import Run
from mongebench.run.store import Plan, RunDirectory, replacing, write_atomically

_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


def write(rows: pd.DataFrame, format: Format, path: Path, metric: str | None = None) -> Path:
    """Write a frame of `Run.frame`; the path.

    CSV and Parquet hold the frame itself, a line per planned cell, in full precision. LaTeX (to be \\input, with
    \\usepackage{booktabs}) and Markdown hold its `results.blocks` of `metric`.
    """
    if format in (Format.CSV, Format.PARQUET):
        return _write_frame(rows, format, path)
    return _render(
        "tables", format, path, blocks=list(results.blocks(rows, metric)), legend=results.legend(rows, metric)
    )


def write_board(rows: pd.DataFrame, format: Format, path: Path, top: int | None = None) -> Path:
    """Write the leaderboard of a frame of `Run.frame`, in any format; the path.

    With `top`, LaTeX and Markdown hold only so many estimators of each tier, in a few columns.
    """
    lines = leaderboard.board(rows)
    if format in (Format.CSV, Format.PARQUET):
        failures = [", ".join(f"{count} {status}" for status, count in line["failures"].items()) for line in lines]
        return _write_frame(pd.DataFrame(lines).assign(failures=failures), format, path)
    boards = leaderboard_text.shown(lines) if top is None else leaderboard_text.brief(lines, top)
    return _render("leaderboard", format, path, boards=boards, legend=leaderboard_text.legend(rows))


def _write_frame(frame: pd.DataFrame, format: Format, path: Path) -> Path:
    with replacing(path) as file:
        if format is Format.CSV:
            frame.to_csv(file, index=False)
        else:
            frame.to_parquet(file, index=False)
    return path


def archive(run: Run, path: Path) -> Path:
    """Every record that holds, and its sketch, as a zipped run that names no folder of this machine; the path."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        pack(run, run.plan, packed)
    return path


def pack(run: Run, plan: Plan, packed: zipfile.ZipFile, plugins: tuple[str, ...] = ()) -> None:
    """Put what a run holds of the cells of `plan` into a zip file, with `plugins` as its plugin files."""
    if plan.declaration is not None:
        declaration = plan.declaration.model_copy(update={"base": ".", "plugins": plugins})
        plan = plan.model_copy(update={"declaration": declaration})
    packed_as = RunDirectory("")
    packed.writestr("plan.json", plan.model_dump_json())
    for planned in plan.cells:
        if (record := run.find(planned).record) is not None:
            packed.writestr(packed_as.record_path(planned.cell).as_posix(), record.model_dump_json())
        if (sketch := run.sketch(planned)) is not None:
            packed.writestr(packed_as.sketch_path(planned.cell).as_posix(), sketch.to_bytes())


def _render(name: str, format: Format, path: Path, **context: Any) -> Path:
    environment = Environment(
        loader=PackageLoader("mongebench.report.tables"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # neither is HTML: each template passes every text through its filter
    )
    environment.filters |= {"tex": tex, "md": markdown}
    write_atomically(path, environment.get_template(f"{name}.{format.suffix}.j2").render(context))
    return path


def tex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


def markdown(text: str) -> str:
    """Text that Markdown prints as it stands, in a cell of a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", " ".join(text.split()))
