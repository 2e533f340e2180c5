"""How good a map is without a truth, on points that it was not fitted to.

The semi-dual of optimal transport ranks: for every function f, with f^c(y) = min_x |x - y|^2 / 2 - f(x),

    E f(X) + E f^c(Y) <= W2^2(mu0, gamma) / 2,

with equality for the dual potential of the Monge map (Villani 2009, Optimal transport: old and new, theorem 5.10). Of
several maps T = id - grad f the one with the largest value on fresh points is the best, and what it lacks goes with its
error: with phi = |x|^2 / 2 - f convex and of Hessian at most L, Fenchel and Young's inequality leaves a gap of at least
|T(x) - T*(x)|^2 / (2 L) at each x whose image is T(x') for some x'. A map that pushes the source to the target by a
detour loses here, though its push-forward is perfect.

An estimator without a potential is given one: phi(x) = int_0^1 <T(c + t (x - c)), x - c> dt, which is its potential if
it has one. If it has none, as a map that turns, what is judged is the gradient of that function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mongebench.core.arrays import Points
from mongebench.core.estimator import MapEstimator
from mongebench.core.measure import Source, Target, cloud
from mongebench.core.problem import Problem
from mongebench.estimators.held_out import Fold
from mongebench.metrics import Evaluation, EvaluationPoints, Value, compute

Vector = NDArray[np.float64]

NODES = 16
"""Of Gauss and Legendre's rule, along the segment that a potential is integrated on."""
STEPS = 20
"""Towards the minimum in f^c, of which each asks the map once."""
METRICS = ("energy_distance", "mmd_squared", "monotonicity_violation")
"""Those of the suite that need no truth and are shown beside the semi-dual."""


@dataclass(frozen=True)
class Score:
    """One map on one fold's held-out points.

    Attributes
    ----------
    at_source, at_target
        f at the held-out source points, (n,), and f^c at the held-out target points, (m,).
    metrics
        Of `METRICS`, by name.
    cost
        Mean squared displacement E|x - T(x)|^2.
    """

    at_source: Vector
    at_target: Vector
    metrics: dict[str, Value]
    cost: float

    @property
    def semi_dual(self) -> float:
        """The semi-dual value: larger is better."""
        return float(self.at_source.mean() + self.at_target.mean())


class DualPotential:
    """f = |x|^2 / 2 - phi of a fitted estimator, on centred coordinates: T(x) = x - grad f(x)."""

    def __init__(self, fitted: MapEstimator, centre: Vector) -> None:
        self.fitted = fitted
        self.centre = centre
        self.own = hasattr(fitted, "potential")

    def value(self, x: Points) -> Vector:
        """f, (n, d) -> (n,)."""
        phi = self.fitted.potential(x) if self.own else self._integral(x)
        return np.asarray((x**2).sum(axis=1) / 2 - phi)

    def _integral(self, x: Points) -> Vector:
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        away = x - self.centre
        total = np.zeros(len(x))
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            total += weight * (self.fitted.transform(self.centre + node * away) * away).sum(axis=1)
        return total


def c_transform(f: DualPotential, y: Points, starts: Points) -> Vector:
    """min_x |x - y|^2 / 2 - f(x), (m, d) -> (m,): the least value at `starts` (k, d), lowered by steps from there.

    The gradient is T(x) - y, so that the steps ask the map alone, and the potential, which may be an integral, at their
    end. Their lengths are Barzilai and Borwein's, one for each point. They fill the gaps between the starts and go no
    further from one than its nearest d + 1 others are: the minimum is one over the support of the source, where weak
    duality holds already, and no map is judged by what it says far from all data. (Where y is outside of the image of
    T the minimum over all of space would be minus infinity.)
    """
    at_starts = (y**2).sum(axis=1)[:, None] / 2 - y @ starts.T + ((starts**2).sum(axis=1) / 2 - f.value(starts))
    first = at_starts.argmin(axis=1)
    neighbours = min(starts.shape[1] + 2, len(starts))
    radius = cKDTree(starts).query(starts[first], k=[neighbours])[0]  # the first neighbour is the start itself
    centre = x = starts[first]
    slope = f.fitted.transform(x) - y
    length = np.ones((len(y), 1))
    for _ in range(STEPS):
        away = x - length * slope - centre
        away *= np.minimum(1.0, radius / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-300))
        bend = f.fitted.transform(centre + away) - y
        step, change = centre + away - x, bend - slope
        curvature = (step * change).sum(axis=1, keepdims=True)
        squared = (step**2).sum(axis=1, keepdims=True)
        length = np.clip(np.divide(squared, curvature, out=np.ones_like(squared), where=curvature > 0), 0.05, 20.0)
        x, slope = centre + away, bend
    at_end = ((x - y) ** 2).sum(axis=1) / 2 - f.value(x)
    return np.asarray(np.minimum(at_end, at_starts.min(axis=1)))


def score(fitted: MapEstimator, fold: Fold, most: int, seed: int) -> Score:
    """The map of an estimator that was fitted to a fold, on what the fold holds out.

    Parameters
    ----------
    fitted
        The estimator.
    fold
        The samples; those it was fitted to serve as the starts of the minimisation in f^c.
    most
        Points per side that are looked at.
    seed
        Of the choice among more points than that.
    """
    rng = np.random.default_rng(seed)
    x, y = (points[rng.permutation(len(points))[:most]] for points in (fold.x_out, fold.y_out))
    starts = fold.x_fit[rng.permutation(len(fold.x_fit))[:most]]
    problem = Problem(
        source=Source(**cloud(fold.x_fit)),
        target=Target(**cloud(fold.y_fit)),
        held_out=(Source(**cloud(x)), Target(**cloud(y))),
        dim=x.shape[1],
        version=1,
    )
    evaluation = Evaluation.of(fitted.transform, EvaluationPoints.draw(problem, most, seed=seed))
    f = DualPotential(fitted, fold.x_fit.mean(axis=0))
    return Score(
        at_source=f.value(x),
        at_target=c_transform(f, y, starts),
        metrics=compute(evaluation, METRICS),
        cost=float(((evaluation.pushed - evaluation.points.x) ** 2).sum(axis=1).mean()),
    )
