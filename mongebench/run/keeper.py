"""The keeper of one child process: starts it, and ends all that it started when it ends, or when the engine does.

Started by `batch.Child` as `python -P keeper.py MODULE JOB_FILE STATUS_DESCRIPTOR NONCE`. The child is its fork, made
before anything slow is imported, and runs `MODULE.main(JOB_FILE, STATUS_DESCRIPTOR, NONCE)`. Standard input is a pipe
that the engine holds and never writes to: it ends when the engine lets go of it, or dies, however it dies. Standard
output tells the engine the child's process number, and at last its exit code, negative for a signal. Estimators never
run in this process.

On Linux every process that the child starts stays below the keeper, a daemon in a session of its own too, because the
keeper adopts those that lose their parent (a subreaper). Elsewhere such a daemon escapes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import sys
import time

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # of <linux/prctl.h>
END_SECONDS = 5.0
"""How long the keeper tries to end what the child has started."""
ENDED_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that somebody may send to the keeper: the child is ended, as by that signal."""


def main(module: str, job_file: str, status: int, nonce: str) -> None:
    """Keep a child on a job; in the child: be it."""
    _prctl(SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        _become_the_child(keeper)
        importlib.import_module(module).main(job_file, status, nonce)
        return
    os.close(status)
    code = _wait(child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _end_the_others()
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        os.write(1, b"%d\n" % code)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _become_the_child(keeper: int) -> None:
    """A session of its own, no way to the engine but the status pipe, and no life without the keeper."""
    os.setsid()
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != keeper:  # it was gone before this one asked
        os.kill(os.getpid(), signal.SIGKILL)
    os.write(1, b"%d\n" % os.getpid())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)  # what estimators print is no part of what the keeper says


def _wait(child: int) -> int:
    """The child's exit code, or the negative signal that ends it from here: SIGKILL where the engine has gone."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    for one in (signal.SIGCHLD, *ENDED_BY):
        signal.signal(one, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ended, _ = _reap()
        if child in ended:
            return os.waitstatus_to_exitcode(ended[child])
        ready = select.select([0, woken], [], [])[0]
        if 0 in ready:
            return -signal.SIGKILL
        for number in os.read(woken, 512):
            if number in ENDED_BY:
                return -number


def _reap() -> tuple[dict[int, int], bool]:
    """The wait statuses of the processes below this one that have ended, by number; and whether there are others."""
    ended: dict[int, int] = {}
    try:
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return ended, True
            ended[process] = status
    except ChildProcessError:
        return ended, False


def _end_the_others() -> None:
    """Kill every process below this one, those that are started meanwhile too."""
    deadline = time.monotonic() + END_SECONDS
    while _reap()[1] and time.monotonic() < deadline:
        import psutil  # most children leave nothing behind

        with contextlib.suppress(psutil.Error):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.005)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
