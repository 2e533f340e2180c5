"""A run's directory: its plan, and one JSON file a record, each file written at once or not at all.

    RUN/plan.json                                what was planned: cells and conditions
    RUN/cells/<estimator>-<problem>-<key>.json   one record a cell
    RUN/cells/<estimator>-<problem>-<key>.npz    its sketch, where it has one

Two runs may write into one directory: names are content hashes and every file appears by one atomic rename.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from mongebench.core.errors import MongebenchError
from mongebench.run.record import Cell, Model, PlannedCell, Record
from mongebench.run.sketch import Sketch


class RunError(MongebenchError):
    """A directory that is not a run, or cannot be written."""


class RunStopped(RunError):
    """A run that cannot go on, through no fault of a cell: the disk is full, or nobody is left to run cells."""


class Invocation(Model):
    """What a run was asked with, as it was typed: enough to ask it again."""

    experiment: str
    seeds: int | None = None
    only: str | None = None
    plugins: tuple[str, ...] = ()
    exclusive: bool = False
    device: str = "auto"

    def command(self, cell: Cell | None = None, *more: str) -> str:
        """The shell command that runs this again with `more` options, or one cell of it.

        With a cell come all of its estimator's that no file but --only names.
        """
        only = self.only if cell is None or self.only == cell.estimator.name else cell.key
        words = ["mongebench", "run", self.experiment]
        words += ["--only", only] if only is not None else []
        words += ["--seeds", str(self.seeds)] if self.seeds is not None else []
        words += [word for path in self.plugins for word in ("--plugin", path)]
        words += ["--exclusive"] if self.exclusive else []
        words += ["--device", self.device] if self.device != "auto" else []
        return shlex.join([*words, *more])


class Plan(Model):
    """What a run is to record; `horizon` is the experiment's, in flow time."""

    invocation: Invocation
    cells: list[PlannedCell]
    horizon: float | None = None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` so that a reader, or a kill -9, finds the old file or the new one, never a half.

    Raises `RunStopped` where the disk is full or the folder cannot be written; nothing is left of the attempt then.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise RunStopped(f"Cannot write {path}: {error.strerror or error}.") from error


def _write(path: Path, content: str | bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class RunDirectory:
    """Reads and writes one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def create(self) -> None:
        """Make the directory. Raises `RunError` if it cannot be."""
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"Cannot make the run directory {self.path}: {error.strerror}.") from error

    @property
    def cells(self) -> Path:
        """Where the records are."""
        return self.path / "cells"

    def record_path(self, cell: Cell) -> Path:
        """The file of a cell's record."""
        return self.cells / f"{cell.estimator.name}-{cell.problem.name}-{cell.key}.json"

    def write_plan(self, plan: Plan) -> None:
        """Replace the plan; records outside it stay but are not shown."""
        write_atomically(self.path / "plan.json", plan.model_dump_json(indent=1))

    def plan(self) -> Plan:
        """The plan. Raises `RunError` where there is none."""
        try:
            return Plan.model_validate_json((self.path / "plan.json").read_text(encoding="utf-8"))
        except OSError:
            raise RunError(f"{self.path} is not a run (no plan.json); give the --out directory of one.") from None
        except ValidationError as error:
            raise RunError(f"{self.path / 'plan.json'} cannot be read: {error.errors()[0]['msg']}.") from None

    def sketch_path(self, cell: Cell) -> Path:
        """The file of a cell's sketch."""
        return self.record_path(cell).with_suffix(".npz")

    def write(self, record: Record, sketch: Sketch | None = None) -> None:
        """Write or replace one record and its sketch."""
        # The sketch first: a record that is there says that the cell is done.
        if sketch is None:
            self.sketch_path(record.cell).unlink(missing_ok=True)
        else:
            write_atomically(self.sketch_path(record.cell), sketch.to_bytes())
        write_atomically(self.record_path(record.cell), record.model_dump_json(indent=1))

    def sketch(self, cell: Cell) -> Sketch | None:
        """The sketch of a cell; None where it has none."""
        return Sketch.load(self.sketch_path(cell))

    def read(self, cell: Cell) -> Record | None:
        """The record of a cell; None where it is missing or unreadable (half a file, another schema)."""
        try:
            return Record.model_validate_json(self.record_path(cell).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None

    def records(self) -> Iterator[Record]:
        """The records of the plan that are there and readable, in the plan's order."""
        for planned in self.plan().cells:
            record = self.read(planned.cell)
            if record is not None:
                yield record

    def pending(self, cells: Iterable[PlannedCell]) -> list[PlannedCell]:
        """Those of `cells` that have no record, or one made with something else."""
        return [planned for planned in cells if self.why_rerun(planned) is not None]

    def why_rerun(self, planned: PlannedCell) -> str | None:
        """Why a cell has to run again, naming what differs; None if its record holds."""
        if not self.record_path(planned.cell).exists():
            return "no record"
        record = self.read(planned.cell)
        if record is None:
            return "its record cannot be read"
        ignored = set() if record.status in ("timeout", "out_of_memory") else {"time_limit", "memory_limit"}
        if record.manifest.exclusive:  # more than was asked
            ignored |= {"exclusive"}
        if record.manifest.repeats > planned.manifest.repeats:
            ignored |= {"repeats"}
        old, new = record.manifest.model_dump(exclude=ignored), planned.manifest.model_dump(exclude=ignored)
        changes = [f"{name}: {old[name]} -> {new[name]}" for name in new if old[name] != new[name]]
        return "; ".join(changes) or None


class Runs:
    """Several runs read as one; a cell of several of them is the last one's that recorded it.

    Raises `RunError` where one of the paths is not a run.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.directories = [RunDirectory(path) for path in paths]
        self.plans = [directory.plan() for directory in self.directories]

    @property
    def path(self) -> str:
        """Where they are, for messages."""
        return ", ".join(str(directory.path) for directory in self.directories)

    @functools.cached_property
    def _holders(self) -> dict[str, tuple[RunDirectory, Plan, PlannedCell]]:
        """Who answers for a cell, by its key."""
        holders: dict[str, tuple[RunDirectory, Plan, PlannedCell]] = {}
        for directory, plan in zip(self.directories, self.plans, strict=True):
            for planned in plan.cells:
                key = planned.cell.key
                if key not in holders or directory.record_path(planned.cell).exists():
                    holders[key] = (directory, plan, planned)
        return holders

    def plan(self) -> Plan:
        """All cells; the invocation and the horizon are the first run's."""
        planned = [planned for _, _, planned in self._holders.values()]
        return Plan(invocation=self.plans[0].invocation, cells=planned, horizon=self.plans[0].horizon)

    def invocation(self, cell: Cell) -> Invocation:
        """What the run of this cell was asked with."""
        return self._holders[cell.key][1].invocation

    def read(self, cell: Cell) -> Record | None:
        """As `RunDirectory.read`."""
        return self._holders[cell.key][0].read(cell)

    def sketch(self, cell: Cell) -> Sketch | None:
        """As `RunDirectory.sketch`."""
        return self._holders[cell.key][0].sketch(cell)


Readable = RunDirectory | Runs
"""What tables and figures read."""
