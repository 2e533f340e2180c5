"""Kernels are timed on one thread, as the runner's children compute: seconds that do not depend on the cores."""

import os

from threadpoolctl import threadpool_limits

os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
threadpool_limits(1)
