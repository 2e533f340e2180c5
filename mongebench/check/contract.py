"""The checks, in the order in which they run: a function each, whose docstring says what, why, and how to mend."""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mongebench.check.base import check
from mongebench.check.subject import (
    ROUNDING,
    TOLERANCE,
    CheckFailed,
    N,
    Subject,
    expect,
    gaussian,
    moved,
    permuted,
    rms_distance,
    watched,
)
from mongebench.core.errors import BudgetExceeded, MongebenchError, NotSavable, OracleNotDeclared
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, keep_going
from mongebench.core.oracle import Oracle
from mongebench.datasets.linear import rotation
from mongebench.run.cell import support
from mongebench.saved import load, save

MANY = 4000
"""Points mapped at once."""
MEMORY_LIMIT = 1 << 26
"""Bytes that mapping `MANY` points may take: half of a matrix of all pairs."""


@check
def declares_its_oracles(subject: Subject) -> None:
    """It derives from `MapEstimator`, and `needs` is a frozenset of `Oracle`.

    Why: the tables are grouped by what estimators may see.

    Mend: write `needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})` in the class.
    """
    expect(isinstance(subject.estimator, MapEstimator), f"{type(subject.estimator).__name__} is no MapEstimator.")
    needs = subject.needs
    expect(
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
    expect(0 < len(first) <= 120, f"The docstring's first line has {len(first)} characters.")


@check
def keeps_its_parameters(subject: Subject) -> None:
    """Every parameter has a default, `__init__` stores them unchanged and does nothing else, `clone` copies them.

    Why: grids, records and repetitions build estimators from their parameters alone.

    Mend: in `__init__`, write `self.name = name` for each keyword and nothing more; validate and compute in `fit`.
    """
    estimator = type(subject.estimator)()
    learnt = [name for name in vars(estimator) if name.endswith("_")]
    expect(not learnt, f"__init__ sets {', '.join(learnt)}, and names ending in _ are for what fit learns.")
    given = subject.estimator.get_params()
    copied = clone(subject.estimator).get_params()
    expect(repr(copied) == repr(given), f"clone turned the parameters {given!r} into {copied!r}.")
    expect(estimator.set_params(**given) is estimator, "set_params does not return self.")


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
    expect(estimator.fit(source, target) is estimator, "fit returned something else than self.")


@check
def keeps_shapes(subject: Subject) -> None:
    """Images have the shape of their points, (n, d) -> (n, d), for n = 0, n = 1 and many.

    Why: metrics, traces and figures map whatever number of points they need.

    Mend: compute row by row without squeezing axes, and let an empty array pass.
    """
    for n in (0, 1, len(subject.query)):
        shape = np.shape(subject.fitted.transform(subject.query[:n]))
        expect(shape == (n, subject.problem.dim), f"{n} points gave images of shape {shape}.")


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
        expect(getattr(images, "dtype", None) == wanted, f"Images have dtype {getattr(images, 'dtype', None)}.")
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
        expect(isinstance(images, type(points)), f"A {type(points).__name__} gave a {type(images).__name__}.")
        before, after = ((array.dtype, array.device) for array in (points, images))
        expect(after == before, f"Points of {before} gave images of {after}.")


@check
def maps_new_points(subject: Subject) -> None:
    """Points that were not in the sample, also far outside it, have finite images.

    Why: a map is more than a matching of two samples, and it is scored on fresh points.

    Mend: extend the map to all points, by a formula, an interpolation with tails, or the nearest sample.
    """
    far = subject.query.mean(axis=0) + 6 * (subject.query - subject.query.mean(axis=0))
    for points, where in ((subject.query, "of the source"), (far, "at six times the spread of the source")):
        lost = int((~np.isfinite(subject.fitted.transform(points)).all(axis=1)).sum())
        expect(not lost, f"{lost} of {len(points)} new points {where} have images that are NaN or infinite.")


@check
def gives_a_point_one_image(subject: Subject) -> None:
    """The image of a point does not depend on the other points it is asked with.

    Why: otherwise `transform` is no map, and its error depends on the size of the batch.

    Mend: use statistics of the sample, stored by `fit`, in place of statistics of the query.
    """
    source, _, _ = subject.views()
    # Its own sample too: what is stored of a sample is not always the map.
    seen = [source.samples] if Oracle.SOURCE_SAMPLES in subject.needs else []
    for points in (subject.query, *seen):
        images = np.asarray(subject.fitted.transform(points))
        two = subject.fitted.transform(points[11:13])
        subject.expect_rounding(two, images[11:13], "Two points alone have other images")


@check
def repeats_itself(subject: Subject) -> None:
    """Equal data and equal seeds give equal maps.

    Why: a record must be reproducible from what it says.

    Mend: draw every random number from `numpy.random.default_rng(seed)` or the like, made in `fit` from its seed.
    """
    again = subject.twins[1].transform(subject.query)
    subject.expect_rounding(again, subject.images, "A second fit with the same seed gave another map")


@check
def forgets_at_refit(subject: Subject) -> None:
    """A second `fit` gives the map that a fresh estimator would learn.

    Why: a warm start hides work from the clock and ties results to their order.

    Mend: set every learnt attribute anew in `fit`; warm starts belong into a parameter.
    """
    other = moved(subject.problem, np.eye(subject.problem.dim), np.full(subject.problem.dim, 3.0))
    estimator = clone(subject.estimator)
    for problem in (other, subject.problem):
        source, target, _ = subject.views(problem)
        estimator = estimator.fit(source, target, seed=0)
    again = estimator.transform(subject.query)
    subject.expect_rounding(again, subject.images, "After another fit the map is another", subject.repeat_noise)


@check
def saves_and_loads(subject: Subject) -> None:
    """`mongebench.save` writes what `fit` learnt without pickle, and what `load` gives back maps to the last bit alike.

    Why: a map is used where it was not fitted, and a pickle from elsewhere runs whatever it was made to run.

    Mend: learn arrays and dataclasses of them, under names that end in `_`; or write `fitted_state` and `restore`.
    """
    fitted, file = subject.fitted, io.BytesIO()
    try:
        fitted.fitted_state()
    except NotSavable as reason:
        raise SkipTest(f"it cannot be saved: {reason}") from None
    save(fitted, file)
    file.seek(0)
    loaded = load(file, type(fitted))
    expect(repr(loaded) == repr(fitted), f"What was saved as {fitted!r} is loaded as {loaded!r}.")
    for method in ("transform", "potential"):
        before, after = (getattr(estimator, method, None) for estimator in (fitted, loaded))
        if before and after:
            expect(np.array_equal(after(subject.query), before(subject.query)), f"After loading, {method} is another.")


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
        expect(np.array_equal(array, copy), f"It changed {name}.")


@check
def ignores_the_order_of_samples(subject: Subject) -> None:
    """The same samples in another order give the same map.

    Why: a sample is a set; a map that depends on its order knows something that is not there.

    Mend: look for the first rows being special, or for pairs (x_i, y_i) being taken as matched.
    """
    if not subject.needs & {Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES}:
        raise SkipTest("it learns from no fixed sample")
    other = subject.fit(permuted(subject.problem))
    subject.expect_same_map(
        other.transform(subject.query), subject.images, "With its samples in another order the map is another"
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
                expect(isinstance(answer, Support), f"supports returned {answer!r} for {info}.")
                expect(answer.ok or answer.reason, f"supports refused without a reason for {info}.")
    answers = {dim: subject.supported(dim) for dim in (1, 2, 3)}
    expect(
        any(answer.ok for answer in answers.values()),
        f"It supports no Gaussian pair in d = 1, 2, 3 with n = {N}, so nothing can be checked: {answers[2].reason}.",
    )
    if answers[3].ok:
        subject.fit(gaussian(3))


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
    expect(not unused, f"It declares {', '.join(unused)} and never asks.")


@check
def asks_under_the_meter(subject: Subject) -> None:
    """What the problem was asked is what the meter shows.

    Why: oracle counts are an axis of the figures; knowledge beside them is a hidden advantage.

    Mend: ask the views (`source.samples`, `target.potential(y)`) and never the measures behind them.
    """
    answered: Counter[Oracle] = Counter()
    source, target, meter = subject.views(watched(subject.problem, answered))
    clone(subject.estimator).fit(source, target).transform(subject.query)
    for view in (source, target):
        samples, sampler = view.samples_oracle, view.sampler_oracle
        shown = meter.counts[samples] + meter.counts[sampler]
        allowed = shown if view.budget is None else max(shown, view.budget)  # a budget is drawn as a whole
        expect(
            answered[sampler] <= allowed,
            f"{answered[sampler]} points were drawn for {sampler}, {allowed} are accounted.",
        )
    hidden = [str(oracle) for oracle in answered if not oracle.endswith("sampler") and not meter.counts[oracle]]
    expect(not hidden, f"{', '.join(hidden)} answered and the meter shows nothing.")


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
    subject.expect_trace()
    _, seen = subject.watched
    for _, images in seen:
        expect(images.shape == subject.query.shape, f"A traced map returned shape {images.shape}.")
        expect(np.isfinite(images).all(), "A traced map returned NaN or infinite images.")
    times = [flow_time for flow_time, _ in seen if flow_time is not None]
    expect((np.diff(times) >= 0).all(), f"Flow times go back: {times}.")


@check
def learns_the_same_when_watched(subject: Subject) -> None:
    """A fit with a trace gives the map of a fit without.

    Why: otherwise the measured estimator is not the one users get.

    Mend: let the trace only look; in particular draw no random numbers for it.
    """
    subject.expect_trace()
    images = subject.watched[0].transform(subject.query)
    subject.expect_rounding(images, subject.images, "With a trace the map is another", subject.repeat_noise)


@check
def stops_when_told(subject: Subject) -> None:
    """Once the trace has returned False, `fit` ends without calling it again, and leaves a map.

    Why: False means that the time of the cell is spent; what has been learnt until then is scored.

    Mend: write `if not trace(map, ...): break` and set the learnt attributes before.
    """
    subject.expect_trace()
    calls = itertools.count(1)
    stopped = subject.fit(trace=lambda *_, **__: next(calls) < 1)
    made = next(calls) - 1
    expect(made == 1, f"The trace was called {made} times, and returned False the first time.")
    expect(np.isfinite(stopped.transform(subject.query)).all(), "The map of a stopped fit has NaN or infinite images.")


@check
def ends_in_time(subject: Subject) -> None:
    """A fit on a few points that is told to stop at its first trace ends within the time limit, in CPU seconds.

    Why: a cell that cannot be stopped is killed, and its record says `timeout` in place of an error.

    Mend: call `trace` at each outer step, and make the steps short.
    """
    began = time.process_time()
    subject.fit(trace=lambda *_, **__: False)
    spent = time.process_time() - began
    expect(
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
    expect(not changed, f"It changed the global random state of {', '.join(changed)}.")


@check
def says_nothing(subject: Subject) -> None:
    """Nothing is printed to standard output.

    Why: a thousand cells print a thousand times, and output is no place for results.

    Mend: remove the print, use `logging` or `warnings`, or set the solver's verbose option to false.
    """
    with _standard_output() as said:
        subject.fit().transform(subject.query)
    expect(not said, f"It printed {''.join(said)[:80]!r}.")


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
    expect(np.isfinite(images).all(), "Fitted on one point, it returns NaN or infinite images.")


@check
def works_in_one_dimension(subject: Subject) -> None:
    """In d = 1 it gives images of shape (n, 1), unless `supports` refuses.

    Why: d = 1 is where the truth is simplest and where axes of length one get lost.

    Mend: keep points as (n, 1), or refuse d = 1 in `supports`.
    """
    refusal = subject.supported(1)
    if not refusal.ok:
        raise SkipTest(f"it refuses d = 1: {refusal.reason}")
    line = gaussian(1)
    images = subject.fit(line).transform(line.source.sample(40, seed=99))
    expect(np.shape(images) == (40, 1) and np.isfinite(images).all(), f"In d = 1 images have shape {np.shape(images)}.")


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
    expect(peak <= MEMORY_LIMIT, f"It allocated {peak / 2**20:.0f} MiB for {MANY} points.")


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
        _expect_refused(functools.partial(clone(subject.estimator).fit, *sides.values()), f"the {name}")
    _expect_refused(functools.partial(subject.fitted.transform, bad), "the points to map")


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
    other = subject.fit(moved(subject.problem, np.eye(subject.problem.dim), shift))
    subject.expect_same_map(
        other.transform(subject.query + shift) - shift, subject.images, "The moved problem has not the moved map"
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
    other = subject.fit(moved(subject.problem, turn, np.zeros(dim)))
    subject.expect_same_map(
        other.transform(subject.query @ turn.T) @ turn, subject.images, "The turned problem has not the turned map"
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
    expect(gain <= ROUNDING, f"Reassigning its images raises sum <x, T(x)> by {gain:.1e} of its absolute terms.")


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
    gap = rms_distance(np.stack(slopes, axis=1), subject.images) / subject.spread
    expect(gap <= TOLERANCE, f"grad potential is {gap:.2g} target standard deviations off the map.")


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
    errors = together(team, sources, targets, seeds=seeds, traces=[keep_going] * len(team))
    expect(not any(errors), f"fit_together reports {errors!r}.")
    for seed, member in zip(seeds, team, strict=True):
        alone = np.asarray(subject.fit(seed=seed).transform(subject.query))
        images, sentence = member.transform(subject.query), f"Together, seed {seed} gave another map"
        subject.expect_rounding(images, alone, sentence, subject.repeat_noise)


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
    error = rms_distance(subject.fit(n=500).transform(points), exact)
    nothing = rms_distance(points, exact)
    expect(error < nothing, f"Its root mean squared error is {error:.3g}, that of the identity {nothing:.3g}.")


def _random_states() -> dict[str, str]:
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    states = {
        "NumPy": f"{numpy['state']['key'].tolist()} {numpy['state']['pos']}",
        "Python": repr(random.getstate()),
    }
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
