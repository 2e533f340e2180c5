"""The clock: exclusive phases, synchronised devices, compilation told apart."""

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
