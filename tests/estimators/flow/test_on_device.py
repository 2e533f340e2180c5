"""What keeps a fit on a GPU, seen on the CPU: no step goes through the host, and float32 products can be made exact."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import mongebench as mb
from mongebench.core import arrays, device_draws
from mongebench.estimators.flow.schemes import together
from mongebench.estimators.flow.schemes.base import Flow
from mongebench.run import device

SMALL = {"units": 4, "batch_size": 32, "steps": 3, "dtype": "float32"}


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """The program of each outer step after the first of its phase, which ran with every transfer refused."""
    programs: list[str] = []
    compiled = together._compiled

    def guarded(scheme, alone):
        advance = compiled(scheme, alone)
        ready = []

        def step(*arguments):
            if not ready:  # the first call compiles, and puts the constants of V on the device
                ready.append(advance.lower(*arguments).as_text())
                return advance(*arguments)
            programs.append(ready[0])
            with jax.transfer_guard("disallow"):
                return advance(*arguments)

        return step

    monkeypatch.setattr(together, "_compiled", guarded)
    return programs


def fitted(name: str, seeds: int = 1, law: str = "logistic", **parameters) -> None:
    problem = mb.problem("product", dim=2, quadratic=1.0, law=law)
    estimator = mb.estimator(name, **SMALL, **parameters)
    if seeds == 1:
        mb.fit(problem, estimator, n_source=None, n_target=None)
        return
    from mongebench.core.session import views

    sides = [views(problem, estimator, None, None, seed) for seed in range(seeds)]
    sources, targets = ([side[index] for side in sides] for index in (0, 1))
    copies = [mb.estimator(name, **SMALL, **parameters) for _ in range(seeds)]
    errors = together.fit_together(copies, sources, targets, seeds=range(seeds), traces=[lambda *_, **__: True] * seeds)
    assert errors == [None] * seeds


def test_the_guard_sees_an_array_of_numpy() -> None:
    """What the tests below rely on, on the CPU too."""
    double = jax.jit(lambda x: 2 * x)
    double(np.ones(3))
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
        double(np.ones(3))


@pytest.mark.parametrize(
    ("name", "seeds", "more"),
    [("euclidean", 1, {"inner_steps": 2}), ("euclidean", 2, {"inner_steps": 2}), ("flow_newton", 1, {"warm_steps": 1})],
)
def test_no_step_goes_through_the_host_and_its_products_are_exact(name, seeds, more, steps) -> None:
    gpu = device.Gpu("0", "GPU-aa", "Fake H1", "999.1")
    with jax.default_matmul_precision(device.environment(gpu, "jax")["JAX_DEFAULT_MATMUL_PRECISION"]):
        fitted(name, seeds, **more)
    assert steps
    for program in steps:
        assert "callback" not in program
        products = re.findall(r"stablehlo\.dot_general .*", program)
        assert products
        assert [product for product in products if "precision = [HIGHEST, HIGHEST]" not in product] == []


@pytest.mark.parametrize(("seeds", "divergence"), [(1, "kl"), (2, "energy_distance")])
def test_no_batch_comes_from_the_host_where_the_device_draws(seeds, divergence, steps, monkeypatch) -> None:
    """Draws of the first step compile, and put the constants of the sampler on the device."""
    monkeypatch.setenv(device_draws.VARIABLE, "device")
    guarded, setting = [], Flow._setting

    def watched(*arguments):
        made = setting(*arguments)

        def draw(count, step, **more):
            if step < 2:
                return made.draw(count, step, **more)
            guarded.append(step)
            with jax.transfer_guard("disallow"):
                return made.draw(count, step, **more)

        return dataclasses.replace(made, draw=draw)

    monkeypatch.setattr(Flow, "_setting", watched)
    fitted("euclidean", seeds, inner_steps=2, divergence=divergence, law="normal")
    assert guarded == [step for step in (2, 3) for _ in range(seeds)]
    assert len(steps) == 2
    monkeypatch.setenv(device_draws.VARIABLE, "host")
    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
        fitted("euclidean", seeds, inner_steps=2, divergence=divergence, law="normal")


def test_a_map_is_evaluated_in_as_few_calls_as_the_device_likes(monkeypatch) -> None:
    x, called = np.arange(10_000.0)[:, None], []

    def double(block):
        called.append(len(block))
        return 2 * block

    np.testing.assert_array_equal(arrays.padded_blocks(double, x), 2 * x)
    assert called == [1024] * 10
    called.clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(arrays.padded_blocks(double, x), 2 * x)
    assert called == [16384]
    called.clear()
    many = np.arange(100_000.0)[:, None]
    np.testing.assert_array_equal(arrays.padded_blocks(double, many), 2 * many)
    assert called == [65536] * 2
