"""While an estimator learns or maps, a problem answers through its views and in no other way."""

import copy
import dataclasses
import threading

import numpy as np
import pytest

import mongebench as mb
from mongebench.core import guard
from mongebench.core.measure import Measure
from mongebench.core.oracle import Meter, SourceView, TargetView, _behind
from mongebench.datasets.gaussian import gaussian

SAMPLES = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})
X = np.zeros((3, 2))


@pytest.fixture(scope="module")
def pair() -> mb.Problem:
    return mb.problem("gaussian", dim=2)


class Does(mb.MapEstimator):
    """The mean shift, which does something beside: in `fit`, or in `transform`."""

    needs = SAMPLES

    def __init__(self, beside=None, late=False):
        self.beside = beside
        self.late = late

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        if self.beside is not None and not self.late:
            self.beside(source, target, trace)
        return self

    def transform(self, X):
        if self.late:
            self.beside(None, None, None)
        return X + self.shift_


class MayKnow(Does):
    """The same, and it says that it asks for the exact map."""

    needs = SAMPLES | {mb.Oracle.EXACT_MAP}


WAYS = {
    "the exact map": lambda p: p.truth(X),
    "its inverse": lambda p: p.truth_inverse(X),
    "a sample": lambda p: p.target.sample(5),
    "the sampler": lambda p: p.source.sampler(5, np.random.default_rng(0)),
    "a copy of a measure": lambda p: dataclasses.replace(p.source).sample(5),
    "a view of one's own": lambda p: SourceView(
        p.source, declared=frozenset(mb.Oracle), budget=None, seed=0, meter=Meter()
    ).sample(5),
    "the name": lambda p: mb.problem("gaussian", dim=2),
    "the family": lambda p: gaussian(dim=2),
    "another estimator": lambda p: Drawing().fit(p.source, p.target),
}


@pytest.mark.parametrize("late", [False, True], ids=["fit", "transform"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_problem_is_closed(pair, way, late) -> None:
    with pytest.raises(mb.OracleNotDeclared, match="while an estimator learns or maps"):
        mb.fit(pair, Does(lambda *_: WAYS[way](pair), late), n_source=20, n_target=20).transform(X)
    WAYS["the exact map"](pair)  # open again
    assert not guard.is_closed()


@pytest.mark.parametrize("way", ["the exact map", "a sample", "the name"])
def test_another_thread_finds_it_closed_too(pair, way) -> None:
    raised = []

    def ask() -> None:
        try:
            WAYS[way](pair)
        except mb.OracleNotDeclared as error:
            raised.append(str(error))

    def beside(*_) -> None:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    mb.fit(pair, Does(beside), n_source=20, n_target=20)
    assert len(raised) == 1
    assert "by another thread" in raised[0]
    ask()
    assert len(raised) == 1


def test_a_fit_in_a_thread_hinders_nobody_else(pair) -> None:
    """As where cells are run side by side in threads: each builds its own problem while others fit."""
    fitting, asked = threading.Event(), threading.Event()
    failed = []

    def wait(*_) -> None:
        fitting.set()
        assert asked.wait(10)
        try:
            mb.problem("gaussian", dim=2)
        except mb.OracleNotDeclared:
            failed.append("the fit itself")

    thread = threading.Thread(target=lambda: mb.fit(pair, Does(wait), n_source=20, n_target=20))
    thread.start()
    assert fitting.wait(10)
    assert mb.problem("gaussian", dim=2).truth(X).shape == (3, 2)
    asked.set()
    thread.join()
    assert failed == ["the fit itself"]


def test_whoever_declares_the_exact_map_may_know_everything(pair) -> None:
    mb.fit(pair, MayKnow(lambda source, *_: source.exact_map(X)), n_source=20, n_target=20)
    for way in ("the exact map", "a sample", "the name"):
        mb.fit(pair, MayKnow(lambda *_, way=way: WAYS[way](pair)), n_source=20, n_target=20)


def test_supports_learns_nothing_either(pair) -> None:
    class Curious(Does):
        """Asks too early."""

        def supports(self, problem):
            mb.problem("gaussian", dim=problem.dim)

    with pytest.raises(mb.OracleNotDeclared):
        mb.fit(pair, Curious(), n_source=20, n_target=20)


def test_the_trace_may_compare_with_the_exact_map_and_the_maps_it_is_shown_may_not(pair) -> None:
    errors = []

    def trace(map, *, flow_time=None, **_):
        errors.append(np.linalg.norm(map(X) - pair.truth(X)))
        return True

    mb.fit(pair, Does(lambda *seen: seen[2](lambda x: x)), n_source=20, n_target=20, trace=trace)
    np.testing.assert_allclose(errors, [np.linalg.norm(pair.truth(X))])
    with pytest.raises(mb.OracleNotDeclared, match="truth"):
        mb.fit(pair, Does(lambda *seen: seen[2](pair.truth)), n_source=20, n_target=20, trace=trace)


def test_a_fit_within_a_fit_does_not_open_its_own_trace(pair) -> None:
    def beside(source, target, trace) -> None:
        inner = Does(lambda *seen: seen[2](lambda x: x))
        inner.fit(source, target, trace=lambda map, **_: bool(pair.truth(X).any()))

    with pytest.raises(mb.OracleNotDeclared, match="truth"):
        mb.fit(pair, Does(beside), n_source=20, n_target=20)


def test_an_estimator_of_estimators_works(pair) -> None:
    """It may hand on its views, arrays, samplers and measures of what it was given."""

    def beside(source, target, trace) -> None:
        x, y = source.samples, target.samples
        bootstrap = [lambda n, rng, cloud=cloud: cloud[rng.integers(len(cloud), size=n)] for cloud in (x, y)]
        mb.estimator("bures").fit(source, target)
        mb.estimator("bures").fit(x, y)
        drawn = mb.Source(dim=2, sampler=bootstrap[0]).sample(50)
        assert {tuple(row) for row in drawn} <= {tuple(row) for row in x}
        Drawing().fit(mb.Source(dim=2, sampler=bootstrap[0]), mb.Target(dim=2, sampler=bootstrap[1]))

    mb.fit(pair, Does(beside), n_source=20, n_target=20)


class Drawing(mb.MapEstimator):
    """The mean shift of fresh draws."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLER, mb.Oracle.TARGET_SAMPLER})

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.sample(30).mean(axis=0) - source.sample(30).mean(axis=0)
        return self

    def transform(self, X):
        return X + self.shift_


def test_a_user_fits_to_what_a_problem_answers(pair) -> None:
    Drawing().fit(pair.source, pair.target)
    given = mb.Target(dim=2, sampler=lambda n, rng: pair.truth(rng.normal(size=(n, 2))))
    Drawing().fit(lambda n, rng: pair.source.sample(n, seed=4), given)


@pytest.mark.parametrize("needs", [frozenset(mb.Oracle) - {mb.Oracle.EXACT_MAP}, SAMPLES, frozenset()])
def test_no_attribute_of_a_view_leads_behind_it(pair, needs) -> None:
    """Followed through attributes, dictionaries and methods, as far as they go."""
    shared = {"declared": needs, "seed": 0, "meter": Meter(), "budget": 20}
    views = SourceView(pair.source, exact_map=pair.truth, **shared), TargetView(pair.target, **shared)
    secret = {id(value) for value in (pair, pair.truth, pair.source, pair.target)}
    for measure in (pair.source, pair.target):
        secret |= {id(value) for value in vars(measure).values() if callable(value)}
    seen: dict[int, object] = {}
    waiting: list[object] = list(views)
    while waiting:
        one = waiting.pop()
        if (
            id(one) in seen
            or isinstance(one, type)
            or type(one).__module__.partition(".")[0] not in ("mongebench", "builtins")
        ):
            continue
        seen[id(one)] = one
        assert id(one) not in secret
        assert not isinstance(one, Measure)
        for name in dir(one):
            if not (name.startswith("__") and name.endswith("__")) or name in ("__self__", "__wrapped__"):
                try:
                    waiting.append(getattr(one, name))
                except (AttributeError, mb.OracleNotDeclared):
                    continue
        waiting += [*one.values()] if isinstance(one, dict) else []
    assert len(seen) > 10


def test_what_was_allowed_cannot_be_raised(pair) -> None:
    view = SourceView(pair.source, declared=SAMPLES, budget=20, seed=0, meter=Meter(), exact_map=pair.truth)
    assert not _behind[view].exact_map  # not kept, since it was not declared
    with pytest.raises(AttributeError):
        view.budget = None
    view._declared = frozenset(mb.Oracle)
    with pytest.raises(mb.OracleNotDeclared):
        view.score(X)
    with pytest.raises(mb.OracleNotDeclared):
        SourceView(pair.source, declared=frozenset(), budget=20, seed=0, meter=Meter())._draw_pool()
    assert copy.deepcopy({"kept": view})["kept"] is view
