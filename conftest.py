"""One thread for each of pytest's workers, in tests and micro-benchmarks alike, as in the runner's children.

Of XLA and of OpenMP before their first use, of the BLAS that numpy has loaded by now. Workers whose threads spin beside
each other on few cores are ten times slower, and timings on one thread do not depend on the cores.
"""

import os

from threadpoolctl import threadpool_limits

os.environ.setdefault("NPROC", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
threadpool_limits(1)
