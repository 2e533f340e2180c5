"""A run asked about later: from another folder, after a file that a plugin imports changed, after records were lost."""

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from mongebench import cli, plugins
from mongebench.cli import progress
from mongebench.report.tables import exports
from mongebench.run import provenance
from mongebench.run.reading import read_run
from mongebench.run.record import CHARACTERS, ENTRIES, Record, Status
from mongebench.run.store import Plan, RunDirectory

PLUGIN = """
import os, sys
sys.path.insert(0, os.path.dirname(__file__))
import glob
import mongebench as mb
from helper import FACTOR

class Sound(mb.MapEstimator):
    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})
    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = FACTOR * target.samples.mean(axis=0)
        return self
    def transform(self, X):
        return X + self.shift_

class Loud(Sound):
    def fit(self, source, target, *, seed=0, trace=None):
        import warnings
        self.huge_, self.surrogate_, self.long_ = 10**5000, "\\ud800", "x" * 10**6
        for number in range(1000):
            setattr(self, f"learned_{number}_", number)
            warnings.warn(f"{number}" + "y" * 10_000)
        return super().fit(source, target)

class Deletes(Sound):
    def fit(self, source, target, *, seed=0, trace=None):
        for path in glob.glob(os.environ["RUN"] + "/cells/*"):
            os.unlink(path)
        return super().fit(source, target)
"""


def experiment(folder: Path, *names: str) -> None:
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "helper.py").write_text("FACTOR = 1\n", encoding="utf-8")
    (folder / "grid.toml").write_text(
        f'name = "grid"\nseeds = 2\nevaluation_points = 50\n[[estimators]]\nname = {list(names)}\n'
        '[[problems]]\nname = "gaussian"\n[budget]\nn_source = 20\nn_target = 20\n',
        encoding="utf-8",
    )


def run(folder: Path, **environment: str) -> Result:
    """In this process, in that folder; what the plugin registers and adds to the path is forgotten."""
    words = ["run", "grid.toml", "--plugin", "plugin.py", "--out", "run", "--workers", "1"]
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(plugins, "_from_files", dict(plugins._from_files))
        return CliRunner().invoke(cli.app, words, env=environment)


def asked(*words: object) -> str:
    """Of a process of its own, which has imported no plugin yet, in another folder."""
    done = subprocess.run(
        [sys.executable, "-m", "mongebench", *map(str, words)], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(*words: object) -> str:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("somewhere")
    experiment(found, "sound", "loud")
    done = run(found)
    assert done.exit_code == 0, done.output
    return found


def records(folder: Path, name: str) -> list[Record]:
    return [record for record in RunDirectory(folder / "run").records() if record.cell.estimator.name == name]


def test_what_an_estimator_says_is_cut_and_counted(folder: Path) -> None:
    for record in records(folder, "loud"):
        assert record.status is Status.OK, record.reason
        assert record.learned["huge_"] == "a whole number of 16610 bits"
        assert record.learned["surrogate_"] == "?"
        assert CHARACTERS - 20 < len(str(record.learned["long_"])) <= CHARACTERS
        assert "characters were cut" in str(record.learned["long_"])
        assert len(record.learned) == ENTRIES
        assert "more were cut" in str(record.learned["..."])
        assert len(record.warnings) == ENTRIES
        assert "more warnings were cut" in record.warnings[-1]
        assert RunDirectory(folder / "run").record_path(record.cell).stat().st_size < 1 << 20
        assert Record.model_validate_json(record.model_dump_json()) == record


def test_why_rerun_knows_the_run_from_anywhere_and_sees_what_a_plugin_imports(folder: Path) -> None:
    grid = (folder / "grid.toml").read_text(encoding="utf-8")
    (folder / "grid.toml").write_text("another experiment of the same name", encoding="utf-8")
    assert "0 of 4 cells would run" in here("why-rerun", folder / "run")
    (folder / "grid.toml").write_text(grid, encoding="utf-8")
    (folder / "helper.py").write_text("FACTOR = 100\n", encoding="utf-8")
    said = asked("why-rerun", folder / "run")
    (folder / "helper.py").write_text("FACTOR = 1  # as it was\n", encoding="utf-8")
    assert said.count("estimator_source: ") == 4
    assert "4 of 4 cells would run" in said
    assert "0 of 4 cells would run" in here("why-rerun", folder / "run")


def test_an_archive_holds_the_experiment_and_no_folder_of_this_machine(folder: Path, tmp_path: Path) -> None:
    import zipfile

    plan = RunDirectory(folder / "run").plan()
    assert plan.declaration is not None
    assert plan.declaration.base == str(folder)
    with zipfile.ZipFile(exports.archive(read_run(folder / "run"), tmp_path / "records.zip")) as packed:
        text = packed.read("plan.json").decode()
    assert str(folder) not in text
    packed_plan = Plan.model_validate_json(text).declaration
    assert packed_plan is not None
    assert packed_plan.text == plan.declaration.text


def test_a_run_that_ends_without_all_of_its_records_says_so(tmp_path: Path) -> None:
    experiment(tmp_path, "sound", "deletes")
    done = run(tmp_path, RUN=str(tmp_path / "run"))
    assert done.exit_code == 4
    assert "of 4 cells have no record that holds" in done.stderr
    assert "no record" in done.stderr
    assert "the same command goes on from there" in done.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo \"fatal: detected dubious ownership in '/secret'\" >&2; exit 128", "git refuses the checkout"),
        ("exit 7", "exit code 7"),
        (None, "git is not installed"),
    ],
)
def test_a_record_without_a_commit_says_why(
    tmp_path: Path, monkeypatch, capsys, script: str | None, words: str
) -> None:
    if script is not None:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    provenance._commit.cache_clear()
    try:
        made = provenance.provenance(threads=1, workers=1)
        assert (made.commit, made.dirty) == (None, None)
        assert words in made.commit_unknown
        assert "secret" not in made.commit_unknown
        run = SimpleNamespace(
            experiment=SimpleNamespace(name="x"),
            cells=[],
            pending=[],
            selection="",
            shortages=(),
            execute=print,
            lost=str,
        )
        progress.execute(run)
        said = capsys.readouterr().err
        assert f"Warning: the records will not say all of their commit: {made.commit_unknown}" in said
    finally:
        provenance._commit.cache_clear()


def test_a_hook_of_another_repository_does_not_change_the_commit(tmp_path: Path, monkeypatch) -> None:
    provenance._commit.cache_clear()
    before = provenance.current_commit()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    provenance._commit.cache_clear()
    assert provenance.current_commit() == before
    provenance._commit.cache_clear()
