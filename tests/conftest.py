"""Shared by all tests.

XLA compiles without LLVM's optimisations here: tests compile far more than they compute, and those of the flows need
0.64 of the CPU seconds so. The runner's children have flags of their own, and micro-benchmarks run alone do not load
this file: what is timed is optimised.

The cells of one estimator share one child of the runner: what a child imports costs more than its cells do.
"""

import os

import numpy as np
import pytest

from mongebench import plugins
from mongebench.run import engine

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
engine.BATCHES_PER_WORKER = 1


@pytest.fixture(autouse=True)
def no_plugin_stays(monkeypatch) -> None:
    """What a test registers from a file is gone after it, in whatever order tests run."""
    monkeypatch.setattr(plugins, "_from_files", dict(plugins._from_files))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260326)
