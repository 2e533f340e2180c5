"""How far the transport cost of a map is from the optimal one."""

from __future__ import annotations

import numpy as np

from mongebench.metrics.base import Direction, Evaluation, Value, metric, variance_of_mean
from mongebench.metrics.l2 import truth


@metric(unit="length^2", direction=Direction.ZERO, needs_truth=True)
def cost_gap(evaluation: Evaluation) -> Value:
    """Excess cost: (E |x - T^(x)|^2 - E |x - T*(x)|^2) / 2, paired over the points.

    Negative where the map moves too little, as regularised maps do; zero is necessary for the exact map, not
    sufficient. Floor: by Cauchy-Schwarz, an error of the exact map of mean square |e|^2 changes the cost by at most
    |e| |T* - id| + |e|^2 / 2 (L2(mu0) norms).
    """
    x = evaluation.points.x
    exact, own_error = truth(evaluation.points)
    displacement = exact - x
    difference = evaluation.pushed - exact
    # (|a + b|^2 - |a|^2) / 2 = <b, a + b / 2>: the two costs, each much larger than their gap, are never formed.
    gaps = (difference * (displacement + difference / 2)).sum(axis=1)
    floor = np.sqrt(own_error * (displacement**2).sum(axis=1).mean()) + own_error / 2
    return Value(float(gaps.mean()), float(np.sqrt(variance_of_mean(gaps))), float(floor))
