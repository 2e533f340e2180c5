"""The child process: runs a batch of cells one after another and writes each record itself.

Its keeper forks it for the engine, which it tells over a pipe of its own which cells it starts and finishes, a line
each time; whatever estimators print goes elsewhere. Cells that differ in their seed alone are fitted together where the
job allows it and the estimator can.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()  # before the imports below, which belong to the first cell's import phase

from mongebench import plugins  # noqa: E402
from mongebench.run.build import Builder  # noqa: E402
from mongebench.run.clock import Clock  # noqa: E402
from mongebench.run.measurement import failed, measure_together, reset_peak  # noqa: E402
from mongebench.run.planned import Conditions  # noqa: E402
from mongebench.run.record import Cell, Model, PlannedCell, Record  # noqa: E402
from mongebench.run.sketch import Sketch  # noqa: E402
from mongebench.run.status import refusal, status_of  # noqa: E402
from mongebench.run.store import RunDirectory, RunStopped  # noqa: E402

PRIVATE_DESCRIPTOR = 200
"""The least number of the descriptor of the status pipe: programs count theirs from 3."""


class Job(Model):
    """What the engine hands to a child."""

    cells: list[PlannedCell]
    run_directory: str
    plugin_files: list[str]
    base: str
    conditions: Conditions


class Line:
    """The child's end of the status pipe: a message is `NONCE PROCESS JSON` on a line of its own.

    The descriptor has a high number and no program that is started inherits it, so that nobody writes to it by chance;
    what somebody writes all the same lacks the nonce. A copy of the process that an estimator forks and lets come back
    says so in its first message, and ends there.
    """

    def __init__(self, descriptor: int, nonce: str) -> None:
        self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, PRIVATE_DESCRIPTOR)
        os.close(descriptor)
        self._nonce = nonce
        self._process = os.getpid()

    def say(self, **words: Any) -> None:
        """Tell the engine."""
        self.end_copies()
        self._write(words)

    def end_copies(self) -> None:
        """Return in the child alone."""
        if os.getpid() != self._process:
            self._write({"copy": True})
            os._exit(0)

    def _write(self, words: dict[str, Any]) -> None:
        # A line end first: what a stranger wrote before must not become part of this line.
        os.write(self._descriptor, f"\n{self._nonce} {os.getpid()} {json.dumps(words)}\n".encode())


def main(job_file: str, status: int, nonce: str) -> None:
    """Run the job of a file, and tell the engine over the pipe `status`."""
    line = Line(status, nonce)
    job = Job.model_validate_json(Path(job_file).read_text(encoding="utf-8"))
    if job.conditions.exclusive and hasattr(os, "sched_setaffinity"):
        # The last cores: the first ones serve interrupts, and the engine sits on another one.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-(job.conditions.threads or 1) :])
    for path in job.plugin_files:
        plugins.add_file(path)
    run(job, line, STARTED)


def run(job: Job, line: Line, started: float | None) -> None:
    """Run the job's cells in order; the first one is charged what this process did since `started`."""
    directory, builder = RunDirectory(job.run_directory), Builder(job.base)

    def measured(cells: list[PlannedCell], clock: Clock) -> list[tuple[Record, Sketch | None]]:
        first = cells[0].cell
        try:
            problem, estimator = builder.problem(first.problem), builder.estimator(first.estimator)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # somebody else's code, which may do here what it did not when it was planned
            return [(failed(planned, job.conditions, *status_of(error)), None) for planned in cells]
        # Of ours the plan has asked whether they support their cells; what others say is asked here, where it is safe.
        refused = None if plugins.is_ours(first.estimator.name) else refusal(first, problem, estimator)
        line.end_copies()
        if refused is not None:
            return [(failed(planned, job.conditions, *refused), None) for planned in cells]
        return measure_together(cells, problem, estimator, job.conditions, clock, line.end_copies)

    planned = {cell.cell.key: cell for cell in job.cells}
    for group in groups([cell.cell for cell in job.cells], job.conditions.seeds_together):
        # Another run into this directory, or a worker that was thought lost, may have been faster.
        cells = [cell for cell in group if directory.why_rerun(planned[cell.key]) is not None]
        for cell in group:
            if cell not in cells:
                line.say(done=cell.key)
        if not cells:
            continue
        line.say(start=[cell.key for cell in cells])
        reset_peak()
        clock = Clock(started)
        if started is not None:
            clock.charge_start_up()
            started = None
        for record, sketch in measured([planned[cell.key] for cell in cells], clock):
            line.end_copies()
            try:
                directory.write(record, sketch)
            except RunStopped as error:
                line.say(cannot_write=str(error))
                return
            line.say(done=record.cell.key)


def groups(cells: Sequence[Cell], most: int) -> Iterator[list[Cell]]:
    """Consecutive cells that may be fitted in one call: equal but for the seed, at most `most` of them."""

    def but_for_the_seed(cell: Cell) -> str:
        return cell.model_copy(update={"seed": 0}).key

    for _, alike in itertools.groupby(cells, key=but_for_the_seed):
        waiting = list(alike)
        size = most if _fits_together(waiting[0]) else 1
        yield from (waiting[start : start + size] for start in range(0, len(waiting), size))


def _fits_together(cell: Cell) -> bool:
    try:
        return plugins.find(plugins.ESTIMATORS, cell.estimator.name).load().fit_together is not None
    except Exception:  # it cannot be imported here: its cells will say so
        return False
