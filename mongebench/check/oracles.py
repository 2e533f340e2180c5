"""What an estimator asks of the measures, and what it tells its trace."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from mongebench import plugins
from mongebench.check.base import check
from mongebench.check.subject import (
    TOLERANCE,
    CheckFailed,
    N,
    Subject,
    expect,
    gaussian,
    moved,
    rms_distance,
    watched,
)
from mongebench.core.arrays import Points
from mongebench.core.errors import BudgetExceeded, MongebenchError, OracleNotDeclared
from mongebench.core.estimator import MapEstimator, ProblemInfo, Support
from mongebench.core.oracle import Oracle
from mongebench.core.problem import Problem
from mongebench.core.session import support
from mongebench.datasets.linear import rotation, unit_vector
from mongebench.run.afresh import read_afresh

CHEAP = 0.1
"""CPU seconds of a fit that is tried on more than one problem."""


@check
def answers_supports_honestly(subject: Subject) -> None:
    """`supports` answers every question with a `Support`, a refusal with a sentence, and what it accepts can be fitted.

    Why: a refusal is a result that tables show; an exception or a silent one is a hole in them.

    How to fix: return `Support(False, "why")` for what cannot be served, and nothing for what can.
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

    How to fix: take it out of `needs`, or charge what compiled code evaluates: `view.meter.charge(oracle, points)`.
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

    How to fix: ask the views (`source.samples`, `target.potential(y)`) and never the measures behind them.
    """
    answered: Counter[Oracle] = Counter()
    source, target, meter = subject.views(watched(subject.problem, answered))
    clone(subject.estimator).fit(source, target).transform(subject.query)
    for view in (source, target):
        samples, sampler = view.samples_oracle, view.sampler_oracle
        shown = meter.counts[samples] + meter.counts[sampler]
        whole = shown and view.budget is not None  # a budget is drawn as a whole
        allowed = max(shown, view.budget or 0) if whole else shown
        expect(
            answered[sampler] <= allowed,
            f"{answered[sampler]} points were drawn for {sampler}, but only {allowed} are accounted for.",
        )
    hidden = [str(oracle) for oracle in answered if not oracle.endswith("sampler") and not meter.counts[oracle]]
    expect(not hidden, f"{', '.join(hidden)} answered and the meter shows nothing.")


@check
def knows_no_problem_by_name(subject: Subject) -> None:
    """A registered problem is no easier for it than the same one with other axes and origin, under no name.

    Why: a map that was looked up (a problem rebuilt, draws of its law made or stored beforehand) is not learnt.

    How to fix: learn from what source and target answer in this fit, and from nothing else.
    """
    if Oracle.EXACT_MAP in subject.needs:
        raise SkipTest("it may ask for the exact map")
    began = time.process_time()
    _expect_no_easier(subject, subject.problem)
    if time.process_time() - began > 3 * CHEAP:
        return
    for name in sorted(set(plugins.problems()) - {"files", subject.problem.name}):
        try:
            problem = plugins.problem(name)
            supported = problem.truth and support(problem, subject.estimator, *subject.budgets(N)).ok
            if supported and problem.source.size is None:
                _expect_no_easier(subject, problem)
        except CheckFailed:
            raise
        except (MongebenchError, ImportError):  # a problem that cannot be built, a fit that gives up on so few points
            continue


def _expect_no_easier(subject: Subject, problem: Problem) -> None:
    """Fail if the error on a registered problem is less than half of what it is wherever else that lies.

    The draws are the same ones, moved, so that what learns from them has nearly the same error.
    """
    points = problem.source.sample(500, seed=95)
    spread = float(np.sqrt(problem.total_variance))

    def error(seed: int) -> float:
        rng = np.random.default_rng(seed)
        # Coordinates exchanged and reversed: an honest map may work coordinate by coordinate, and in no other frame.
        turn = (-1.0) ** seed * np.roll(np.eye(problem.dim), seed, axis=0)
        shift = spread / 2 * unit_vector(problem.dim, rng)
        if not seed:
            turn, shift = np.eye(problem.dim), np.zeros(problem.dim)
        elsewhere = replace(moved(problem, turn, shift), name="anonymous", parameters={}) if seed else problem
        fitted = subject.fitted if problem is subject.problem and not seed else subject.fit(elsewhere)
        images = fitted.transform(points @ turn.T + shift)
        return rms_distance(images, problem.truth(points) @ turn.T + shift) / spread

    registered, least = error(0), min(error(1), error(2))
    allowed = 2 * registered + TOLERANCE + 2 * subject.seed_noise / subject.spread
    expect(
        least <= allowed,
        f"On the problem {problem.name!r} its error is {registered:.2g} of the target's standard deviation, and at "
        f"least {least:.2g} where the same problem lies elsewhere; {allowed:.2g} is allowed.",
    )


@check
def keeps_nothing_between_fits(subject: Subject) -> None:
    """After a fit of another copy to another problem, which has another map, one learns what it learnt before that.

    Why: what is kept in a class, a module or a file is knowledge that no budget counts, or work that no clock sees.

    How to fix: keep what `fit` learns in attributes of the estimator; if it uses no draws, declare none.
    """
    dim = subject.problem.dim
    elsewhere = moved(
        subject.problem, -rotation(dim, np.random.default_rng(3)) if dim > 1 else -np.eye(1), np.ones(dim)
    )

    def images(seed: int, estimator: MapEstimator, problem: Problem | None = None) -> Points:
        source, target, _ = subject.views(problem, seed=seed)
        return np.array(estimator.fit(source, target, seed=0).transform(subject.query))

    first = images(7, clone(subject.estimator))
    other = images(8, clone(subject.estimator), elsewhere)
    expect(
        not (subject.needs and np.array_equal(other, first)),
        "Fitted to another problem, it has the same map to the last bit: it keeps one, or ignores what it asks for.",
    )
    try:
        unused = read_afresh(subject.estimator)  # of a module that has kept nothing
    except Exception:  # somebody else's module, which may not bear to be read twice
        unused = clone(subject.estimator)
    again = images(7, unused)
    subject.expect_rounding(again, first, "After a fit to another problem the map is another", subject.repeat_noise)


@check
def keeps_within_the_budget(subject: Subject) -> None:
    """With n draws allowed on each side it fits, or `supports` refuses that budget.

    Why: estimators are compared at equal budgets, and a fit that asks for more is an error in the table.

    How to fix: draw with `view.batch(n)`, which reuses a finite budget, or read `view.budget`, or refuse in `supports`.
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
        raise CheckFailed(f"With {N} draws per side: {error}") from None


@check
def traces_maps(subject: Subject) -> None:
    """What it hands to the trace are maps with finite images of the right shape, at flow times that do not decrease.

    Why: the trace is the curve of error against flow time, iterations and seconds.

    How to fix: hand over a function of points, such as `self.transform` of a copy, and the sum of the steps as
    `flow_time`.
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

    How to fix: let the trace only look; in particular draw no random numbers for it.
    """
    subject.expect_trace()
    images = subject.watched[0].transform(subject.query)
    subject.expect_rounding(images, subject.images, "With a trace the map is another", subject.repeat_noise)


@check
def stops_when_told(subject: Subject) -> None:
    """Once the trace has returned False, `fit` ends without calling it again, and leaves a map.

    Why: False means that the time of the cell is spent; what has been learnt until then is scored.

    How to fix: write `if not trace(map, ...): break` and set the learnt attributes before.
    """
    subject.expect_trace()
    calls = itertools.count(1)
    stopped = subject.fit(trace=lambda *_, **__: next(calls) < 1)
    made = next(calls) - 1
    expect(made == 1, f"The trace was called {made} times, and returned False the first time.")
    expect(np.isfinite(stopped.transform(subject.query)).all(), "The map of a stopped fit has NaN or infinite images.")
