"""`mb.fit`, `mb.run_cell` and `mb.evaluate` in this process: what the stable Python surface promises."""

import itertools
import json
import sys
import threading
import time

import numpy as np
import pytest

import mongebench as mb
from mongebench import plugins
from mongebench.run import afresh
from mongebench.run.clock import Clock
from mongebench.run.measurement import measure
from mongebench.run.planned import Conditions
from mongebench.run.record import Cell, Record, Spec, Status, Times
from mongebench.run.sources import files, place_of


@pytest.fixture(scope="module")
def pair() -> mb.Problem:
    return mb.problem("gaussian", dim=2, seed=0)


def test_a_record_survives_its_own_json(pair) -> None:
    record = mb.run_cell(pair, mb.estimator("bures"), n_source=200, n_target=200, evaluation_points=500)
    assert record.status == "ok"
    assert record.metrics["uvp"].value > 0
    assert record.metrics["uvp"].standard_error > 0
    again = Record.model_validate_json(record.model_dump_json())
    assert again == record
    json.loads(record.model_dump_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_records_carry_provenance_and_no_names(pair) -> None:
    import getpass
    import platform

    record = mb.run_cell(pair, mb.estimator("identity"), evaluation_points=50)
    assert {"numpy", "torch", "jax", "POT", "ott-jax"} <= set(record.provenance.versions)
    assert record.manifest.problem_digest == pair.digest
    text = record.model_dump_json()
    assert platform.node() not in text or len(platform.node()) < 4
    assert f'"{getpass.getuser()}"' not in text


def test_the_same_seed_gives_the_same_record(pair) -> None:
    def values(seed):
        record = mb.run_cell(pair, mb.estimator("exact"), n_source=60, n_target=50, seed=seed, evaluation_points=200)
        return {name: value.value for name, value in record.metrics.items()}

    assert values(1) == values(1)
    assert values(1)["uvp"] != values(2)["uvp"]


def test_fit_leaves_the_estimator_alone(pair) -> None:
    estimator = mb.estimator("bures")
    fitted = mb.fit(pair, estimator, n_source=100, n_target=100)
    assert fitted is not estimator
    assert not [name for name in vars(estimator) if name.endswith("_")]
    assert fitted.transform(np.zeros((3, 2))).shape == (3, 2)


def test_evaluate_takes_any_callable(pair) -> None:
    values = mb.evaluate(lambda x: x, pair, n=300)
    assert values["uvp"].value > 10
    assert mb.evaluate(pair.truth, pair, n=300)["uvp"].value <= values["uvp"].floor + 1e-12
    with pytest.raises(mb.InvalidInput, match="NaN"):
        mb.evaluate(lambda x: x * np.nan, pair, n=10)
    with pytest.raises(mb.ContractViolation, match=r"\(10, 1\)"):
        mb.evaluate(lambda x: x[:, :1], pair, n=10)
    with pytest.raises(mb.ContractViolation, match="in place"):
        mb.evaluate(lambda x: x.__iadd__(1), pair, n=10)
    with pytest.raises(mb.InvalidInput, match="at least 2"):
        mb.evaluate(lambda x: x, pair, n=1)


def test_evaluation_points_are_not_those_of_any_fit(pair) -> None:
    from mongebench.metrics import EvaluationPoints

    points = EvaluationPoints.draw(pair, 100, seed=0)
    for seed in range(3):
        drawn = pair.source.sample(100, seed=seed)
        assert not np.isin(points.x[:, 0], drawn[:, 0]).any()


def test_unlimited_draws_are_unsupported_for_a_fixed_sample(pair) -> None:
    record = mb.run_cell(pair, mb.estimator("bures"), n_source=None, n_target=None)
    assert record.status is Status.UNSUPPORTED
    assert "finite n_source" in record.reason
    with pytest.raises(mb.OracleUnavailable, match="finite n_source"):
        mb.fit(pair, mb.estimator("bures"), n_source=None, n_target=None)


def test_fit_and_run_cell_share_their_defaults(pair) -> None:
    record = mb.run_cell(pair, mb.estimator("mean_shift"), evaluation_points=50)
    assert (record.cell.n_source, record.cell.n_target) == (1000, 1000)
    fitted = mb.fit(pair, mb.estimator("mean_shift"))
    spelt_out = mb.fit(pair, mb.estimator("mean_shift"), n_source=1000, n_target=1000)
    x = pair.source.sample(3, seed=0)
    np.testing.assert_array_equal(fitted.transform(x), spelt_out.transform(x))


@pytest.mark.parametrize("budget", [{"n_source": 0}, {"n_target": -1}, {"n_source": 2.5}, {"n_target": True}])
def test_bad_budgets_are_refused(pair, budget) -> None:
    with pytest.raises(mb.InvalidInput, match="positive whole number"):
        mb.run_cell(pair, mb.estimator("bures"), **budget)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("ReturnsNan", Status.NONFINITE),
        ("FarAway", Status.DIVERGED),
        ("SeesItself", Status.DIVERGED),
        ("RunsOut", Status.OUT_OF_MEMORY),
        ("Refuses", Status.UNSUPPORTED),
        ("Lacks", Status.MISSING_DEPENDENCY),
        ("Raises", Status.ERROR),
        ("WrongShape", Status.ERROR),
        ("Perfect", Status.AT_FLOOR),
    ],
)
def test_failures_in_this_process_are_records_too(pair, fake, name, status) -> None:
    assert mb.run_cell(pair, fake(name), n_source=50, n_target=50, evaluation_points=100).status is status


def test_drawing_samples_is_not_charged_to_the_fit(fake) -> None:
    def slow(n, rng):
        time.sleep(0.1)
        return rng.normal(size=(n, 2))

    problem = mb.Problem(source=mb.Source(dim=2, sampler=slow), target=mb.Target(dim=2, sampler=slow), dim=2, version=1)
    record = mb.run_cell(problem, fake("Shift"), n_source=50, n_target=50, evaluation_points=50)
    assert record.status.measured, record.reason
    assert record.times.fit < 0.1
    assert record.times.overhead > 0.2


def test_warnings_of_a_fit_are_kept(pair, fake) -> None:
    record = mb.run_cell(pair, fake("Warns"), n_source=50, n_target=50, evaluation_points=100)
    assert record.warnings == ["UserWarning: it did not converge"]


def test_the_cloud_of_a_problem_bounds_the_budget(tmp_path, rng) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(40, 2)))
    problem = mb.problem("files", source="a.npy", target="b.npy", base=tmp_path)
    record = mb.run_cell(problem, mb.estimator("bures"), n_source=1000, n_target=20)
    assert record.status is Status.UNSUPPORTED
    assert "20 points to fit from" in record.reason
    record = mb.run_cell(problem, mb.estimator("bures"), n_source=20, n_target=20)
    assert record.status.measured, record.reason
    assert "uvp" not in record.metrics
    assert "energy_distance" in record.metrics


def test_a_record_depends_on_all_files_its_estimator_is_made_of(fake) -> None:
    def names(estimator):
        return {path.name for path in files(place_of(type(estimator)), lambda name: "estimators" in name).values()}

    assert names(mb.estimator("bures")) == {"gaussian.py", "standard.py"}
    assert {"newton.py", "base.py", "ridge.py", "gauss_newton.py"} <= names(mb.estimator("flow_newton"))
    assert "entropic.py" not in names(mb.estimator("flow_newton"))
    assert names(fake("Shift")) == {"fakes.py"}


def test_an_estimator_that_keeps_its_map_across_fits_is_caught(pair, fake, monkeypatch) -> None:
    # What tests before this one fitted in this process is forgotten, by the fake and by what judges it.
    monkeypatch.setattr(type(fake("Remembers")), "kept", None)
    monkeypatch.setattr(afresh, "_first", {})
    first, again, second = (
        mb.run_cell(pair, fake("Remembers"), n_source=50, n_target=50, seed=seed, evaluation_points=100)
        for seed in (0, 0, 1)
    )
    assert first.status is again.status is Status.OK  # the same seed may give the same map
    assert second.status is Status.ERROR
    assert "the map is that of seed 0 to the last bit" in second.reason


KEEPERS = """
import functools, os
import numpy as np
import mongebench as mb
from kept_beside import KEPT

STORE, SEEN = {}, []

@functools.lru_cache
def first():
    return SEEN[0]

class Keeper(mb.MapEstimator):
    "The mean shift, kept in one way or another."
    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})
    held = []

    def __init__(self, where="nowhere"):
        self.where = where

    def fit(self, source, target, *, seed=0, trace=None, defaults=[]):
        own = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        SEEN.append(own)
        places = {"class": self.held, "default": defaults}
        if self.where in places:
            places[self.where].append(own)
            own = places[self.where][0]
        elif self.where == "module":
            own = STORE.setdefault("shift", own)
        elif self.where == "neighbour":
            own = KEPT.setdefault("shift", own)
        elif self.where == "lru_cache":
            own = first()
        self.shift_ = own
        return self

    def transform(self, X):
        if self.where == "rounds":
            return np.round(X)
        return X + (np.ones(X.shape[1]) if self.where == "constant" else self.shift_)
"""


def _keeper(tmp_path, monkeypatch, where: str) -> mb.MapEstimator:
    (tmp_path / "keepers.py").write_text(KEEPERS, encoding="utf-8")
    (tmp_path / "kept_beside.py").write_text("KEPT = {}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("mongebench.run.afresh._first", {})
    for name in ("kept_beside", "mongebench_plugin_keepers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return plugins.import_file(tmp_path / "keepers.py").Keeper(where)


def _of_seeds(pair, estimator) -> list[Record]:
    budget = {"n_source": 50, "n_target": 50, "evaluation_points": 100}
    return [mb.run_cell(pair, estimator, seed=seed, **budget) for seed in (0, 1, 2)]


@pytest.mark.parametrize("where", ["class", "default", "module", "neighbour", "lru_cache"])
def test_wherever_a_map_is_kept_it_is_found(pair, tmp_path, monkeypatch, where) -> None:
    records = _of_seeds(pair, _keeper(tmp_path, monkeypatch, where))
    assert [record.status for record in records] == ["ok", "error", "error"]
    assert "keeps something from one fit to the next" in records[1].reason


@pytest.mark.parametrize("where", ["rounds", "constant", "nowhere"])
def test_a_map_that_uses_no_draw_is_not_accused(pair, tmp_path, monkeypatch, where) -> None:
    estimator = _keeper(tmp_path, monkeypatch, where)
    modules = dict(sys.modules)
    records = _of_seeds(pair, estimator)
    assert [(record.status, record.warnings) for record in records] == [("ok", [])] * 3
    assert sys.modules["mongebench_plugin_keepers"].Keeper is type(estimator)
    assert {name: sys.modules.get(name) for name in modules} == modules


def test_nobody_is_accused_whose_module_cannot_be_read_again(pair, monkeypatch) -> None:
    monkeypatch.setattr("mongebench.run.afresh._first", {})

    class Rounds(mb.MapEstimator):
        """To whole numbers."""

        needs = frozenset({mb.Oracle.SOURCE_SAMPLES})

        def fit(self, source, target, *, seed=0, trace=None):
            self.n_ = len(source.samples)
            return self

        def transform(self, X):
            return np.round(X)

    first, second, _ = _of_seeds(pair, Rounds())
    assert first.status is second.status is Status.OK
    assert first.warnings == []
    (warning,) = second.warnings
    assert "depends on none of them, or keeps something" in warning
    assert "not defined at the top of a module" in warning


def test_a_fit_that_only_dispatches_is_charged_for_what_it_dispatched(pair, fake) -> None:
    record = mb.run_cell(pair, fake("Dispatches"), n_source=50, n_target=50, evaluation_points=100)
    assert record.status.measured, record.reason
    assert record.learned["dispatch_seconds_"] < 0.5 * record.times.fit
    assert record.times.transform < 0.5 * record.times.fit


def test_times_that_cannot_be_true_are_an_error(pair, fake, monkeypatch) -> None:
    """A clock that goes backwards between two looks at it."""
    record = mb.run_cell(pair, fake("Shift"), n_source=50, n_target=50, evaluation_points=100)
    assert record.times.doubt == ""
    assert "add up to" in record.times.model_copy(update={"wall": 2 * record.times.wall + 0.1}).doubt
    seconds = iter(range(10**6, 0, -1))
    monkeypatch.setattr("mongebench.run.measurement.Clock", lambda: Clock(now=lambda: float(next(seconds))))
    record = mb.run_cell(pair, fake("Shift"), n_source=50, n_target=50, evaluation_points=100)
    assert record.status is Status.ERROR
    assert "the clock went backwards" in record.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fit": -1e-9}, "fit is -1e-09"),
        ({"fit_cpu": -1.0}, "fit_cpu is -1"),
        ({"transform": float("nan")}, "transform is nan"),
        ({"wall": float("inf")}, "wall is inf"),
        ({"late_cpu": float("nan")}, "late_cpu is nan"),
        ({"fits": [1.0, -2.0]}, "fits[1] is -2"),
        ({"compile": 8.0}, "compile took 8 s of 6 s"),
        ({"evaluate": 2.5}, "add up to 6.5 s of 6 s"),
        ({"transform": 2.2}, "transform took 2.2 s of 2 s in evaluate"),
        ({"transform": 5.9, "together": 3}, ""),
        ({"transform": 6.5, "together": 3}, "transform took 6.5 s of 6 s in evaluate"),
        ({"fit_cpu": 60.0}, ""),
    ],
)
def test_impossible_times_make_a_record_an_error_wherever_it_comes_from(pair, change, told) -> None:
    record = mb.run_cell(pair, mb.estimator("bures"), n_source=50, n_target=50, evaluation_points=100)
    times = Times(imports=0, compile=1, fit=2, evaluate=2, overhead=1, wall=6, fit_cpu=3, transform=1)
    times = times.model_copy(update=change)
    assert told in times.doubt
    assert bool(times.doubt) == bool(told)
    text = record.model_copy(update={"times": times}).model_dump_json()
    assert Record.model_validate_json(text).status == ("error" if told else "ok")


def test_a_record_says_what_its_fit_seconds_do_not_show() -> None:
    times = Times(imports=0, compile=1.5, fit=0.1, evaluate=1, overhead=0, wall=2.6, fit_cpu=4, transform=1)
    assert ["compilation took 1.5 s, the fit 0.1 s" in said for said in times.remarks] == [True]
    assert times.model_copy(update={"compile": 0.9}).remarks == []  # too short to matter
    assert times.model_copy(update={"fit": 0.5}).remarks == []
    (said,) = times.model_copy(update={"fit": 0.5, "late_cpu": 3.0}).remarks
    assert "threads or processes of the fit used 3 CPU s while its clock stood still" in said
    assert times.model_copy(update={"fit": 0.5, "late_cpu": 0.05}).remarks == []


class GoesOnAlone(mb.MapEstimator):
    """The mean shift, and a thread that works on once the fit has returned; with JAX also work while it is traced."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

    def __init__(self, traced=False):
        self.traced = traced

    @property
    def modules(self):
        return ("jax",) if self.traced else ()

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        if self.traced:
            import jax

            jax.jit(lambda x: [x, self.work(1.2)][0])(1.0)
        else:
            self._thread = threading.Thread(target=self.work, args=(0.4,))
            self._thread.start()
        return self

    def work(self, seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    def transform(self, X):
        if not self.traced:
            self._thread.join()
        return X + self.shift_


def test_lazy_is_not_free(pair) -> None:
    record = mb.run_cell(pair, GoesOnAlone(), n_source=50, n_target=50, evaluation_points=100)
    assert record.status is Status.OK, record.reason
    assert record.times.fit_cpu > 0.3
    assert record.times.late_cpu > 0.3
    assert record.times.transform_points == 100
    assert "CPU s while its clock stood still" in record.warnings[-1]
    record = mb.run_cell(pair, GoesOnAlone(traced=True), n_source=50, n_target=50, evaluation_points=100)
    assert record.times.compile > 1.2
    assert "what is computed while a function is traced" in record.warnings[-1]


def test_phases_add_up_also_where_looking_at_the_clock_takes_long(pair, fake, monkeypatch) -> None:
    """As on a machine so busy that the process waits between two looks."""
    looks = itertools.count()
    monkeypatch.setattr("mongebench.run.measurement.Clock", lambda: Clock(now=lambda: float(next(looks))))
    record = mb.run_cell(pair, fake("Shift"), n_source=50, n_target=50, evaluation_points=100)
    assert record.status is Status.OK, record.reason


class Repeated(mb.MapEstimator):
    """Takes 4, 1, 2, 8, ... seconds of a time that it moves itself; its third map and its fifth fit are as told."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})
    now, fits = 0.0, 0

    def __init__(self, wanders=0.0, fails=False):
        self.wanders = wanders
        self.fails = fails

    def fit(self, source, target, *, seed=0, trace=None):
        cls = Repeated
        cls.now += (4, 1, 2, 8, 100)[cls.fits]
        cls.fits += 1
        if self.fails and cls.fits == 3:
            raise mb.Diverged("the third fit is lost")
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0) + self.wanders * (cls.fits == 3)
        return self

    def transform(self, X):
        return X + self.shift_


@pytest.mark.parametrize(
    ("parameters", "fits", "told"),
    [
        ({}, [4, 1, 2, 8], []),
        ({"wanders": 0.5}, [4, 1, 2, 8], ["fit 3 of the same seed gave another map: it is up to 0.5 away"]),
        ({"fails": True}, [4, 1], ["fit 3 of the same seed failed: the third fit is lost"]),
    ],
)
def test_repeats_time_the_same_fit_again(pair, monkeypatch, parameters, fits, told) -> None:
    monkeypatch.setattr(Repeated, "now", 0.0)
    monkeypatch.setattr(Repeated, "fits", 0)
    monkeypatch.setattr("mongebench.run.measurement.Clock", lambda: Clock(now=lambda: Repeated.now))
    cell = Cell(estimator=Spec(name="r"), problem=Spec(name="gaussian"), n_source=50, n_target=50, seed=1)
    record, _ = measure(cell, pair, Repeated(**parameters), Conditions(evaluation_points=100, repeats=4))
    assert record.status is Status.OK
    assert record.warnings == told
    times = record.times
    # Everything but the repeats is of the first fit, whose map was measured.
    assert (times.fit, times.wall, times.fits) == (4, 4, fits)
    assert (times.fit_median, times.fit_iqr) == (np.median(fits), np.subtract(*np.percentile(fits, [75, 25])))
    assert record.oracle_counts == {"source_samples": 50, "target_samples": 50}
    once = mb.run_cell(pair, mb.estimator("mean_shift"), n_source=50, n_target=50, seed=1, evaluation_points=100)
    assert record.metrics == once.metrics
    assert (once.times.fits, once.times.fit_iqr) == ([], None)


def test_a_record_of_before_there_were_devices_and_repeats_is_read(pair) -> None:
    record = mb.run_cell(pair, mb.estimator("bures"), n_source=50, n_target=50, evaluation_points=100)
    old = json.loads(record.model_dump_json())
    for inside, names in {
        "manifest": ["device", "repeats"],
        "times": ["fits"],
        "provenance": ["driver", "precision"],
    }.items():
        for name in names:
            del old[inside][name]
    del old["framework"], old["gpu_peak_bytes"]
    assert Record.model_validate(old) == record
