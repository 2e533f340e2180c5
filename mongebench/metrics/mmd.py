"""Maximum mean discrepancy between the push-forward T^#mu0 and the target gamma."""

from __future__ import annotations

from mongebench.metrics.base import Direction, Evaluation, Value, metric
from mongebench.metrics.pairwise import Kernel, discrepancy


@metric(unit="1", direction=Direction.LOWER)
def mmd_squared(evaluation: Evaluation) -> Value:
    """Squared MMD, U-statistic, of the kernel exp(-|x - y|^2 / (2 h^2)) with h^2 = Var(gamma).

    h belongs to the problem: a width taken from the pushed points would let a bad map choose how it is judged.
    Unbiased, hence of either sign near 0; at most 2. Standard error and floor: `mongebench.metrics.pairwise`; NaN
    below four target points, and for a target that is a single point.

    Reference: Gretton et al. 2012, lemma 6.
    """
    return discrepancy(evaluation, Kernel.GAUSSIAN).as_value()
