"""The command line: what a newcomer types, and what every mistake is answered with."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mongebench import cli
from mongebench.core.errors import ExperimentError
from mongebench.run.store import RunDirectory

SMALL = """
name = "small"
seeds = 2
evaluation_points = 200
[[estimators]]
name = ["identity", "truth", "bures"]
[[estimators]]
name = "exact"
extension = ["nearest", "translated"]
[[problems]]
name = "gaussian"
dim = [1, 2]
[budget]
n_source = 60
n_target = 50
"""


@pytest.fixture(scope="module")
def ran(in_this_process, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text(SMALL, encoding="utf-8")
    words = ["run", str(folder / "small.toml"), "--out", str(folder / "run")]
    with in_this_process():
        result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "120"})  # nothing is broken over two lines
    assert result.exit_code == 0, result.output
    (folder / "said.txt").write_text(result.output, encoding="utf-8")
    return folder / "run"


def call(*words: str) -> str:
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_run_leaves_records_a_table_and_a_figure(ran: Path) -> None:
    said = (ran.parent / "said.txt").read_text(encoding="utf-8")
    assert "20 cells, 0 already recorded, 20 to run" in said
    for words in ("d = 1", "d = 2", "bures", "exact_coupling(extension=translated)", "at floor", "2/2", "floor"):
        assert words in said, words
    assert len(list((ran / "cells").glob("*.json"))) == 20
    for name in ("error", "clouds"):
        for suffix in ("png", "svg", "pdf"):
            assert (ran / "figures" / f"{name}.{suffix}").stat().st_size > 1000


def test_dry_run_prints_and_writes_nothing(ran: Path, tmp_path: Path) -> None:
    said = call("run", ran.parent / "small.toml", "--dry-run", "--seeds", "3", "--out", tmp_path / "new")
    assert "30 cells planned, 0 recorded, 30 to run" in said
    assert not (tmp_path / "new").exists()
    assert "Not predicted: 30 cells" in said
    assert "gaussian, d = 1, 2, n = 60 / 50: 5 estimators, up to 3 seeds, 30 cells\n" in said
    assert ": no earlier record" not in said  # a line for each cell is for those who ask
    assert "20 cells planned, 20 recorded, 0 to run" in call(
        "run", ran.parent / "small.toml", "--dry-run", "--out", ran
    )
    said = call("run", ran.parent / "small.toml", "--dry-run", "-v", "--seeds", "3", "--out", ran)
    assert said.count(": recorded\n") == 20
    assert said.count(" s, from 2 earlier record(s)\n") == 10
    assert "Predicted for 10 of the 10 cells to run: about " in said
    assert "Not predicted" not in said


def test_only_selects(ran: Path, tmp_path: Path) -> None:
    said = call("run", ran.parent / "small.toml", "--dry-run", "--only", "exact", "--out", tmp_path / "new")
    assert "20 cells planned" in said  # the anchors stay: identity, truth and bures beside two rows of exact
    assert "the anchors bures, identity, truth among them" in said
    words = ["run", ran.parent / "small.toml", "--dry-run", "-v", "--out", tmp_path / "new", "--only"]
    said = call(*words, "identity on gaussian(dim=1*")
    assert "2 cells planned" in said  # a pattern on labels selects those cells alone
    assert "Estimators left out: bures, exact_coupling, truth." in said
    assert "mean_shift on gaussian" in call(*words, "mean_shift")  # registered, though the experiment does not name it


def test_every_default_is_in_the_help() -> None:
    said = " ".join(call("run", "--help").replace("│", " ").split())
    assert "[default: (results/runs/NAME)]" in said
    for command in cli.COMMANDS:
        # Where rich takes a default within a sentence for markup, it leaves the full stop alone.
        assert not re.search(r" \.\s", call(command, "--help")), command
    assert cli.COMMANDS.keys() == cli.PANEL_OF.keys()


def test_a_reader_that_leaves_changes_no_exit_code(ran: Path, tmp_path: Path) -> None:
    words = f"{sys.executable} -m mongebench figures {ran} --out {tmp_path / 'figures'} && echo done >&2"
    shell = ["bash", "-o", "pipefail", "-c"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*shell, f"({words}) | true"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "done\n")
    assert (tmp_path / "figures" / "error.pdf").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_of_ascii_reads_ascii(ran: Path, encoding) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "NO_COLOR": "1"}
    table = [sys.executable, "-m", "mongebench", "table", str(ran)]
    done = subprocess.run(table, capture_output=True, text=True, env=environment, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert ("+-" if encoding == "ascii" else "±") in done.stdout
    assert "\x1b[" not in done.stdout


def test_a_zipped_run_is_a_run_to_every_command(ran: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", ran.parent, ran.name))  # the folder, and in it
    assert "at_floor" in call("status", packed)
    assert "0 of 20 cells would run" in call("why-rerun", packed)
    call("export", packed)
    assert (tmp_path / "packed-results.csv").exists()
    call("figures", packed)
    assert (tmp_path / "packed-figures" / "error.png").exists()


def test_all_points_of_files_and_a_budget_that_cannot_be_met(tmp_path: Path) -> None:
    for name, count in (("x.npy", 40), ("y.npy", 60)):
        np.save(tmp_path / name, np.random.default_rng(count).normal(size=(count, 2)))
    text = """
name = "own"
[[estimators]]
name = ["identity", "bures", "entropic"]
[[problems]]
name = "files"
source = "x.npy"
target = "y.npy"
budget = { n_source = BUDGET, n_target = "all" }
"""
    path = tmp_path / "own.toml"
    path.write_text(text.replace("BUDGET", '"all"'), encoding="utf-8")
    said = call("run", path, "--dry-run", "--out", tmp_path / "run")
    assert "n = 20 / 30: 3 estimators" in said  # half of each file is held out
    path.write_text(text.replace("BUDGET", "35"), encoding="utf-8")
    said = call("run", path, "--dry-run", "--out", tmp_path / "run")
    assert said.count("the source cloud has 20 points to fit from, n_source asks for 35") == 1
    path.write_text(SMALL.replace("n_source = 60", 'n_source = "all"'), encoding="utf-8")
    with pytest.raises(ExperimentError, match='"all" asks for every point of a file'):
        call("run", path, "--dry-run", "--out", tmp_path / "run")


def test_status_table_show_and_why_rerun(ran: Path) -> None:
    assert "at_floor" in call("status", ran)
    for metric in ("energy_distance", "fit_seconds"):
        assert metric in call("table", ran, "--metric", metric)
    assert "three or more sizes" in call("table", ran, "--cost")
    record = next((ran / "cells").glob("bures*.json"))
    assert "oracle counts" in call("show", record)
    assert "0 of 20 cells would run" in call("why-rerun", ran)


def test_why_rerun_names_the_field(ran: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ran, copy)
    path = next((copy / "cells").glob("bures*.json"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"evaluation_points": 200', '"evaluation_points": 100'), encoding="utf-8")
    next((copy / "cells").glob("exact*.json")).unlink()
    said = call("why-rerun", copy)
    assert "evaluation_points: 100 -> 200" in said
    assert "no record" in said
    assert "2 of 20 cells would run" in said


def test_figures_can_be_drawn_again(ran: Path, tmp_path: Path) -> None:
    call("figures", ran, "--out", tmp_path)
    assert (tmp_path / "error.pdf").exists()


@pytest.mark.parametrize("name", ["bures", "gaussian", "uvp"])
def test_show_knows_every_kind_of_name(name: str) -> None:
    said = call("show", name)
    assert name in said
    assert ("claims: gradient_of_convex, rotation" in said) == (name == "bures")
    assert ("map back: inverse_transform" in said) == (name == "bures")


def test_a_missing_cell_is_in_the_table(ran: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ran, copy)
    for path in (copy / "cells").glob("bures*.json"):
        path.unlink()
    said = call("table", copy)
    assert "missing" in said
    assert "0/2" in said
    assert "missing" in call("status", copy)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["run", "quikstart"], "Did you mean 'quickstart'"),
        (["show", "burse"], "Did you mean 'bures'"),
        (["show", "nothing.json"], "not a readable record"),
        (["table", "."], "not a run"),
        (["status", "nowhere"], "not a run"),
        (["rate", "nowhere"], "not a run"),
        (["run", "quickstart", "--against", "nope.zip"], "nope.zip is not a run: there is no such directory or zip"),
        (["verify", "nope.zip"], "There is no file nope.zip."),
        (["submit", ".", "--out", "nowhere/s.zip"], "there is no folder nowhere"),
        (["list", "estimator"], "Did you mean 'estimators'"),
        (["run", "quickstart", "--only", "zzz"], "matches no cell"),
        (["run", "quickstart", "--plugin", "nowhere.py"], "There is no plugin file"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(monkeypatch, capsys, tmp_path, words, answer) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mongebench", *words])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    said = capsys.readouterr()
    assert answer in said.err
    assert "Traceback" not in said.err


def test_a_run_without_traces_has_no_rate(monkeypatch, capsys, ran: Path) -> None:
    monkeypatch.setattr("sys.argv", ["mongebench", "rate", str(ran)])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert "only iterative estimators leave one" in capsys.readouterr().err


def test_an_unknown_metric_lists_the_valid_ones(monkeypatch, capsys, ran: Path) -> None:
    monkeypatch.setattr("sys.argv", ["mongebench", "table", str(ran), "--metric", "uvpp"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Did you mean 'uvp'" in capsys.readouterr().err


def test_the_plan_says_how_it_was_asked(ran: Path) -> None:
    assert RunDirectory(ran).plan().invocation.experiment.endswith("small.toml")


def test_a_thread_of_a_plugin_does_not_end_a_command() -> None:
    code = """
        import os, threading
        from mongebench import cli
        def command():
            thread = threading.Thread(target=lambda: os._exit(0))
            thread.start()
            thread.join()
            raise cli.MongebenchError("went on")
        cli.app = command
        cli.main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "mongebench: went on\n")
