"""KL(T#mu0 | gamma) from log-ratios at points of mu0, without a sample of the target.

By the change of variables it is the mean over mu0 of

    l(x) = log mu0(x) + log Z + V(T(x)) - log det DT(x),

which is 0 at every x for T = T*: the noise of the points cancels as T nears T*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

MOST = 5.0
"""Standard errors by which the mean of a control variate may miss its expectation before it is not used."""


def controlled(log_ratio: Vector) -> Vector:
    """(n,) whose mean is that of l in expectation, and whose noise falls with it.

    E[e^{-l}] = 1 for any injective T, so that l + b (e^{-l} - 1) has the same mean; b is that of least variance. Far
    from T*, e^{-l} lives on points that a sample may miss altogether. Its mean is then far from 1 and b is a slope far
    outside of what was seen: l is returned as it is. So the mean never moves by more than `MOST` of its own standard
    errors.
    """
    variate = np.expm1(-log_ratio)
    spread = variate.var()
    if not 0 < spread < np.inf or abs(variate.mean()) > MOST * np.sqrt(spread / len(variate)):
        return log_ratio
    slope = float(np.mean((variate - variate.mean()) * log_ratio) / spread)
    return np.asarray(log_ratio - slope * variate)
