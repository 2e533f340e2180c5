"""Records as asv reads them, and the dashboard asv makes of them: of two commits of a repository made here."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.results import Results
from typer.testing import CliRunner

from mongebench import cli
from mongebench.report.asv import dashboard, export
from mongebench.report.asv.history import backfill
from mongebench.run.reading import read_run
from mongebench.run.record import Status
from mongebench.run.store import RunError

from ..conftest import EXPERIMENT, cell, exponential, git, history, repository, writer

HOSTILE = "<img src=x onerror=alert(1)>.b"


def imported(*words) -> str:
    done = CliRunner().invoke(cli.app, ["asv", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def published_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    history(folder / "checkout", writer(folder))
    return folder / "checkout"


@pytest.fixture
def published(tmp_path, published_once) -> Path:
    """A checkout with the results of its two commits, and the pages of them."""
    return shutil.copytree(published_once, tmp_path / "checkout")


def test_asv_reads_what_the_records_say(published, monkeypatch) -> None:
    monkeypatch.chdir(published)
    configured = Config.load("asv.conf.json")
    benchmarks = Benchmarks.load(configured)
    files = sorted((published / "results").glob("*/*-written-py3.json"))
    assert len(files) == 2
    read = {result.commit_hash: result for result in map(Results.load, map(str, files))}
    head = subprocess.run(
        ["git", "-C", str(published), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    for commit, result in read.items():
        error = 3 * math.exp(-8 if commit == head else -4)
        for name, expected in (("uvp", 100 * error), ("l2_error", error)):
            described = benchmarks[f"written.gaussian.track_{name}"]
            assert described["params"] == [["2"], ["'n = unlimited / 100'"], ["'flow'", "'late'"]]
            values = result.get_result_value(described["name"], described["params"])
            assert values == pytest.approx([expected, math.nan], nan_ok=True)
        described = benchmarks["written.gaussian.track_failed"]
        assert result.get_result_value(described["name"], described["params"]) == [0, 2]
        described = benchmarks["written.gaussian.track_flow_factor"]
        assert result.get_result_value(described["name"], described["params"])[0] == pytest.approx(
            math.exp(-4 if commit == head else -2), rel=0.05
        )
        described = benchmarks["written.gaussian.time_fit"]
        assert (described["type"], described["unit"]) == ("time", "seconds")
        assert result.get_result_value(described["name"], described["params"])[0] == 1.0
        assert result.date % 1000 == 0


def test_the_dashboard_loads_nothing_from_a_network(published) -> None:
    pages = published / "html"
    front = (pages / "index.html").read_text(encoding="utf-8")
    assert "integrity" not in front
    for tag in ("<script", "<link"):
        for piece in front.split(tag)[1:]:
            assert "http" not in piece.partition(">")[0]
    loaded = [piece.partition('"')[0] for piece in front.split('src="')[1:]]
    assert len(loaded) > 15
    assert all((pages / name).is_file() for name in loaded)
    data = json.loads((pages / "vendor" / "files.js").read_text("utf-8").removeprefix("window.files = ").rstrip(";\n"))
    assert json.loads(data["index.json"])["benchmarks"].keys() >= {"written.gaussian.track_uvp"}
    assert json.loads(data["regressions.json"]) == json.loads((pages / "regressions.json").read_text("utf-8"))


def test_the_copies_are_those_that_asv_asks_for(published) -> None:
    """Byte for byte where npm has the file that asv names by its hash: not flot minified, and a newer stupidtable."""
    page = (resources.files("asv") / "www" / "index.html").read_text(encoding="utf-8")
    equal = 0
    for name, method, digest in re.findall(r'/([^"/]+)" integrity="(sha\d+)-([^"]+)"', page):
        copy = resources.files("mongebench.report.asv") / "vendor" / name
        if copy.is_file() and name != "stupidtable.min.js":
            assert base64.b64encode(hashlib.new(method, copy.read_bytes()).digest()).decode() == digest, name
            equal += 1
    assert equal == 5


def test_names_from_plugins_cannot_harm_the_pages(write_run) -> None:
    run = write_run([(cell(HOSTILE), exponential(2.0, 0.1)), (cell("x", problem={"name": HOSTILE}), [])])
    found = export.tracked(read_run(run.path))
    assert found
    for one in found:
        assert one.name.count(".") == 2
        assert not set(json.dumps(one.description())) & set("<>&")


def test_errors_are_lifted_to_their_floor_and_halve_as_they_should(write_run) -> None:
    entries = [(cell("plugin").model_copy(update={"n_source": n}), [*exponential(2.0, 0.1)]) for n in (100, 200, 400)]
    run = write_run(entries, floor=1e-3, energy_distance=lambda cell: -0.5)
    for record in list(run.records()):
        value = record.metrics["uvp"].__class__(10 / record.cell.n_source, 0.0, 1e-9)
        run.write(record.model_copy(update={"metrics": {**record.metrics, "uvp": value}}))
    found = {one.name.rpartition(".")[2]: one for one in export.tracked(read_run(run.path))}
    assert set(found["track_energy_distance"].values) == {0.001}
    np.testing.assert_allclose(found["track_uvp_factor_per_doubling"].values, 0.5)
    assert found["track_uvp_factor_per_doubling"].axes == ("dim", "estimator")


def test_unsupported_cells_are_no_failures_and_other_ones_are_counted(write_run) -> None:
    refused = write_run([(cell("sorting"), []), (cell("sorting", seed=1), [])], status=Status.UNSUPPORTED)
    assert export.tracked(read_run(refused.path)) == []
    crashed = write_run([(cell("sorting"), []), (cell("sorting", seed=1), [])], status=Status.CRASHED)
    (only,) = export.tracked(read_run(crashed.path))
    assert (only.name, only.values) == ("written.gaussian.track_failed", (2.0,))


def test_what_asv_run_tracks_stays(published, write_run) -> None:
    known = published / "results" / "benchmarks.json"
    content = json.loads(known.read_text("utf-8"))
    known.write_text(json.dumps({**content, "bench_kernels.time": {"name": "bench_kernels.time"}}), encoding="utf-8")
    run = write_run([(cell("flow"), exponential(2.0, 0.1))])
    imported(run.path, "--config", published / "asv.conf.json", "--commit", "HEAD", "--machine", "any")
    again = json.loads(known.read_text("utf-8"))
    assert again.keys() == {*content, "bench_kernels.time"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "asv.conf.json"], "say with --commit"),
        (["--config", "asv.conf.json", "--commit", "no-such"], "git knows no commit 'no-such'"),
        (["--config", "../nowhere.json"], "is not in a git repository"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(published, write_run, monkeypatch, words, said) -> None:
    monkeypatch.chdir(published)
    run = write_run([(cell("flow"), [])])
    with pytest.raises(RunError, match=said):
        CliRunner().invoke(cli.app, ["asv", str(run.path), *words], catch_exceptions=False)


def test_an_asv_that_loads_something_else_is_refused(tmp_path) -> None:
    page = '<script src="https://elsewhere.example/new.min.js" integrity="x"></script>'
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    with pytest.raises(RunError, match=r"loads new\.min\.js, which mongebench has no copy of"):
        dashboard.make_offline(tmp_path)


def test_a_point_at_the_right_edge_is_in_the_axes(published) -> None:
    drawing = (published / "html" / "graphdisplay.js").read_text(encoding="utf-8")
    assert drawing.count("x > right") == 1
    assert "x >= right" not in drawing


@pytest.mark.slow  # runs of commits in processes of their own: 14 CPU seconds
def test_a_backfill_measures_earlier_commits_once_and_says_what_it_left_out(tmp_path, monkeypatch) -> None:
    """Of a repository whose first commit is broken; the others are this package, which is not copied."""
    checkout = tmp_path / "checkout"
    repository(checkout)
    (checkout / "mongebench.py").write_text("raise SystemExit('broken then')\n", encoding="utf-8")
    git(checkout, "add", "mongebench.py")
    git(checkout, "commit", "--quiet", "--message", "broken")
    git(checkout, "rm", "--quiet", "mongebench.py")
    git(checkout, "commit", "--quiet", "--message", "whole")
    small = tmp_path / "small.toml"
    few = EXPERIMENT.replace("[20, 40]", "20").replace("[1, 2]", "2").replace('"truth", "bures", "sorting"', '"bures"')
    small.write_text(few, encoding="utf-8")
    found = {"repo": str(checkout), "results_dir": str(tmp_path / "results")}
    said = [*backfill(found, 2, str(small), machine="any")]
    assert [sentence.partition(": ")[2] for sentence in said] == ["measured", "left out, exit code 1: broken then"]
    (path,) = (tmp_path / "results" / "any").glob("*-small-*.json")
    values = json.loads(path.read_text(encoding="utf-8"))["results"]["small.gaussian.track_uvp"][0]
    assert len(values) == 2  # estimators
    assert [*backfill(found, 1, str(small), machine="any")] == [f"{path.name[:8]}: measured before"]
    assert not [*(checkout / ".git" / "worktrees").glob("*")]
