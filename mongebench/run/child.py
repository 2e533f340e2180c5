"""The child process: runs a batch of cells one after another and writes each record itself.

Started by the engine as `python -m mongebench.run.child JOB_FILE`. It tells the engine over standard output which cell
it starts and finishes, one JSON line each; whatever estimators print goes to standard error instead.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

STARTED = time.perf_counter()  # before the imports below, which belong to the first cell's import phase

from mongebench import plugins  # noqa: E402
from mongebench.run.cell import Conditions, measure, reset_peak  # noqa: E402
from mongebench.run.clock import Clock  # noqa: E402
from mongebench.run.record import Cell, Model  # noqa: E402
from mongebench.run.store import RunDirectory  # noqa: E402


class Job(Model):
    """What the engine hands to a child."""

    cells: list[Cell]
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
    directory = RunDirectory(job.run_directory)
    for path in job.plugin_files:
        plugins.add_file(path)

    @functools.cache
    def problem(name: str, parameters: str) -> Any:
        return plugins.problem(name, base=job.base, **json.loads(parameters))

    for index, cell in enumerate(job.cells):
        print(json.dumps({"start": cell.key}), file=protocol)
        reset_peak()
        clock = Clock(STARTED) if index == 0 else Clock()
        if index == 0:
            clock.charge_start_up()
        built = problem(cell.problem.name, json.dumps(cell.problem.parameters, sort_keys=True))
        estimator = plugins.estimator(cell.estimator.name, **cell.estimator.parameters)
        directory.write(*measure(cell, built, estimator, job.conditions, clock))
        print(json.dumps({"done": cell.key}), file=protocol)


if __name__ == "__main__":
    main(sys.argv[1])
