"""A problem: a source, a target, the exact map between them where it is known, and what else is known about it."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mongebench.core import guard
from mongebench.core.arrays import Points, as_points
from mongebench.core.errors import InvalidInput
from mongebench.core.estimator import Map, ProblemInfo
from mongebench.core.measure import Source, Target, Unknown
from mongebench.core.oracle import offers

INSTANCE = "seed"
"""The parameter that instances of a family differ in."""


class TruthTier(StrEnum):
    """How a problem knows its exact map."""

    CLOSED_FORM = "closed_form"
    BY_CONSTRUCTION = "by_construction"
    CERTIFIED = "certified"
    NONE = "none"


class Split(StrEnum):
    """What a problem is for: settings are chosen on `tune`, and published results are measured on `test`."""

    TEST = "test"
    TUNE = "tune"


@dataclass(frozen=True)
class Parts:
    """A split of two point clouds: what to fit from, and what to evaluate on."""

    source: Source
    target: Target
    held_out: tuple[Source, Target]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Source mu0, target gamma and T* with T*#mu0 = gamma; built by `mongebench.problem(name, **parameters)`.

    Parameters
    ----------
    source, target
        The two measures.
    dim
        Dimension d.
    version
        Raised whenever a change of the code changes the problem.
    truth
        T*, (n, d) -> (n, d); false where unknown, and calling it then raises. While an estimator learns or maps, it and
        `truth_inverse` raise `OracleNotDeclared`, and so does building a problem: see `mongebench.core.guard`.
    truth_inverse
        The inverse of T*, where it exists.
    truth_tier
        How T* is known.
    truth_error
        Root-mean-square error of `truth` itself in L2(mu0): the floor of every error measured against it.
    strong_convexity
        lambda >= 0 such that V - lambda/2 |y|^2 is convex; None where V is unknown or not convex.
    held_out
        Source and target to evaluate on, where they are not those to fit from (point clouds).
    split
        Whether the family serves to choose settings on or to be measured on.
    parts
        The split of point clouds for a number, this problem's own for 0; see `replicate`.
    pictures
        Of (source, target), each (height, width, d) in [0, 1], if their pixels are points of the two measures: a report
        shows the first as a map changes it.
    fingerprint
        Hash of the data a problem was read from, where its parameters do not determine it.
    name, parameters
        What `mongebench.problem` was called with, defaults included.
    """

    source: Source
    target: Target
    dim: int
    version: int
    truth: Map = Unknown("exact map of this problem")
    truth_inverse: Map = Unknown("inverse of the exact map of this problem")
    truth_tier: TruthTier = TruthTier.NONE
    truth_error: float = 0.0
    strong_convexity: float | None = None
    held_out: tuple[Source, Target] | None = None
    split: Split = Split.TEST
    parts: Callable[[int], Parts] | None = None
    pictures: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    fingerprint: str = ""
    name: str = "anonymous"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        guard.refuse(f"a problem ({self.name})")
        if bool(self.truth) != (self.truth_tier != TruthTier.NONE):
            raise InvalidInput(f"A problem with truth_tier {self.truth_tier} must come with a truth, and only then.")
        if self.strong_convexity is not None and self.target.strong_convexity is None:  # `diagnose` asks the target
            object.__setattr__(self, "target", replace(self.target, strong_convexity=self.strong_convexity))
        for name in ("truth", "truth_inverse"):
            exact = getattr(self, name)
            if exact and not isinstance(exact, _Exact):
                object.__setattr__(self, name, _Exact(exact, name, self.dim))

    def replicate(self, seed: int) -> Problem:
        """The problem that a cell of this seed is fitted and evaluated on: itself, or its clouds under another split.

        Fits of all points of a cloud would else be one fit, whatever their seed. `replicate(0)` has the same split as
        the problem itself.
        """
        if self.parts is None:
            return self
        split = self.parts(seed)
        return replace(self, source=split.source, target=split.target, held_out=split.held_out)

    def stream(self, seed: int) -> int:
        """The seed of draws, of the fit and of evaluation points where that of a cell is `seed`.

        Instances of a family share none of these: the same draws, rotated, would be one data set counted several times.
        Instance 0 keeps the cell's seed.
        """
        if not (instance := self.parameters.get(INSTANCE, 0)):
            return seed
        return int(np.random.SeedSequence((seed, zlib.crc32(repr(instance).encode()))).generate_state(1)[0])

    @property
    def evaluation(self) -> tuple[Source, Target]:
        """The measures that metrics draw from."""
        return self.held_out or (self.source, self.target)

    @functools.cached_property
    def total_variance(self) -> float:
        """Trace of Cov(gamma): exact where the target states it, else that of 10 000 draws (or of the whole cloud)."""
        if self.target.total_variance is not None:
            return self.target.total_variance
        size = 10_000 if self.target.size is None else min(10_000, self.target.size)
        return float(self.target.sample(size, seed=0).var(axis=0).sum())

    @functools.cached_property
    def digest(self) -> str:
        """Content hash: name, version, parameters, fingerprint, and a probe of samples and truth.

        The probe (eight points per side, to a millionth of their largest entry, above every platform's rounding)
        notices a ground truth that drifts although nobody raised the version.
        """
        count = min(8, *(side.size for side in self.evaluation if side.size is not None), 8)
        x, y = (side.sample(count, seed=0) for side in self.evaluation)
        probe = [x, y, self.truth(x)] if self.truth else [x, y]
        content = {
            "name": self.name,
            "version": self.version,
            "parameters": dict(self.parameters),
            "fingerprint": self.fingerprint,
            "probe": [_rounded(array) for array in probe],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def info(self, n_source: int | None, n_target: int | None) -> ProblemInfo:
        """What an estimator may know before it sees anything."""
        return ProblemInfo(
            dim=self.dim,
            n_source=n_source,
            n_target=n_target,
            offers=offers(self.source, self.target, self.truth),
            strong_convexity=self.strong_convexity,
        )

    def __repr__(self) -> str:
        parameters = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"problem({self.name!r}, {parameters})"


def _rounded(array: Points) -> list[str]:
    scale = float(np.abs(array).max()) or 1.0
    return [f"{scale:.5e}", *(f"{value:.6f}" for value in np.round(array / scale, 6).ravel() + 0.0)]  # no -0.0


class _Exact:
    """An exact map behind the array boundary (any (n, d) array in, float64 (n, d) out) and the guard."""

    def __init__(self, function: Map, name: str, dim: int) -> None:
        def ask(x: Any) -> Points:
            guard.refuse(f"{name} of a problem")
            points = as_points(x, name="x", dim=dim, min_rows=0)
            return np.asarray(function(points), dtype=np.float64)

        self._ask = ask

    def __call__(self, x: Any) -> Points:
        return self._ask(x)
