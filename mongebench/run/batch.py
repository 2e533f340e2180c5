"""One child process on a batch of cells, watched from outside: time limit, memory limit, death.

Every engine comes down to this, on the user's machine or on a worker's. The child writes the records; the cell it was
in when it was killed or died gets its record from here, and a new child takes the rest. Only JSON crosses the border.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import psutil

from mongebench.run import device
from mongebench.run.cell import failed
from mongebench.run.child import Job
from mongebench.run.planned import Conditions
from mongebench.run.record import Cell, PlannedCell, Status
from mongebench.run.store import RunDirectory, RunStopped

POLL_SECONDS = 0.05
FAMILY_SECONDS = 1.0
"""Between two looks for what a child has started: that look reads all of /proc."""
START_UP_LIMIT = 120.0
"""Seconds a child may take before its first cell: imports of the frameworks and of plugins."""
TAIL = 2000
"""Bytes of standard error quoted when a process dies."""

Progress = Callable[[Cell, str], None]
"""Called with a cell and "started" or "recorded", perhaps from a thread of its own."""
Stopped = Callable[[], bool]
"""Whether to give up what is running."""


def child_environment(
    threads: int, cache: Path, gpu: device.Gpu | None = None, framework: str = device.CPU_ALONE
) -> dict[str, str]:
    """What must be set before any import: threads, the device, JAX's compilation cache beside the run."""
    return {
        **{name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"},
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        # XLA's pool has a thread a core, whatever its flags say, unless NPROC tells it otherwise. Batched LAPACK calls
        # that run beside each other in a pool of several threads wait for each other's, for ever (jaxlib 0.10.2).
        "NPROC": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}",
        **device.environment(gpu, framework),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }


def run_batch(job: Job, on_progress: Progress, stopped: Stopped) -> None:
    """Leave a record for every cell of the job, or fewer where `stopped` says so.

    Raises `RunStopped` where this machine cannot write: the cell is not to blame, and gets no record.
    """
    on_gpu = job.conditions.device == "gpu" and job.cells[0].framework != device.CPU_ALONE
    try:
        while job.cells and not stopped():
            with _turn(job.conditions.exclusive, stopped), _gpu(stopped) if on_gpu else nullcontext() as gpu:
                job = job.model_copy(update={"cells": _one_child(job, gpu, on_progress, stopped)})
    except OSError as error:
        raise RunStopped(f"A batch of cells could not be run: {error}.") from error


@contextlib.contextmanager
def _turn(exclusive: bool, stopped: Stopped) -> Iterator[None]:
    """Wait for this machine: a batch of an exclusive run goes alone, others of any runs go beside each other."""
    with _lock_file("") as lock:
        while not stopped() and not _locked(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH):
            time.sleep(POLL_SECONDS)
        yield


@contextlib.contextmanager
def _gpu(stopped: Stopped) -> Iterator[device.Gpu]:
    """Wait for a GPU of this machine that no other child of this user has. Raises `OSError` where there is none."""
    found = device.gpus()
    if not found:
        raise OSError(device.NO_GPU)
    with contextlib.ExitStack() as stack:
        locks = {gpu: stack.enter_context(_lock_file(f"-gpu-{gpu.uuid}")) for gpu in found}
        free = None
        while free is None and not stopped():
            free = next((gpu for gpu, lock in locks.items() if _locked(lock, fcntl.LOCK_EX)), None)
            if free is None:
                time.sleep(POLL_SECONDS)
        yield free or found[0]


def _lock_file(of: str) -> IO[bytes]:
    """One that all runs of this user on this machine share; closing it, or dying, gives back what it locks."""
    return open(Path(tempfile.gettempdir(), f"mongebench-{os.getuid()}{of}.lock"), "ab")


def _locked(lock: IO[bytes], mode: int) -> bool:
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _one_child(job: Job, gpu: device.Gpu | None, on_progress: Progress, stopped: Stopped) -> list[PlannedCell]:
    """Run one child on the job's cells; those that still wait when it ends."""
    waiting = {planned.cell.key: planned for planned in job.cells}
    directory = RunDirectory(job.run_directory)
    with tempfile.TemporaryDirectory(prefix="mongebench-") as scratch, open(Path(scratch, "stderr"), "w+b") as log:
        job_file = Path(scratch, "job.json")
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        threads, framework = job.conditions.threads or 1, job.cells[0].framework
        child = Child(job_file, log, child_environment(threads, directory.path / ".jax", gpu, framework))
        try:
            verdict = watch(child, waiting, job.conditions, on_progress, stopped)
        finally:
            child.kill()
        if verdict is not None:
            # A child that dies before its first cell would die before it again: the first cell takes the blame,
            # so that every round ends with fewer cells. Cells that are fitted together share it.
            status, reason = verdict
            blamed = child.current or [next(iter(waiting))]
            if len(blamed) > 1:
                reason = f"{reason}, together with {len(blamed) - 1} other seed(s)"
            reason += _tail(log) if status is Status.CRASHED else ""
            for key in blamed:
                planned = waiting.pop(key)
                directory.write(failed(planned, job.conditions, status, reason))
                on_progress(planned.cell, "recorded")
    return list(waiting.values())


def watch(
    child: Child, waiting: dict[str, PlannedCell], conditions: Conditions, on_progress: Progress, stopped: Stopped
) -> tuple[Status, str] | None:
    """Follow a child to its end, taking what it did out of `waiting`; what to record for the cells it was in, if any.

    Raises `RunStopped` where the child could not write a record.
    """
    while not stopped():
        for message in child.messages():
            if "start" in message:
                child.begin(message["start"])
                on_progress(waiting[message["start"][0]].cell, "started")
            elif "done" in message:
                child.end(message["done"])
                on_progress(waiting.pop(message["done"]).cell, "recorded")
            elif "cannot_write" in message:
                raise RunStopped(message["cannot_write"])
        code = child.process.poll()
        if code is not None and child.drained:
            return None if code == 0 and not child.current and not waiting else _death(code)
        seconds = time.monotonic() - child.since
        limit: float | None = START_UP_LIMIT
        if child.current:
            limit = conditions.time_limit and conditions.time_limit * child.together * conditions.repeats
        if limit is not None and seconds > limit:
            what = "the time limit" if child.current else "the limit for starting up (imports)"
            return Status.TIMEOUT, f"killed after {seconds:.1f} s at {what} of {limit:g} s"
        used = child.memory()
        if conditions.memory_limit is not None and used > conditions.memory_limit:
            return Status.OUT_OF_MEMORY, (
                f"killed at {used / 2**20:.0f} MiB resident, the limit is {conditions.memory_limit / 2**20:.0f} MiB"
            )
    return None


class Child:
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
        self.current: list[str] = []
        self.together = 0
        self.since = time.monotonic()
        self.drained = False
        self._rest = b""
        self._family = [psutil.Process(self.process.pid)]
        self._looked = self._measured = self._memory = 0.0

    def begin(self, keys: list[str]) -> None:
        """Cells that it fits together; they have the limits of as many."""
        self.current, self.together, self.since = keys, len(keys), time.monotonic()

    def end(self, key: str) -> None:
        """Between two cells the child is starting up: a long cell's time is not the next one's."""
        self.current = [other for other in self.current if other != key]
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

    def memory(self) -> float:
        """Resident bytes of the child and of what it started, at most `POLL_SECONDS` old."""
        now = time.monotonic()
        if now - self._measured < POLL_SECONDS:  # a cheap cell says two things in less
            return self._memory
        self._measured, self._memory = now, 0.0
        if now - self._looked > FAMILY_SECONDS:
            self._looked = now
            with contextlib.suppress(psutil.Error):
                self._family = [self._family[0], *self._family[0].children(recursive=True)]
        for process in self._family:
            with contextlib.suppress(psutil.Error):
                self._memory += process.memory_info().rss
        return self._memory

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
