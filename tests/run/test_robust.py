"""What a run survives beside its cells: dask, lost workers, a lost scheduler, a full disk, signals, a second run."""

import base64
import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mongebench import cli
from mongebench.report.tables import results, terminal
from mongebench.report.tables.leaderboard import places
from mongebench.run import dask_engine
from mongebench.run.child import Job
from mongebench.run.reading import read_run
from mongebench.run.record import Record, Status
from mongebench.run.runner import Execution
from mongebench.run.sketch import Sketch
from mongebench.run.store import Invocation, RunDirectory, RunStopped, write_atomically

FAKES = Path(__file__).with_name("fakes.py")
GRID = """
name = "grid"
seeds = {seeds}
time_limit = "60s"
evaluation_points = 100
[[estimators]]
name = {names}
[[problems]]
name = "gaussian"
dim = 2
[budget]
n_source = 50
n_target = 50
"""


def command(folder: Path, names: list[str], seeds: int, *options: str) -> list[str]:
    path = folder / "grid.toml"
    path.write_text(GRID.format(names=str(names).replace("'", '"'), seeds=seeds), encoding="utf-8")
    words = [sys.executable, "-m", "mongebench", "run", str(path), "--out", str(folder / "run")]
    return [*words, "--plugin", str(FAKES), *options]


def run_here(words: list[str]) -> Result:
    """A `command` in this process; its children are processes as ever."""
    return CliRunner().invoke(cli.app, words[3:])


def counts(folder: Path) -> Counter[Status]:
    return Counter(record.status for record in RunDirectory(folder / "run").records())


def wait_until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """For something that a process does: it fails, where that ends before or takes two minutes."""
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def dask(*worker: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler with one worker, whose command begins with `worker`: its address, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    words = [
        ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
        [*worker, address, "--nthreads", "1", "--no-dashboard", "--no-nanny"],
    ]
    processes = [
        subprocess.Popen([sys.executable, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for options in words
    ]
    try:
        yield address, processes[0]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler with one worker, as a user starts them."""
    with dask("-m", "distributed.cli.dask_worker") as started:
        yield started


WITHOUT_MONGEBENCH = """
import runpy, sys


class Lacks:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mongebench":
            raise ModuleNotFoundError("No module named 'mongebench'", name="mongebench")


sys.meta_path.insert(0, Lacks())
runpy.run_module("distributed.cli.dask_worker", run_name="__main__")
"""


@pytest.mark.slow  # a scheduler, a worker and a run
def test_a_worker_that_cannot_import_mongebench_is_named_with_its_error(tmp_path: Path) -> None:
    with dask("-c", WITHOUT_MONGEBENCH) as (address, _):
        words = command(tmp_path, ["bures"], 1, "--engine", "dask", "--scheduler", address)
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 4
    assert "cannot import mongebench: ModuleNotFoundError: No module named 'mongebench'" in done.stderr
    assert "The dask worker tcp://" in done.stderr
    assert "lost" not in done.stderr


def test_dask_leaves_the_records_of_the_local_engine(tmp_path: Path, cluster) -> None:
    """Through a worker that survives the crash of its child."""
    address, _ = cluster
    for engine in ("local", "dask"):
        (tmp_path / engine).mkdir()
    names, far = ["shift", "segfaults"], ["--engine", "dask", "--scheduler", address]
    done = subprocess.run(command(tmp_path / "dask", names, 2, *far), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert run_here(command(tmp_path / "local", names, 2, "--workers", "1")).exit_code == 0
    here, there = (
        {record.cell.key: record for record in RunDirectory(tmp_path / engine / "run").records()}
        for engine in ("local", "dask")
    )
    assert len(here) == 4
    for key, record in here.items():
        assert there[key].model_fields_set == record.model_fields_set
        for field in ("cell", "manifest", "status", "reason", "metrics", "oracle_counts"):
            assert getattr(there[key], field) == getattr(record, field), field
        assert there[key].provenance.workers == 1
    assert not list((tmp_path / "dask" / "run").glob(".shared-*"))


@pytest.mark.long
def test_a_lost_scheduler_ends_the_run_with_a_sentence(tmp_path: Path, cluster) -> None:
    address, scheduler = cluster
    words = command(tmp_path, ["shift", "hangs"], 1, "--engine", "dask", "--scheduler", address)
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(tmp_path.glob("run/cells/shift*.json")), run)
    scheduler.kill()
    _, said = run.communicate(timeout=180)
    assert run.returncode == 4, said
    assert "scheduler is lost" in said
    assert f"--scheduler {address}" in said
    assert counts(tmp_path)[Status.OK] == 1  # what was recorded stays


def test_a_worker_that_does_not_see_the_directory_sends_the_records(tmp_path: Path, monkeypatch) -> None:
    command(tmp_path, ["bures"], 2)
    run = Execution(Invocation(experiment=str(tmp_path / "grid.toml")), RunDirectory(tmp_path / "run"))
    job = Job(
        cells=run.plan.cells, run_directory="/nowhere/at/all", plugin_files=[], base=".", conditions=run.conditions
    )
    monkeypatch.setattr(dask_engine, "_unwanted", lambda: False)
    sent = json.loads(dask_engine.run_task(job.model_dump_json(), ".shared-by-nobody"))
    records = [Record.model_validate_json(entry["record"]) for entry in sent]
    assert [record.cell for record in records] == run.cells
    assert {record.status for record in records} == {Status.OK}
    assert Path("/nowhere").exists() is False
    for entry in sent:
        (tmp_path / "sketch.npz").write_bytes(base64.b64decode(entry["sketch"]))
        assert Sketch.load(tmp_path / "sketch.npz") is not None


class FakeFuture:
    """One that has lost its worker."""

    status = "cancelled"


class LosesWorkers:
    """A client whose every task loses its worker."""

    status = "running"
    cluster = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def submit(self, task, job_json: str, mark: str, where: str, **_) -> FakeFuture:
        self.batches.append(len(json.loads(job_json)["cells"]))
        return FakeFuture()


def test_cells_that_keep_losing_their_worker_are_told_apart_and_recorded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dask_engine, "POLL_SECONDS", 0.0)
    command(tmp_path, ["bures"], 4)
    run = Execution(Invocation(experiment=str(tmp_path / "grid.toml")), RunDirectory(tmp_path / "run"))
    run.directory.create()
    run.directory.write_plan(run.plan)
    client, job = LosesWorkers(), run._job()
    dask_engine._Dispatch(client, job, run.directory, "", lambda *_: None).run([run.plan.cells])
    assert client.batches == [4, 2, 2, *[1] * (4 * dask_engine.LOSSES)]
    assert counts(tmp_path) == {Status.CRASHED: 4}
    assert {"worker was lost 3 times" in record.reason for record in run.directory.records()} == {True}


def test_without_a_scheduler_or_a_worker_the_run_stops(tmp_path: Path, monkeypatch) -> None:
    command(tmp_path, ["bures"], 1)
    run = Execution(Invocation(experiment=str(tmp_path / "grid.toml")), RunDirectory(tmp_path / "run"))
    monkeypatch.setattr(dask_engine, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(dask_engine, "PATIENCE", 0.0)
    for attribute, value, lost in (("status", "connecting", "scheduler"), ("nthreads", dict, "worker")):
        client = LosesWorkers()
        setattr(client, attribute, value)
        dispatch = dask_engine._Dispatch(client, run._job(), run.directory, "", lambda *_: None)
        with pytest.raises(RunStopped, match=f"dask {lost} is lost.*1 cells are left"):
            dispatch.run([run.plan.cells])


def test_a_full_disk_stops_the_run_and_blames_no_cell(tmp_path: Path) -> None:
    done = run_here(command(tmp_path, ["shift", "fills_the_disk"], 2, "--workers", "1"))
    assert done.exit_code == 4
    assert "No space left on device" in done.stderr
    assert "mongebench run" in done.stderr  # how to go on
    assert "Traceback" not in done.stderr
    # Names are in order: the first cell on the full disk ended the run, and left no record and no half of one.
    assert not list(tmp_path.glob("run/cells/*"))
    assert run_here(command(tmp_path, ["shift"], 2)).exit_code == 0
    assert counts(tmp_path) == {Status.OK: 2}


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunStopped, match="No space left"):
        write_atomically(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text(encoding="utf-8") == "old"


def test_two_runs_into_one_directory_share_the_work(tmp_path: Path) -> None:
    words = command(tmp_path, ["shift", "steps"], 10, "--workers", "1")
    runs = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, said = run.communicate(timeout=180)
        assert run.returncode == 0, said
    assert counts(tmp_path) == {Status.OK: 20}
    assert len(list(tmp_path.glob("run/cells/*.json"))) == 20
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "dusk"], "Did you mean 'dask'"),
        (["--scheduler", "tcp://127.0.0.1:1"], "give --engine dask"),
        (["--engine", "dask", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "as many as it has"),
    ],
)
def test_mistakes_about_engines_are_sentences(tmp_path: Path, monkeypatch, capsys, options, words) -> None:
    monkeypatch.setattr("sys.argv", ["mongebench", *command(tmp_path, ["shift"], 1, *options)[3:]])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("no_children")  # but for those of the process that is started
def test_exclusive_cells_wait_for_others_are_pinned_and_take_the_place_of_shared_ones(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the lock
    monkeypatch.setattr("tempfile.tempdir", None)
    words = command(tmp_path, ["bures"], 2)
    words = words[: words.index("--plugin")]
    assert run_here([*words, "--workers", "1"]).exit_code == 0
    assert {record.provenance.exclusive for record in RunDirectory(tmp_path / "run").records()} == {False}
    lock = tmp_path / f"mongebench-{os.getuid()}.lock"
    with open(lock, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # another run on this machine
        run = subprocess.Popen([*words, "--exclusive"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: RunDirectory(tmp_path / "run").plan().invocation.exclusive, run)
        time.sleep(1)
        assert run.poll() is None
        # The plan asks for exclusive records by now: those that are there stay, and do not count.
        there = [json.loads(path.read_text()) for path in tmp_path.glob("run/cells/*.json")]
        assert {record["provenance"]["exclusive"] for record in there} == {False}
    said, _ = run.communicate(timeout=120)
    assert "0 already recorded, 2 to run" in said
    records = list(RunDirectory(tmp_path / "run").records())
    assert {(r.status, r.provenance.exclusive, r.provenance.workers) for r in records} == {(Status.OK, True, 1)}
    if sys.platform == "linux":
        assert {len(record.provenance.pinned_to) for record in records} == {1}
    again = run_here(words)
    assert "2 already recorded, 0 to run" in again.stdout  # an exclusive record is more than was asked
    # One of them made beside others: no table shows both kinds of times.
    path = next(tmp_path.glob("run/cells/*.json"))
    path.write_text(
        path.read_text(encoding="utf-8").replace('"exclusive": true', '"exclusive": false'), encoding="utf-8"
    )
    rows = read_run(tmp_path / "run").frame()
    assert "1 cells ran alone (--exclusive) and 1 did not" in terminal.costs(rows)
    assert "1 cells ran alone" in results.legend(rows)
    assert {seconds for block in results.blocks(rows) for *_, seconds in block.lines()} == {""}
    assert places(rows)["fit_seconds"].isna().all()
