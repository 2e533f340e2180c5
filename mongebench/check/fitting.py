"""What a fit keeps, forgets and leaves alone."""

from __future__ import annotations

import io
from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from mongebench.check.base import check
from mongebench.check.subject import (
    N,
    Subject,
    expect,
    moved,
    permuted,
)
from mongebench.core.errors import NotSavable
from mongebench.core.oracle import Oracle, within
from mongebench.saved import load, save


@check
def repeats_itself(subject: Subject) -> None:
    """Equal data and equal seeds give equal maps.

    Why: a record must be reproducible from what it says.

    How to fix: draw every random number from `numpy.random.default_rng(seed)` or the like, made in `fit` from its seed.
    """
    again = subject.twins[1].transform(subject.query)
    subject.expect_rounding(again, subject.images, "A second fit with the same seed gave another map")


@check
def forgets_at_refit(subject: Subject) -> None:
    """A second `fit` gives the map that a fresh estimator would learn.

    Why: a warm start hides work from the clock and ties results to their order.

    How to fix: set every learnt attribute anew in `fit`; warm starts belong into a parameter.
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

    How to fix: learn arrays and dataclasses of them, under names that end in `_`; or write `fitted_state` and
    `restore`.
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
    for method in ("transform", "potential", *(["inverse_transform"] if fitted.invertible else [])):
        before, after = (getattr(estimator, method, None) for estimator in (fitted, loaded))
        if before and after:
            expect(np.array_equal(after(subject.query), before(subject.query)), f"After loading, {method} is another.")


@check
def leaves_its_input_alone(subject: Subject) -> None:
    """Neither `fit` nor `transform` changes the arrays it is given.

    Why: the same arrays go to the next estimator.

    How to fix: write `x = x - mean` in place of `x -= mean`, or copy first.
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

    How to fix: look for the first rows being special, or for pairs (x_i, y_i) being taken as matched.
    """
    n_source, n_target = subject.budgets(N)
    known = within(subject.needs, n_source=n_source, n_target=n_target)
    if not known & {Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES}:
        raise SkipTest("it learns from no fixed sample")
    other = subject.fit(permuted(subject.problem))
    subject.expect_same_map(
        other.transform(subject.query), subject.images, "With its samples in another order the map is another"
    )
