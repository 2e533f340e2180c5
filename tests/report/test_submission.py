"""Joining a board from outside: a row among published ones, a submission, and what a maintainer finds of it."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mongebench import cli
from mongebench.report import submission
from mongebench.report.tables import joint, leaderboard
from mongebench.report.tables.results import legend
from mongebench.run.frame import TIME_COLUMNS
from mongebench.run.reading import read_run
from mongebench.run.store import RunDirectory, RunError

GRID = """
name = "board"
evaluation_points = 200
seeds = 2
[[estimators]]
name = ["identity", "bures", "exact"]
[[problems]]
name = ["product", "gaussian"]
[budget]
n_source = 40
n_target = 40
"""
MINE = """
import mongebench as mb
from mine_helper import slope


class Mine(mb.MapEstimator):
    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

    def fit(self, source, target, *, seed=0, trace=None):
        self.slope_ = slope(source.samples, target.samples)
        self.shift_ = target.samples.mean(axis=0) - self.slope_ * source.samples.mean(axis=0)
        return self

    def transform(self, X):
        return self.slope_ * X + self.shift_
"""
HELPER = "def slope(x, y):\n    return y.std(axis=0) / x.std(axis=0)\n"


def call(folder: Path, *words: str) -> tuple[int, str]:
    """In a process of its own: two files that define one name are never in the same."""
    command = [sys.executable, "-m", "mongebench", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(in_this_process, tmp_path_factory) -> Path:
    """`published.zip`, a run `mine` against it, and what that said."""
    folder = tmp_path_factory.mktemp("joining")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    (folder / "mine.py").write_text(
        "import pathlib, sys\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\n" + MINE
    )
    (folder / "mine_helper.py").write_text(HELPER, encoding="utf-8")
    with in_this_process():
        done = CliRunner().invoke(cli.app, ["run", str(folder / "grid.toml"), "--out", str(folder / "published")])
    assert done.exit_code == 0, done.output
    zipped(folder / "published", folder / "published.zip")
    code, said = call(folder, "run", "grid.toml", "--plugin", "mine.py", "--against", "published.zip", "--out", "mine")
    assert code == 0, said
    (folder / "said.txt").write_text(said, encoding="utf-8")
    code, said = call(folder, "submit", "mine")
    assert code == 0, said
    assert "source: plugins/mine_helper.py" in said
    return folder


def zipped(run: Path, path: Path, old: str = "", new: str = "") -> Path:
    """A run as a zip file, a text of its records and its plan replaced."""
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(run.rglob("*.json")):
            packed.writestr(file.relative_to(run).as_posix(), file.read_text(encoding="utf-8").replace(old, new))
    return path


def test_my_row_is_among_the_published_ones_and_only_my_cells_ran(folder) -> None:
    assert {path.name.partition("-")[0] for path in (folder / "mine" / "cells").glob("*.json")} == {"mine"}
    both = joint.joined(folder / "mine", folder / "published.zip")
    lines = {line["estimator"]: line for line in leaderboard.board(both.rows)}
    assert lines.keys() == {"identity", "bures", "exact_coupling", "mine"}
    assert lines["mine"]["setting"] == "default, not submitted"
    assert lines["exact_coupling"]["setting"] == "default, published"
    assert lines["mine"]["n_ok"] == lines["mine"]["n_planned"] == 4
    said = (folder / "said.txt").read_text(encoding="utf-8")
    assert "not submitted" in " ".join(said.split())
    assert "Published: published.zip" in said
    assert both.rows["wall_seconds"].notna().all()  # of one machine


def test_times_of_two_machines_are_left_out_and_other_conditions_named(folder, tmp_path) -> None:
    processor = read_run(folder / "mine").records[0].provenance.processor
    elsewhere = zipped(folder / "published", tmp_path / "elsewhere.zip", json.dumps(processor), '"another"')
    both = joint.joined(folder / "mine", elsewhere)
    assert both.rows["wall_seconds"].isna().all()
    assert any("Times are left out" in remark and "another" in remark for remark in both.remarks)
    assert "mine" in set(both.rows["estimator"])
    several = read_run(elsewhere, folder / "mine").frame()  # what `report` shows
    assert several[list(TIME_COLUMNS)].isna().all(axis=None)
    assert "no times: the runs were not timed alike (processor another and" in legend(several)
    assert read_run(folder / "published.zip", folder / "mine").frame()["wall_seconds"].notna().all()
    other = zipped(folder / "published", tmp_path / "other.zip", '"evaluation_points": 200', '"evaluation_points": 100')
    both = joint.joined(folder / "mine", other)
    assert "mine" not in set(both.rows["estimator"])
    assert any("evaluation_points is 200, published 100" in remark for remark in both.remarks)


def test_a_submission_is_verified_by_measuring_a_part_of_it_again(folder) -> None:
    path = folder / "mine" / "submission.zip"
    with zipfile.ZipFile(path) as packed:
        assert {"plan.json", "submission.json", "plugins/mine.py", "plugins/mine_helper.py"} <= {*packed.namelist()}
        assert str(folder) not in packed.read("plan.json").decode()
    together = read_run(folder / "published.zip", path)
    board = {line["estimator"]: line["setting"] for line in leaderboard.board(together.frame())}
    assert (board["mine"], board["exact_coupling"]) == ("default, submitted", "default, published")
    code, said = call(folder, "verify", str(path), "--share", "20%", "--seed", "0")
    assert code == 0, said
    assert "1 of 1 cells agree, of 4 submitted." in said
    assert set(read_run(path).frame()["standing"]) == {"verified"}
    copy = folder / "copy.zip"
    copy.write_bytes(path.read_bytes())
    with zipfile.ZipFile(copy, "a") as packed:
        packed.writestr("note.txt", "changed afterwards")
    copy.with_suffix(".verified.json").write_bytes(path.with_suffix(".verified.json").read_bytes())
    assert set(read_run(copy).frame()["standing"]) == {"submitted"}


def test_numbers_source_and_cells_that_were_changed_are_found(folder, tmp_path) -> None:
    path = folder / "mine" / "submission.zip"
    run, found = read_run(path), submission.opened(path)
    record = run.records[0]
    metrics = record.metrics
    better = metrics | {"uvp": replace(metrics["uvp"], value=0.9 * metrics["uvp"].value)}
    told = submission._compared(record, record.model_copy(update={"metrics": better}), 0.05)
    assert not told.agrees
    assert told.said.startswith("uvp recorded")
    assert submission._compared(record, record, 0.0).agrees
    code = record.manifest.model_copy(update={"estimator_source": "other"})
    assert (
        "estimator_source: other -> "
        in submission._compared(record, record.model_copy(update={"manifest": code}), 1).said
    )
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text("other", encoding="utf-8")
    (tmp_path / "plugins" / "hidden.py").write_text("more", encoding="utf-8")
    faults = " ".join(submission._faults(run, found, tmp_path))
    for name in ("mine.py", "mine_helper.py", "hidden.py"):
        assert f"plugins/{name} is not what submission.json says" in faults


def test_a_damaged_sketch_and_a_file_of_no_submission_are_found(folder, tmp_path) -> None:
    whole, broken = folder / "mine" / "submission.zip", tmp_path / "broken.zip"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(broken, "w") as packed:
        sketches = sorted(name for name in source.namelist() if name.endswith(".npz"))
        for name in source.namelist():
            packed.writestr(name, source.read(name)[: 100 if name == sketches[0] else None])
        packed.writestr("../../evil.txt", "")
        members = packed.namelist()
    found = submission.opened(whole)
    assert submission._foreign(read_run(whole), found, members[:-1]) == []
    assert submission._foreign(read_run(broken), found, [*members, "plan.json"]) == [
        "plan.json is in it 2 times.",
        f"{sketches[0]} is not a complete sketch of its cell.",
        "../../evil.txt does not belong in a submission.",
    ]


def test_what_cannot_be_submitted_is_said(folder, tmp_path) -> None:
    with pytest.raises(RunError, match="has no estimator of your own"):
        submission.submit(RunDirectory(folder / "published"), tmp_path / "s.zip")
    with pytest.raises(RunError, match="is not a submission"):
        submission.opened(folder / "published.zip")
