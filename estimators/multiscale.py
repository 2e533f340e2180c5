"""Multiscale Sinkhorn: entropic transport between large samples in low dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
from pydantic import PositiveFloat
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points, row_blocks
from mongebench.core.errors import InvalidInput, NotConverged
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.entropic import SoftmaxPotential, absolute_epsilon
from mongebench.estimators.standard import Vector, standardised

MAX_DIM = 3
"""A tree of 2^d children a node prunes nothing in higher dimension."""
TRUNCATION = 1e-10
"""Pairs whose kernel entry is below it are dropped. In the plane half as many are left as by the library's own 1e-20,
and the marginals over all pairs differ by less than 1e-10 (n = 2000 and 3000)."""
INNER_ITERATIONS = 20
"""Between two looks at the error; the library's 100 are more than most layers need."""
CHECKED = 1000
"""Points of each side, evenly over the sample, whose marginals are summed over all pairs."""
Scale = Literal["mean_cost", "absolute", "spacing"]


class Multiscale(MapEstimator):
    """Multiscale entropic map: stabilised sparse Sinkhorn from coarse to fine, extended by the entropic map.

    The dual potential g of entropic transport is that of `Entropic`; it is found on a tree of both samples, from the
    root down, with epsilon falling by four from layer to layer and the kernel truncated where it vanishes: Schmitzer
    2019, Stabilized sparse scaling algorithms for entropy regularized transport problems, by his library MultiScaleOT
    (the extra `multiscale`; it is compiled at its installation and needs Debian's libeigen3-dev: `make extras`).

    The library knows the coupling at the samples alone. **Its out-of-sample rule is ours**: the entropic map,
    T(x) = sum_j y_j exp((g_j - |x - y_j|^2 / 2) / eps) / sum_j exp((g_j - |x - y_j|^2 / 2) / eps).

    Use it for d <= 3, a small epsilon and many samples. It keeps the pairs within about seven times the root of the
    absolute epsilon of each other, and time and memory grow with their number. At a fixed epsilon that is a fixed
    share of all pairs, for which memory suffices up to some ten thousand points. With `scale="spacing"` epsilon falls
    as the squared distance of neighbours does, each point keeps as many as before, and 100 000 points in the plane
    take 3.1 GiB. Ask for a tolerance near 0.01 then: the last digits of the marginals take iterations that grow with n.

    Parameters
    ----------
    epsilon
        Strength of the regularisation, > 0, in the unit that `scale` says.
    scale
        "mean_cost" and "absolute" as in `Entropic`; "spacing": a multiple of n^(-2/d) times the mean cost, n the
        smaller number of samples (n^(-3/2) in d = 1, where lone points in the tails would lose all their pairs), for
        which 1 to 10 are sensible.
    tolerance
        Largest L1 error of a marginal.

    Attributes
    ----------
    epsilon_
        The regularisation in squared units of the data.
    marginal_error_
        The L1 error left.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset(Claim)

    def __init__(
        self, epsilon: PositiveFloat = 0.02, scale: Scale = "mean_cost", tolerance: PositiveFloat = 1e-5
    ) -> None:
        self.epsilon = epsilon
        self.scale = scale
        self.tolerance = tolerance

    @property
    def modules(self) -> tuple[str, ...]:
        """MultiScaleOT."""
        return ("MultiScaleOT",)

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether d <= 3."""
        return Support(problem.dim <= MAX_DIM, "" if problem.dim <= MAX_DIM else _refusal(problem.dim))

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Solve for the dual potential.

        Raises
        ------
        InvalidInput
            d > 3.
        NotConverged
            The library gave up, or its error is above `tolerance`: by its own account, or, on a thousand points of
            each side and all their pairs, ten times above it.
        """
        import MultiScaleOT as library

        del seed, trace
        x, y = source.samples, target.samples
        if x.shape[1] > MAX_DIM:
            raise InvalidInput(_refusal(x.shape[1]))
        self.epsilon_ = self._absolute_epsilon(x, y)
        # The library truncates and refines on scales of its own.
        x, y, x0, y0, scale = standardised(x, y)
        epsilon = self.epsilon_ / scale**2
        # One layer more than there would be with a point to a leaf of a uniform cloud: the last refinement, from leaves
        # to points, is then no larger a step than those before it (half of the time at n = 30 000 in the plane).
        depth = 1 + max(1, round(np.log2(max(len(x), len(y))) / x.shape[1]))
        trees = [_tree(library, points, depth) for points in (x, y)]
        layers = trees[0].getNLayers()
        schedule = library.TEpsScalingHandler()
        # the library's cost has no 1/2, so that its epsilon is twice ours
        steps = 2 * epsilon * np.array([2.0, 1.0])
        schedule.setupExplicit([steps * 4.0 ** (layers - 1 - layer) for layer in range(layers)])
        cost = library.THierarchicalCostFunctionProvider_SquaredEuclidean(*trees)
        settings = library.TSinkhornSolverParameters()
        settings.truncation_thresh, settings.innerIterations = TRUNCATION, INNER_ITERATIONS
        solver = library.TSinkhornSolverStandard(schedule, 0, layers - 1, self.tolerance, *trees, cost, settings)
        solver.setSafeMode(True)  # else a lone point whose row of the truncated kernel is empty ends in NaN
        failed = solver.initialize() or solver.solve() or solver.absorb()
        self.marginal_error_ = float(solver.getError())
        if failed or not self.marginal_error_ <= self.tolerance:
            raise NotConverged(
                f"MultiScaleOT ended with code {failed}, marginal error {self.marginal_error_:.1e}, tolerance = "
                f"{self.tolerance:g}, at absolute epsilon {self.epsilon_:.3g}; raise epsilon or tolerance."
            )
        f, g = (np.array(tree.getDual(layers - 1)) / (2 * epsilon) for tree in trees)
        if not (error := max(_marginal_errors(x, y, f, g, epsilon))) <= 10 * self.tolerance:
            raise NotConverged(
                f"MultiScaleOT says that it left a marginal error of {self.marginal_error_:.1e}; over all pairs it is "
                f"{error:.1e}, tolerance = {self.tolerance:g}. Raise epsilon, or use entropic."
            )
        self.cross_ = SoftmaxPotential(x0, y0, scale * y, g - np.log(len(y)), self.epsilon_, 0, self.marginal_error_)
        return self

    def _absolute_epsilon(self, x: Points, y: Points) -> float:
        """`epsilon` in squared units of the data."""
        if self.scale != "spacing":
            return absolute_epsilon(self.epsilon, self.scale, x, y)
        squared_spacing: float = min(len(x), len(y)) ** -min(2 / x.shape[1], 1.5)
        return squared_spacing * absolute_epsilon(self.epsilon, "mean_cost", x, y)

    def transform(self, X: Any) -> Any:
        """The entropic map, (n, d) -> (n, d)."""
        return self.cross_.gradient(X)

    def potential(self, X: Any) -> Any:
        """phi(x) = |x|^2 / 2 - f(x), (n, d) -> (n,)."""
        return self.cross_.value(X)


def _refusal(dim: int) -> str:
    return f"A multiscale tree prunes little above d = {MAX_DIM}, d = {dim} was given; use entropic."


def _marginal_errors(x: Points, y: Points, f: Vector, g: Vector, epsilon: float) -> Iterator[float]:
    """L1 errors of both marginals of exp(f_i + g_j - |x_i - y_j|^2 / (2 epsilon)) / (n m), from a thousand of each."""
    for points, potential, others, of_others in ((x, f, y, g), (y, g, x, f)):
        some = slice(None, None, -(-len(points) // CHECKED))
        total, checked = 0.0, potential[some]
        for rows in row_blocks(len(checked), 8 * len(others), 1 << 24):
            exponents = cdist(points[some][rows], others, "sqeuclidean") / (-2 * epsilon) + of_others
            total += float(np.abs(np.exp(exponents + checked[rows, None]).mean(axis=1) - 1).sum())
        yield total / len(checked)


def _tree(library: Any, points: Points, depth: int) -> Any:
    """A tree of equal masses whose empty branches are left out (childMode 0)."""
    return library.TMultiScaleSetup(np.ascontiguousarray(points), np.full(len(points), 1 / len(points)), depth, 0)
