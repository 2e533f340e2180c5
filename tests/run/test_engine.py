"""The real engine against estimators that crash, hang, allocate, return NaN and lie: each leaves its record."""

import itertools
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import mongebench as mb
from mongebench import cli, plugins
from mongebench.run.batch import Child, child_environment, watch
from mongebench.run.child import groups
from mongebench.run.clock import Clock
from mongebench.run.measurement import measure_together
from mongebench.run.planned import Conditions, planned
from mongebench.run.record import Cell, Record, Spec, Status
from mongebench.run.runner import Execution
from mongebench.run.store import Invocation, RunDirectory

FAKES = Path(__file__).with_name("fakes.py")
IN_A_CHILD = {
    "chatters": Status.OK,
    "steps": Status.OK,
    "hangs": Status.TIMEOUT,
    "hogs": Status.OUT_OF_MEMORY,
    "refuses": Status.UNSUPPORTED,
    "segfaults": Status.CRASHED,
    "exits": Status.CRASHED,
    "raises": Status.ERROR,
}
"""Everything that a process of its own is for."""
IN_THIS_PROCESS = {
    "shift": Status.OK,
    "perfect": Status.AT_FLOOR,
    "returns_nan": Status.NONFINITE,
    "sees_itself": Status.DIVERGED,
    "lacks": Status.MISSING_DEPENDENCY,
    "warns": Status.OK,
    "far_away": Status.DIVERGED,
    "runs_out": Status.OUT_OF_MEMORY,
    "peeks": Status.ERROR,
    "greedy": Status.ERROR,
    "wrong_shape": Status.ERROR,
    "overwrites": Status.ERROR,
    "returns_nothing": Status.ERROR,
    "argues": Status.ERROR,
    "forgets": Status.ERROR,
}
"""Other ways to a status, which `measure` finds as it does in a child."""
EARNS = IN_A_CHILD | IN_THIS_PROCESS


def experiment(folder: Path, names: list[str], **changes: object) -> Path:
    settings = {"time_limit": '"8s"', "memory_limit": '"512MiB"', "evaluation_points": 200, "seeds": 1, **changes}
    lines = ['name = "fakes"', *(f"{key} = {value}" for key, value in settings.items())]
    lines += ["[[estimators]]", f"name = {json.dumps(names)}", "[[problems]]", 'name = "gaussian"', "dim = 2"]
    lines += ["[budget]", "n_source = 100", "n_target = 100"]
    path = folder / "fakes.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def command(path: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "mongebench", "run", str(path), "--out", str(out), "--plugin", str(FAKES), *options]


def run(path: Path, out: Path, *options: str) -> Result:
    """By the command, in this process, which forgets the plugin; its children are processes as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "_from_files", dict(plugins._from_files))
        return CliRunner().invoke(cli.app, command(path, out, *options)[3:])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Result]:
    folder = tmp_path_factory.mktemp("everything")
    names = [*IN_A_CHILD, "bures"]
    return RunDirectory(folder / "run"), run(experiment(folder, names), folder / "run")


@pytest.fixture(scope="module")
def children(everything: tuple[RunDirectory, object]) -> dict[str, Record]:
    return {record.cell.estimator.name: record for record in everything[0].records()}


@pytest.fixture(scope="module")
def records(children: dict[str, Record], fake: Callable[[str], mb.MapEstimator]) -> dict[str, Record]:
    problem = mb.problem("gaussian", dim=2)
    return children | {name: measured(problem, fake(class_name(name))) for name in IN_THIS_PROCESS}


def class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def measured(problem: mb.Problem, estimator: mb.MapEstimator, seed: int = 0) -> Record:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return mb.run_cell(problem, estimator, n_source=100, n_target=100, seed=seed, evaluation_points=200)


def test_every_status_has_a_fake() -> None:
    assert set(EARNS.values()) == set(Status)


@pytest.mark.parametrize("name", list(EARNS))
def test_each_fake_earns_its_status(records: dict[str, Record], name: str) -> None:
    record = records[name]
    assert record.status == EARNS[name], record.reason
    assert record.reason or record.status is Status.OK


def test_a_sound_neighbour_is_untouched(records: dict[str, Record]) -> None:
    assert records["bures"].status == Status.OK


def test_failures_do_not_change_the_exit_code(everything: tuple[object, Result]) -> None:
    assert everything[1].exit_code == 0, everything[1].output


def test_reasons_name_what_happened(records: dict[str, Record]) -> None:
    for name, words in {
        "hangs": "time limit of 8 s",
        "hogs": "limit is 512 MiB",
        "segfaults": "SIGSEGV",
        "exits": "exit code 0",
        "lacks": "pip install a_package_nobody_has",
        "refuses": "only works on Tuesdays",
        "peeks": "Oracle.SOURCE_DENSITY",
        "greedy": "64 draws asked",
        "overwrites": "copy it first",
        "wrong_shape": "shape (200, 0)",
        "returns_nothing": "must return self",
        "returns_nan": "200 of 200 points",
        "argues": "ZeroDivisionError",
        "forgets": "clone",
    }.items():
        assert words in records[name].reason, (name, records[name].reason)


def test_the_table_shows_failures_and_escapes_markup(everything: tuple[object, Result]) -> None:
    shown = everything[1].stdout
    assert "timeout" in shown
    assert "[bold]" in shown  # of the reason: shown as text, not obeyed


def test_phases_add_up_to_the_wall_time(records: dict[str, Record]) -> None:
    timed = [record for record in records.values() if record.times is not None]
    assert {record.cell.estimator.name for record in timed} >= {"steps", "perfect", "shift", "bures"}
    for record in timed:
        times = record.times
        assert times is not None
        phases = times.imports + times.compile + times.fit + times.evaluate + times.overhead
        assert phases == pytest.approx(times.wall, rel=0.02)


def test_the_trace_pauses_the_clock(records: dict[str, Record]) -> None:
    record = records["steps"]
    assert [point.flow_time for point in record.trace] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    errors = [point.l2_error for point in record.trace]
    assert all(a is not None and b is not None and a > b for a, b in itertools.pairwise(errors))
    seconds = [point.fit_seconds for point in record.trace]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0.02
    assert record.trace[-1].diagnostics == {"decrement": 0.5**5}


def test_oracles_are_counted(records: dict[str, Record]) -> None:
    for name in ("steps", "shift"):
        assert records[name].oracle_counts == {"source_samples": 100, "target_samples": 100}


@pytest.mark.usefixtures("no_children")
def test_started_again_it_runs_only_what_is_missing(tmp_path: Path) -> None:
    path, out = experiment(tmp_path, ["shift"], seeds=4), tmp_path / "run"
    assert run(path, out).exit_code == 0
    before = {file.name: file.stat().st_mtime_ns for file in (out / "cells").glob("*.json")}
    assert len(before) == 4
    victim, half = sorted((out / "cells").glob("*.json"))[:2]
    victim.unlink()
    half.write_text(half.read_text(encoding="utf-8")[:100], encoding="utf-8")
    again = run(path, out)
    assert "2 already recorded, 2 to run" in again.stdout
    after = {file.name: file.stat().st_mtime_ns for file in (out / "cells").glob("*.json")}
    assert {name for name in before if before[name] != after[name]} == {victim.name, half.name}


@pytest.mark.usefixtures("no_children")
def test_a_changed_estimator_runs_again_and_says_why(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(FAKES.read_text(encoding="utf-8"), encoding="utf-8")
    path, out = experiment(tmp_path, ["shift"]), tmp_path / "run"
    words = ["run", str(path), "--out", str(out), "--plugin", str(plugin)]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    plugin.write_text(plugin.read_text(encoding="utf-8") + "\nCHANGED = True\n", encoding="utf-8")
    said = CliRunner().invoke(cli.app, ["why-rerun", str(out)]).stdout
    assert "estimator_source: " in said
    assert "1 of 1 cells would run" in said


def test_nothing_could_run_is_exit_code_3(tmp_path: Path) -> None:
    words = ["run", str(experiment(tmp_path, ["sorting"])), "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(cli.app, words).exit_code == 3  # in d = 2


def test_batches_keep_the_neighbours_of_a_crash(tmp_path: Path) -> None:
    path = experiment(tmp_path, ["segfaults"], seeds=2)
    out = tmp_path / "run"
    assert run(path, out, "--workers", "1").exit_code == 0
    assert Counter(record.status for record in RunDirectory(out).records()) == {Status.CRASHED: 2}


def test_seeds_fitted_together_leave_records_of_their_own(tmp_path: Path, fake) -> None:
    names, out = ["team", "team_hangs", "team_crashes"], tmp_path / "together"
    path = experiment(tmp_path, names, seeds=3, seeds_together=2, time_limit='"4s"')
    assert run(path, out, "--workers", "1").exit_code == 0
    records = {(r.cell.estimator.name, r.cell.seed): r for r in RunDirectory(out).records()}
    statuses = {name: [records[name, seed].status for seed in range(3)] for name in names}
    # Two seeds together, the third alone, which neither hangs nor crashes.
    assert statuses == {
        "team": [Status.OK] * 3,
        "team_hangs": [Status.TIMEOUT, Status.TIMEOUT, Status.OK],
        "team_crashes": [Status.CRASHED, Status.CRASHED, Status.OK],
    }
    assert "limit of 8 s, together with 1 other seed" in records["team_hangs", 0].reason
    problem = mb.problem("gaussian", dim=2)
    for seed in range(3):
        alone, beside = measured(problem, fake("Team"), seed), records["team", seed]
        assert beside.metrics == alone.metrics
        assert beside.oracle_counts == alone.oracle_counts
    shares = {key: r.times.together for key, r in records.items() if r.times is not None}
    assert [shares["team", seed] for seed in range(3)] == [2, 2, 1]
    for record in records.values():
        if times := record.times:
            phases = times.imports + times.compile + times.fit + times.evaluate + times.overhead
            assert phases == pytest.approx(times.wall, rel=0.02)


def test_of_seeds_fitted_together_one_may_be_lost(fake) -> None:
    problem, team = mb.problem("gaussian", dim=2), fake("TeamLosesOne")
    spec = Spec(name="team_loses_one", parameters={})
    cells = [
        Cell(estimator=spec, problem=Spec(name="gaussian", parameters={}), n_source=100, n_target=100, seed=seed)
        for seed in range(2)
    ]
    conditions = Conditions(evaluation_points=200)
    known = [planned(cell, problem, team, conditions) for cell in cells]
    found = measure_together(known, problem, team, conditions, Clock())
    assert [record.status for record, _ in found] == [Status.DIVERGED, Status.OK]


def test_those_who_cannot_fit_seeds_together_fit_them_alone(tmp_path: Path) -> None:
    plugins.add_file(FAKES)
    for name, sizes in (("team", [2, 1]), ("shift", [1, 1, 1])):
        path = experiment(tmp_path, [name], seeds=3)
        cells = Execution(Invocation(experiment=str(path)), RunDirectory(tmp_path / "run"), tried=True).cells
        assert [len(group) for group in groups(cells, 2)] == sizes


class Told(Child):
    """A child that says what it is told to, with a thousand seconds to every cell."""

    def __init__(self, words: list[list[dict[str, Any]]]) -> None:
        self.words, self.current, self.together, self.since = words, [], 0, time.monotonic()
        self.finished, self.code = 0, None

    def messages(self) -> list[dict[str, Any]]:
        if self.current:
            self.since -= 1000
        return self.words.pop(0)

    def memory(self) -> int:
        return 0


def test_the_time_of_a_long_cell_is_not_counted_as_its_neighbours_start_up(tmp_path: Path) -> None:
    first, second = Execution(
        Invocation(experiment=str(experiment(tmp_path, ["bures"], seeds=2))), RunDirectory(tmp_path / "run")
    ).plan.cells
    keys = [first.cell.key, second.cell.key]
    child = Told([[{"start": keys[:1]}], [{"done": keys[0]}], [], [{"start": keys[1:]}], [{"done": keys[1]}]])
    waiting = dict(zip(keys, (first, second), strict=True))
    assert watch(child, waiting, Conditions(), lambda *_: None, lambda: False) is None


@pytest.mark.parametrize(("repeats", "killed"), [(1, True), (3, False)])
def test_repeated_fits_have_a_time_limit_each(tmp_path: Path, repeats: int, killed: bool) -> None:
    (cell,) = Execution(
        Invocation(experiment=str(experiment(tmp_path, ["bures"]))), RunDirectory(tmp_path / "run")
    ).plan.cells
    child = Told([[{"start": [cell.cell.key]}], [], [{"done": cell.cell.key}]])  # after 2000 seconds
    conditions = Conditions(time_limit=900, repeats=repeats)
    verdict = watch(child, {cell.cell.key: cell}, conditions, lambda *_: None, lambda: False)
    assert (verdict is not None) == killed


@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
def test_a_child_of_one_thread_computes_with_one(tmp_path: Path) -> None:
    """XLA has a pool of its own, which the flags for its threads do not bind."""
    code = (
        "import glob, jax, jax.numpy as jnp\n"
        "jnp.linalg.inv(jnp.eye(2)).block_until_ready()\n"
        "names = [open(path).read() for path in glob.glob('/proc/self/task/*/comm')]\n"
        "print(sum('XLAEigen' in name for name in names))\n"
    )
    environment = child_environment(1, tmp_path)
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout == "1\n", found.stderr


def test_sketches_stand_beside_the_records_of_measured_maps(
    everything: tuple[RunDirectory, object], children: dict[str, Record]
) -> None:
    directory, _ = everything
    for name, record in children.items():
        sketch = directory.sketch(record)
        assert (sketch is not None) == record.status.measured, name
        if sketch is not None:
            assert sketch.x.shape == sketch.pushed.shape == sketch.y.shape == (200, 2)
