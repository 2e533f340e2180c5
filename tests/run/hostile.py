"""Estimators that harm whatever is around them: a plugin file for the tests of processes."""

import atexit
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mongebench as mb

SLEEP = "import time; time.sleep(600)"


def note(process: int) -> None:
    """Leave a process's number for the test, in a file of its own."""
    if "HOSTILE_NOTES" in os.environ:
        Path(os.environ["HOSTILE_NOTES"], str(process)).touch()


def daemonise(program: str) -> None:
    """Start a process in a session of its own, whose parent has gone."""
    double = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {program!r}], stdout=2).pid)"
    found = subprocess.run(
        [sys.executable, "-c", double], stdout=subprocess.PIPE, text=True, check=True, start_new_session=True
    )
    note(int(found.stdout))


class Sound(mb.MapEstimator):
    """The mean shift."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        self.harm(seed)
        return self

    def transform(self, X):
        return X + self.shift_

    def harm(self, seed):
        """What it does besides."""


class ExitsAtTheEnd(Sound):
    def harm(self, seed):
        atexit.register(lambda: os._exit(3))


class LeavesAThread(Sound):
    def harm(self, seed):
        threading.Thread(target=time.sleep, args=[600]).start()


class LeavesAnExecutor(Sound):
    def harm(self, seed):
        concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 600)


class LeavesAProcess(Sound):
    def harm(self, seed):
        note(subprocess.Popen([sys.executable, "-c", SLEEP]).pid)


class LeavesAFork(Sound):
    """Its fork holds every descriptor, the status pipe's too, and is in a session of its own."""

    def harm(self, seed):
        process = os.fork()
        if process == 0:
            os.setsid()
            time.sleep(600)
            os._exit(0)
        note(process)


class CrashesBesideAFork(LeavesAFork):
    def harm(self, seed):
        super().harm(seed)
        os.kill(os.getpid(), signal.SIGSEGV)


class Daemonises(Sound):
    def harm(self, seed):
        daemonise(SLEEP)


class DaemonHogs(Sound):
    """The memory is another process's, which has left the family."""

    def harm(self, seed):
        daemonise(f"x = bytearray(b'x') * (800 << 20); {SLEEP}")
        time.sleep(600)


class WaitsWithAll(Sound):
    """A process, a fork and a daemon, and it never ends."""

    def harm(self, seed):
        note(subprocess.Popen([sys.executable, "-c", SLEEP]).pid)
        LeavesAFork.harm(self, seed)
        daemonise(SLEEP)
        note(os.getpid())
        time.sleep(600)


class ForksAndReturns(Sound):
    def harm(self, seed):
        os.fork()


class WritesEverywhere(Sound):
    def harm(self, seed):
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2:
                for junk in (b"\xff\x00 not json", b'{"done": "x"}\n', b"[" * 5000):
                    try:
                        os.write(descriptor, junk)
                    except OSError:
                        break


class ClosesEverything(Sound):
    def harm(self, seed):
        os.closerange(3, 1000)


class Floods(Sound):
    """48 MiB of output."""

    def harm(self, seed):
        block = b"x" * (1 << 20)
        for _ in range(32):
            os.write(1, block)
        for _ in range(16):
            sys.stderr.buffer.write(block)
        print("the end of it")


class FloodsAndDies(Floods):
    def harm(self, seed):
        super().harm(seed)
        os.write(2, b"\nlast words\n")
        os._exit(5)


class KilledOnce(Sound):
    """As by a colleague: not in the second try, which finds the note of the first."""

    def harm(self, seed):
        mark = Path(os.environ["HOSTILE_NOTES"], "killed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGTERM)


class WaitsForAFile(Sound):
    def harm(self, seed):
        note(os.getpid())
        while not Path(os.environ["HOSTILE_NOTES"], "go-on").exists():
            time.sleep(0.05)


class KilledAlways(Sound):
    def harm(self, seed):
        os.kill(os.getpid(), signal.SIGKILL)


class AnswersTrue(Sound):
    def supports(self, problem):
        return True


class AnswersNumbers(Sound):
    def supports(self, problem):
        return mb.Support(True, 5)


class AnswersNothing(Sound):
    def supports(self, problem):
        return None


class ExitsWhenAsked(Sound):
    def supports(self, problem):
        sys.exit(0)


class LeavesWhenAsked(Sound):
    def supports(self, problem):
        os._exit(0)


class SleepsWhenAsked(Sound):
    def supports(self, problem):
        time.sleep(600)


class ForksWhenAsked(Sound):
    def supports(self, problem):
        os.fork()
        return mb.Support(True)


class ExitsInFit(Sound):
    def harm(self, seed):
        sys.exit(0)


class ExitsWhenMade(Sound):
    def __init__(self):
        sys.exit(0)


class SegfaultsWhenMade(Sound):
    def __init__(self):
        os.kill(os.getpid(), signal.SIGSEGV)


class NeedsNothingKnown(Sound):
    needs = 7


class ModulesOfAnotherKind(Sound):
    modules = None


class OwnException(Sound):
    def harm(self, seed):
        class Odd(BaseException):
            def __str__(self):
                raise ValueError("no text")

        raise Odd


def leaves(dim: int = 2) -> mb.Problem:
    """It ends the process that builds it."""
    sys.exit(0)
