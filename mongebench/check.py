"""What every Monge-map estimator must do, as named checks on a small Gaussian pair: `mongebench check TARGET`.

Each check is a function below: its docstring says what must hold, why, and how to mend it. In a test file,

    @parametrize_with_checks([MyMap()])
    def test_the_contract(estimator, check):
        check(estimator)

Two images count as equal "up to rounding" at `ROUNDING`, as the same map at `TOLERANCE` plus twice what another seed of
the fit changes, both in root mean square and relative to the standard deviation of the target.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import io
import os
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mongebench import plugins
from mongebench.core.arrays import Points
from mongebench.core.errors import BudgetExceeded, MongebenchError, OracleNotDeclared
from mongebench.core.estimator import Claim, Map, MapEstimator, ProblemInfo, Support
from mongebench.core.measure import Source, Target
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView
from mongebench.core.problem import Problem
from mongebench.datasets.linear import constants, rotation
from mongebench.run.cell import support, views

N = 60
"""Samples a side that the checks fit on."""
ROUNDING = 1e-6
"""What single precision may change of an image."""
TOLERANCE = 1e-2
"""What an iterative solver may change that stops one step earlier or later."""
TIME_LIMIT = 10.0
"""CPU seconds that a fit may go on after it was told to stop."""
MEMORY_LIMIT = 1 << 26
"""Bytes that mapping `MANY` points may take: half of a matrix of all pairs."""
MANY = 4000


class CheckFailed(MongebenchError):
    """A check that an estimator does not pass."""


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One named check; called with an unfitted estimator, it raises `CheckFailed`, or `unittest.SkipTest`."""

    function: Callable[[Subject], None]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.function.__name__

    @property
    def what(self) -> str:
        """What must hold."""
        return self._paragraphs()[0]

    @property
    def why(self) -> str:
        """Why it must."""
        return self._paragraphs()[1].removeprefix("Why: ")

    @property
    def mend(self) -> str:
        """How to mend what does not."""
        return self._paragraphs()[2].removeprefix("Mend: ")

    def _paragraphs(self) -> list[str]:
        return [" ".join(part.split()) for part in (inspect.getdoc(self.function) or "").split("\n\n")]

    def __call__(self, estimator: MapEstimator, time_limit: float = TIME_LIMIT) -> None:
        """Run it; see the class."""
        with warnings.catch_warnings(action="ignore"):
            try:
                self.function(_subject(estimator, time_limit))
            except (CheckFailed, SkipTest):
                raise
            except Exception as error:  # somebody else's code: whatever it raises fails the check
                raise CheckFailed(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Result:
    """How one check ended, with a sentence unless it passed."""

    check: Check
    outcome: Outcome
    reason: str = ""


CHECKS: dict[str, Check] = {}
"""All checks, in the order in which they run."""


def run_checks(
    estimator: MapEstimator, names: Iterable[str] | None = None, *, time_limit: float = TIME_LIMIT
) -> list[Result]:
    """Run the checks of `names` (default: all) on an unfitted estimator, which stays unfitted.

    `time_limit` is in CPU seconds: what a fit that was told to stop may still take.
    """
    results = []
    for one in CHECKS.values() if names is None else [CHECKS[name] for name in names]:
        try:
            one(estimator, time_limit)
            results.append(Result(one, Outcome.PASSED))
        except SkipTest as reason:
            results.append(Result(one, Outcome.SKIPPED, str(reason)))
        except CheckFailed as failure:
            results.append(Result(one, Outcome.FAILED, str(failure)))
    return results


def parametrize_with_checks(estimators: Iterable[MapEstimator]) -> Any:
    """Decorator for a pytest function of `estimator` and `check`: one test for each pair of them."""
    import pytest

    pairs = [
        pytest.param(estimator, one, id=f"{type(estimator).__name__}-{one.name}")
        for estimator in estimators
        for one in CHECKS.values()
    ]
    return pytest.mark.parametrize(("estimator", "check"), pairs)


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
        """n samples on each side, or unlimited draws where it asks for a sampler alone."""
        sides = [(Oracle.SOURCE_SAMPLES, Oracle.SOURCE_SAMPLER), (Oracle.TARGET_SAMPLES, Oracle.TARGET_SAMPLER)]
        source, target = (
            None if sampler in self.needs and samples not in self.needs else n for samples, sampler in sides
        )
        return source, target

    def supported(self, dim: int, n: int = N) -> Support:
        """Its word on the Gaussian pair in this dimension."""
        return support(_gaussian(dim), self.estimator, *self.budgets(n))

    @functools.cached_property
    def problem(self) -> Problem:
        """A Gaussian pair that it supports: d = 2 if possible."""
        for dim in (2, 1, 3):
            if self.supported(dim).ok:
                return _gaussian(dim)
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
    def fitted(self) -> MapEstimator:
        """A copy fitted on the first sample."""
        return self.fit()

    @functools.cached_property
    def images(self) -> Points:
        """Its images of `query`."""
        return np.array(self.fitted.transform(self.query))

    @functools.cached_property
    def seed_noise(self) -> float:
        """How far another seed of the fit, on the same data, moves the images."""
        return _distance(self.fit(seed=1).transform(self.query), self.images)

    @functools.cached_property
    def traced(self) -> list[tuple[float | None, Points]]:
        """Flow time and images of `query` at each call of the trace."""
        seen: list[tuple[float | None, Points]] = []

        def trace(map: Map, *, flow_time: float | None = None, **_: float) -> bool:
            seen.append((flow_time, np.array(map(self.query))))
            return True

        self.traced_fit = self.fit(trace=trace)
        return seen

    def expect_rounding(self, images: Any, expected: Points, sentence: str) -> None:
        """Fail unless the images are equal up to rounding."""
        distance = _distance(images, expected) / self.spread
        _expect(distance <= ROUNDING, f"{sentence} (by {distance:.1e} of the target's standard deviation).")

    def expect_same_map(self, images: Any, expected: Points, sentence: str) -> None:
        """Fail unless the images are those of the same map."""
        distance = _distance(images, expected) / self.spread
        allowed = TOLERANCE + 2 * self.seed_noise / self.spread
        _expect(
            distance <= allowed,
            f"{sentence} (by {distance:.2g} of the target's standard deviation; {allowed:.2g} is allowed).",
        )

    def expect_claim(self, claim: Claim) -> None:
        """Skip unless it makes the claim."""
        if claim not in self.estimator.claims:
            raise SkipTest(f"it does not claim Claim.{claim.name}")


@functools.lru_cache(maxsize=4)
def _subject(estimator: MapEstimator, time_limit: float) -> Subject:
    return Subject(estimator, time_limit)


@functools.cache
def _gaussian(dim: int) -> Problem:
    return plugins.problem("gaussian", dim=dim)


def _expect(condition: Any, sentence: str) -> None:
    if not condition:
        raise CheckFailed(sentence)


def _distance(images: Any, expected: Points) -> float:
    return float(np.sqrt(np.mean(np.sum((np.asarray(images) - expected) ** 2, axis=1))))


def check(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Register a check under its name."""
    CHECKS[function.__name__] = Check(function)
    return function


@check
def declares_its_oracles(subject: Subject) -> None:
    """It derives from `MapEstimator`, and `needs` is a frozenset of `Oracle`.

    Why: the tables are grouped by what estimators may see.

    Mend: write `needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})` in the class.
    """
    _expect(isinstance(subject.estimator, MapEstimator), f"{type(subject.estimator).__name__} is no MapEstimator.")
    needs = subject.needs
    _expect(
        isinstance(needs, frozenset) and all(isinstance(oracle, Oracle) for oracle in needs),
        f"needs is {needs!r}, expected a frozenset of Oracle.",
    )


@check
def says_what_it_is(subject: Subject) -> None:
    """Its class has a docstring whose first line is at most 120 characters long.

    Why: `mongebench list` and `show` print it.

    Mend: begin the class with one sentence on what the map is.
    """
    first = (type(subject.estimator).__doc__ or "").strip().partition("\n")[0]
    _expect(0 < len(first) <= 120, f"The docstring's first line has {len(first)} characters.")


@check
def keeps_its_parameters(subject: Subject) -> None:
    """Every parameter has a default, `__init__` stores them unchanged and does nothing else, `clone` copies them.

    Why: grids, records and repetitions build estimators from their parameters alone.

    Mend: in `__init__`, write `self.name = name` for each keyword and nothing more; validate and compute in `fit`.
    """
    estimator = type(subject.estimator)()
    learnt = [name for name in vars(estimator) if name.endswith("_")]
    _expect(not learnt, f"__init__ sets {', '.join(learnt)}, and names ending in _ are for what fit learns.")
    given = subject.estimator.get_params()
    copied = clone(subject.estimator).get_params()
    _expect(repr(copied) == repr(given), f"clone turned the parameters {given!r} into {copied!r}.")
    _expect(estimator.set_params(**given) is estimator, "set_params does not return self.")


@check
def refuses_before_fit(subject: Subject) -> None:
    """`transform` before `fit` raises `NotFittedError`.

    Why: a map that was never learnt must not be scored.

    Mend: derive from `MapEstimator` and keep its guard around `transform`.
    """
    try:
        clone(subject.estimator).transform(subject.query)
    except NotFittedError:
        return
    raise CheckFailed("transform gave images before fit.")


@check
def fit_returns_itself(subject: Subject) -> None:
    """`fit` returns the estimator that was fitted.

    Why: `estimator.fit(x, y).transform(x)` is how it is used, and the runner measures the object that it fitted.

    Mend: end `fit` with `return self`.
    """
    source, target, _ = subject.views()
    estimator = clone(subject.estimator)
    _expect(estimator.fit(source, target) is estimator, "fit returned something else than self.")


@check
def keeps_shapes(subject: Subject) -> None:
    """Images have the shape of their points, (n, d) -> (n, d), for n = 0, n = 1 and many.

    Why: metrics, traces and figures map whatever number of points they need.

    Mend: compute row by row without squeezing axes, and let an empty array pass.
    """
    for n in (0, 1, len(subject.query)):
        shape = np.shape(subject.fitted.transform(subject.query[:n]))
        _expect(shape == (n, subject.problem.dim), f"{n} points gave images of shape {shape}.")


@check
def keeps_float_types(subject: Subject) -> None:
    """Images have the floating type of the points: float32 gives float32, whole numbers and lists give float64.

    Why: the caller's arrays decide the precision of what follows.

    Mend: keep the guard of `MapEstimator` around `transform`, which gives back the kind of array that came in.
    """
    whole = np.ones((3, subject.problem.dim), dtype=np.int64)
    single = subject.fitted.transform(subject.query.astype(np.float32))
    for images, wanted in (
        (single, np.float32),
        (subject.fitted.transform(whole), np.float64),
        (subject.fitted.transform(subject.query.tolist()), np.float64),
    ):
        _expect(getattr(images, "dtype", None) == wanted, f"Images have dtype {getattr(images, 'dtype', None)}.")
    subject.expect_same_map(single, subject.images, "In single precision the images are others")


@check
def keeps_torch_and_jax_arrays(subject: Subject) -> None:
    """A torch tensor or a JAX array gives one back, of the same type and on the same device.

    Why: users of these libraries should not convert by hand, nor find their data moved off the GPU.

    Mend: keep the guard of `MapEstimator` around `transform`, which gives back the kind of array that came in.
    """
    given: list[Any] = []
    if importlib.util.find_spec("torch"):
        import torch

        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        given += [torch.tensor(subject.query, dtype=torch.float32, device=device) for device in devices]
    if importlib.util.find_spec("jax"):
        import jax

        given += [jax.device_put(subject.query.astype(np.float32), device) for device in jax.devices()]
    if not given:
        raise SkipTest("neither torch nor jax is installed")
    for points in given:
        images = subject.fitted.transform(points)
        _expect(isinstance(images, type(points)), f"A {type(points).__name__} gave a {type(images).__name__}.")
        before, after = ((array.dtype, array.device) for array in (points, images))
        _expect(after == before, f"Points of {before} gave images of {after}.")


@check
def maps_new_points(subject: Subject) -> None:
    """Points that were not in the sample, also far outside it, have finite images.

    Why: a map is more than a matching of two samples, and it is scored on fresh points.

    Mend: extend the map to all points, by a formula, an interpolation with tails, or the nearest sample.
    """
    far = subject.query.mean(axis=0) + 6 * (subject.query - subject.query.mean(axis=0))
    for points, where in ((subject.query, "of the source"), (far, "at six times the spread of the source")):
        lost = int((~np.isfinite(subject.fitted.transform(points)).all(axis=1)).sum())
        _expect(not lost, f"{lost} of {len(points)} new points {where} have images that are NaN or infinite.")


@check
def gives_a_point_one_image(subject: Subject) -> None:
    """The image of a point does not depend on the other points it is asked with.

    Why: otherwise `transform` is no map, and its error depends on the size of the batch.

    Mend: use statistics of the sample, stored by `fit`, in place of statistics of the query.
    """
    subject.expect_rounding(
        subject.fitted.transform(subject.query[11:13]), subject.images[11:13], "Two points alone have other images"
    )


@check
def repeats_itself(subject: Subject) -> None:
    """Equal data and equal seeds give equal maps.

    Why: a record must be reproducible from what it says.

    Mend: draw every random number from `numpy.random.default_rng(seed)` or the like, made in `fit` from its seed.
    """
    subject.expect_rounding(
        subject.fit().transform(subject.query), subject.images, "A second fit with the same seed gave another map"
    )


@check
def forgets_at_refit(subject: Subject) -> None:
    """A second `fit` gives the map that a fresh estimator would learn.

    Why: a warm start hides work from the clock and ties results to their order.

    Mend: set every learnt attribute anew in `fit`; warm starts belong into a parameter.
    """
    other = _moved(subject.problem, np.eye(subject.problem.dim), np.full(subject.problem.dim, 3.0))
    estimator = clone(subject.estimator)
    for problem in (other, subject.problem):
        source, target, _ = subject.views(problem)
        estimator = estimator.fit(source, target, seed=0)
    subject.expect_rounding(estimator.transform(subject.query), subject.images, "After another fit the map is another")


@check
def leaves_its_input_alone(subject: Subject) -> None:
    """Neither `fit` nor `transform` changes the arrays it is given.

    Why: the same arrays go to the next estimator.

    Mend: write `x = x - mean` in place of `x -= mean`, or copy first.
    """
    source, target, _ = subject.views()
    held = []
    if Oracle.SOURCE_SAMPLES in subject.needs:
        held.append(("the source samples", source.samples))
    if Oracle.TARGET_SAMPLES in subject.needs:
        held.append(("the target samples", target.samples))
    query = subject.query.copy()
    held.append(("the points to map", query))
    copies = [array.copy() for _, array in held]
    clone(subject.estimator).fit(source, target).transform(query)
    for (name, array), copy in zip(held, copies, strict=True):
        _expect(np.array_equal(array, copy), f"It changed {name}.")


@check
def ignores_the_order_of_samples(subject: Subject) -> None:
    """The same samples in another order give the same map.

    Why: a sample is a set; a map that depends on its order knows something that is not there.

    Mend: look for the first rows being special, or for pairs (x_i, y_i) being taken as matched.
    """
    if not subject.needs & {Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES}:
        raise SkipTest("it learns from no fixed sample")
    permuted = subject.fit(_permuted(subject.problem))
    subject.expect_same_map(
        permuted.transform(subject.query), subject.images, "With its samples in another order the map is another"
    )


@check
def answers_supports_honestly(subject: Subject) -> None:
    """`supports` answers every question with a `Support`, a refusal with a sentence, and what it accepts can be fitted.

    Why: a refusal is a result that tables show; an exception or a silent one is a hole in them.

    Mend: return `Support(False, "why")` for what cannot be served, and nothing for what can.
    """
    for dim in (1, 2, 1000):
        for n in (1, N, 1_000_000, None):
            for offered in (subject.needs, frozenset(Oracle)):
                info = ProblemInfo(dim=dim, n_source=n, n_target=n, offers=offered, strong_convexity=None)
                answer = subject.estimator.supports(info)
                _expect(isinstance(answer, Support), f"supports returned {answer!r} for {info}.")
                _expect(answer.ok or answer.reason, f"supports refused without a reason for {info}.")
    answers = {dim: subject.supported(dim) for dim in (1, 2, 3)}
    _expect(
        any(answer.ok for answer in answers.values()),
        f"It supports no Gaussian pair in d = 1, 2, 3 with n = {N}, so nothing can be checked: {answers[2].reason}.",
    )
    if answers[3].ok:
        subject.fit(_gaussian(3))


@check
def asks_what_it_declares(subject: Subject) -> None:
    """Every oracle of `needs` is asked, in `fit` or in `transform`, and no other.

    Why: an oracle that is declared and not used puts the estimator among rivals that know more.

    Mend: take it out of `needs`, or charge what compiled code evaluates: `view.meter.charge(oracle, points)`.
    """
    source, target, meter = subject.views()
    try:
        clone(subject.estimator).fit(source, target).transform(subject.query)
    except OracleNotDeclared as error:
        raise CheckFailed(str(error)) from None
    unused = [str(oracle) for oracle in Oracle if oracle in subject.needs and not meter.counts[oracle]]
    _expect(not unused, f"It declares {', '.join(unused)} and never asks.")


@check
def asks_under_the_meter(subject: Subject) -> None:
    """What the problem was asked is what the meter shows.

    Why: oracle counts are an axis of the figures; knowledge beside them is a hidden advantage.

    Mend: ask the views (`source.samples`, `target.potential(y)`) and never the measures behind them.
    """
    answered: Counter[Oracle] = Counter()
    source, target, meter = subject.views(_watched(subject.problem, answered))
    clone(subject.estimator).fit(source, target).transform(subject.query)
    for view in (source, target):
        samples, sampler = view.samples_oracle, view.sampler_oracle
        shown = meter.counts[samples] + meter.counts[sampler]
        allowed = shown if view.budget is None else max(shown, view.budget)  # a budget is drawn as a whole
        _expect(
            answered[sampler] <= allowed,
            f"{answered[sampler]} points were drawn for {sampler}, {allowed} are accounted.",
        )
    hidden = [str(oracle) for oracle in answered if not oracle.endswith("sampler") and not meter.counts[oracle]]
    _expect(not hidden, f"{', '.join(hidden)} answered and the meter shows nothing.")


@check
def keeps_within_the_budget(subject: Subject) -> None:
    """With n draws allowed on each side it fits, or `supports` refuses that budget.

    Why: estimators are compared at equal budgets, and a fit that asks for more is an error in the table.

    Mend: draw with `view.batch(n)`, which reuses a finite budget, or read `view.budget`, or refuse in `supports`.
    """
    if not subject.needs & {Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER}:
        raise SkipTest("it asks for no sampler")
    refusal = support(subject.problem, subject.estimator, N, N)
    if not refusal.ok:
        raise SkipTest(f"it refuses finite budgets: {refusal.reason}")
    source, target, _ = subject.views(budgets=(N, N))
    try:
        clone(subject.estimator).fit(source, target)
    except BudgetExceeded as error:
        raise CheckFailed(f"With {N} draws a side: {error}") from None


@check
def traces_maps(subject: Subject) -> None:
    """What it hands to the trace are maps with finite images of the right shape, at flow times that do not decrease.

    Why: the trace is the curve of error against flow time, iterations and seconds.

    Mend: hand over a function of points, such as `self.transform` of a copy, and the sum of the steps as `flow_time`.
    """
    if not subject.traced:
        raise SkipTest("it calls no trace")
    for _, images in subject.traced:
        _expect(images.shape == subject.query.shape, f"A traced map returned shape {images.shape}.")
        _expect(np.isfinite(images).all(), "A traced map returned NaN or infinite images.")
    times = [flow_time for flow_time, _ in subject.traced if flow_time is not None]
    _expect((np.diff(times) >= 0).all(), f"Flow times go back: {times}.")


@check
def learns_the_same_when_watched(subject: Subject) -> None:
    """A fit with a trace gives the map of a fit without.

    Why: otherwise the measured estimator is not the one users get.

    Mend: let the trace only look; in particular draw no random numbers for it.
    """
    if not subject.traced:
        raise SkipTest("it calls no trace")
    subject.expect_rounding(
        subject.traced_fit.transform(subject.query), subject.images, "With a trace the map is another"
    )


@check
def stops_when_told(subject: Subject) -> None:
    """Once the trace has returned False, `fit` ends without calling it again, and leaves a map.

    Why: False means that the time of the cell is spent; what has been learnt until then is scored.

    Mend: write `if not trace(map, ...): break` and set the learnt attributes before.
    """
    if not subject.traced:
        raise SkipTest("it calls no trace")
    calls = []
    stopped = subject.fit(trace=lambda *_, **__: bool(calls.append(1)))
    _expect(len(calls) == 1, f"The trace was called {len(calls)} times, and returned False the first time.")
    _expect(np.isfinite(stopped.transform(subject.query)).all(), "The map of a stopped fit has NaN or infinite images.")


@check
def ends_in_time(subject: Subject) -> None:
    """A fit on a few points that is told to stop at its first trace ends within the time limit, in CPU seconds.

    Why: a cell that cannot be stopped is killed, and its record says `timeout` in place of an error.

    Mend: call `trace` at each outer step, and make the steps short.
    """
    began = time.process_time()
    subject.fit(trace=lambda *_, **__: False)
    spent = time.process_time() - began
    _expect(
        spent <= subject.time_limit, f"It took {spent:.3g} CPU seconds of {subject.time_limit:g}, though told to stop."
    )


@check
def leaves_global_randomness_alone(subject: Subject) -> None:
    """The global random states of NumPy, Python and torch stay as they are.

    Why: one estimator must not change the draws of another, nor those of its user.

    Mend: use generators of your own, made from `seed`; with torch, `torch.Generator().manual_seed(seed)`.
    """
    before = _random_states()
    subject.fit(seed=5).transform(subject.query)
    changed = [name for name, state in _random_states().items() if before.get(name, state) != state]
    _expect(not changed, f"It changed the global random state of {', '.join(changed)}.")


@check
def says_nothing(subject: Subject) -> None:
    """Nothing is printed to standard output.

    Why: a thousand cells print a thousand times, and output is no place for results.

    Mend: remove the print, use `logging` or `warnings`, or set the solver's verbose option to false.
    """
    with _standard_output() as said:
        subject.fit().transform(subject.query)
    _expect(not said, f"It printed {''.join(said)[:80]!r}.")


@check
def survives_one_point(subject: Subject) -> None:
    """One point a side gives a finite map, or one of mongebench's errors.

    Why: n = 1 is where divisions by a variance of zero show.

    Mend: treat variance zero, or raise `InvalidInput` with the number of points that you need.
    """
    if not subject.supported(subject.problem.dim, 1).ok:
        raise SkipTest(f"it refuses n = 1: {subject.supported(subject.problem.dim, 1).reason}")
    try:
        images = subject.fit(n=1).transform(subject.query)
    except MongebenchError:
        return
    _expect(np.isfinite(images).all(), "Fitted on one point, it returns NaN or infinite images.")


@check
def works_in_one_dimension(subject: Subject) -> None:
    """In d = 1 it gives images of shape (n, 1), unless `supports` refuses.

    Why: d = 1 is where the truth is simplest and where axes of length one get lost.

    Mend: keep points as (n, 1), or refuse d = 1 in `supports`.
    """
    refusal = subject.supported(1)
    if not refusal.ok:
        raise SkipTest(f"it refuses d = 1: {refusal.reason}")
    line = _gaussian(1)
    images = subject.fit(line).transform(line.source.sample(40, seed=99))
    _expect(
        np.shape(images) == (40, 1) and np.isfinite(images).all(), f"In d = 1 images have shape {np.shape(images)}."
    )


@check
def maps_many_points_in_little_memory(subject: Subject) -> None:
    """Mapping 4000 points after a fit on 60 allocates at most 64 MiB in Python and NumPy.

    Why: maps are scored on ten thousand points and used on more; memory may grow like n, never like n^2.

    Mend: compare points with the sample in blocks, and never with each other; see `mongebench.core.arrays.row_blocks`.
    """
    many = subject.problem.source.sample(MANY, seed=98)
    subject.images  # noqa: B018  fitted, and first calls made, before memory is watched
    tracemalloc.start()
    try:
        subject.fitted.transform(many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    _expect(peak <= MEMORY_LIMIT, f"It allocated {peak / 2**20:.0f} MiB for {MANY} points.")


@check
def refuses_nan(subject: Subject) -> None:
    """NaN in the samples or in the points to map raises `InvalidInput`.

    Why: a NaN that passes becomes a number somewhere, or a map that is NaN everywhere.

    Mend: keep the guards of `MapEstimator` around `fit` and `transform`.
    """
    bad = subject.query.copy()
    bad[3, 0] = np.nan
    learns_from = {
        "source": bool(subject.needs & {Oracle.SOURCE_SAMPLES, Oracle.SOURCE_SAMPLER}),
        "target": bool(subject.needs & {Oracle.TARGET_SAMPLES, Oracle.TARGET_SAMPLER}),
    }
    measures = {"source": subject.problem.source, "target": subject.problem.target}
    sound = {name: measures[name].sample(N) if learns_from[name] else measures[name] for name in measures}
    for name in [name for name in measures if learns_from[name]]:
        sides = sound | {name: bad}
        _expect_refused(lambda sides=sides: clone(subject.estimator).fit(*sides.values()), f"the {name}")
    _expect_refused(lambda: subject.fitted.transform(bad), "the points to map")


def _expect_refused(call: Callable[[], Any], where: str) -> None:
    try:
        call()
    except ValueError:
        return
    raise CheckFailed(f"NaN in {where} raised nothing.")


@check
def moves_with_the_measures(subject: Subject) -> None:
    """Where claimed: if both measures move by one vector, so does the map, T'(x + c) = T(x) + c.

    Why: it is true of the Monge map, and estimators that have it need no centring.

    Mend: centre the samples in `fit`, or drop `Claim.TRANSLATION_EQUIVARIANT`.
    """
    subject.expect_claim(Claim.TRANSLATION_EQUIVARIANT)
    shift = np.full(subject.problem.dim, 8.0)
    moved = subject.fit(_moved(subject.problem, np.eye(subject.problem.dim), shift))
    subject.expect_same_map(
        moved.transform(subject.query + shift) - shift, subject.images, "The moved problem has not the moved map"
    )


@check
def turns_with_the_measures(subject: Subject) -> None:
    """Where claimed: if both measures are turned by one orthogonal matrix, so is the map, T'(Q x) = Q T(x).

    Why: it is true of the Monge map for the squared distance.

    Mend: do nothing coordinate by coordinate, or drop `Claim.ROTATION_EQUIVARIANT`.
    """
    subject.expect_claim(Claim.ROTATION_EQUIVARIANT)
    dim = subject.problem.dim
    turn = -rotation(dim, np.random.default_rng(1)) if dim > 1 else -np.eye(1)
    turned = subject.fit(_moved(subject.problem, turn, np.zeros(dim)))
    subject.expect_same_map(
        turned.transform(subject.query @ turn.T) @ turn, subject.images, "The turned problem has not the turned map"
    )


@check
def is_the_gradient_of_a_convex_function(subject: Subject) -> None:
    """Where claimed: T is cyclically monotone, so no reassignment of 200 images to their points costs less.

    Why: by Rockafellar's theorem (Convex Analysis, theorem 24.8) this is what gradients of convex functions are.

    Mend: take the gradient of one convex potential, or drop `Claim.GRADIENT_OF_CONVEX`.
    """
    subject.expect_claim(Claim.GRADIENT_OF_CONVEX)
    from scipy.optimize import linear_sum_assignment

    points = subject.problem.source.sample(200, seed=97)
    images = np.asarray(subject.fitted.transform(points))
    products = (points - points.mean(axis=0)) @ (images - images.mean(axis=0)).T
    rows, columns = linear_sum_assignment(-products)
    gain = float((products[rows, columns].sum() - np.trace(products)) / np.abs(np.diagonal(products)).sum())
    _expect(gain <= ROUNDING, f"Reassigning its images raises sum <x, T(x)> by {gain:.1e} of its absolute terms.")


@check
def is_the_gradient_of_its_potential(subject: Subject) -> None:
    """Where there is a method `potential`, (n, d) -> (n,), its gradient is the map, by central differences.

    Why: potentials are drawn and compared like maps.

    Mend: return phi with T = grad phi: |x|^2 / 2 for the identity, |x|^2 / 2 - f for a dual potential f.
    """
    potential = getattr(subject.fitted, "potential", None)
    if potential is None:
        raise SkipTest("it has no potential")
    step = 1e-4
    slopes = [
        (potential(subject.query + shift) - potential(subject.query - shift)) / (2 * step)
        for shift in step * np.eye(subject.problem.dim)
    ]
    distance = _distance(np.stack(slopes, axis=1), subject.images) / subject.spread
    _expect(distance <= TOLERANCE, f"grad potential is {distance:.2g} target standard deviations off the map.")


@check
def fits_seeds_together_as_alone(subject: Subject) -> None:
    """Where there is `fit_together`, copies with seeds 0 and 1 learn what each learns alone.

    Why: fitting together is a matter of speed, never of results.

    Mend: give each copy its own views, seed and trace, or leave `fit_together` at None.
    """
    together = subject.estimator.fit_together
    if together is None:
        raise SkipTest("it has no fit_together")
    seeds = (0, 1)
    team = [clone(subject.estimator) for _ in seeds]
    sources, targets, _ = zip(*(subject.views() for _ in seeds), strict=True)
    traces = [lambda *_, **__: True for _ in seeds]
    errors = together(team, sources, targets, seeds=seeds, traces=traces)
    _expect(not any(errors), f"fit_together reports {errors!r}.")
    for seed, member in zip(seeds, team, strict=True):
        alone = np.asarray(subject.fit(seed=seed).transform(subject.query))
        subject.expect_rounding(member.transform(subject.query), alone, f"Together, seed {seed} gave another map")


@check
def beats_the_identity(subject: Subject) -> None:
    """Between two Gaussians, from 500 samples a side, its squared error is below that of doing nothing.

    Why: an estimator that loses there is not learning, or learns the wrong direction.

    Mend: check that source and target are not exchanged, and that the defaults suit 500 points.
    """
    if not subject.needs:
        raise SkipTest("it asks for nothing, so it can learn nothing")
    points = subject.problem.source.sample(2000, seed=96)
    exact = subject.problem.truth(points)
    error = _distance(subject.fit(n=500).transform(points), exact)
    nothing = _distance(points, exact)
    _expect(error < nothing, f"Its root mean squared error is {error:.3g}, that of the identity {nothing:.3g}.")


def _moved(problem: Problem, turn: Points, shift: Points) -> Problem:
    """The problem in the coordinates Q x + c."""

    def back(x: Any) -> Any:
        _, matrix, vector = constants(x, turn, shift)
        return (x - vector) @ matrix

    def forth(x: Any) -> Any:
        _, matrix, vector = constants(x, turn, shift)
        return x @ matrix.T + vector

    def turned(x: Any) -> Any:
        return x @ constants(x, turn)[1].T

    source, target = problem.source, problem.target
    return replace(
        problem,
        source=Source(
            dim=problem.dim,
            sampler=lambda n, rng: forth(source.sampler(n, rng)),
            log_density=lambda x: source.log_density(back(x)),
            score=lambda x: turned(source.score(back(x))),
        ),
        target=replace(
            target,
            sampler=lambda n, rng: forth(target.sampler(n, rng)),
            potential=lambda y: target.potential(back(y)),
            gradient=lambda y: turned(target.gradient(back(y))),
        ),
        truth=lambda x: forth(problem.truth(back(x))),
    )


def _permuted(problem: Problem) -> Problem:
    """The problem with the same draws in another order."""

    def permuted(sampler: Callable[..., Any]) -> Callable[..., Any]:
        return lambda n, rng: np.random.default_rng(n).permutation(sampler(n, rng))

    return replace(
        problem,
        source=replace(problem.source, sampler=permuted(problem.source.sampler)),
        target=replace(problem.target, sampler=permuted(problem.target.sampler)),
    )


def _watched(problem: Problem, answered: Counter[Oracle]) -> Problem:
    """The problem, counting in `answered` how many points its functions were asked about."""

    def watch(oracle: Oracle, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, *generator: Any) -> Any:
            answered[oracle] += x if generator else x.shape[0]
            return function(x, *generator)

        return call

    def watched(measure: Any, functions: dict[str, Oracle]) -> Any:
        return replace(measure, **{name: watch(oracle, getattr(measure, name)) for name, oracle in functions.items()})

    of_source = {"sampler": Oracle.SOURCE_SAMPLER, "log_density": Oracle.SOURCE_DENSITY, "score": Oracle.SOURCE_SCORE}
    of_target: dict[str, Oracle] = {
        "sampler": Oracle.TARGET_SAMPLER,
        "potential": Oracle.TARGET_POTENTIAL,
        "gradient": Oracle.TARGET_GRADIENT,
    }
    return replace(
        problem,
        source=watched(problem.source, of_source),
        target=watched(problem.target, of_target),
        truth=watch(Oracle.EXACT_MAP, problem.truth),
    )


def _random_states() -> dict[str, str]:
    _, key, position, *_ = np.random.get_state(legacy=True)  # noqa: NPY002
    states = {"NumPy": f"{key.tolist()} {position}", "Python": repr(random.getstate())}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = repr(torch.get_rng_state().tolist())
    return states


@contextmanager
def _standard_output() -> Iterator[list[str]]:
    """What is written to standard output inside, by Python or below it; complete after the block."""
    said: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as below, redirect_stdout(io.StringIO()) as python:
        os.dup2(below.fileno(), 1)
        try:
            yield said
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            below.seek(0)
            said += [text for text in (python.getvalue(), below.read().decode(errors="replace")) if text]
