"""Progressive entropic maps: a chain of entropic maps, each a part of the way."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import PositiveFloat, PositiveInt

from mongebench.core.arrays import Points
from mongebench.core.estimator import Claim, MapEstimator, Range, Trace, keep_going
from mongebench.core.oracle import Oracle
from mongebench.estimators.entropic import MODULES, Backend, Scale, SoftmaxPotential, absolute_epsilon, solve


class ProgOT(MapEstimator):
    """Progressive entropic map: the samples walk to the target, each stretch along a fresh entropic map.

    With T_k the entropic map (see `Entropic`) from the cloud x^(k) to the target sample, and x^(0) the source sample,

        x^(k+1) = (1 - a_k) x^(k) + a_k T_k(x^(k)),    a_k = 1 / (K - k),    k = 0..K-1,

    at constant speed, and T(x) is the end of the same recursion from any x: algorithm 1 of Kassraie, Pooladian, Klein,
    Thornton, Niles-Weed, Cuturi 2024, Progressive entropic optimal transport solvers. The clouds come closer to the
    target, so that a fixed epsilon shrinks only the images of the last map, and by less.

    The recursion is written here over ott's Sinkhorn because `ProgOT` of ott 0.6 trains on other clouds than its
    `transport` passes through: its x^(k+1) mixes T_k(x^(k)) with x^(0) in the place of x^(k). Both agree for K <= 2
    (the tests compare); from K = 3 on ott's map differs from the paper's.

    Parameters
    ----------
    steps
        K, at least 1; 1 is the entropic map.
    epsilon
        As in `Entropic`; with `scale` "mean_cost" a multiple of the mean cost between x^(k) and the target sample.
        Larger than there, because every further step undoes some of the shrinking: of 0.05 to 0.5, 0.1 did best at
        K = 4 in two and in eight dimensions.
    scale, backend, tolerance, max_iterations
        As in `Entropic`.

    Attributes
    ----------
    maps_
        The K potentials, whose gradients are the T_k.
    n_iterations_, marginal_error_
        Iterations of all solves together, and the largest of the L1 distances they left.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.ROTATION_EQUIVARIANT, Claim.UNIT_FREE})

    tunable: ClassVar[dict[str, Any]] = {
        "epsilon": Range(0.01, 0.5),
        "steps": [2, 4, 8],
    }

    def __init__(
        self,
        steps: PositiveInt = 4,
        epsilon: PositiveFloat = 0.1,
        scale: Scale = "mean_cost",
        backend: Backend = "ott",
        tolerance: PositiveFloat = 1e-5,
        max_iterations: PositiveInt = 10_000,
    ) -> None:
        self.steps = steps
        self.epsilon = epsilon
        self.scale = scale
        self.backend = backend
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of the backend."""
        return MODULES.get(self.backend, ())

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Solve K times; the trace sees the map that K steps would end with after each of them.

        Raises as `Entropic.fit`.
        """
        del seed
        watch = trace or keep_going
        x, y = source.samples, target.samples
        self.maps_: list[SoftmaxPotential] = []
        for _ in range(self.steps):
            epsilon = absolute_epsilon(self.epsilon, self.scale, x, y)
            self.maps_ = [*self.maps_, solve(x, y, epsilon, self.backend, self.tolerance, self.max_iterations)]
            x = self._advanced(x, len(self.maps_) - 1)
            if not watch(self._map):
                break
        self.n_iterations_ = sum(phi.n_iterations for phi in self.maps_)
        self.marginal_error_ = max(phi.marginal_error for phi in self.maps_)
        return self

    def transform(self, X: Any) -> Any:
        """The end of the recursion, (n, d) -> (n, d)."""
        return self._map(X)

    def _map(self, x: Points) -> Points:
        """Through all maps found so far, and with the last of them to the end."""
        for k in range(len(self.maps_) - 1):
            x = self._advanced(x, k)
        images: Points = self.maps_[-1].gradient(x)
        return images

    def _advanced(self, x: Points, k: int) -> Points:
        """x^(k) -> x^(k+1)."""
        share = 1 / (self.steps - k)
        advanced: Points = (1 - share) * x + share * self.maps_[k].gradient(x)
        return advanced
