"""The reference rows of every table: doing nothing, moving the mean, knowing the answer."""

from __future__ import annotations

from typing import Any, Self

from mongebench.core.errors import NotSavable
from mongebench.core.estimator import Claim, MapEstimator, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.standard import mean


class Identity(MapEstimator):
    """Doing nothing, T(x) = x: an error larger than this row's is worse than doing nothing.

    It asks for nothing. Its UVP is that of the distance between source and target, so it says how hard a problem is.
    """

    needs = frozenset()
    claims = frozenset(Claim)
    anchor = True
    any_size = True
    invertible = True

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Nothing to learn."""
        del source, target, seed, trace
        return self

    def transform(self, X: Any) -> Any:
        """X itself, (n, d) -> (n, d)."""
        return X

    def inverse_transform(self, Y: Any) -> Any:
        """Y itself, (n, d) -> (n, d)."""
        return Y

    def potential(self, X: Any) -> Any:
        """phi(x) = |x|^2 / 2, (n, d) -> (n,)."""
        return (X**2).sum(axis=1) / 2


class MeanShift(MapEstimator):
    """Translation by the means, T(x) = x + mean(Y) - mean(X): what a problem leaves once the means agree.

    Exact between translates of one measure; blind to everything else.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset(Claim)
    anchor = True
    any_size = True
    invertible = True

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Learn the difference of the sample means, `shift_` of shape (d,)."""
        del seed, trace
        self.shift_ = mean(target.samples) - mean(source.samples)
        return self

    def transform(self, X: Any) -> Any:
        """x + shift, (n, d) -> (n, d)."""
        return X + self.shift_

    def inverse_transform(self, Y: Any) -> Any:
        """y - shift, (n, d) -> (n, d)."""
        return Y - self.shift_

    def potential(self, X: Any) -> Any:
        """phi(x) = |x|^2 / 2 + <x, shift>, (n, d) -> (n,)."""
        return (X**2).sum(axis=1) / 2 + X @ self.shift_


class Truth(MapEstimator):
    """The exact map T*, asked of the problem: it shows the noise floor of every metric.

    It serves problems whose exact map is known; on data of your own, which has none, `transform` raises
    `OracleUnavailable`.
    """

    needs = frozenset({Oracle.EXACT_MAP})
    claims = frozenset(Claim)
    anchor = True

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Keep the problem's exact map."""
        del target, seed, trace
        self.exact_map_ = source.exact_map
        return self

    def transform(self, X: Any) -> Any:
        """T*(x), (n, d) -> (n, d)."""
        return self.exact_map_(X)

    def fitted_state(self) -> dict[str, Any]:
        """Raise `NotSavable`: the map is the problem's."""
        raise NotSavable("The exact map is its problem's own: save the name and the parameters of the problem.")
