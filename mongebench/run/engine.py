"""The local engine: one child process a batch of cells, with a real time limit and a real memory limit.

Cells of one estimator on one problem family share a child, because starting one costs seconds; each still has its own
limits and its own record. When a child is killed or dies, the cell it was in gets its record from here and a new child
takes the rest. Only JSON crosses the border.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from mongebench.run.cell import Conditions
from mongebench.run.child import Job
from mongebench.run.record import Cell, Status
from mongebench.run.store import RunDirectory

POLL_SECONDS = 0.05
START_UP_LIMIT = 120.0
"""Seconds a child may take before its first cell: imports of the frameworks and of plugins."""
TAIL = 2000
"""Bytes of standard error quoted when a process dies."""

Progress = Callable[[Cell, str], None]
"""Called with a cell and "started" or "recorded", from a worker's thread."""
Failure = Callable[[Cell, Status, str], None]
"""Called with a cell that left no record itself; writes one."""


def child_environment(threads: int, cache: Path) -> dict[str, str]:
    """What must be set before any import: threads, JAX's platform and its compilation cache beside the run."""
    return {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        # XLA's pool has a thread a core, whatever its flags say, unless NPROC tells it otherwise. Batched LAPACK calls
        # that run beside each other in a pool of several threads wait for each other's, for ever (jaxlib 0.10.2).
        "NPROC": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }


def batches(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that share a child: one estimator on one problem family, in the given order."""

    def family(cell: Cell) -> tuple[str, str]:
        return cell.estimator.name, cell.problem.name

    return [list(group) for _, group in itertools.groupby(sorted(cells, key=family), key=family)]


@dataclass
class LocalEngine:
    """Runs cells in child processes, `conditions.workers` at a time.

    Attributes
    ----------
    directory
        Where children write their records.
    conditions
        Limits, threads, workers, evaluation points.
    plugin_files, base
        What a child needs to build estimators and problems.
    on_progress, on_failure
        See `Progress` and `Failure`.
    """

    directory: RunDirectory
    conditions: Conditions
    plugin_files: list[str]
    base: Path
    on_progress: Progress
    on_failure: Failure

    def run(self, cells: Sequence[Cell]) -> None:
        """Leave a record for every cell. On Ctrl-C children are killed and KeyboardInterrupt goes on."""
        work: queue.SimpleQueue[list[Cell]] = queue.SimpleQueue()
        for batch in batches(cells):
            work.put(batch)
        stop = threading.Event()
        errors: list[BaseException] = []

        def worker() -> None:
            while not stop.is_set():
                try:
                    batch = work.get_nowait()
                except queue.Empty:
                    return
                try:
                    while batch and not stop.is_set():
                        batch = self._run_batch(batch, stop)
                except BaseException as error:
                    errors.append(error)
                    stop.set()

        threads = [threading.Thread(target=worker, daemon=True) for _ in range(self.conditions.workers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a join without a timeout would not let Ctrl-C through
                    thread.join(0.2)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    def _run_batch(self, batch: list[Cell], stop: threading.Event) -> list[Cell]:
        """Run one child on `batch`; the cells that still wait when it ends."""
        waiting = {cell.key: cell for cell in batch}
        with tempfile.TemporaryDirectory(prefix="mongebench-") as scratch, open(Path(scratch, "stderr"), "w+b") as log:
            job_file = Path(scratch, "job.json")
            job = Job(
                cells=batch,
                run_directory=str(self.directory.path.resolve()),
                plugin_files=self.plugin_files,
                base=str(self.base),
                conditions=self.conditions,
            )
            job_file.write_text(job.model_dump_json(), encoding="utf-8")
            child = _Child(job_file, log, child_environment(self.conditions.threads or 1, self.directory.path / ".jax"))
            try:
                verdict = self._watch(child, waiting, stop)
            finally:
                child.kill()
            if verdict is not None:
                # A child that dies before its first cell would die before it again: the first cell takes the blame,
                # so that every round ends with fewer cells. Cells that are fitted together share it.
                status, reason = verdict
                if len(child.current) > 1:
                    reason = f"{reason}, together with {len(child.current) - 1} other seed(s)"
                for cell in list(child.current.values()) or [batch[0]]:
                    self.on_failure(cell, status, reason + _tail(log) if status is Status.CRASHED else reason)
                    self.on_progress(cell, "recorded")
                    waiting.pop(cell.key, None)
        return list(waiting.values())

    def _watch(self, child: _Child, waiting: dict[str, Cell], stop: threading.Event) -> tuple[Status, str] | None:
        """Follow a child to its end; what the engine has to record for the cells it was in, if anything."""
        while not stop.is_set():
            for message in child.messages():
                if "start" in message:
                    child.begin({key: waiting[key] for key in message["start"]})
                    self.on_progress(waiting[message["start"][0]], "started")
                elif "done" in message:
                    self.on_progress(waiting.pop(message["done"]), "recorded")
                    child.end(message["done"])
            code = child.process.poll()
            if code is not None and child.drained:
                return None if code == 0 and not child.current and not waiting else _death(code)
            seconds = time.monotonic() - child.since
            limit: float | None = START_UP_LIMIT
            if child.current:
                limit = self.conditions.time_limit and self.conditions.time_limit * child.together
            if limit is not None and seconds > limit:
                what = "the time limit" if child.current else "the limit for starting up (imports)"
                return Status.TIMEOUT, f"killed after {seconds:.1f} s at {what} of {limit:g} s"
            used = child.memory()
            if self.conditions.memory_limit is not None and used > self.conditions.memory_limit:
                return Status.OUT_OF_MEMORY, (
                    f"killed at {used / 2**20:.0f} MiB resident, "
                    f"the limit is {self.conditions.memory_limit / 2**20:.0f} MiB"
                )
        return None


class _Child:
    """A child process in a group of its own, and what it has said so far."""

    def __init__(self, job_file: Path, log: IO[bytes], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            # -P: a file called numpy.py in the user's folder must not be imported in place of the library.
            [sys.executable, "-P", "-m", "mongebench.run.child", str(job_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        self.current: dict[str, Cell] = {}
        self.together = 0
        self.since = time.monotonic()
        self.drained = False
        self._rest = b""
        self._monitor = psutil.Process(self.process.pid)

    def begin(self, cells: dict[str, Cell]) -> None:
        """Cells that it fits together; they have the limits of as many."""
        self.current, self.together, self.since = cells, len(cells), time.monotonic()

    def end(self, key: str) -> None:
        """Between two cells the child is starting up: a long cell's time is not the next one's."""
        del self.current[key]
        if not self.current:  # seeds that were fitted together have one limit for all of them
            self.since = time.monotonic()

    def messages(self) -> list[dict[str, Any]]:
        """What the child said in the last `POLL_SECONDS`."""
        assert self.process.stdout is not None
        if self.drained:
            time.sleep(POLL_SECONDS)
            return []
        if not select.select([self.process.stdout], [], [], POLL_SECONDS)[0]:
            return []
        received = os.read(self.process.stdout.fileno(), 1 << 16)
        self.drained = not received
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def memory(self) -> int:
        """Resident bytes of the child and of what it started."""
        total = 0
        with contextlib.suppress(psutil.Error):
            for process in (self._monitor, *self._monitor.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
        return total

    def kill(self) -> None:
        """End the whole process group and reap the child."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _death(code: int) -> tuple[Status, str]:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (perhaps by the system, for want of memory)" if code == -signal.SIGKILL else ""
        return Status.CRASHED, f"the process was ended by {name}{hint}"
    return Status.CRASHED, f"the process ended with exit code {code} in the middle of a cell"


def _tail(log: IO[bytes]) -> str:
    """The last line a dead process left on standard error."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - TAIL))
    lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
    return f"; last words: {lines[-1].strip()}" if lines else ""
