"""Energy distance between the push-forward T^#mu0 and the target gamma."""

from __future__ import annotations

from mongebench.metrics.base import Direction, Evaluation, Value, metric
from mongebench.metrics.pairwise import Kernel, discrepancy


@metric(unit="length", direction=Direction.LOWER)
def energy_distance(evaluation: Evaluation) -> Value:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| with X ~ T^#mu0, Y ~ gamma: no square root, U-statistic.

    Unbiased, hence of either sign near 0. Standard error and floor: `mongebench.metrics.pairwise`; NaN below four
    target points. Reference: Szekely & Rizzo 2013, "Energy statistics" (theirs is the V-statistic).
    """
    return discrepancy(evaluation, Kernel.DISTANCE).as_value()


@metric(unit="length", direction=Direction.LOWER)
def energy_distance_v(evaluation: Evaluation) -> Value:
    """The energy distance as it is usually published: V-statistic, means over all pairs with each point and itself.

    Biased upwards by E|X - X'| / n + E|Y - Y'| / m, so that values at different numbers of points do not compare;
    the floor holds the bias of a perfect map. Use `energy_distance` where nothing published is at stake.
    Reference: Szekely & Rizzo 2013.
    """
    n, m = len(evaluation.points.x), len(evaluation.points.y)
    unbiased = discrepancy(evaluation, Kernel.DISTANCE)
    within_x, within_y = (-mean for mean in unbiased.within)
    return Value(
        unbiased.value + within_x / n + within_y / m,
        unbiased.standard_error,
        unbiased.floor + within_y * (1 / n + 1 / m),
    )
