"""A plugin to tune: a problem of the tuning split, and an estimator whose best parameter is known."""

from dataclasses import replace
from typing import ClassVar

from mongebench import MapEstimator, Oracle, Problem
from mongebench.core.estimator import Range
from mongebench.core.problem import Split
from mongebench.datasets.gaussian import gaussian


def practice(dim: int = 1, seed: int = 0) -> Problem:
    """A Gaussian pair to tune on."""
    return replace(gaussian(dim=dim, seed=seed), split=Split.TUNE)


class Stretched(MapEstimator):
    """The map between sample means and deviations, stretched."""

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    tunable: ClassVar = {"stretch": Range(0.5, 2.0), "broken": [False, True]}

    def __init__(self, stretch: float = 2.0, broken: bool = False) -> None:
        self.stretch = stretch
        self.broken = broken

    def fit(self, source, target, *, seed=0, trace=None):
        if self.broken:
            raise ValueError("broken on purpose")
        x, y = source.samples, target.samples
        self.scale_ = self.stretch * y.std(axis=0) / x.std(axis=0)
        self.source_, self.target_ = x.mean(axis=0), y.mean(axis=0)
        return self

    def transform(self, X):
        return self.target_ + self.scale_ * (X - self.source_)
