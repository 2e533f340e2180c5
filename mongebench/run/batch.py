"""One child process on a batch of cells, watched from outside: time limit, memory limit, death.

Every engine comes down to this, on the user's machine or on a worker's. The child writes the records; the cell it was
in when it was killed or died gets its record from here, and a new child takes the rest. A cell that somebody else may
have killed is tried once more. Only JSON crosses the border.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from mongebench.core.estimator import CPU_ALONE
from mongebench.run import device, keeper
from mongebench.run.child import Job
from mongebench.run.measurement import failed
from mongebench.run.planned import Conditions
from mongebench.run.record import Cell, PlannedCell, Status
from mongebench.run.store import RunDirectory, RunStopped

POLL_SECONDS = 0.05
FAMILY_SECONDS = 1.0
"""Between two looks for what a child has started: that look reads all of /proc."""
START_UP_LIMIT = 120.0
"""Seconds a child may take before its first cell: imports of the frameworks and of plugins."""
GOODBYE_SECONDS = 2.0
"""How long a child may take to end by itself after its last cell."""
TAIL = 2000
"""Bytes of its output in which the last line of a process that died is looked for."""
OUTPUT_LIMIT = 1 << 20
"""Bytes of a child's output that are kept, in memory: the last ones."""
READ_LIMIT = 1 << 18
"""Bytes that are read from one pipe before the others have their turn."""
LINE_LIMIT = 1 << 20
"""Bytes without a line end after which they are no message."""
SENT_BY_OTHERS = (
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that end a process at somebody's wish (the system's, for want of memory), not for a fault of its own."""

Progress = Callable[[Cell, str], None]
"""Called with a cell and "started" or "recorded", perhaps from a thread of its own."""
Stopped = Callable[[], bool]
"""Whether to give up what is running."""


def child_environment(
    threads: int, cache: Path, gpu: device.Gpu | None = None, framework: str = CPU_ALONE
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
    on_gpu = job.conditions.device == "gpu" and job.cells[0].framework != CPU_ALONE
    batch = _Batch(job, on_progress, stopped)
    try:
        while batch.waiting and not stopped():
            with _turn(job.conditions.exclusive, stopped), _gpu(stopped) if on_gpu else nullcontext() as gpu:
                batch.run_a_child(gpu)
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


@dataclass(frozen=True)
class Verdict:
    """Why a child was ended, or ended, before its time: what to record for the cells that it was in."""

    status: Status
    reason: str
    from_outside: bool = False
    """Somebody else may have sent the signal that ended it."""


class _Batch:
    """Cells that wait, and what became of the children that ran them."""

    def __init__(self, job: Job, on_progress: Progress, stopped: Stopped) -> None:
        self.job = job
        self.planned = {planned.cell.key: planned for planned in job.cells}
        self.waiting = dict(self.planned)
        self.directory = RunDirectory(job.run_directory)
        self.on_progress = on_progress
        self.stopped = stopped
        self.killed: set[str] = set()
        """Keys of the cells whose process somebody else may have killed."""

    def run_a_child(self, gpu: device.Gpu | None) -> None:
        """Run one child on the cells that wait; when it has ended fewer do, or one of them has had its first try."""
        cells, conditions = list(self.waiting.values()), self.job.conditions
        with tempfile.TemporaryDirectory(prefix="mongebench-") as scratch:
            job_file = Path(scratch, "job.json")
            job_file.write_text(self.job.model_copy(update={"cells": cells}).model_dump_json(), encoding="utf-8")
            threads, framework = conditions.threads or 1, cells[0].framework
            child = Child(job_file, child_environment(threads, self.directory.path / ".jax", gpu, framework))
            try:
                verdict = watch(child, self.waiting, conditions, self._on_progress(child), self.stopped)
                if not self.waiting:
                    child.say_goodbye()
            finally:
                child.kill()
            if verdict is not None:
                self._blame(child, verdict)

    def _on_progress(self, child: Child) -> Progress:
        def told(cell: Cell, event: str) -> None:
            if event == "recorded" and cell.key in child.current:
                self._amend(cell, child)
            self.on_progress(cell, event)

        return told

    def _amend(self, cell: Cell, child: Child) -> None:
        """Add to the record that a child wrote what was seen of the cell from outside."""
        attempts, warnings, planned = 1 + (cell.key in self.killed), child.warnings(), self.planned[cell.key]
        record = self.directory.read(planned) if attempts > 1 or warnings else None
        if record is not None:
            update = {"warnings": [*record.warnings, *warnings], "attempts": attempts}
            self.directory.write(record.model_copy(update=update), self.directory.sketch(planned))

    def _blame(self, child: Child, verdict: Verdict) -> None:
        """Record the cells that the child was in, or let them be tried once more."""
        # A child that dies before its first cell would die before it again: the first cell takes the blame, so that
        # every round ends with fewer cells. Cells that are fitted together share it.
        blamed = child.current or ([] if child.finished else list(self.waiting)[:1])
        again = not self.killed.isdisjoint(blamed)
        if verdict.from_outside and not again:
            self.killed.update(blamed)
            return
        reason = verdict.reason
        if len(blamed) > 1:
            reason += f", together with {len(blamed) - 1} other seed(s)"
        if again:
            reason += "; its first try was killed from outside"
        if verdict.status is Status.CRASHED and (words := child.last_words()):
            reason += f"; last words: {words}"
        for key in blamed:
            planned = self.waiting.pop(key)
            record = failed(planned, self.job.conditions, verdict.status, reason)
            update = {"warnings": child.warnings(), "attempts": 1 + (key in self.killed)}
            self.directory.write(record.model_copy(update=update))
            self.on_progress(planned.cell, "recorded")


def watch(
    child: Child, waiting: dict[str, PlannedCell], conditions: Conditions, on_progress: Progress, stopped: Stopped
) -> Verdict | None:
    """Follow a child until it has done all that waits, taking each cell out of `waiting`; else why it ended before.

    What becomes of it after its last cell is nobody's loss. Raises `RunStopped` where it could not write a record.
    """
    while waiting and not stopped():
        for message in child.messages():
            if "start" in message:
                child.begin(message["start"])
                on_progress(waiting[message["start"][0]].cell, "started")
            elif "done" in message:
                on_progress(waiting.pop(message["done"]).cell, "recorded")
                child.end(message["done"])
            elif "cannot_write" in message:
                raise RunStopped(message["cannot_write"])
        if not waiting:
            return None
        if child.code is not None:
            return death(child.code)
        seconds = time.monotonic() - child.since
        limit: float | None = START_UP_LIMIT
        if child.current:
            limit = conditions.time_limit and conditions.time_limit * child.together * conditions.repeats
        if limit is not None and seconds > limit:
            what = "the time limit" if child.current else "the limit for starting up (imports)"
            return Verdict(Status.TIMEOUT, f"killed after {seconds:.1f} s at {what} of {limit:g} s")
        used = child.memory()
        if conditions.memory_limit is not None and used > conditions.memory_limit:
            return Verdict(
                Status.OUT_OF_MEMORY,
                f"killed at {used / 2**20:.0f} MiB resident, the limit is {conditions.memory_limit / 2**20:.0f} MiB",
            )
    return None


class Child:
    """A child process under its keeper, and what was heard of it so far.

    Attributes
    ----------
    current
        Keys of the cells that it is in.
    together
        How many these were when it began them.
    since
        When it began them; between two cells, when it ended the last one.
    finished
        Cells it has done.
    code
        Its exit code, negative for a signal; None while it runs.
    """

    def __init__(self, job_file: Path, environment: dict[str, str], module: str = "mongebench.run.child") -> None:
        self.current: list[str] = []
        self.together = self.finished = 0
        self.since = time.monotonic()
        self.code: int | None = None
        self._nonce = secrets.token_hex(8)
        self._process: int | None = None
        self._rest, self._printed = b"", b""
        self._stray = self._output = self._copies = 0
        self._family: list[psutil.Process] = []
        self._looked = self._measured = self._memory = 0.0
        self._status, theirs = os.pipe()
        try:
            self.keeper = subprocess.Popen(
                # -P: a file called numpy.py in the user's folder must not be imported in place of the library.
                [sys.executable, "-P", keeper.__file__, module, str(job_file), str(theirs), self._nonce],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,
                pass_fds=[theirs],
            )
        except BaseException:
            os.close(self._status)
            raise
        finally:
            os.close(theirs)
        assert self.keeper.stdout is not None
        assert self.keeper.stderr is not None
        self._verdict, self._standard_error = self.keeper.stdout.fileno(), self.keeper.stderr.fileno()
        self._selector = selectors.DefaultSelector()
        for descriptor in (self._verdict, self._standard_error, self._status):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)

    def begin(self, keys: list[str]) -> None:
        """Cells that it fits together; they have the limits of as many."""
        self.current, self.together, self.since = keys, len(keys), time.monotonic()
        self._stray = self._output = self._copies = 0

    def end(self, key: str) -> None:
        """Between two cells the child is starting up: a long cell's time is not the next one's."""
        self.finished += 1
        self.current = [other for other in self.current if other != key]
        if not self.current:  # seeds that were fitted together have one limit for all of them
            self.since = time.monotonic()

    def warnings(self) -> list[str]:
        """What a record is to say of the cells that the child is in: what they printed or wrote where they must not."""
        said = []
        if self._output > OUTPUT_LIMIT:
            cut = (self._output - OUTPUT_LIMIT) / 2**20
            said.append(f"it printed {self._output / 2**20:.1f} MiB, of which the first {cut:.1f} MiB were not kept")
        if self._stray:
            said.append(f"{self._stray} bytes were written to the runner's status descriptor, and ignored")
        if self._copies:
            said.append(
                f"copies of the process (os.fork) that came back from the estimator, and were ended: {self._copies}"
            )
        return said

    def messages(self) -> list[dict[str, Any]]:
        """What the child said in the last `POLL_SECONDS`; all it ever said, once its `code` is known."""
        ready = [key.fd for key, _ in self._selector.select(POLL_SECONDS)]
        if self._verdict in ready:  # before the others: who ended has said all
            self._hear_the_keeper()
        if self._standard_error in ready or self.code is not None:
            self._hear_standard_error()
        if self._status not in ready and self.code is None:
            return []
        *lines, self._rest = (self._rest + self._read(self._status)).split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            self._stray, self._rest = self._stray + len(self._rest), b""
        return [message for line in lines if (message := self._understood(line))]

    def _hear_the_keeper(self) -> None:
        """The child's process number first; at last its exit code, and the end of the pipe."""
        said = self._read(self._verdict).split()
        if self._process is None and said:
            self._process = int(said.pop(0))
        if said:
            self.code = int(said[0])
        elif self._verdict not in self._selector.get_map():  # it was killed itself, and its child with it
            self.code = self.keeper.wait()

    def _hear_standard_error(self) -> None:
        received = self._read(self._standard_error)
        self._output += len(received)
        self._printed = (self._printed + received)[-OUTPUT_LIMIT:]

    def _read(self, descriptor: int) -> bytes:
        """What is there, as far as it is to be read in one go; nothing more of a pipe that has ended."""
        received = b""
        while len(received) < READ_LIMIT and descriptor in self._selector.get_map():
            try:
                part = os.read(descriptor, READ_LIMIT)
            except BlockingIOError:
                break
            if not part:
                self._selector.unregister(descriptor)
            received += part
        return received

    def _understood(self, line: bytes) -> dict[str, Any]:
        """The message of a line; empty where it is not the child's."""
        nonce, _, rest = line.partition(b" ")
        process, _, words = rest.partition(b" ")
        if nonce != self._nonce.encode():
            self._stray += len(line)
            return {}
        if process != str(self._process).encode():
            self._copies += 1
            return {}
        message: dict[str, Any] = json.loads(words)
        return message

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self._printed[-TAIL:].decode("utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def memory(self) -> float:
        """Resident bytes of the child and of what it started, daemons too, at most `POLL_SECONDS` old."""
        now = time.monotonic()
        if now - self._measured < POLL_SECONDS:  # a cheap cell says two things in less
            return self._memory
        self._measured, self._memory = now, 0.0
        if now - self._looked > FAMILY_SECONDS or not self._family:
            self._looked = now
            with contextlib.suppress(psutil.Error):
                self._family = psutil.Process(self.keeper.pid).children(recursive=True)
        for process in self._family:
            with contextlib.suppress(psutil.Error):
                self._memory += process.memory_info().rss
        return self._memory

    def say_goodbye(self) -> None:
        """Let a child that has done all its cells end by itself for a while: what it registered for its end is done."""
        deadline = time.monotonic() + GOODBYE_SECONDS
        while self.code is None and time.monotonic() < deadline:
            self.messages()

    def kill(self) -> None:
        """End the child and all that it has started; return when they are gone."""
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()  # at which the keeper ends them
        try:
            self.keeper.wait(timeout=2 * keeper.END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill_the_keeper()
        if self._process is not None and self.keeper.returncode < 0:  # the keeper was killed: nobody else cleans up
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process, signal.SIGKILL)
            for process in self._family:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self._selector.close()
        os.close(self._status)
        for stream in (self.keeper.stdout, self.keeper.stderr):
            assert stream is not None
            stream.close()

    def _kill_the_keeper(self) -> None:
        family = [psutil.Process(self.keeper.pid)]
        family += family[0].children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.keeper.wait()


def death(code: int) -> Verdict:
    """What to record for the cells that a process was in when it ended with this exit code, negative for a signal."""
    where = " in the middle of a cell" if code >= 0 else ""
    return Verdict(Status.CRASHED, f"the process {ending(code)}{where}", -code in SENT_BY_OTHERS)


def ending(code: int) -> str:
    """How a process ended, after its name."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # of the real-time signals some have no name
        name = f"signal {-code}"
    return f"was ended by {name}" + (" (perhaps by the system, for want of memory)" if name == "SIGKILL" else "")
