"""The child process: runs a batch of cells one after another and writes each record itself.

Started by the engine as `python -m mongebench.run.child JOB_FILE`. It tells the engine over standard output which cells
it starts and finishes, a JSON line each time; whatever estimators print goes to standard error instead. Cells that
differ in their seed alone are fitted together where the job allows it and the estimator can.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

STARTED = time.perf_counter()  # before the imports below, which belong to the first cell's import phase

from mongebench import plugins  # noqa: E402
from mongebench.run.cell import measure_together, reset_peak  # noqa: E402
from mongebench.run.clock import Clock  # noqa: E402
from mongebench.run.planned import Conditions  # noqa: E402
from mongebench.run.record import Cell, Model, PlannedCell  # noqa: E402
from mongebench.run.store import RunDirectory, RunStopped  # noqa: E402


class Job(Model):
    """What the engine hands to a child."""

    cells: list[PlannedCell]
    run_directory: str
    plugin_files: list[str]
    base: str
    conditions: Conditions


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the engine dies, however it dies."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _protocol() -> TextIO:
    """The engine's end of standard output; file descriptor 1 becomes standard error for everyone else."""
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return private


def main(job_file: str) -> None:
    """Run the job's cells in order."""
    _die_with_parent()
    protocol = _protocol()
    job = Job.model_validate_json(Path(job_file).read_text(encoding="utf-8"))
    if job.conditions.exclusive and hasattr(os, "sched_setaffinity"):
        # The last cores: the first ones serve interrupts, and the engine sits on another one.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-(job.conditions.threads or 1) :])
    directory = RunDirectory(job.run_directory)
    for path in job.plugin_files:
        plugins.add_file(path)

    @functools.cache
    def problem(name: str, parameters: str) -> Any:
        return plugins.problem(name, base=job.base, **json.loads(parameters))

    def say(**words: Any) -> None:
        print(json.dumps(words), file=protocol)

    planned = {cell.cell.key: cell for cell in job.cells}
    started: float | None = STARTED
    for group in groups([cell.cell for cell in job.cells], job.conditions.seeds_together):
        # Another run into this directory, or a worker that was thought lost, may have been faster.
        cells = [cell for cell in group if directory.why_rerun(planned[cell.key]) is not None]
        for cell in group:
            if cell not in cells:
                say(done=cell.key)
        if not cells:
            continue
        say(start=[cell.key for cell in cells])
        reset_peak()
        clock = Clock(started)
        if started is not None:
            clock.charge_start_up()
            started = None
        first = cells[0]
        built = problem(first.problem.name, json.dumps(first.problem.parameters, sort_keys=True))
        estimator = plugins.estimator(first.estimator.name, **first.estimator.parameters)
        for record, sketch in measure_together(cells, built, estimator, job.conditions, clock):
            try:
                directory.write(record, sketch)
            except RunStopped as error:
                say(cannot_write=str(error))
                return
            say(done=record.cell.key)


def groups(cells: Sequence[Cell], most: int) -> Iterator[list[Cell]]:
    """Consecutive cells that may be fitted in one call: equal but for the seed, at most `most` of them."""

    def but_for_the_seed(cell: Cell) -> str:
        return cell.model_copy(update={"seed": 0}).key

    for _, alike in itertools.groupby(cells, key=but_for_the_seed):
        waiting = list(alike)
        size = most if _fits_together(waiting[0]) else 1
        yield from (waiting[start : start + size] for start in range(0, len(waiting), size))


def _fits_together(cell: Cell) -> bool:
    return plugins.find(plugins.ESTIMATORS, cell.estimator.name).load().fit_together is not None


if __name__ == "__main__":
    main(sys.argv[1])
