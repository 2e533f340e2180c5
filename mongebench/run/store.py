"""A run's directory: its plan, and one JSON file a record, each file written at once or not at all.

    RUN/plan.json                                what was planned: cells and conditions
    RUN/cells/<estimator>-<problem>-<key>.json   one record per cell
    RUN/cells/<estimator>-<problem>-<key>.npz    its sketch, where it has one

Two runs may write into one directory: names are content hashes and every file appears by one atomic rename. What is
read is taken for what it is only after a look: a record counts for a planned cell if it is a readable file, holds that
cell, and was made with what the plan says. `RunDirectory.find` is the one place that decides this.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mongebench.core.errors import MongebenchError
from mongebench.run.record import Cell, Model, PlannedCell, Record, State, Status
from mongebench.run.sketch import Sketch

LARGEST = 64 << 20
"""Bytes of the largest record that is written or read, and a sixteenth of those of the largest plan."""
NAME = 60
"""Characters that the name of a record's file takes of an estimator's and of a problem's."""


SUBMITTED, VERIFIED, PUBLISHED = "submitted", "verified", "published"
"""Standing of somebody else's numbers: as they came, and after a part of them was measured again."""
SUBMISSION = "submission.json"
"""What a zip file of somebody else's run holds, beside the run."""


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
    against: str | None = None

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
        words += ["--against", self.against] if self.against is not None and cell is None else []
        return shlex.join([*words, *more])


class Declaration(Model):
    """The experiment itself: its file's text, and the folder and the plugin files that it starts from, all absolute."""

    text: str
    base: str
    plugins: tuple[str, ...] = ()


class Plan(Model):
    """What a run is to record, and the experiment's horizon in flow time; earlier versions kept no `declaration`.

    `commit` is that of the repository in whose folder the run was asked for, which is what it measures where an
    estimator comes from there; `dirty` says whether files there differed from it. None where there is no repository.
    """

    invocation: Invocation
    declaration: Declaration | None = None
    cells: list[PlannedCell]
    horizon: float | None = None
    commit: str | None = None
    dirty: bool | None = None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends, and leaves nothing where that fails.

    A reader, or a kill -9, finds the old file or the new one, never a half; a link is replaced, not followed. Missing
    folders are made. Raises `RunStopped` where the disk is full or the folder cannot be written.
    """
    temporary = path.parent / f".writing-{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By open, not by tempfile: the permissions are those that the user's umask gives any new file.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.is_dir() and not path.is_symlink():
                path.rename(path.with_name(f"{path.name}.aside-{secrets.token_hex(4)}"))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise RunStopped(f"Cannot write {path}: {error.strerror or error}.") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` as `replacing` does, and raise what it raises."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


class Unreadable(RunError):
    """A file that is there and cannot be what it should be."""


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file. Never waits for a pipe. Raises `FileNotFoundError` and `Unreadable`."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable("it is not a regular file")
            if found.st_size > most:
                raise Unreadable(f"it has {found.st_size} bytes, more than the {most} that one may have")
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


def read_record(path: Path) -> Record:
    """The record that a file holds, whatever its cell. Raises `FileNotFoundError` and `Unreadable`."""
    content = read_bytes(path)
    try:
        return Record.model_validate_json(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(_first(error)) from None


def _first(error: Exception) -> str:
    """What pydantic found first, in a line."""
    found = error.errors() if hasattr(error, "errors") else []
    if not found:
        return str(error)
    place = ".".join(map(str, found[0]["loc"]))
    return f"{place}: {found[0]['msg']}" if place else str(found[0]["msg"])


@dataclass(frozen=True)
class Found:
    """What is there of one planned cell: its `record`, or, in its place, a `state` and why."""

    record: Record | None = None
    state: State = State.MISSING
    reason: str = "no record"

    @property
    def status(self) -> Status | State:
        """The record's, or what is there in its place."""
        return self.record.status if self.record else self.state


class RunDirectory:
    """Reads and writes one run.

    Parameters
    ----------
    path
        Where it is.
    standing
        Of its numbers on a board: `SUBMITTED` or `VERIFIED` for somebody else's, empty for a run of one's own.
    """

    def __init__(self, path: str | Path, standing: str = "") -> None:
        self.path = Path(path)
        self.standing = standing

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
        names = (re.sub(r"[^\w.-]", "_", spec.name)[:NAME] for spec in (cell.estimator, cell.problem))
        return self.cells / f"{'-'.join(names)}-{cell.key}.json"

    def write_plan(self, plan: Plan) -> None:
        """Replace the plan; records outside it stay but are not shown."""
        write_atomically(self.path / "plan.json", plan.model_dump_json(indent=1))

    def plan(self) -> Plan:
        """The plan. Raises `RunError` where there is none that can be read, or one without cells."""
        path = self.path / "plan.json"
        try:
            plan = Plan.model_validate_json(read_bytes(path, 16 * LARGEST))
        except FileNotFoundError:
            there = "it holds no plan.json" if self.path.is_dir() else "there is no such directory or zip file"
            raise RunError(f"{self.path} is not a run: {there}. Give the --out directory of one.") from None
        except (Unreadable, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {_first(error)}. Run the experiment again to replace it.") from None
        if not plan.cells:
            raise RunError(f"{path} plans no cell. Run the experiment again to replace it.")
        return plan

    def sketch_path(self, cell: Cell) -> Path:
        """The file of a cell's sketch."""
        return self.record_path(cell).with_suffix(".npz")

    def write(self, record: Record, sketch: Sketch | None = None) -> None:
        """Write or replace one record and its sketch; what cannot be recorded becomes an `error` that says why."""
        # The sketch first: a record that is there says that the cell is done.
        if sketch is not None:
            write_atomically(self.sketch_path(record.cell), sketch.to_bytes())
        elif self.sketch_path(record.cell).is_file():
            self.sketch_path(record.cell).unlink(missing_ok=True)
        write_atomically(self.record_path(record.cell), _text(record))

    def sketch(self, planned: PlannedCell) -> Sketch | None:
        """The sketch of a planned cell; None where it, or a record that holds, is not there."""
        return self.sketch_beside(planned) if self.read(planned) is not None else None

    def sketch_beside(self, planned: PlannedCell) -> Sketch | None:
        """The sketch of a planned cell whose record is known to hold; None where it is not there."""
        sketch = Sketch.load(self.sketch_path(planned.cell))
        return sketch if sketch is not None and sketch.x.shape[1] == planned.dim else None

    def find(self, planned: PlannedCell) -> Found:
        """What is there of a planned cell: the record that its plan asks for, or why there is none."""
        found = self.find_any(planned.cell)
        if found.record is None:
            return found
        changes = _changes(found.record, planned)
        return Found(state=State.STALE, reason="; ".join(changes)) if changes else found

    def find_any(self, cell: Cell) -> Found:
        """The record of a cell, whatever it was made with, or why there is none."""
        try:
            record = read_record(self.record_path(cell))
        except FileNotFoundError:
            return Found()
        except Unreadable as error:
            return Found(state=State.UNREADABLE, reason=f"its record cannot be read: {error}")
        if record.cell.key != cell.key:
            reason = f"its file holds the record of another cell: {record.cell.label}"
            return Found(state=State.UNREADABLE, reason=reason)
        return Found(record)

    def read(self, planned: PlannedCell) -> Record | None:
        """The record of a planned cell, made with what its plan says; None where `find` has a reason why not."""
        return self.find(planned).record

    def records(self) -> Iterator[Record]:
        """The records of the plan that are there and hold, in the plan's order."""
        for planned in self.plan().cells:
            record = self.read(planned)
            if record is not None:
                yield record

    def pending(self, cells: Iterable[PlannedCell]) -> list[PlannedCell]:
        """Those of `cells` that have no record, or one made with something else."""
        return [planned for planned in cells if self.why_rerun(planned) is not None]

    def why_rerun(self, planned: PlannedCell) -> str | None:
        """Why a cell has to run again, naming what differs; None if its record holds."""
        found = self.find(planned)
        return None if found.record else found.reason


def _changes(record: Record, planned: PlannedCell) -> list[str]:
    """What a record was made with that the plan does not allow, a line a field."""
    ignored = set() if record.status in (Status.TIMEOUT, Status.OUT_OF_MEMORY) else {"time_limit", "memory_limit"}
    if record.manifest.exclusive:  # more than was asked
        ignored |= {"exclusive"}
    if record.manifest.repeats > planned.manifest.repeats:
        ignored |= {"repeats"}
    return record.manifest.differences(planned.manifest, ignored)


def _text(record: Record) -> str:
    """A record as its file holds it, read back before it is believed."""
    try:
        text = record.model_dump_json(indent=1)
        if len(text) > LARGEST:
            raise ValueError(f"it would have {len(text)} bytes, more than the {LARGEST} that one may have")
        Record.model_validate_json(text)
        return text
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"what the cell left cannot be recorded: {_first(error)}"
        kept = {name: getattr(record, name) for name in ("provenance", *PlannedCell.model_fields)}
        return Record(**kept, status=Status.ERROR, reason=reason).model_dump_json(indent=1)
