"""The clock: exclusive phases, synchronised devices, compilation told apart."""

import subprocess
import sys
import threading
import time

import pytest

from mongebench.run.clock import Clock, synchronise, watch_compiler


class Time:
    """A time that passes only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_an_inner_phase_stops_the_outer_one() -> None:
    now = Time()
    clock = Clock(now=now)
    now.seconds += 1
    with clock.phase("fit"):
        now.seconds += 2
        with clock.phase("evaluate"):
            now.seconds += 4
        now.seconds += 8
    now.seconds += 16
    assert [clock.seconds(name) for name in ("import", "fit", "evaluate", "overhead")] == [0, 10, 4, 17]
    assert clock.wall_seconds() == 31


def test_an_exception_leaves_the_phase() -> None:
    now = Time()
    clock = Clock(now=now)

    def fails() -> None:
        with clock.phase("fit"):
            now.seconds += 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    now.seconds += 1
    assert clock.seconds("fit") == 1


def test_start_up_is_import() -> None:
    now = Time()
    clock = Clock(started=97.0, now=now)
    clock.charge_start_up()
    now.seconds += 1
    assert (clock.seconds("import"), clock.seconds("overhead")) == (3, 1)


def test_nested_compile_intervals_count_once_and_leave_their_phase() -> None:
    now = Time()
    clock = Clock(now=now)
    with clock.phase("fit"):
        now.seconds += 10
    # An outer trace of 6 s that holds an inner one of 2 s, and 3 s of compilation after it.
    clock.compiling += [(101.0, 103.0), (100.0, 106.0), (106.0, 109.0)]
    assert clock.compile_seconds() == 9
    assert clock.seconds("fit") == 1


def test_jax_compilation_is_told_apart_from_computing() -> None:
    import jax
    import jax.numpy as jnp

    def heavy(x):  # unrolled, so that compiling takes far longer than running
        for _ in range(300):
            x = jnp.sin(x) @ x
        return x

    step = jax.jit(heavy)
    clock = Clock()
    with watch_compiler(clock), clock.phase("fit"):
        step(jnp.ones((2, 2)))
    first = clock.compile_seconds()
    assert first > 0.05
    again = Clock()
    with watch_compiler(again), again.phase("fit"):
        step(jnp.ones((2, 2)))
    assert again.compile_seconds() < 0.1 * first


def test_work_dispatched_in_a_phase_is_charged_to_it() -> None:
    """An estimator that returns before its result is there: without synchronisation `fit` would look free."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def work(x):
        return jax.lax.fori_loop(0, 60, lambda _, y: y @ x / 800, x)

    x = jnp.ones((800, 800))
    work(x).block_until_ready()
    start = time.perf_counter()
    work(x).block_until_ready()
    real = time.perf_counter() - start
    synchronise()
    clock = Clock()
    with clock.phase("fit"):
        dispatched = time.perf_counter()
        result = work(x)
        dispatched = time.perf_counter() - dispatched
    with clock.phase("evaluate"):
        result.block_until_ready()
    assert dispatched < 0.5 * real, "the device did not run asynchronously: this test shows nothing"
    assert clock.seconds("fit") > 0.5 * real
    assert clock.seconds("evaluate") < 0.3 * real


BURNT = 0.3
"""CPU seconds that helpers of a fit use below; `psutil` tells them to 0.01 s a reading."""
BURN = f"import time\nend = time.process_time() + {BURNT}\nwhile time.process_time() < end: pass"


def burn() -> None:
    end = time.thread_time() + BURNT
    while time.thread_time() < end:
        pass


def test_a_thread_that_outlives_the_fit_is_charged_to_it() -> None:
    go = threading.Event()
    clock = Clock()
    with clock.phase("fit"):
        thread = threading.Thread(target=lambda: go.wait(10) and burn())
        thread.start()
    with clock.phase("evaluate"):
        go.set()
        thread.join()
    clock.stop()
    assert clock.late_cpu > 0.8 * BURNT
    assert clock.cpu_seconds["fit"] < 0.2 * BURNT


def test_a_thread_that_works_while_the_trace_has_the_clock_is_charged_to_the_fit() -> None:
    go, done = threading.Event(), threading.Event()
    clock = Clock()

    def work() -> None:
        go.wait(10)
        burn()
        done.set()
        go.clear()
        go.wait(10)  # it lives on

    with clock.phase("fit"):
        thread = threading.Thread(target=work)
        thread.start()
        with clock.phase("evaluate"):
            go.set()
            assert done.wait(60)
        late = clock.late_cpu
        go.set()
        thread.join()
    clock.stop()
    assert late > 0.8 * BURNT
    assert clock.late_cpu < 1.5 * BURNT


def test_work_of_others_is_not_that_of_a_thread_that_waits() -> None:
    go = threading.Event()
    clock = Clock()
    with clock.phase("fit"):
        waiting = threading.Thread(target=go.wait, args=(60,))
        waiting.start()
    with clock.phase("evaluate"):
        burn()
        later = threading.Thread(target=burn)  # the map's own
        later.start()
        later.join()
    clock.stop()
    go.set()
    waiting.join()
    assert clock.late_cpu < 0.2 * BURNT


def test_processes_of_a_fit_are_charged_to_it() -> None:
    before = Clock()
    with before.phase("evaluate"):
        subprocess.run([sys.executable, "-c", BURN], check=True)
    before.stop()
    assert before.helpers_cpu == before.late_cpu == 0
    clock = Clock()
    with clock.phase("fit"):
        subprocess.run([sys.executable, "-c", BURN], check=True)
        late = subprocess.Popen([sys.executable, "-c", f"input()\n{BURN}"], stdin=subprocess.PIPE)
    with clock.phase("evaluate"):
        late.communicate(b"\n")
    clock.stop()
    assert clock.helpers_cpu > 0.8 * BURNT
    assert clock.late_cpu > 0.8 * BURNT


def test_a_phase_of_another_thread_does_not_stop_the_clock_of_this_one() -> None:
    now = Time()
    clock = Clock(now=now)

    def draw() -> None:
        with clock.phase("overhead"):
            now.seconds += 5

    with clock.phase("fit"):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        now.seconds += 1
    assert (clock.seconds("fit"), clock.seconds("overhead")) == (6, 0)
