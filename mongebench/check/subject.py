"""An estimator under check: the small problems it is tried on, its fits, and what may differ between two maps.

Two images count as equal up to rounding at `ROUNDING`, and as those of the same map at `TOLERANCE` plus twice what
another seed of the fit changes; both in root mean square, relative to the standard deviation of the target.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from mongebench import plugins
from mongebench.core.arrays import Points
from mongebench.core.errors import MongebenchError
from mongebench.core.estimator import Claim, Map, MapEstimator, Support
from mongebench.core.measure import Source
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView
from mongebench.core.problem import Problem
from mongebench.core.session import support, views
from mongebench.datasets.linear import constants

N = 60
"""Samples a side that the checks fit on."""
ROUNDING = 1e-6
"""What single precision may change of an image."""
TOLERANCE = 1e-2
"""What an iterative solver may change that stops one step earlier or later."""


class CheckFailed(MongebenchError):
    """A check that an estimator does not pass."""


@dataclass(eq=False)
class Subject:
    """An estimator under check, with fits that several checks look at."""

    estimator: MapEstimator
    time_limit: float

    @property
    def needs(self) -> frozenset[Oracle]:
        """What it declares."""
        return self.estimator.needs

    def budgets(self, n: int) -> tuple[int | None, int | None]:
        """n samples on each side, or unlimited draws where it asks for a sampler alone.

        Of samplers on both sides n samples too: a finite budget is what fits to data have.
        """
        sides = [(Oracle.SOURCE_SAMPLES, Oracle.SOURCE_SAMPLER), (Oracle.TARGET_SAMPLES, Oracle.TARGET_SAMPLER)]
        if {Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER} <= self.needs:
            return n, n
        source, target = (
            None if sampler in self.needs and samples not in self.needs else n for samples, sampler in sides
        )
        return source, target

    def supported(self, dim: int, n: int = N) -> Support:
        """Its word on the Gaussian pair in this dimension."""
        return support(gaussian(dim), self.estimator, *self.budgets(n))

    @functools.cached_property
    def problem(self) -> Problem:
        """A Gaussian pair that it supports: d = 2 if possible."""
        for dim in (2, 1, 3):
            if self.supported(dim).ok:
                return gaussian(dim)
        raise SkipTest("it supports no Gaussian pair in dimension 1, 2 or 3")

    @functools.cached_property
    def query(self) -> Points:
        """(40, d) points of the source that no fit has seen."""
        return self.problem.source.sample(40, seed=99)

    @property
    def spread(self) -> float:
        """Standard deviation of the target, root of the trace of its covariance."""
        return float(np.sqrt(self.problem.total_variance))

    def views(
        self, problem: Problem | None = None, budgets: tuple[int | None, int | None] | None = None, seed: int = 0
    ) -> tuple[SourceView, TargetView, Meter]:
        """What a fit sees, with fresh counts."""
        return views(problem or self.problem, self.estimator, *(budgets or self.budgets(N)), seed)

    def fit(self, problem: Problem | None = None, n: int = N, *, seed: int = 0, trace: Any = None) -> MapEstimator:
        """A fitted copy; `seed` is that of the fit, the data stay."""
        source, target, _ = self.views(problem, self.budgets(n))
        fitted: MapEstimator = clone(self.estimator).fit(source, target, seed=seed, trace=trace)
        return fitted

    @functools.cached_property
    def twins(self) -> tuple[MapEstimator, MapEstimator]:
        """Two copies fitted one after the other on the same sample with the same seed."""
        return self.fit(), self.fit()

    @property
    def fitted(self) -> MapEstimator:
        """The first of them: what most checks look at."""
        return self.twins[0]

    @functools.cached_property
    def images(self) -> Points:
        """Its images of `query`."""
        return np.array(self.fitted.transform(self.query))

    @functools.cached_property
    def repeat_noise(self) -> float:
        """How far the twins are apart: zero, or what `repeats_itself` complains of and other checks must allow for."""
        return rms_distance(self.twins[1].transform(self.query), self.images)

    @functools.cached_property
    def seed_noise(self) -> float:
        """How far another seed of the fit, on the same data, moves the images."""
        return rms_distance(self.fit(seed=1).transform(self.query), self.images)

    @functools.cached_property
    def watched(self) -> tuple[MapEstimator, list[tuple[float | None, Points]]]:
        """A copy fitted under a trace, and at each call of it the flow time and the images of `query`."""
        seen: list[tuple[float | None, Points]] = []

        def trace(map: Map, *, flow_time: float | None = None, **_: float) -> bool:
            seen.append((flow_time, np.array(map(self.query))))
            return True

        return self.fit(trace=trace), seen

    def expect_trace(self) -> None:
        """Skip unless it calls the trace."""
        if not self.watched[1]:
            raise SkipTest("it calls no trace")

    def expect_rounding(self, images: Any, expected: Points, sentence: str, noise: float = 0.0) -> None:
        """Fail unless the images are equal up to rounding, and up to three times `noise`."""
        gap = rms_distance(images, expected) / self.spread
        expect(
            gap <= ROUNDING + 3 * noise / self.spread, f"{sentence} (by {gap:.1e} of the target's standard deviation)."
        )

    def expect_same_map(self, images: Any, expected: Points, sentence: str) -> None:
        """Fail unless the images are those of the same map."""
        gap = rms_distance(images, expected) / self.spread
        allowed = TOLERANCE + 2 * self.seed_noise / self.spread
        expect(
            gap <= allowed,
            f"{sentence} (by {gap:.2g} of the target's standard deviation; {allowed:.2g} is allowed).",
        )

    def expect_claim(self, claim: Claim) -> None:
        """Skip unless it makes the claim."""
        if claim not in self.estimator.claims:
            raise SkipTest(f"it does not claim Claim.{claim.name}")


@functools.cache
def gaussian(dim: int) -> Problem:
    """The Gaussian pair in this dimension."""
    return plugins.problem("gaussian", dim=dim)


def expect(condition: Any, sentence: str) -> None:
    """Fail with this sentence unless the condition holds."""
    if not condition:
        raise CheckFailed(sentence)


def rms_distance(images: Any, expected: Points) -> float:
    """Root mean squared distance between two clouds, point by point."""
    return float(np.sqrt(np.mean(np.sum((np.asarray(images) - expected) ** 2, axis=1))))


def moved(problem: Problem, turn: Points, shift: Points, unit: float = 1.0) -> Problem:
    """The problem in the coordinates s Q x + c, s being `unit`."""

    def back(x: Any) -> Any:
        _, matrix, vector = constants(x, turn, shift)
        return (x - vector) @ matrix / unit

    def forth(x: Any) -> Any:
        _, matrix, vector = constants(x, turn, shift)
        return unit * x @ matrix.T + vector

    def turned(x: Any) -> Any:
        return x @ constants(x, turn)[1].T / unit

    source, target = problem.source, problem.target
    return replace(
        problem,
        source=Source(
            dim=problem.dim,
            sampler=lambda n, rng: forth(source.sampler(n, rng)),
            log_density=lambda x: source.log_density(back(x)) - problem.dim * float(np.log(unit)),
            score=lambda x: turned(source.score(back(x))),
        ),
        target=replace(
            target,
            total_variance=unit**2 * problem.total_variance,
            sampler=lambda n, rng: forth(target.sampler(n, rng)),
            potential=lambda y: target.potential(back(y)),
            gradient=lambda y: turned(target.gradient(back(y))),
        ),
        truth=lambda x: forth(problem.truth(back(x))),
    )


def permuted(problem: Problem) -> Problem:
    """The problem with the same draws in another order, in which no point keeps its place or its partner."""

    def rolled(n: int, rng: np.random.Generator) -> Any:
        return np.roll(problem.target.sampler(n, rng), n // 2, axis=0)

    return replace(
        problem,
        source=replace(problem.source, sampler=lambda n, rng: problem.source.sampler(n, rng)[::-1]),
        target=replace(problem.target, sampler=rolled),
    )


def watched(problem: Problem, answered: Counter[Oracle]) -> Problem:
    """The problem, counting in `answered` how many points its functions were asked about."""

    def watch(oracle: Oracle, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, *generator: Any) -> Any:
            answered[oracle] += x if generator else x.shape[0]
            return function(x, *generator)

        return call

    def watch_all(measure: Any, functions: dict[str, Oracle]) -> Any:
        return replace(measure, **{name: watch(oracle, getattr(measure, name)) for name, oracle in functions.items()})

    of_source = {"sampler": Oracle.SOURCE_SAMPLER, "log_density": Oracle.SOURCE_DENSITY, "score": Oracle.SOURCE_SCORE}
    of_target: dict[str, Oracle] = {
        "sampler": Oracle.TARGET_SAMPLER,
        "potential": Oracle.TARGET_POTENTIAL,
        "gradient": Oracle.TARGET_GRADIENT,
    }
    return replace(
        problem,
        source=watch_all(problem.source, of_source),
        target=watch_all(problem.target, of_target),
        truth=watch(Oracle.EXACT_MAP, problem.truth),
    )
