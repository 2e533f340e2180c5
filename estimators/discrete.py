"""Exact optimal transport between the samples, carried beyond them by the nearest sample."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mongebench.core.arrays import Points
from mongebench.core.errors import InvalidInput, InvalidParameter, NotConverged, one_of
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.interpolation import Nearest

EXTENSIONS = ("nearest", "translated")
PIVOTS = 10**7
"""Most pivots of the network simplex; POT's own 10^5 end before the optimum at n = 2000."""


class Exact(MapEstimator):
    """Exact coupling of the samples (network simplex), extended by the nearest source sample.

    The optimal coupling P between the weighted samples, for the cost |x - y|^2 / 2, sends x_i to the mean of its
    partners, B_i = sum_j P_ij y_j / sum_j P_ij. Elsewhere, with i the nearest source sample of x,

        nearest:     T(x) = B_i              (Manole, Balakrishnan, Niles-Weed, Wasserman 2024)
        translated:  T(x) = B_i + x - x_i    (Ferradans, Papadakis, Peyre, Aujol 2014)

    Use it in d <= 3, or to see what the samples alone say: the squared error falls like n^{-2/d}, and in d = 16 at
    n = 2000 it can be several times that of the identity. Fitting takes some n^3 operations at worst and several dense
    n x m arrays.

    Parameters
    ----------
    extension
        "nearest" or "translated", as above.
    max_cost_bytes
        Largest n x m cost matrix of float64 that `supports` and `fit` accept, in bytes; default 2 GiB.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.ROTATION_EQUIVARIANT})

    def __init__(
        self, extension: Literal["nearest", "translated"] = "nearest", max_cost_bytes: int = 2 * 1024**3
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
            The network simplex did not end.
        """
        del seed, trace
        if self.extension not in EXTENSIONS:
            raise InvalidParameter(one_of(str(self.extension), EXTENSIONS, "extension"))
        x, a = weighted(source.samples, source_weights, "source_weights")
        y, b = weighted(target.samples, target_weights, "target_weights")
        if reason := cost_too_large(len(x), len(y), self.max_cost_bytes):
            raise InvalidInput(reason)
        coupling = optimal_coupling(x, y, a, b)
        self.points_, self.images_ = x, coupling @ y / coupling.sum(axis=1, keepdims=True)
        # Centred, because brute-force search (d > 15) expands the square and would cancel far from the origin.
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


def optimal_coupling(x: Points, y: Points, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The optimal coupling (n, m) of masses a (n,) at x (n, d) and b (m,) at y (m, d) for the squared distance.

    Raises
    ------
    NotConverged
        The network simplex did not end.
    """
    import ot
    from scipy.spatial.distance import cdist

    cost = cdist(x, y, "sqeuclidean")
    cost /= cost.max() or 1.0  # the simplex compares with absolute tolerances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it would say is in the log, and raised below
        coupling, log = ot.emd(a, b, cost, numItermax=PIVOTS, log=True)
    if log["warning"]:
        raise NotConverged(
            f"The network simplex of POT gave up on {len(x)} x {len(y)} samples ({log['warning']}); "
            "take fewer samples or use entropic."
        )
    return np.asarray(coupling)
