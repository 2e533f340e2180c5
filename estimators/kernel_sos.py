"""Kernel sums of squares for optimal transport: smooth dual potentials, constrained everywhere by a few pairs.

With samples x_1..n of the source, y_1..m of the target and the cost c(x, y) = |x - y|^2 / 2, Vacher, Muzellec, Rudi,
Bach and Vialard 2021 (A dimension-free computational upper-bound for smooth optimal transport estimation; for the map:
Muzellec, Vacher, Bach, Vialard and Rudi 2021, Near-optimal estimation of smooth transport maps with kernel
sums-of-squares) replace the constraint f(x) + g(y) <= c(x, y) of the dual by an equality on l filling pairs
(x~_j, y~_j),

    max_{f, g, A >= 0, e}  mean_i f(x_i) + mean_i g(y_i) - lambda1 tr A - lambda2 (|f|^2 + |g|^2) - |e|^2 / (2 delta)
    where  c(x~_j, y~_j) - f(x~_j) - g(y~_j) = <psi_j, A psi_j> + e_j,  j = 1..l,                                 (P)

with f and g in the spaces of Gaussian kernels k_X, k_Y and psi_j the feature of a pair under k = k_X k_Y. A smooth
gap between c and f + g is such a sum of squares, so that the constraint also holds between the pairs. With the Gram
matrix Phi' Phi of k, P_jk = (k_X(x~_j, x~_k) + k_Y(y~_j, y~_k)) / (2 lambda2) + delta [j = k], w the mean of the
kernels over the samples and b_j = (w_X(x~_j) + w_Y(y~_j)) / (2 lambda2) - c(x~_j, y~_j), the dual is a problem of l
real multipliers,

    min_gamma  gamma' P gamma / 2 - b' gamma  where  Phi diag(gamma) Phi' + lambda1 I >= 0,                       (D)

up to the constant (|w_X|^2 + |w_Y|^2) / (4 lambda2), and f(x) = (mean_i k_X(x, x_i) - sum_j gamma_j k_X(x, x~_j)) /
(2 lambda2). gamma is a signed coupling on the filling pairs whose marginals match the samples up to lambda2. The
residuals e are ours: without them (delta = 0) the multipliers of nearly equal pairs are not determined to rounding.

Everything below happens in centred coordinates, divided by one scalar for both clouds, which optimal transport
commutes with; whitening it does not commute with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpstrf
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points
from mongebench.core.errors import InvalidInput, NotConverged
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace, keep_going
from mongebench.core.oracle import Oracle
from mongebench.estimators.discrete import optimal_coupling
from mongebench.estimators.held_out import Race, folds_of, held_out_value
from mongebench.estimators.inverse import preimages
from mongebench.estimators.radial import RadialSum, gaussian_kernel
from mongebench.estimators.standard import standardised

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

MAX_SAMPLES = 5000
"""Most samples per side: what was run (results/README.md)."""
BANDWIDTHS, LAMBDAS1, LAMBDAS2 = (2.0, 4.0, 1.0, 0.5), (1e-3, 1e-2, 1e-4), (1e-5, 1e-4, 1e-6, 1e-3)
"""What "auto" chooses from; the first of each where the samples are too few to hold any out."""
SELECTION_PAIRS = 300
"""Most pairs of the fits that only choose a setting."""
DELTA = 5e-5
"""delta of (P), in units of the squared scale of the clouds."""


class KernelSOS(MapEstimator):
    """Kernel sums of squares: smooth dual potentials f, g with f + g <= c everywhere, and T = x - grad f.

    The problem, its dual and the reference are in the docstring of this module. Use it in low dimension with some
    hundred samples and a smooth map: f is smooth whatever the samples are, which the coupling of the samples and the
    nearest neighbour are not. Do not use it for a map with jumps. Far outside the source samples f falls off and T is a
    translation. A fit costs 20 to 40 Newton steps of O(l^3) for l pairs, repeated three times where pairs are added,
    and the choice of a setting (the default) thirty to eighty smaller fits before that.

    Parameters
    ----------
    bandwidth
        Standard deviation of the Gaussian kernels, in units of the root-mean-square distance between two points of one
        cloud (pooled over both), or "auto": chosen by `select`. Wide kernels, 2 to 4, make f nearly quadratic and T
        nearly linear; narrow ones follow a bent map and ask for more samples.
    lambda1, lambda2
        Penalties of tr A and of |f|^2 + |g|^2, for clouds scaled to unit variance, or "auto". lambda1 matters
        less than lambda2, and lambda2 falls as the bandwidth grows.
    max_pairs
        Most pairs l, of which the exact coupling fills at most half. All samples are in the objective of (P) whatever
        it is.
    rounds
        How often the most violated pairs of samples are added and (P) is solved again.
    rank
        Most rows of Phi: a Nystrom approximation of the kernel of pairs. None: as many as needed for 1e-10.
    folds
        Parts of the samples that `select` holds out in turn.
    tolerance
        Last weight of the barrier, and the largest KKT residual, in units of the squared scale of the clouds.
    max_steps
        Most Newton steps of one solve.

    Attributes
    ----------
    setting_
        The bandwidth (in the scaled coordinates), lambda1 and lambda2 of the fit.
    source_pairs_, target_pairs_, multipliers_
        The pairs (l, d) twice, and gamma (l,).
    n_pairs_, n_steps_, kkt_residual_
        l, Newton steps of the last solve, and the largest residual of its optimality conditions in the scaled
        coordinates.
    violation_
        max f + g - c over all pairs of samples, squared units of the data; at most 0 where the constraint holds.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.UNIT_FREE})
    invertible = True
    matters_with: ClassVar[dict[str, Any]] = {
        "folds": {"bandwidth": ["auto"], "lambda1": ["auto"], "lambda2": ["auto"]},
    }

    def __init__(
        self,
        bandwidth: PositiveFloat | Literal["auto"] = "auto",
        lambda1: PositiveFloat | Literal["auto"] = 1e-3,
        lambda2: PositiveFloat | Literal["auto"] = "auto",
        max_pairs: Annotated[int, Field(ge=8)] = 1500,
        rounds: NonNegativeInt = 2,
        rank: PositiveInt | None = None,
        folds: Annotated[int, Field(ge=2)] = 5,
        tolerance: PositiveFloat = 1e-4,
        max_steps: PositiveInt = 200,
    ) -> None:
        self.bandwidth = bandwidth
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.max_pairs = max_pairs
        self.rounds = rounds
        self.rank = rank
        self.folds = folds
        self.tolerance = tolerance
        self.max_steps = max_steps

    @property
    def modules(self) -> tuple[str, ...]:
        """POT, for the exact coupling."""
        return ("ot",)

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether the dense arrays of n x n, m x m and n x m numbers are within what was measured."""
        reason = _too_large(problem.n_source or 0, problem.n_target or 0)
        return Support(not reason, reason)

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Choose the setting where it is "auto", fill, and solve; the trace is called after every round.

        Raises
        ------
        InvalidInput
            More samples than `supports` allows.
        NotConverged
            A solve that did not reach `tolerance`.
        """
        watch = trace or keep_going
        if reason := _too_large(len(source.samples), len(target.samples)):
            raise InvalidInput(reason)
        # In lexicographic order, so that random choices do not depend on the order the samples came in.
        x, y = (view.samples[np.lexsort(view.samples.T)] for view in (source, target))
        x, y, self.source_mean_, self.target_mean_, self.scale_ = standardised(x, y)

        solver = Solver(self.max_pairs, self.rounds, self.rank, self.tolerance, self.max_steps)
        rng = np.random.default_rng(seed)
        self.setting_ = select(x, y, self._candidates(x.shape[1]), solver, self.folds, rng)
        pairs = filling_pairs(x, y, self.max_pairs, rng)
        for solution in solver.rounds_of(x, y, pairs, self.setting_):
            self.f_, self.g_ = solution.f, solution.g
            if not watch(self._map, kkt_residual=solution.dual.kkt_residual, violation=solution.violation):
                break
        i, j = solution.pairs.T
        self.source_pairs_ = self.source_mean_ + self.scale_ * x[i]
        self.target_pairs_ = self.target_mean_ + self.scale_ * y[j]
        self.multipliers_, self.n_pairs_ = solution.dual.gamma, len(i)
        self.kkt_residual_, self.n_steps_ = solution.dual.kkt_residual, solution.dual.n_steps
        self.violation_ = self.scale_**2 * solution.violation
        return self

    def transform(self, X: Any) -> Any:
        """x - grad f(x), (n, d) -> (n, d)."""
        return self._map(X)

    def potential(self, X: Any) -> Any:
        """phi(x) = |x|^2 / 2 - f(x), (n, d) -> (n,)."""
        return (X**2).sum(axis=1) / 2 - self.source_potential(X)

    def source_potential(self, X: Points) -> Vector:
        """f, with f(x) + g(y) <= |x - y|^2 / 2 up to the regularisation, (n, d) -> (n,)."""
        return self._potential(self.f_, X - self.source_mean_, self.source_mean_ - self.target_mean_)

    def target_potential(self, Y: Points) -> Vector:
        """g, (m, d) -> (m,)."""
        return self._potential(self.g_, Y - self.target_mean_, self.target_mean_ - self.source_mean_)

    def inverse_transform(self, Y: Any) -> Any:
        """The x with x - grad f(x) = y, (n, d) -> (n, d), by Newton steps from y - grad g(y)."""
        y = (Y - self.target_mean_) / self.scale_
        x = preimages(
            lambda x: x - self.f_.gradient(x),
            lambda x: np.eye(x.shape[1]) - self.f_.hessian(x),
            y=y,
            x=y - self.g_.gradient(y),
        )
        return self.source_mean_ + self.scale_ * x

    def _potential(self, scaled: RadialSum, centred: Points, shift: Vector) -> Vector:
        """Undo centring and scale: |x - y|^2 / 2 is that of the centred points, and <x - y, shift> + |shift|^2 / 2."""
        value: Vector = self.scale_**2 * scaled.value(centred / self.scale_) + centred @ shift + shift @ shift / 4
        return value

    def _map(self, x: Points) -> Points:
        scaled = (x - self.source_mean_) / self.scale_
        image: Points = self.target_mean_ + self.scale_ * (scaled - self.f_.gradient(scaled))
        return image

    def _candidates(self, dim: int) -> list[Setting]:
        """The grid of `select`; a bandwidth of 1 is sqrt(2 d), the distance between two points in R^d of variance 1."""
        grid = itertools.product(
            *(
                automatic if given == "auto" else (given,)
                for given, automatic in (
                    (self.bandwidth, BANDWIDTHS),
                    (self.lambda1, LAMBDAS1),
                    (self.lambda2, LAMBDAS2),
                )
            )
        )
        return [Setting(bandwidth * np.sqrt(2 * dim), lambda1, lambda2) for bandwidth, lambda1, lambda2 in grid]


def _too_large(n: int, m: int) -> str:
    if max(n, m) <= MAX_SAMPLES:
        return ""
    return (
        f"Kernel sums of squares hold dense arrays of {n} x {m} numbers and solve the exact coupling; at most "
        f"{MAX_SAMPLES} samples per side were measured. Take fewer samples, or use entropic or bures."
    )


def low_rank_factor(gram: Points, rank: int | None = None) -> Points:
    """Phi (r, l) with Phi' Phi = gram up to 1e-10 of its diagonal, by pivoted Cholesky.

    Its first rows are the Nystrom approximation from the pivots: `rank` rows at most where that is given.
    """
    upper, pivots, numerical_rank, _ = dpstrf(gram, tol=1e-10 * gram.diagonal().max())
    rows = min(numerical_rank, rank or numerical_rank)
    factor = np.empty((rows, len(gram)))
    factor[:, pivots - 1] = np.triu(upper)[:rows]
    return factor


@dataclass(frozen=True)
class Setting:
    """What (P) is solved with: the bandwidth of the kernels in the coordinates of the clouds, and the two penalties."""

    bandwidth: float
    lambda1: float
    lambda2: float


@dataclass(frozen=True)
class Solver:
    """How (P) is solved; see `KernelSOS`."""

    max_pairs: int
    rounds: int
    rank: int | None
    tolerance: float
    max_steps: int

    def rounds_of(self, x: Points, y: Points, pairs: Indices, setting: Setting) -> Iterator[Solution]:
        """Solve (P) on `pairs`, then again with the most violated data pairs added, up to `rounds` times.

        For each source sample the target sample with the least c - f - g is added, and the other way round, where that
        is below -tolerance.
        """
        bandwidth, lambda2 = setting.bandwidth, setting.lambda2
        gram_x, gram_y = (gaussian_kernel(points, points, bandwidth) for points in (x, y))
        mean_x, mean_y = gram_x.mean(axis=1), gram_y.mean(axis=1)
        cost = cdist(x, y, "sqeuclidean") / 2
        for last in [*[False] * self.rounds, True]:
            i, j = pairs.T
            pair_gram_x, pair_gram_y = gram_x[np.ix_(i, i)], gram_y[np.ix_(j, j)]
            factor = low_rank_factor(pair_gram_x * pair_gram_y, self.rank)
            quadratic = np.add(pair_gram_x, pair_gram_y, out=pair_gram_x)
            quadratic /= 2 * lambda2
            quadratic[np.diag_indices(len(pairs))] += DELTA
            linear = (mean_x[i] + mean_y[j]) / (2 * lambda2) - cost[i, j]
            dual = solve_dual(factor, quadratic, linear, setting.lambda1, self.tolerance, self.max_steps)
            f, g = (
                RadialSum(points, _coefficients(index, dual.gamma, len(points), lambda2), bandwidth)
                for points, index in ((x, i), (y, j))
            )
            gap = cost - (gram_x @ f.coefficients)[:, None]
            gap -= gram_y @ g.coefficients
            yield Solution(f, g, pairs, dual, -float(gap.min()))
            added = self._violated(gap)[: self.max_pairs - len(pairs)]
            if last or not len(added):
                return
            pairs = np.unique(np.concatenate([pairs, added]), axis=0)

    def _violated(self, gap: Points) -> Indices:
        """The worst pair of every row and column that is below -tolerance, the worst of all first."""
        n, m = gap.shape
        worst = np.concatenate(
            [np.stack([np.arange(n), gap.argmin(axis=1)], axis=1), np.stack([gap.argmin(axis=0), np.arange(m)], axis=1)]
        )
        worst = np.unique(worst, axis=0)
        values = gap[*worst.T]
        order = np.argsort(values, kind="stable")
        return np.asarray(worst[order[values[order] < -self.tolerance]])


def _coefficients(index: Indices, gamma: Vector, n: int, lambda2: float) -> Vector:
    """Of the kernels at the n samples in f: (1/n - sum of gamma over the pairs of a sample) / (2 lambda2)."""
    return np.asarray((1 / n - np.bincount(index, gamma, n)) / (2 * lambda2), dtype=np.float64)


@dataclass(frozen=True)
class Solution:
    """Of (P): the dual potentials, the pairs (l, 2) they were constrained at, and max f + g - c over all data pairs."""

    f: RadialSum
    g: RadialSum
    pairs: Indices
    dual: Multipliers
    violation: float


def filling_pairs(x: Points, y: Points, max_pairs: int, rng: np.random.Generator) -> Indices:
    """Indices (l, 2) of pairs of samples, most of them near the graph of the map, where the constraint binds.

    The pairs of the exact coupling (at most half of `max_pairs`); for a quarter as many, x_i with the partner of one
    of its neighbours; a quarter as many at random. Pairs from a product or a box alone leave f + g above c near the
    graph, and the map explodes.
    """
    coupling = optimal_coupling(x, y, np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y)))
    partner = coupling.argmax(axis=1)
    matched = rng.permutation(np.argwhere(coupling > 0))[: max_pairs // 2]
    count = -(-len(matched) // 4)
    some = matched[:count, 0]
    near = cKDTree(x).query(x[some], k=range(1, min(4, len(x)) + 1))[1]
    neighbour = near[np.arange(count), rng.integers(near.shape[1], size=count)]
    beside = np.stack([some, partner[neighbour]], axis=1)
    random = np.stack([rng.integers(len(points), size=count) for points in (x, y)], axis=1)
    return np.unique(np.concatenate([matched, beside, random]), axis=0)


def select(
    x: Points, y: Points, candidates: list[Setting], solver: Solver, folds: int, rng: np.random.Generator
) -> Setting:
    """The setting with the largest held-out value of the semi-dual, found by a `Race` over the folds.

    The first candidate is taken where a fold would have less than two samples.
    """
    if len(candidates) == 1 or min(len(x), len(y)) < 2 * folds:
        return candidates[0]
    race = Race(len(candidates))
    solver = dataclasses.replace(solver, max_pairs=min(solver.max_pairs, SELECTION_PAIRS), rounds=1)
    for fold in folds_of(x, y, folds, rng):
        pairs = filling_pairs(fold.x_fit, fold.y_fit, solver.max_pairs, rng)
        values = {}
        for k in race.running:
            with contextlib.suppress(NotConverged):
                *_, solution = solver.rounds_of(fold.x_fit, fold.y_fit, pairs, candidates[k])
                values[k] = held_out_value(solution.f, fold)
        race.fold(values)
        if len(race.running) < 2:
            break
    if not race.running:
        raise NotConverged("No setting of the grid could be solved on every fold; give bandwidth, lambda1 and lambda2.")
    return candidates[race.best]


@dataclass(frozen=True)
class Multipliers:
    """gamma (l,) of (D), the largest residual of its optimality conditions, and the Newton steps that took."""

    gamma: Vector
    kkt_residual: float
    n_steps: int


def solve_dual(
    factor: Points, quadratic: Points, linear: Vector, lambda1: float, tolerance: float, max_steps: int
) -> Multipliers:
    """(D) by Newton's method on a logarithmic barrier.

    With M = Phi diag(gamma) Phi' + lambda1 I and H = Phi' M^-1 Phi, the function

        F(gamma) = gamma' P gamma / 2 - b' gamma - eps log det M

    has the gradient P gamma - b - eps diag H and the Hessian P + eps H.H (entry by entry). A component of the gradient
    is the residual of one constraint of (P) at A = eps M^-1. The decrement of Newton's method does not measure it: the
    Hessian is of order 1 / lambda2.

    Parameters
    ----------
    factor, quadratic, linear
        Phi (r, l), P (l, l) and b (l,).
    lambda1
        > 0.
    tolerance
        Last eps, which falls by 5 from level to level: the value ends within r * tolerance of the minimum, the residual
        of every constraint below tolerance / 100, or below tolerance where rounding allows no more.
    max_steps
        Most Newton steps.

    Raises
    ------
    NotConverged
        A residual above `tolerance` after `max_steps`, or where Newton's method can go no further.
    """
    size = len(linear)
    gamma = np.full(size, 1 / size)
    matrix = (factor * gamma) @ factor.T
    matrix[np.diag_indices_from(matrix)] += lambda1
    cholesky = _cholesky(matrix)
    eps = max(0.1, tolerance)
    for n_steps in range(max_steps + 1):
        whitened = solve_triangular(cholesky, factor, lower=True, check_finite=False)
        h = whitened.T @ whitened
        slope = quadratic @ gamma - linear
        gradient = slope - eps * h.diagonal()
        residual = float(np.abs(gradient).max())
        if eps == tolerance and residual <= tolerance / 100:
            return Multipliers(gamma, residual, n_steps)
        if n_steps == max_steps:
            break
        hessian = np.multiply(h, h, out=h)
        hessian *= eps
        hessian += quadratic
        hessian[np.diag_indices(size)] *= 1 + 1e-12  # what rounding may have taken
        direction = -cho_solve(cho_factor(hessian, overwrite_a=True, check_finite=False), gradient, check_finite=False)
        decrement = -gradient @ direction
        curvature = direction @ quadratic @ direction
        change = (factor * direction) @ factor.T
        for length in 0.5 ** np.arange(30):
            trial = _cholesky(matrix + length * change)
            if len(trial):
                barrier = eps * (_log_determinant(trial) - _log_determinant(cholesky))
                if length * slope @ direction + length**2 / 2 * curvature - barrier <= -1e-4 * length * decrement:
                    gamma, matrix, cholesky = gamma + length * direction, matrix + length * change, trial
                    break
        else:
            break  # rounding: no step decreases F
        if eps > tolerance and decrement <= eps:
            eps = max(eps / 5, tolerance)
    if eps == tolerance and residual <= tolerance:
        return Multipliers(gamma, residual, n_steps)
    raise NotConverged(
        f"Newton's method left a KKT residual of {residual:.1e} after {n_steps} steps at barrier weight {eps:.1e} "
        f"(l = {size} pairs, tolerance = {tolerance:g}); raise lambda1, lambda2 or tolerance."
    )


def _cholesky(matrix: Points) -> Points:
    """L (r, r) with L L' = matrix; (0, 0) where that is not positive."""
    cholesky, info = dpotrf(matrix, lower=1)
    return np.asarray(cholesky if info == 0 else np.empty((0, 0)))


def _log_determinant(cholesky: Points) -> float:
    return float(2 * np.log(cholesky.diagonal()).sum())
