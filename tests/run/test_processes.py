"""Processes against estimators that harm what is around them: each harm is its own cell's, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli, foreign, plugins
from mongebench.check import Outcome, run_checks
from mongebench.core.errors import HarmfulPlugin
from mongebench.run import batch, trial
from mongebench.run.batch import SENT_BY_OTHERS, Child, death
from mongebench.run.record import Record, Status
from mongebench.run.runner import Execution
from mongebench.run.store import Invocation, RunDirectory

HOSTILE = Path(__file__).with_name("hostile.py")
PATIENCE = 120.0
"""Seconds after which what should have happened is taken not to: a busy machine needs some of them."""
FINE = [
    "exits_at_the_end",
    "leaves_a_thread",
    "leaves_an_executor",
    "leaves_a_process",
    "leaves_a_fork",
    "daemonises",
    "forks_and_returns",
    "forks_when_asked",
    "writes_everywhere",
    "floods",
    "killed_once",
]
"""Estimators whose map is sound, whatever else they do."""
EARNS = {
    "crashes_beside_a_fork": (Status.CRASHED, "SIGSEGV"),
    "closes_everything": (Status.CRASHED, "Bad file descriptor"),
    "floods_and_dies": (Status.CRASHED, "exit code 5 in the middle of a cell; last words: last words"),
    "killed_always": (Status.CRASHED, "SIGKILL"),
    "leaves_when_asked": (Status.CRASHED, "exit code 0"),
    "daemon_hogs": (Status.OUT_OF_MEMORY, "limit is 600 MiB"),
    "sleeps_when_asked": (Status.TIMEOUT, "limit of 10 s"),
    "exits_when_made": (Status.ERROR, "SystemExit: 0"),
    "segfaults_when_made": (Status.ERROR, "SIGSEGV"),
    "needs_nothing_known": (Status.ERROR, "TypeError"),
    "modules_of_another_kind": (Status.ERROR, "TypeError"),
}
EARNS_IN_THIS_PROCESS = {
    "AnswersTrue": "supports of AnswersTrue returned True",
    "AnswersNumbers": "return Support(True)",
    "AnswersNothing": "returned None",
    "ExitsWhenAsked": "SystemExit: 0 (hostile.py",
    "ExitsInFit": "SystemExit: 0 (hostile.py",
    "OwnException": "Odd (hostile.py",
}
"""Harm that a process survives: an error, found as in a child, which costs two CPU seconds."""


def experiment(folder: Path, names: list[str], seeds: int = 1, problems: str = '["gaussian"]') -> Path:
    path = folder / "grid.toml"
    path.write_text(
        f"""
name = "grid"
seeds = {seeds}
time_limit = "10s"
memory_limit = "600MiB"
evaluation_points = 100
estimators = [{{ name = {json.dumps(names)} }}]
problems = [{{ name = {problems}, dim = 2 }}]
budget = {{ n_source = 50, n_target = 50 }}
""",
        encoding="utf-8",
    )
    return path


def environment(folder: Path) -> dict[str, str]:
    (folder / "notes").mkdir(exist_ok=True)
    return {**os.environ, "HOSTILE_NOTES": str(folder / "notes")}


def command(path: Path, *files: Path) -> list[str]:
    words = [sys.executable, "-m", "mongebench", "run", str(path), "--out", str(path.parent / "run")]
    return [*words, *(word for file in files for word in ("--plugin", str(file)))]


def noted(folder: Path) -> set[int]:
    """Numbers of the processes that estimators left a note of."""
    return {int(file.name) for file in (folder / "notes").iterdir() if file.name.isdigit()}


def left_behind(numbers: Iterable[int]) -> list[int]:
    """Those of some processes that still run after a while."""
    deadline = time.monotonic() + PATIENCE
    while (running := list(filter(psutil.pid_exists, numbers))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return running


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("hostile")
    path = experiment(folder, ["sound", *FINE, *EARNS])
    words = [*command(path, HOSTILE), "--workers", "2"]
    env = environment(folder)
    return folder, subprocess.run(words, capture_output=True, text=True, env=env, timeout=10 * PATIENCE)


@pytest.fixture(scope="module")
def records(ran: tuple[Path, object]) -> dict[str, Record]:
    return {record.cell.estimator.name: record for record in RunDirectory(ran[0] / "run").records()}


def test_one_start_records_every_cell(ran: tuple[Path, subprocess.CompletedProcess[str]], records) -> None:
    assert ran[1].returncode == 0, ran[1].stderr
    assert "Traceback" not in ran[1].stderr
    assert {*records} == {"sound", *FINE, *EARNS}


@pytest.mark.parametrize("name", FINE)
def test_harm_outside_of_its_map_costs_an_estimator_nothing(records: dict[str, Record], name: str) -> None:
    assert records[name].status is Status.OK, records[name].reason
    assert records[name].metrics == records["sound"].metrics


@pytest.mark.parametrize("name", EARNS)
def test_harm_is_the_status_of_its_own_cell(records: dict[str, Record], name: str) -> None:
    status, words = EARNS[name]
    assert records[name].status is status, records[name].reason
    assert words in records[name].reason


@pytest.mark.parametrize("name", EARNS_IN_THIS_PROCESS)
def test_harm_that_a_process_survives_is_an_error(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOSTILE_NOTES", str(tmp_path))
    hostile = getattr(plugins.import_file(HOSTILE), name)()
    record = mb.run_cell(mb.problem("gaussian"), hostile, n_source=50, n_target=50, evaluation_points=100)
    assert record.status is Status.ERROR
    assert EARNS_IN_THIS_PROCESS[name] in record.reason


def test_no_process_stays_behind(ran: tuple[Path, object]) -> None:
    assert len(numbers := noted(ran[0])) >= 5
    assert not left_behind(numbers)


def test_records_say_what_was_seen_from_outside(records: dict[str, Record]) -> None:
    said = "it printed 48.0 MiB, of which the first 47.0 MiB were not kept"
    assert records["floods"].warnings == [said]
    assert records["floods_and_dies"].warnings == [said]
    assert "status descriptor" in " ".join(records["writes_everywhere"].warnings)
    assert not records["sound"].warnings


def test_a_kill_that_may_be_from_outside_is_tried_once_more(records: dict[str, Record]) -> None:
    attempts = {name: record.attempts for name, record in records.items() if record.attempts != 1}
    assert attempts == {"killed_once": 2, "killed_always": 2}
    assert "its first try was killed from outside" in records["killed_always"].reason


def test_nothing_would_be_tried_again(ran: tuple[Path, object]) -> None:
    directory = RunDirectory(ran[0] / "run")
    assert not directory.pending(directory.plan().cells)


def test_a_child_killed_by_another_process_is_tried_once_more(tmp_path: Path) -> None:
    """Truly from outside: the first child is killed as soon as it has said that it is in the fit."""
    path = experiment(tmp_path, ["waits_for_a_file"])
    run = subprocess.Popen(command(path, HOSTILE), stdout=subprocess.DEVNULL, env=environment(tmp_path))
    (first,) = once_noted(tmp_path, run, 1)
    os.kill(first, signal.SIGKILL)
    (second,) = once_noted(tmp_path, run, 2) - {first}
    (tmp_path / "notes" / "go-on").touch()
    assert run.wait(timeout=PATIENCE) == 0
    (record,) = RunDirectory(tmp_path / "run").records()
    assert (record.status, record.attempts) == (Status.OK, 2)
    assert not left_behind([first, second])


def once_noted(folder: Path, run: subprocess.Popen[Any], count: int) -> set[int]:
    """What `noted` finds, once there are so many."""
    deadline = time.monotonic() + PATIENCE
    while len(found := noted(folder)) < count:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


STORM = [signal.SIGTERM, signal.SIGINT] * 3


@pytest.mark.usefixtures("no_children")  # but for those of the process that is started
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGKILL], pytest.param(STORM, marks=pytest.mark.slow, id="storm")],
)
def test_however_a_run_ends_all_that_it_started_ends_and_it_goes_on(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    """A child with a program, a fork in a session of its own and a daemon."""
    path = experiment(tmp_path, ["waits_with_all"])
    # Tests run in the background of a shell inherit that SIGINT is ignored: the process listens to it again.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from mongebench.cli import main; main()"
    )
    words = [sys.executable, "-c", code, *command(path, HOSTILE)[3:]]
    run = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    )
    everything = once_noted(tmp_path, run, 4)
    everything |= {process.pid for process in psutil.Process(run.pid).children(recursive=True)}
    assert len(everything) >= 5  # the keeper too
    for number in signals:
        run.send_signal(number)
        time.sleep(0.01)
    _, said = run.communicate(timeout=PATIENCE)
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert run.returncode in {codes[number] for number in signals}, said  # of two at once either may be the first
    if signals != [signal.SIGKILL]:
        assert "same command goes on" in said
        assert f"mongebench run {path} --plugin {HOSTILE} --out {tmp_path / 'run'}" in said
    assert not left_behind(everything)
    again = CliRunner().invoke(cli.app, command(experiment(tmp_path, ["sound"]), HOSTILE)[3:])
    assert again.exit_code == 0, again.output
    assert [record.status for record in RunDirectory(tmp_path / "run").records()] == [Status.OK]
    assert not list(tmp_path.rglob("*.tmp"))


PLUGIN = """
import mongebench as mb

class {name}(mb.MapEstimator):
    needs = frozenset({{mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES}})

    def fit(self, source, target, *, seed=0, trace=None):
        return self

    def transform(self, X):
        return X + 1

{harm}
"""
HARMS = {
    "ExitsAtImport": ("import sys; sys.exit(0)", "raised SystemExit: 0"),
    "LeavesAtImport": ("import os; os._exit(0)", "raised SystemExit: 0"),
    "CrashesAtImport": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
    "HangsAtImport": ("import time; time.sleep(600)", "took longer than 5 s"),
}


@pytest.fixture
def _files_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(plugins, "_from_files", {})
    monkeypatch.setattr(foreign, "harmful", {})


@pytest.mark.usefixtures("_files_are_forgotten")
def test_files_that_harm_when_imported_are_errors_of_their_own_cells(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trial, "LIMIT", 5.0)
    files = []
    for name, (harm, _) in HARMS.items():
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(PLUGIN.format(name=name, harm=harm), encoding="utf-8")
    names = {plugins.snake_case(name): words for name, (_, words) in HARMS.items()}
    path = experiment(tmp_path, ["bures", *names], problems='["gaussian", "leaves"]')
    invocation = Invocation(experiment=str(path), plugins=(*map(str, files), f"{HOSTILE}:leaves"))
    run = Execution(invocation, RunDirectory(tmp_path / "run"))
    run.execute()
    records = {(r.cell.estimator.name, r.cell.problem.name): r for r in run.directory.records()}
    assert len(records) == 2 * (1 + len(names))
    assert records["bures", "gaussian"].status is Status.OK
    assert "Problem 'leaves'" in records["bures", "leaves"].reason
    for name, words in names.items():
        assert records[name, "gaussian"].status is Status.ERROR
        assert words in records[name, "gaussian"].reason
    assert not Execution(invocation, run.directory).pending


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # where an earlier test has loaded JAX
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_files_are_forgotten")
def test_in_this_process_leaving_is_an_error_and_a_copy_ends(tmp_path: Path) -> None:
    before = os.getpid()
    forks = tmp_path / "forks.py"
    forks.write_text(PLUGIN.format(name="Forks", harm="import os; os.fork()"), encoding="utf-8")
    plugins.add_file(forks)
    assert os.getpid() == before  # a copy that came so far would run all the tests that follow
    for leave in ("import sys; sys.exit(0)", "import os; os._exit(0)", "raise BaseException('odd')"):
        path = tmp_path / "leaves.py"
        path.write_text(PLUGIN.format(name="Leaves", harm=leave), encoding="utf-8")
        with pytest.raises(HarmfulPlugin, match=r"The import of .*leaves\.py raised"):
            plugins.add_file(path)
    plugins.add_file(f"{HOSTILE}:ExitsWhenMade")
    with pytest.raises(HarmfulPlugin, match="made with"):
        plugins.estimator("exits_when_made")


@pytest.mark.parametrize("name", ["ExitsWhenAsked", "ExitsInFit"])
def test_a_check_that_exits_has_failed(name: str) -> None:
    (failed,) = run_checks(getattr(plugins.import_file(HOSTILE), name)(), ["says_nothing"])
    assert failed.outcome is Outcome.FAILED
    assert "SystemExit: 0" in failed.reason


def test_a_check_that_leaves_the_process_has_failed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mongebench", "check", f"{HOSTILE}:LeavesWhenAsked"], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "SystemExit: 0" in done.stdout


def test_signals_that_others_send_are_told_from_faults() -> None:
    assert {signal.SIGKILL, signal.SIGTERM} <= {*SENT_BY_OTHERS}
    for number in signal.valid_signals():
        assert death(-number).from_outside == (number in SENT_BY_OTHERS)
        assert death(-number).status is Status.CRASHED
    for fault in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        assert not death(-fault).from_outside
    assert not death(0).from_outside
    assert death(7).reason == "the process ended with exit code 7 in the middle of a cell"


@pytest.fixture
def child(tmp_path: Path, monkeypatch) -> Iterator[Child]:
    """One whose keeper only waits: what is written to its pipes is the test's."""
    keeper = tmp_path / "keeper.py"
    keeper.write_text("import os; os.write(1, b'123\\n'); os.read(0, 1)", encoding="utf-8")
    monkeypatch.setattr(batch.keeper, "__file__", str(keeper))
    pipes: list[int] = []
    pipe = os.pipe

    def kept() -> tuple[int, int]:
        if not pipes:
            pipes.extend(pipe())
            return pipes[0], os.dup(pipes[1])
        return pipe()

    monkeypatch.setattr(os, "pipe", kept)
    one = Child(tmp_path / "job", dict(os.environ))
    one.wire = pipes[1]
    while one._process is None:
        one.messages()
    yield one
    one.kill()
    os.close(pipes[1])


def heard(child: Child, *parts: bytes) -> list[dict[str, object]]:
    """What it makes of bytes on its status pipe, which arrive in these parts."""
    found = []
    for part in parts:
        os.write(child.wire, part)
        found += child.messages()
    return found


def test_of_the_status_pipe_the_child_alone_is_heeded(child: Child) -> None:
    nonce = child._nonce.encode()
    assert heard(child, b"\n" + nonce + b' 123 {"done": "a"}\n') == [{"done": "a"}]
    assert heard(child, b"\n" + nonce + b' 123 {"do', b'ne": "b"}\n') == [{"done": "b"}]
    assert not child.warnings()
    for stray in (b'{"done": "c"}\n', b"\xff\x00\n", b"[" * 10_000 + b"\n", b'0000 123 {"done": "c"}\n'):
        assert heard(child, stray) == []
    # What has no line end does not become part of the next message.
    assert heard(child, b"stray" + b"\n" + nonce + b' 123 {"done": "d"}\n') == [{"done": "d"}]
    assert child.warnings()[0].startswith(f"{13 + 2 + 10_000 + 22 + 5} bytes were written")
    assert heard(child, b"\n" + nonce + b' 124 {"done": "e"}\n') == []
    assert "copies of the process" in child.warnings()[1]
    child.begin(["f"])
    assert not child.warnings()


def test_a_stream_without_line_ends_is_not_kept(child: Child, monkeypatch) -> None:
    monkeypatch.setattr(batch, "LINE_LIMIT", 1 << 12)
    assert heard(child, *[b"x" * 5000] * 20) == []
    assert len(child._rest) <= 1 << 12
    assert child.warnings()
