"""KL(T#mu0 | gamma) from log-ratios at points of mu0, without a sample of the target.

By the change of variables it is the mean over mu0 of

    l(x) = log mu0(x) + log Z + V(T(x)) - log det DT(x),

which is 0 at every x for T = T*: the noise of the points cancels as T nears T*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def controlled(log_ratio: Vector) -> Vector:
    """(n,) whose mean is that of l in expectation, and whose noise falls with it.

    E[e^{-l}] = 1 for any injective T, so that l + b (e^{-l} - 1) has the same mean; b is that of least variance.
    """
    variate = np.expm1(-log_ratio)
    spread = variate.var()
    if not 0 < spread < np.inf:
        return log_ratio
    slope = float(np.mean((variate - variate.mean()) * log_ratio) / spread)
    return np.asarray(log_ratio - slope * variate)
