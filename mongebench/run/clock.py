"""The core owns the clock: exclusive phases that add up to the wall time, compilation told apart from fitting.

JAX says through `jax.monitoring` when it traced, lowered and compiled; those intervals are taken out of whatever
phase they fell into. Leaving a timed phase synchronises every device, because JAX and CUDA return before they have
computed: without it the work of `fit` would be charged to whoever looks at the result first.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["import", "fit", "evaluate", "overhead"]
Interval = tuple[float, float]


class Clock:
    """Time of one cell, by phase. Entering a phase inside another one stops the outer one's clock.

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
        self._cpu_since = time.process_time()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Charge what happens inside to `name`; the device's pending work included."""
        outer = self._phase
        synchronise()  # work that is still pending belongs to the phase before
        self._switch(name)
        try:
            yield
        finally:
            synchronise()
            self._switch(outer)

    def charge_start_up(self) -> None:
        """Charge everything since `started` to "import": for a process whose imports came before this clock."""
        self._phase = "import"
        self._switch("overhead")

    def _switch(self, name: Phase) -> None:
        now, cpu = self.now(), time.process_time()
        self._segments[self._phase].extend((self._since, now))
        self.cpu_seconds[self._phase] += cpu - self._cpu_since
        self._since, self._cpu_since, self._phase = now, cpu, name

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
        stopped = self.now()
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
