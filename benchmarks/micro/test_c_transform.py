"""The c-transform of a potential of `kernel_sos`: what choosing its setting without the truth waits for."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mongebench.estimators.held_out import c_transform
from mongebench.estimators.radial import RadialSum


@pytest.mark.parametrize(("n", "dim"), [(100, 2), (100, 8), (400, 2)])
def test_c_transform(benchmark, n, dim):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(n // 5, dim))
    f = RadialSum(x, rng.normal(size=n) / n, bandwidth=2.0)
    found = benchmark(c_transform, f, y, x)
    at_samples = (cdist(y, x, "sqeuclidean") / 2 - f.value(x)).min(axis=1)
    assert (found <= at_samples + 1e-12).all()
    assert (found < at_samples).any()  # the samples alone are above the minimum
