"""Exact optimal transport between the samples, carried beyond them by the nearest sample."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import PositiveInt

from mongebench.core.arrays import Points, row_blocks
from mongebench.core.errors import InvalidInput, NotConverged
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.interpolation import Nearest
from mongebench.estimators.standard import power_of_two

Masses = NDArray[np.float64]
"""(n,), of sum 1."""

PIVOTS = 10**7
"""Most pivots of the network simplex; POT's own 10^5 end before the optimum at n = 2000."""
SLACK = 1e-3
"""Largest violation of optimality, in units of what exchanging the partners of neighbours costs. The simplex leaves
less between Gaussians, n = 2000, in all but some samples in one dimension."""
EPS, WIDE_EPS = np.finfo(np.float64).eps, np.finfo(np.longdouble).eps
ROUNDS = 3
"""How often reduced costs are solved again, how often they are formed anew, and how often their cap is raised."""


class Exact(MapEstimator):
    """Exact coupling of the samples (network simplex), extended by the nearest source sample.

    The optimal coupling P between the weighted samples, for the cost |x - y|^2 / 2, sends x_i to the mean of its
    partners, B_i = sum_j P_ij y_j / sum_j P_ij. Elsewhere, with i the nearest source sample of x,

        nearest:     T(x) = B_i              (Manole, Balakrishnan, Niles-Weed, Wasserman 2024)
        translated:  T(x) = B_i + x - x_i    (Ferradans, Papadakis, Peyre, Aujol 2014)

    Use it in d <= 3, or to see what the samples alone say: the squared error falls like n^{-2/d}, and in d = 16 at
    n = 2000 it can be several times that of the identity. Fitting takes about n^3 operations at worst and several dense
    n x m arrays. The coupling is verified: an outlier that blurs the other costs is dealt with or refused.

    Parameters
    ----------
    extension
        "nearest" or "translated", as above.
    max_cost_bytes
        Largest n x m cost matrix of float64 that `supports` and `fit` accept, in bytes; default 2 GiB.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.ROTATION_EQUIVARIANT, Claim.UNIT_FREE})

    def __init__(
        self, extension: Literal["nearest", "translated"] = "nearest", max_cost_bytes: PositiveInt = 2 * 1024**3
    ) -> None:
        self.extension = extension
        self.max_cost_bytes = max_cost_bytes

    @property
    def modules(self) -> tuple[str, ...]:
        """POT."""
        return ("ot",)

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether the cost matrix fits into `max_cost_bytes`."""
        reason = cost_too_large(problem.n_source or 0, problem.n_target or 0, self.max_cost_bytes)
        return Support(not reason, reason)

    def fit(
        self,
        source: Any,
        target: Any,
        *,
        seed: int = 0,
        trace: Trace | None = None,
        source_weights: ArrayLike | None = None,
        target_weights: ArrayLike | None = None,
    ) -> Self:
        """Learn the distinct source samples `points_` (k, d), in order, and their images `images_` (k, d).

        Parameters
        ----------
        source, target, seed, trace
            As in `MapEstimator.fit`.
        source_weights, target_weights
            Masses of the samples, (n,) and (m,), not negative, scaled to sum 1 on each side; default: all equal.

        Raises
        ------
        InvalidInput
            Weights of the wrong length or sign, or a cost matrix beyond `max_cost_bytes`.
        NotConverged
            The network simplex did not end, or its coupling cannot be shown to be optimal.
        """
        del seed, trace
        x, a = weighted(source.samples, source_weights, "source_weights")
        y, b = weighted(target.samples, target_weights, "target_weights")
        if reason := cost_too_large(len(x), len(y), self.max_cost_bytes):
            raise InvalidInput(reason)
        coupling = optimal_coupling(x, y, a, b)
        self.points_, self.images_ = x, coupling @ y / coupling.sum(axis=1, keepdims=True)
        self.centre_ = x.mean(axis=0)
        self.nearest_ = Nearest(x - self.centre_)
        self.nearest_.tree  # noqa: B018  made now, at the expense of the fit
        return self

    def transform(self, X: Any) -> Any:
        """The extension of the coupling, (n, d) -> (n, d)."""
        nearest = self.nearest_(X - self.centre_)
        images = self.images_[nearest]
        return images if self.extension == "nearest" else images + X - self.points_[nearest]


def cost_too_large(n: int, m: int, max_cost_bytes: int) -> str:
    """A sentence, where an n x m cost matrix of float64 takes more than `max_cost_bytes`; else nothing."""
    if 8 * n * m <= max_cost_bytes:
        return ""
    return (
        f"The {n} x {m} cost matrix takes {8 * n * m / 1024**3:.1f} GiB, above max_cost_bytes = "
        f"{max_cost_bytes / 1024**3:.1f} GiB; take fewer samples, raise it, or use sorting, bures or entropic."
    )


def weighted(points: Points, weights: ArrayLike | None, name: str) -> tuple[Points, NDArray[np.float64]]:
    """The distinct points of positive weight, in lexicographic order, and their weights, of sum 1.

    Repeated points are one point: the mean of all their partners is then the image of each.
    """
    masses = np.ones(len(points)) if weights is None else np.asarray(weights, dtype=np.float64)
    if masses.shape != (len(points),):
        raise InvalidInput(f"{name} has shape {masses.shape}; expected one weight a sample, shape ({len(points)},).")
    if not (np.isfinite(masses).all() and (masses >= 0).all() and masses.sum() > 0):
        raise InvalidInput(f"{name} must be finite, not negative and of positive sum.")
    distinct, index = np.unique(points[masses > 0], axis=0, return_inverse=True)
    merged = np.bincount(index.ravel(), weights=masses[masses > 0])
    return distinct, merged / merged.sum()


def optimal_coupling(x: Points, y: Points, a: Masses, b: Masses) -> NDArray[np.float64]:
    """The optimal coupling (n, m) of masses a (n,) at x (n, d) and b (m,) at y (m, d) for the squared distance.

    What the simplex returns is verified by its dual potentials, see `_is_optimal`. It compares costs to within some
    1e-14 of (n + m) times the largest of all, so that one far point can blur the rest; where the verification fails,
    the reduced costs it left are solved again, on their own scale.

    Raises
    ------
    NotConverged
        The network simplex did not end, or no coupling was found whose optimality can be shown.
    """
    from scipy.spatial.distance import cdist

    unit = power_of_two(max(np.abs(x).max(), np.abs(y).max()))  # so that no square overflows; no bit is lost
    x, y = x / unit, y / unit
    slack = _Slack.between(x, y)
    cost = cdist(x - x.mean(axis=0), y - y.mean(axis=0), "sqeuclidean")
    coupling, u, v = _simplex(a, b, cost)

    def first(rows: slice) -> tuple[Points, Points]:
        rounding = EPS * (cost[rows] + np.abs(u[rows, None]) + np.abs(v))
        return cost[rows] - u[rows, None] - v, rounding

    if _is_optimal(coupling, a, b, slack, first):
        return coupling
    for _, again in itertools.product(range(ROUNDS), range(ROUNDS)):
        if not again:
            reduced, rounding = _reduced_cost(x, y, coupling.argmax(axis=1))
        coupling, u, v = _capped_simplex(a, b, reduced, float(reduced[coupling > 0].max()))
        reduced -= u[:, None]
        reduced -= v
        rounding += WIDE_EPS * (np.abs(u)[:, None] + np.abs(v))
        if _is_optimal(coupling, a, b, slack, functools.partial(_rows, reduced, rounding)):
            return coupling
    raise NotConverged(
        f"The network simplex of POT left a coupling of {len(x)} x {len(y)} samples that cannot be shown to be optimal "
        "in double precision: their distances span too many orders of magnitude. Look for far outliers, or use "
        "entropic."
    )


def _simplex(a: Masses, b: Masses, cost: Points) -> tuple[Points, Masses, Masses]:
    """POT's network simplex: a coupling (n, m), and dual potentials u (n,) and v (m,) in the units of the cost."""
    import ot

    size = float(np.abs(cost).max()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it would say is in the log, and raised below
        coupling, log = ot.emd(a, b, cost / size, numItermax=PIVOTS, log=True)
    if log["warning"]:
        raise NotConverged(
            f"The network simplex of POT gave up on {len(a)} x {len(b)} samples ({log['warning']}); "
            "take fewer samples or use entropic."
        )
    return np.asarray(coupling), size * np.asarray(log["u"]), size * np.asarray(log["v"])


def _capped_simplex(a: Masses, b: Masses, reduced: Any, largest: float) -> tuple[Points, Masses, Masses]:
    """The same for reduced costs of which a coupling is known that uses none above `largest`.

    Costs above a cap cannot be told apart, which lets the simplex see those far below it. A coupling without such pairs
    that is optimal for the capped costs is optimal for the true ones.
    """
    cap = 4 * max(reduced.shape) * max(largest, np.finfo(np.float64).tiny)
    for _ in range(ROUNDS):
        coupling, u, v = _simplex(a, b, np.minimum(reduced, cap).astype(np.float64))
        if reduced[coupling > 0].max() < cap:
            break
        cap *= 1000
    return coupling, u, v


@dataclass(frozen=True)
class _Slack:
    """How far from optimal the pair of x_i and y_j may look.

    To give two neighbours each other's partner changes the cost by 2 <x_i - x_k, y_j - y_l>. A small part of that for
    the nearest neighbour on either side is allowed, which is a scale of these very points, whatever all others are;
    and what the rounding of the coordinates themselves does to it.

    Attributes
    ----------
    x, y
        Distance to the nearest other point of the same cloud, (n,) and (m,).
    size_x, size_y
        Norms of the points.
    """

    x: Masses
    y: Masses
    size_x: Masses
    size_y: Masses

    @classmethod
    def between(cls, x: Points, y: Points) -> _Slack:
        norms = (np.linalg.norm(points, axis=1) for points in (x, y))
        return cls(_isolation(x), _isolation(y), *norms)

    def allowed(self, rows: slice) -> Points:
        """Reduced costs below zero, or of coupled pairs above it, (rows, m)."""
        x, size = self.x[rows, None], self.size_x[rows, None]
        with np.errstate(invalid="ignore"):  # 0 x infinity, where a cloud is one point: then every coupling is optimal
            slack = SLACK * x * self.y + 16 * EPS * (size * self.y + self.size_y * x)
        return np.where(np.isnan(slack), np.inf, slack)


def _isolation(points: Points) -> Masses:
    """Distance from each point to the nearest one that is not equal to it, (n, d) -> (n,); infinite for lack of one."""
    from scipy.spatial import cKDTree

    distinct, index = np.unique(points, axis=0, return_inverse=True)
    if len(distinct) == 1:
        return np.full(len(points), np.inf)
    distances: Masses = cKDTree(distinct).query(distinct, k=2)[0][:, 1]
    return distances[index.ravel()]


def _rows(reduced: Any, rounding: Any, rows: slice) -> tuple[Any, Any]:
    return reduced[rows], rounding[rows]


def _is_optimal(
    coupling: Points, a: Masses, b: Masses, slack: _Slack, reduced_cost: Callable[[slice], tuple[Any, Any]]
) -> bool:
    """Whether the coupling has the marginals a and b, and the reduced costs c - u - v show that none is cheaper.

    By linear duality it is optimal if they are nowhere negative, and zero at coupled pairs: up to `slack`, less the
    bounds of their own errors, both of which `reduced_cost` gives for some rows.
    """
    for axis, masses in enumerate((a, b)):
        if not np.allclose(coupling.sum(axis=1 - axis), masses, rtol=1e-6, atol=1e-14):
            return False
    for rows in row_blocks(len(a), 8 * len(b), 1 << 22):
        reduced, rounding = reduced_cost(rows)
        allowed = slack.allowed(rows) - rounding
        if (reduced < -allowed).any() or (reduced > allowed)[coupling[rows] > 0].any():
            return False
    return True


def _reduced_cost(x: Points, y: Points, partner: NDArray[np.intp]) -> tuple[Any, Any]:
    """|x_i - y_j|^2 - |x_i - y_p(i)|^2, less the least of each row and column, and bounds of its errors: both (n, m).

    It is <y_j - y_p, y_j + y_p - 2 x_i>, which is small where y_j is near y_p, and as exact as the points, whatever
    lies between x_i and both. y_p is the partner or the nearest point of x_i, whichever is among more of the others.
    In extended precision, where the machine has it.
    """
    from scipy.spatial import cKDTree

    wide_x, wide_y = x.astype(np.longdouble), y.astype(np.longdouble)

    def relative_to(reference: NDArray[np.intp]) -> tuple[Any, Any]:
        cost, size = np.zeros((2, len(x), len(y)), np.longdouble)
        for column_x, column_y in zip(wide_x.T, wide_y.T, strict=True):
            near = column_y[reference, None]
            terms = (column_y - near) * (column_y + near - 2 * column_x[:, None])
            cost += terms
            size += np.abs(terms)
        return cost, size

    cost, size = relative_to(partner)
    other_cost, other_size = relative_to(cKDTree(y).query(x)[1])
    tiny = np.finfo(np.float64).tiny
    better = np.log(other_size + tiny).mean(axis=1) < np.log(size + tiny).mean(axis=1)
    cost[better], size[better] = other_cost[better], other_size[better]
    cost -= cost.min(axis=1, keepdims=True)
    cost -= cost.min(axis=0)
    return cost, 4 * WIDE_EPS * size
