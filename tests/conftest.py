"""Shared by all tests."""

import os

import numpy as np
import pytest

# Before the first use of JAX, as in the runner's children: one thread of XLA for each of pytest's workers.
os.environ.setdefault("NPROC", "1")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260326)
