"""The clock: exclusive phases, synchronised devices, compilation told apart."""

import time

import pytest

from mongebench.run.clock import Clock, synchronise, watch_compiler


def test_an_inner_phase_stops_the_outer_one() -> None:
    clock = Clock()
    with clock.phase("fit"):
        time.sleep(0.05)
        with clock.phase("evaluate"):
            time.sleep(0.1)
        time.sleep(0.05)
    assert clock.seconds("fit") == pytest.approx(0.1, abs=0.05)
    assert clock.seconds("evaluate") == pytest.approx(0.1, abs=0.05)
    total = sum(clock.seconds(name) for name in ("fit", "evaluate", "overhead", "import"))
    assert total == pytest.approx(time.perf_counter() - clock.started, abs=0.02)


def test_an_exception_leaves_the_phase() -> None:
    clock = Clock()
    with pytest.raises(RuntimeError), clock.phase("fit"):
        raise RuntimeError
    before = clock.seconds("fit")
    time.sleep(0.02)
    assert clock.seconds("fit") == before


def test_nested_compile_intervals_count_once_and_leave_their_phase() -> None:
    clock = Clock()
    start = time.perf_counter()
    with clock.phase("fit"):
        time.sleep(0.1)
    # An outer trace of 60 ms that holds an inner one of 20 ms, and 30 ms of compilation after it.
    clock.compiling += [(start + 0.01, start + 0.03), (start, start + 0.06), (start + 0.06, start + 0.09)]
    assert clock.compile_seconds() == pytest.approx(0.09, abs=1e-3)
    assert clock.seconds("fit") == pytest.approx(0.01, abs=0.02)


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
