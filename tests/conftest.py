"""Shared by all tests."""

import os

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

# As in the runner's children, one thread for each of pytest's workers: of XLA and of OpenMP before their first use, of
# the BLAS that numpy has loaded by now. Workers whose threads spin beside each other on few cores are ten times slower.
os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
threadpool_limits(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260326)
