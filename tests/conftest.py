"""Shared by all tests.

XLA compiles without LLVM's optimisations here, and without its fusion emitters, which go through MLIR: tests compile
far more than they compute. Those of the flows need 0.64 of the CPU seconds without the one, and 0.6 of these without
the other. What it has compiled it keeps in pytest's cache, for the next time too: a fit like one before needs a third.
The runner's children have flags and a cache of their own, and micro-benchmarks run alone do not load this file: what
is timed is optimised.

The cells of one estimator share one child of the runner: what a child imports costs more than its cells do.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from mongebench import plugins
from mongebench.run import child, engine
from mongebench.run.record import PlannedCell

# A process ends if its XLA does not know a flag: the second is given to the versions alone that were seen to know it.
EMITTERS = " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=0{EMITTERS}")
engine.BATCHES_PER_WORKER = 1


def pytest_configure(config: pytest.Config) -> None:
    """Before JAX is imported, which reads these then."""
    if config.cache is not None:
        # JAX writes entries without a lock: a worker could read what another one has written half of.
        worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir(f"jax-{worker}")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(autouse=True)
def no_plugin_stays() -> Iterator[None]:
    """What a test registers from a file is gone after it, in whatever order tests run.

    A patch of its own: a test that undoes those of its fixture `monkeypatch` would undo this one too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_from_files", dict(plugins._from_files))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260326)


class Unheard(child.Line):
    """A child's end of a pipe to nobody."""

    def __init__(self) -> None:
        pass

    def say(self, **words: Any) -> None:
        """Nothing."""

    def end_copies(self) -> None:
        """There are none."""


@contextlib.contextmanager
def _in_this_process() -> Iterator[None]:
    """The cells of runs are fitted in this process: `tests/run` tests what starts children and watches them.

    A child costs two CPU seconds before its first cell.
    """

    def run(self: engine.LocalEngine, cells: Sequence[PlannedCell]) -> None:
        child.run(self.job.model_copy(update={"cells": list(cells)}), Unheard(), None)
        for known in cells:
            self.on_progress(known.cell, "recorded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.LocalEngine, "run", run)
        yield


@pytest.fixture(scope="session")
def in_this_process() -> Callable[[], AbstractContextManager[None]]:
    """`with in_this_process():` fits there the cells of runs; for fixtures of a module."""
    return _in_this_process


@pytest.fixture
def no_children() -> Iterator[None]:
    """The same for one test, and not for those beside it, which may hang or crash on purpose."""
    with _in_this_process():
        yield
