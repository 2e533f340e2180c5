"""An estimator that works on coordinates of one scale: its map is that of the data in units that the data choose.

Optimal transport weighs all coordinates alike, so that the one with the largest numbers decides. `joint` divides
coordinate j of both samples by s_j, the root of the mean of their two variances, and gives the map back in the units of
the data: T(x) = S T'(S^-1 x) with S = diag(s). That is the optimal map for the cost sum_j (x_j - y_j)^2 / (2 s_j^2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mongebench import plugins
from mongebench.core.arrays import Points
from mongebench.core.errors import InvalidInput, UnknownName, one_of
from mongebench.core.estimator import MapEstimator, Trace
from mongebench.core.oracle import Oracle

Scale = Literal["joint", "none"]
SCALES = ("joint", "none")


class Scaled(MapEstimator):
    """A registered estimator on coordinates of one scale.

    Parameters
    ----------
    estimator
        Its registered name; one that learns from samples.
    parameters
        Its parameters.
    scale
        "joint" divides each coordinate by the root of the mean of its variances in both samples; "none" changes
        nothing.

    Attributes
    ----------
    fitted_
        The estimator, fitted to the scaled samples.
    units_
        s, (d,).
    seen_
        The least and the largest coordinates of the source sample, (2, d): outside of that box the map extrapolates.
    """

    needs: ClassVar[frozenset[Oracle]] = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})

    def __init__(self, estimator: str = "bures", parameters: Mapping[str, Any] | None = None, scale: Scale = "joint"):
        self.estimator = estimator
        self.parameters = parameters
        self.scale = scale

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of the estimator."""
        return self._estimator().modules

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Scale both samples and fit the estimator to them. Raises `InvalidInput` for a constant coordinate."""
        x, y = source.samples, target.samples
        self.units_ = units(x, y, self.scale)
        self.seen_ = np.stack([x.min(axis=0), x.max(axis=0)])
        self.fitted_ = self._estimator().fit(x / self.units_, y / self.units_, seed=seed, trace=trace)
        return self

    def transform(self, X: Any) -> Any:
        """The map at X, (n, d) -> (n, d), in the units of X."""
        return self.fitted_.transform(X / self.units_) * self.units_

    def fitted_state(self) -> dict[str, Any]:
        """The scale, and what the estimator learnt."""
        return {"units": self.units_, "seen": self.seen_, "fitted": self.fitted_.fitted_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the estimator of a `fitted_state`."""
        self.units_ = state["units"]
        self.seen_ = state["seen"]
        self.fitted_ = self._estimator()
        self.fitted_.n_features_in_ = self.n_features_in_
        self.fitted_.column_names_ = None
        self.fitted_.restore(state["fitted"])

    def _estimator(self) -> MapEstimator:
        return plugins.estimator(self.estimator, **(self.parameters or {}))


def units(x: Points, y: Points, scale: Scale) -> NDArray[np.float64]:
    """What each coordinate of x (n, d) and y (m, d) is divided by, (d,).

    Raises
    ------
    InvalidInput
        A coordinate that is constant in both samples.
    UnknownName
        Another `scale`.
    """
    if scale not in SCALES:
        raise UnknownName(one_of(scale, SCALES, "scale"))
    if scale == "none":
        return np.ones(x.shape[1])
    found = np.sqrt((x.var(axis=0) + y.var(axis=0)) / 2)
    constant = np.flatnonzero(~(found > 0))
    if len(constant):
        raise InvalidInput(f"Coordinate {constant[0]} is constant in both samples and has no scale: leave it out.")
    return np.asarray(found)
