"""A run as people read it: what was planned, and what is there of each cell, looked at once.

`store.RunDirectory` is where a run is written, and looks at its files anew each time; a `Run` is what it found.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mongebench.run.record import Cell, PlannedCell, Record, State
from mongebench.run.sketch import Sketch
from mongebench.run.store import SUBMISSION, SUBMITTED, VERIFIED, Found, Invocation, Plan, RunDirectory, RunError

if TYPE_CHECKING:
    import pandas as pd

LARGEST_ARCHIVE = 16 << 30
"""Bytes that a zipped run may take unpacked."""


def read_run(path: str | Path, *others: str | Path) -> Run:
    """Read a run once; all tables, figures and verdicts are made from what is found then.

    Parameters
    ----------
    path
        A directory that `mongebench run` has written (its --out), or a zip file of one, such as the records.zip of a
        report.
    others
        More runs to be read as one with it; a cell of several is the last one's that has a record of it that holds. A
        run that somebody submitted takes the place of no other's cells.

    Returns
    -------
    Run
        With its `plan`, its `records`, and, as a table of one row per planned cell, its `frame()`.

    Raises
    ------
    RunError
        Where one of the paths is not a run: there is no plan, or none that can be read.
    """
    directories = [unpacked(Path(one)) for one in (path, *others)]
    plans = [directory.plan() for directory in directories]
    held: dict[str, Held] = {}
    for directory, plan in zip(directories, plans, strict=True):
        for planned in plan.cells:
            key, found = planned.cell.key, directory.find(planned)
            foreign = key in held and directory.standing and not held[key].directory.standing
            better = key not in held or found.record is not None or held[key].found.status is State.MISSING
            if better and not foreign:
                held[key] = Held(planned, found, plan, directory)
    return Run(", ".join(map(str, (path, *others))), plans, held)


@dataclass(frozen=True)
class Held:
    """One planned cell: what was there, and the plan and the directory that answer for it."""

    planned: PlannedCell
    found: Found
    plan: Plan
    directory: RunDirectory


class Run:
    """What one run holds, or several as one; made by `read_run`.

    Attributes
    ----------
    path
        Where it was read from, for messages.
    plans
        Of each of the runs.
    plan
        Everything that was to be recorded, in the order of the experiment. Of several runs it has all cells; its
        invocation and horizon are the first run's.
    """

    def __init__(self, path: str, plans: list[Plan], held: dict[str, Held]) -> None:
        self.path, self.plans, self._held = path, plans, held
        self.plan = plans[0].model_copy(update={"cells": [one.planned for one in held.values()]})

    @functools.cached_property
    def found(self) -> dict[str, Found]:
        """By the key of each planned cell, in the plan's order: its record where one holds, or why there is none."""
        return {key: held.found for key, held in self._held.items()}

    @property
    def records(self) -> list[Record]:
        """The records that hold, in the plan's order."""
        return [found.record for found in self.found.values() if found.record is not None]

    def find(self, planned: PlannedCell) -> Found:
        """What was there of a planned cell."""
        return self.found[planned.cell.key]

    def invocation(self, cell: Cell) -> Invocation:
        """What the run of this cell was asked with."""
        return self._held[cell.key].plan.invocation

    def standing(self, cell: Cell) -> str:
        """Of the run that a cell is from, see `RunDirectory`."""
        return self._held[cell.key].directory.standing

    def sketch(self, planned: PlannedCell) -> Sketch | None:
        """The sketch of a planned cell; None where it, or a record that holds, is not there."""
        held = self._held[planned.cell.key]
        return held.directory.sketch_beside(held.planned) if held.found.record is not None else None

    def frame(self) -> pd.DataFrame:
        """One row per planned cell: identity, status, times, and `<metric>`, `<metric>_se`, `<metric>_floor` columns.

        Times are in seconds. `fit_seconds` (of a cell on a GPU, `gpu_fit_seconds`) is the median over a cell's repeats,
        whose range is `fit_iqr_seconds`. `key` is the name of the cell's record; parameters are JSON. Cells without a
        record that holds have a state in place of a status ("missing", "stale", "unreadable"), with its reason, and no
        value. `problem` is a family of instances: its label leaves out the dimension and the seed that its `instance`s
        are drawn from (0 where a problem has none). Several runs that were not timed alike have no times: see `clocks`.
        """
        return self._frame.copy()

    @functools.cached_property
    def _frame(self) -> pd.DataFrame:
        from mongebench.run.frame import frame  # pandas, which no child process needs

        return frame(self)


def standing_of(path: Path) -> str:
    """Of a zip file: somebody's submission, verified where the mark beside it is of this very file; else empty."""
    try:
        with zipfile.ZipFile(path) as archive:
            if SUBMISSION not in archive.namelist():
                return ""
        mark = json.loads(mark_of(path).read_text(encoding="utf-8"))
        return VERIFIED if mark["sha256"] == digest_of(path) else SUBMITTED
    except zipfile.BadZipFile:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return SUBMITTED


def mark_of(path: Path) -> Path:
    """The file that says that a submission was verified: beside it, where whoever submits does not write."""
    return path.with_suffix(".verified.json")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(path: Path) -> RunDirectory:
    """The run at a path; one in a zip file is unpacked, and gone when nobody holds it any more. Raises `RunError`."""
    if not zipfile.is_zipfile(path):
        return RunDirectory(path)
    folder = Path(tempfile.mkdtemp(prefix="mongebench-run-"))
    directory = RunDirectory(folder, standing_of(path))
    weakref.finalize(directory, shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_ARCHIVE:
                raise RunError(f"{path} is not a run: unpacked, it would take more than {LARGEST_ARCHIVE >> 30} GiB.")
            archive.extractall(folder)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise RunError(f"{path} cannot be unpacked: {error}.") from None
    if len(inner := list(folder.iterdir())) == 1 and inner[0].is_dir():
        directory.path = inner[0]  # the run's folder itself was packed
    return directory
