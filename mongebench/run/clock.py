"""The core owns the clock: exclusive phases that add up to the wall time, compilation told apart from fitting.

JAX says through `jax.monitoring` when it traced, lowered and compiled; those intervals are taken out of whatever
phase they fell into. Leaving a timed phase synchronises every device, because JAX and CUDA return before they have
computed: without it the work of `fit` would be charged to whoever looks at the result first.

What a fit gives to threads and processes of its own is followed too: their CPU seconds belong to it, also where they go
on while another phase has the clock.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

Phase = Literal["import", "fit", "evaluate", "overhead"]
Interval = tuple[float, float]

_process_time, _thread_time = time.process_time, time.thread_time  # as they were before any plugin


def children_cpu_seconds() -> float:
    """CPU seconds of the processes that this one started, ended and living, and of those that they started."""
    ended = os.times()
    seconds = ended.children_user + ended.children_system
    for child in psutil.Process().children(recursive=True) if _has_children() else ():
        with contextlib.suppress(psutil.Error):
            used = child.cpu_times()
            seconds += used.user + used.system + used.children_user + used.children_system
    return seconds


def _has_children() -> bool:
    """Whether any lives, or has not been waited for: one system call, where looking for them reads all of /proc."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _thread_seconds(numbers: set[int]) -> dict[int, float]:
    """CPU seconds of those threads of this process that still live, by the number that the system gives them."""
    found: dict[int, float] = {}
    if sys.platform == "linux":
        for number in numbers:
            with contextlib.suppress(OSError):  # it has ended
                found[number] = time.clock_gettime((~number << 3) | 6)  # CPUCLOCK_SCHED of one thread, as in the kernel
    elif numbers:
        with contextlib.suppress(psutil.Error):
            every = psutil.Process().threads()
            found = {one.id: one.user_time + one.system_time for one in every if one.id in numbers}
    return found


class Helpers:
    """The threads and processes that a fit has started, and their CPU seconds; made before the fit."""

    def __init__(self) -> None:
        self._others = set(threading.enumerate())
        self._children_before = children_cpu_seconds()
        self._threads: set[threading.Thread] | None = None
        self._living = False
        self.processes_in_fit = 0.0

    def threads(self) -> dict[int, float]:
        """CPU seconds of each of the threads that still lives, by its number."""
        living = set(threading.enumerate()) - self._others
        chosen = living if self._threads is None else living & self._threads
        return _thread_seconds({thread.native_id for thread in chosen if thread.native_id is not None})

    def close(self) -> None:
        """The fit has returned: what is started from now on is not its own."""
        self._threads = set(threading.enumerate()) - self._others
        self._living = _has_children()
        self.processes_in_fit = max(children_cpu_seconds() - self._children_before, 0.0)

    def processes_after_fit(self) -> float:
        """CPU seconds of the processes since the fit has returned; 0 where none outlived it."""
        if not self._living:
            return 0.0
        return max(children_cpu_seconds() - self._children_before - self.processes_in_fit, 0.0)


class Clock:
    """Time of one cell, by phase. Entering a phase inside another one stops the outer one's clock.

    It goes by the thread that made it: a phase that another thread enters, such as one that draws while the fit goes
    on, changes nothing.

    Parameters
    ----------
    started
        When it started, where that was before now.
    now
        Tells the time, in seconds.

    Attributes
    ----------
    compiling
        The intervals in which a compiler worked; they may overlap.
    cache_events
        Hits and misses of the compiler's persistent cache.
    cpu_seconds
        CPU time of the process by phase, compilation included.
    helpers_cpu
        CPU time of the processes that the fit started, until it returned.
    late_cpu
        CPU time of the fit's threads while another phase had the clock, and of its processes after it returned.
    """

    def __init__(self, started: float | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.started = now() if started is None else started
        self.compiling: list[Interval] = []
        self.cache_events: Counter[str] = Counter()
        self.cpu_seconds: defaultdict[Phase, float] = defaultdict(float)
        self._segments: defaultdict[Phase, array[float]] = defaultdict(lambda: array("d"))
        self._phase: Phase = "overhead"
        self._since = self.started
        self._cpu_since, self._own_cpu_since = _process_time(), _thread_time()
        self._thread = threading.get_ident()
        self._helpers: Helpers | None = None
        self._beside: dict[int, float] = {}
        self.helpers_cpu = self.late_cpu = 0.0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Charge what happens inside to `name`; the device's pending work included."""
        if threading.get_ident() != self._thread:
            yield
            return
        outer = self._phase
        synchronise()  # work that is still pending belongs to the phase before
        if name == "fit":
            self._helpers = Helpers()
        self._switch(name)
        try:
            yield
        finally:
            synchronise()
            self._switch(outer)
            if name == "fit" and self._helpers is not None:
                self._helpers.close()
                self.helpers_cpu += self._helpers.processes_in_fit

    def charge_start_up(self) -> None:
        """Charge everything since `started` to "import": for a process whose imports came before this clock."""
        self._phase = "import"
        self._switch("overhead")

    def _switch(self, name: Phase) -> None:
        now, cpu, own_cpu = self.now(), _process_time(), _thread_time()
        self._segments[self._phase].extend((self._since, now))
        self.cpu_seconds[self._phase] += cpu - self._cpu_since
        # One reading ends a segment and begins the next: what threads do while looked at falls into one of them.
        living = self._helpers.threads() if self._helpers else {}
        if self._beside:
            self.late_cpu += self._used_beside(living, cpu - self._cpu_since - (own_cpu - self._own_cpu_since))
        self._beside = living if name != "fit" else {}
        self._since, self._cpu_since, self._own_cpu_since, self._phase = now, cpu, own_cpu, name

    def _used_beside(self, now: dict[int, float], at_most: float) -> float:
        """CPU seconds of the fit's threads in the phase that ends; of one that ended too, what no other can have."""
        of_living = sum(now[number] - before for number, before in self._beside.items() if number in now)
        return max(of_living, at_most) if self._beside.keys() - now.keys() else of_living

    def seconds(self, phase: Phase) -> float:
        """Seconds charged to `phase` so far, compilation excluded."""
        running = (self._since, self.now()) if phase == self._phase else ()
        bounds = np.array([*self._segments[phase], *running])
        # A fit may be traced thousands of times, each of which asks: no loop over segments in Python.
        working = bounds - _before(bounds, _union(self.compiling))
        return float((working[1::2] - working[::2]).sum())

    def cpu(self, phase: Phase) -> float:
        """CPU seconds of the process in `phase` so far, less the share of it in which a compiler worked.

        The compiler tells how long it took, not its CPU time: that is taken to go with the wall time, as it does on one
        core, busy or not.
        """
        running = (self._since, self.now()) if phase == self._phase else ()
        bounds = np.array([*self._segments[phase], *running])
        elapsed = float((bounds[1::2] - bounds[::2]).sum())
        cpu = self.cpu_seconds[phase] + (time.process_time() - self._cpu_since if running else 0.0)
        return cpu * self.seconds(phase) / elapsed if elapsed else 0.0

    def compile_seconds(self) -> float:
        """Seconds in which a compiler worked, within the time of this clock."""
        start, end = _before(np.array([self.started, self.now()]), _union(self.compiling))
        return float(end - start)

    def stop(self) -> None:
        """Let no more time pass: what is read of it afterwards was true at one moment, and adds up."""
        self._switch(self._phase)
        if self._helpers is not None:
            self.late_cpu += self._helpers.processes_after_fit()
        stopped = self._since
        self.now = lambda: stopped

    def wall_seconds(self) -> float:
        """Seconds since the start."""
        return self.now() - self.started


def _union(intervals: list[Interval]) -> list[Interval]:
    # Tracing one jitted function traces those it calls, so the reported intervals nest.
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _before(times: NDArray[np.float64], disjoint: list[Interval]) -> NDArray[np.float64]:
    """How much of the sorted intervals lies before each time."""
    if not disjoint:
        return np.zeros_like(times)
    bounds = np.array(disjoint)
    lengths = np.stack([np.zeros(len(bounds)), bounds[:, 1] - bounds[:, 0]], axis=1)
    return np.asarray(np.interp(times, bounds.ravel(), lengths.ravel().cumsum()))


_clocks: list[Clock] = []
_listening = False


@contextmanager
def watch_compiler(clock: Clock) -> Iterator[None]:
    """Let `clock` hear what JAX compiles; does nothing in a process that has not imported JAX."""
    global _listening
    if "jax" in sys.modules and not _listening:
        from jax import monitoring

        monitoring.register_event_duration_secs_listener(_on_duration)
        monitoring.register_event_listener(_on_event)
        _listening = True
    _clocks.append(clock)
    try:
        yield
    finally:
        _clocks.remove(clock)


def _on_duration(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith("/jax/core/compile/"):
        now = time.perf_counter()
        for clock in _clocks:
            clock.compiling.append((now - duration_secs, now))


def _on_event(event: str, **_: Any) -> None:
    if event.startswith("/jax/compilation_cache/cache_"):
        for clock in _clocks:
            clock.cache_events[event.rpartition("/")[2]] += 1


def synchronise() -> None:
    """Wait for every device of every framework this process has loaded."""
    jax = sys.modules.get("jax")
    if jax is not None:
        jax.block_until_ready(jax.live_arrays())
        jax.effects_barrier()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
