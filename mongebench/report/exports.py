"""Results for other programs: every cell as CSV or Parquet, the tables that people read as LaTeX or Markdown."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mongebench.report import tables
from mongebench.report.formats import Format
from mongebench.run.store import Readable, RunDirectory

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
    """Write a frame of `tables.frame`; the path.

    CSV and Parquet hold the frame itself, a line a planned cell, in full precision. LaTeX (to be \\input, with
    \\usepackage{booktabs}) and Markdown hold its `tables.blocks` of `metric`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if format is Format.CSV:
        rows.to_csv(path, index=False)
    elif format is Format.PARQUET:
        rows.to_parquet(path, index=False)
    else:
        path.write_text(_render(rows, format, metric), encoding="utf-8")
    return path


def archive(runs: Readable, path: Path) -> Path:
    """Every record and sketch as one zipped directory of a run; the path."""
    plan = runs.plan()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("plan.json", plan.model_dump_json())
        for cell in (planned.cell for planned in plan.cells):
            name = RunDirectory("").record_path(cell).as_posix()
            if (record := runs.read(cell)) is not None:
                packed.writestr(name, record.model_dump_json())
            if (sketch := runs.sketch(cell)) is not None:
                packed.writestr(RunDirectory("").sketch_path(cell).as_posix(), sketch.to_bytes())
    return path


def _render(rows: pd.DataFrame, format: Format, metric: str | None) -> str:
    environment = Environment(
        loader=PackageLoader("mongebench.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # neither is HTML: each template passes every text through its filter
    )
    environment.filters |= {"tex": tex, "md": markdown}
    template = environment.get_template(f"tables.{format.suffix}.j2")
    return template.render(blocks=list(tables.blocks(rows, metric)), legend=tables.legend(rows, metric))


def tex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


def markdown(text: str) -> str:
    """Text that Markdown prints as it stands, in a cell of a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", " ".join(text.split()))
