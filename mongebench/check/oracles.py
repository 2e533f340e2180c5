"""What an estimator asks of the measures, and what it tells its trace."""

from __future__ import annotations

import itertools
from collections import Counter
from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from mongebench.check.base import check
from mongebench.check.subject import (
    CheckFailed,
    N,
    Subject,
    expect,
    gaussian,
    watched,
)
from mongebench.core.errors import BudgetExceeded, OracleNotDeclared
from mongebench.core.estimator import ProblemInfo, Support
from mongebench.core.oracle import Oracle
from mongebench.run.cell import support


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
