"""Shared by all tests."""

import os

import numpy as np
import pytest

# Before the first use of JAX, as in the runner's children: in a pool of several threads, batched LAPACK calls wait for
# each other's for ever (jaxlib 0.10.2).
os.environ.setdefault("NPROC", "1")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260326)
