"""A night on a small experiment, end to end in a repository made here, and its judgement on frames that are known."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mongebench import cli, plugins
from mongebench.core.errors import ExperimentError
from mongebench.report import gates
from mongebench.run import experiment as experiments
from mongebench.run.store import RunError

from .conftest import git, repository

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
name = "tiny"
seeds = 4
evaluation_points = 200
gates = "gates.csv"
[[estimators]]
name = ["identity", "bures", "sorting"]
[[problems]]
name = "gaussian"
dim = [1, 2]
[budget]
n_source = 50
n_target = 50
"""


def frame(values: dict[str, list[float]], **columns) -> pd.DataFrame:
    """Estimator -> its UVP at each seed; NaN is a cell that crashed."""
    rows = [
        {"estimator": name, "seed": seed, "key": f"{name}-{seed}", "uvp": value, "fit_seconds": 1.0 + seed}
        | {"status": "crashed" if np.isnan(value) else "ok"}
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    same = {"problem": "gaussian", "dim": 2, "budget": "n = 1 / 1", "problem_digest": "0", "evaluation_points": 10}
    return pd.DataFrame(rows).assign(uvp_se=0.0, uvp_floor=1e-6, tier="t", anchor=False, **same | columns)


def test_gates_hold_each_fit_against_its_own_and_no_doubling_passes(rng) -> None:
    """However the fits of a place scatter: twice each of them breaks the gate, and the same again does not."""
    values = {f"e{k}": list(np.exp(spread * rng.normal(size=4))) for k, spread in enumerate((0.0, 0.01, 0.3, 1.0, 3.0))}
    recorded = gates.record(frame(values))
    assert recorded["catches"].between(1.1, 1.5).all()
    assert recorded["catches"].iloc[0] == 1.1 < recorded["catches"].iloc[2] < 1.5
    assert not gates.judge(frame(values), recorded).failed
    doubled = gates.judge(frame({name: [2 * value for value in own] for name, own in values.items()}), recorded)
    assert len(doubled.broken) == 5  # each is an estimator of one place
    assert doubled.sentences()[0].startswith("FAILED: e0 on gaussian, d = 2, n = 1 / 1: uvp 2 times what was recorded")
    assert any(sentence.startswith("Errors that grow") for sentence in doubled.sentences())


def test_what_is_a_little_worse_everywhere_breaks_the_gate_of_all_places_together(rng) -> None:
    """A fifth more at each of sixteen places whose fits scatter by half: no place shows it, their mean does."""
    places = [frame({"a": list(np.exp(0.5 * rng.normal(size=4)))}, dim=dim) for dim in range(16)]
    rows = pd.concat(places, ignore_index=True)
    recorded = gates.record(rows)
    (row,) = gates.together(recorded, pd.Series(1.2, recorded.index)).to_dict("records")
    assert row["places"] == 16
    assert row["catches"] == pytest.approx(np.exp(3 * np.log(recorded["catches"]).pow(2).sum() ** 0.5 / 2 / 16))
    judged = gates.judge(rows.assign(uvp=1.2 * rows["uvp"]), recorded)
    assert judged.gates == 17
    assert judged.broken[0].startswith("a at its 16 places together: errors 1.2 times what was recorded")
    assert not gates.judge(rows.assign(uvp=1.05 * rows["uvp"]), recorded).broken


def test_instances_of_other_difficulty_widen_no_gate() -> None:
    """Two equal fits of each instance: that instances differ tenfold is no noise."""
    rows = frame({"a": [1.0, 1.0, 10.0, 10.0, 100.0, 100.0]}, instance=[0, 0, 1, 1, 2, 2])
    assert gates.record(rows)["catches"].tolist() == [gates.LEAST]


def test_without_gates_only_lost_cells_fail_the_night(tmp_path) -> None:
    rows = frame({"a": [1.0] * 4})
    (tmp_path / "gates.csv").write_text(",".join(gates.COLUMNS) + "\n", encoding="utf-8")
    for given in (gates.none(), gates.read(tmp_path / "gates.csv")):
        judged = gates.judge(rows, given)
        assert not judged.failed
        assert "No gate is recorded yet: --record makes them from a run." in judged.sentences()
        assert gates.judge(frame({"a": [1.0, np.nan]}), given).failed
    (tmp_path / "other.csv").write_text("estimator,dim\n", encoding="utf-8")
    with pytest.raises(ExperimentError, match="no column budget, catches, fits"):
        gates.read(tmp_path / "other.csv")


def test_one_ruined_fit_of_four_breaks_a_gate() -> None:
    recorded = gates.record(frame({"a": [0.1, 1.0, 5.0, 0.5]}))
    assert gates.judge(frame({"a": [1.0, 1.0, 5.0, 0.5]}), recorded).failed  # the mean error grew by a seventh


def test_other_random_numbers_of_equal_quality_seldom_break_a_gate(rng) -> None:
    """Errors of a CV of 0.3 that keep 0.86 of their correlation: of 200 gates at two standard errors, few break."""
    common = rng.normal(size=(200, 4))
    first, second = (
        np.exp(0.3 * (np.sqrt(0.86) * common + np.sqrt(0.14) * rng.normal(size=(200, 4)))) for _ in range(2)
    )
    recorded = gates.record(frame({f"e{k}": list(own) for k, own in enumerate(first)}))
    broken = gates.judge(frame({f"e{k}": list(own) for k, own in enumerate(second)}), recorded).broken
    assert len(broken) < 0.15 * 200


def test_gates_survive_a_file_and_old_files_are_read(tmp_path) -> None:
    rows = frame({"a": [1.0, 2.0, 3.0, 4.0]})
    gates.write(gates.record(rows), tmp_path / "gates.csv")
    again = gates.read(tmp_path / "gates.csv")
    assert not gates.judge(rows, again).failed
    assert gates.judge(rows.assign(uvp=1.6 * rows["uvp"]), again).failed
    other = gates.judge(rows.assign(seed=rows["seed"] + 4), again)
    assert "none of its fits has the instance and seed of its gate" in other.broken[0]
    old = again.drop(columns=["fits", "catches"]).assign(standard_error=0.6, high=4.9)
    old.to_csv(tmp_path / "old.csv", index=False)
    assert not gates.judge(rows.assign(uvp=1.9 * rows["uvp"]), gates.read(tmp_path / "old.csv")).failed
    assert gates.judge(rows.assign(uvp=2.0 * rows["uvp"]), gates.read(tmp_path / "old.csv")).failed


def test_rounding_moves_no_gate_and_lower_errors_are_welcome() -> None:
    recorded = gates.record(frame({"exact": [1e-12] * 4, "a": [2.0] * 4}))
    assert recorded["fits"].tolist()[0].startswith("0/0:1e-06 0/1:1e-06")
    assert not gates.judge(frame({"exact": [9e-7] * 4, "a": [0.1] * 4}), recorded).failed


def test_lost_cells_fail_the_night_and_unsupported_ones_do_not() -> None:
    recorded = gates.record(frame({"a": [1.0] * 4}))
    lost = gates.judge(frame({"a": [1.0, 1.0, 1.0, np.nan]}), recorded)
    assert (lost.measured, lost.planned, lost.failed, lost.broken) == (3, 4, True, ())
    rows = frame({"a": [1.0] * 4, "sorting": [np.nan] * 4})
    rows.loc[rows["estimator"] == "sorting", "status"] = "unsupported"
    assert not gates.judge(rows, recorded).failed
    gone = gates.judge(frame({"b": [1.0] * 4}), recorded)
    assert gone.broken == (
        "a on gaussian, d = 2, n = 1 / 1 is planned no more, but has a gate; record the gates again.",
    )
    with pytest.raises(ExperimentError, match="1 of 4 cells of a on gaussian"):
        gates.record(frame({"a": [1.0, 1.0, 1.0, np.nan]}))


def test_recording_says_what_it_changes_and_which_gates_it_breaks() -> None:
    old = gates.record(frame({"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4, "gone": [1.0] * 4}))
    rows = frame({"a": [2.0] * 4, "b": [1.0] * 4, "c": [3.0] * 4, "d": [1.0] * 4})
    (broken,) = gates.worse(rows, old)  # neither what got better nor what is planned no more
    assert broken.startswith("a on gaussian, d = 2, n = 1 / 1: uvp 2 times what was recorded")
    assert gates.changes(old, gates.record(rows)) == [
        "a on gaussian, d = 2, n = 1 / 1: uvp 1 -> 2, 2 times what was recorded.",
        "b on gaussian, d = 2, n = 1 / 1: uvp 2 -> 1, 0.5 times what was recorded.",
        "gone on gaussian, d = 2, n = 1 / 1: its gate goes, uvp was 1.",
        "New: 1 gate.",
    ]
    assert gates.worse(rows, gates.none()) == ()
    assert gates.changes(gates.none(), old) == ["New: 4 gates."]


def test_equal_halves_raise_few_alarms_and_unequal_ones_do(rng) -> None:
    """At 95 %: of 20 nights of five places one alarms; of the hundred alone, five. Three deviations are allowed."""
    nights = [frame({f"e{k}": list(rng.normal(5, 1, size=8)) for k in range(5)}) for _ in range(20)]
    found = [gates.false_alarms(rows) for rows in nights]
    assert {places for _, _, places in found} == {5}
    assert sum(together > 0 for together, _, _ in found) <= 1 + 3
    assert 0 < sum(alone for _, alone, _ in found) <= 5 + 3 * np.sqrt(5)
    drifting = frame({"a": [1.0, 1.1, 0.9, 1.05, 9.0, 9.1, 8.9, 9.05]})
    assert gates.false_alarms(drifting) == (1, 1, 1)
    assert gates.false_alarms(frame({"a": [1.0, 2.0, 3.0]})) == (0, 0, 0)


def test_halves_pair_instances_with_themselves() -> None:
    """Instances of quite other difficulty, two fits each: what differs between them is no alarm."""
    rows = frame({"a": [1.0, 1.01, 50.0, 50.5, 900.0, 891.0]}, instance=[0, 0, 1, 1, 2, 2])
    assert gates.false_alarms(rows) == (0, 0, 1)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    repository(tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "checkout")
    Path("tiny.toml").write_text(EXPERIMENT, encoding="utf-8")
    git(tmp_path / "checkout", "commit", "--quiet", "--allow-empty", "--message", "any")
    return tmp_path / "checkout"


def night(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["nightly", "tiny.toml", "--commit", "HEAD", *words], catch_exceptions=False)
    return done.exit_code, done.output


@pytest.mark.usefixtures("no_children")
def test_a_night_from_end_to_end(checkout) -> None:
    with pytest.raises(ExperimentError, match=r"gates\.csv cannot be read"):
        night()
    code, said = night("--record", "--out", "run")
    assert code == 0, said
    assert "20/20 planned cells were measured" in said
    assert "7 of 7 accuracy gates hold" in said  # five places, and two estimators of two places
    assert re.search(r"False alarms of compare on errors, .*: 0 of \d places", said)
    assert (checkout / "html" / "index.html").is_file()
    assert (checkout / "run" / "report" / "index.html").is_file()
    gates = pd.read_csv("gates.csv")
    gates.assign(catches=gates["catches"].where(gates["estimator"] != "sorting", 0.5)).to_csv("gates.csv", index=False)
    code, said = night("--out", "run")
    assert code == 1
    assert "FAILED: sorting on gaussian, d = 1" in said
    assert "6 of 7 accuracy gates hold" in (checkout / "run" / "nightly.md").read_text(encoding="utf-8")
    before = Path("gates.csv").read_bytes()
    code, said = night("--out", "run", "--record")
    assert code == 1
    assert "worse: sorting on gaussian, d = 1" in said
    assert "Not recorded" in said
    assert Path("gates.csv").read_bytes() == before
    code, said = night("--out", "run", "--record", "--accept-worse")
    assert code == 0, said
    assert Path("gates.csv").read_bytes() != before


OWN = """
name = "own"
seeds = 2
evaluation_points = 100
[[estimators]]
name = ["identity", "mine"]
[[problems]]
name = "gaussian"
[budget]
n_source = 30
n_target = 30
"""
MINE = """
import mongebench as mb


class Mine(mb.MapEstimator):
    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        return self

    def transform(self, X):
        return X + self.shift_
"""


@pytest.mark.usefixtures("no_children")
def test_a_night_in_a_repository_of_ones_own(tmp_path, monkeypatch) -> None:
    """No configuration of asv, no gates, an estimator nobody has heard of, and a commit of that repository."""
    top = tmp_path / "library"
    (top / "benchmarks").mkdir(parents=True)
    monkeypatch.chdir(top)

    def call(*words: str) -> tuple[int, str]:
        command = ["nightly", "benchmarks/own.toml", "--plugin", "mine.py", *words]
        done = CliRunner().invoke(cli.app, command, catch_exceptions=False, env={"COLUMNS": "200"})
        return done.exit_code, done.output

    (top / "benchmarks" / "own.toml").write_text(OWN, encoding="utf-8")
    (top / "mine.py").write_text(MINE, encoding="utf-8")
    with pytest.raises(ExperimentError, match="A nightly run measures a commit"):
        call()
    git(top, "init", "--quiet")
    git(top, "add", ".")
    with pytest.raises(ExperimentError, match="A nightly run measures a commit"):
        call()
    git(top, "commit", "--quiet", "--message", "mine")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="pip install 'asv"):
        call()
    monkeypatch.undo()
    monkeypatch.chdir(top)
    assert not (top / "results").exists()  # nothing was measured before everything was known to be there
    code, said = call("--record")
    assert code == 0, said
    head = git(top, "rev-parse", "HEAD")
    assert json.loads((top / "asv.conf.json").read_text(encoding="utf-8"))["project"] == "library"
    (result,) = (top / "results" / "asv").glob("*/*-py3.*.json")
    assert json.loads(result.read_text(encoding="utf-8"))["commit_hash"] == head
    assert (top / "results" / "runs" / f"own-{head[:8]}" / "nightly.md").is_file()
    recorded = pd.read_csv(top / "benchmarks" / "own_gates.csv")
    assert sorted(recorded["estimator"]) == ["identity", "mine"]
    code, said = call()
    assert code == 0, said
    assert "2 of 2 accuracy gates hold" in said
    (top / "mine.py").write_text(MINE.replace("X + self.shift_", "X + 1 * self.shift_"), encoding="utf-8")
    published = result.stat().st_mtime_ns
    _, said = call()
    assert f"Not put into asv's history: files here differ from commit {head[:8]}" in " ".join(said.split())
    assert result.stat().st_mtime_ns == published
    _, said = call("--dirty")
    assert result.stat().st_mtime_ns > published, said


def test_gates_of_a_packaged_experiment_are_ones_own_once_they_are_recorded(tmp_path, monkeypatch) -> None:
    declared = experiments.read("nightly")
    assert gates.path_of(declared) == gates.path_of(declared, True) == declared.base / "nightly_gates.csv"
    monkeypatch.chdir(tmp_path)
    assert gates.path_of(declared) == declared.base / "nightly_gates.csv"
    assert gates.path_of(declared, recording=True) == Path("nightly_gates.csv")
    Path("nightly_gates.csv").touch()
    assert gates.path_of(declared) == Path("nightly_gates.csv")
    assert gates.path_of(experiments.read("quickstart")) == declared.base / "quickstart_gates.csv"


def test_every_estimator_has_a_cell_of_the_night_and_gates_are_of_its_places() -> None:
    declared = experiments.read("nightly")
    ours = {found.name for found in plugins.available(plugins.ESTIMATORS).values() if found.origin == "mongebench"}
    # What is published at one setting is no rival: the authors' algorithm, and presets that want fresh draws.
    assert declared.named() == ours - {"published", "enot_published", "w2_dual_published"}
    recorded = gates.read(declared.base / str(declared.gates))
    assert len(recorded) >= 50
    assert set(recorded["estimator"]) <= {plugins.SHOWN.get(name, name) for name in ours}
    assert set(recorded["problem"]) == {cell.problem.name for cell in declared.cells()}
    assert recorded["catches"].between(gates.LEAST, gates.MOST).all()
    assert (recorded["n"] == recorded["fits"].str.split(" ").str.len()).all()
