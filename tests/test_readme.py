"""What the README and the documentation show runs as it stands there."""

import contextlib
import io
import os
import re
import sys
import tomllib
from pathlib import Path

import dask
import psutil
import pytest
from typer.testing import CliRunner

from mongebench import cli
from mongebench.report.tables import exports, leaderboard
from mongebench.report.tables.formats import Format
from mongebench.run.experiment import Experiment
from mongebench.run.reading import read_run
from mongebench.run.store import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_PAGE, BOARD_PAGE = ROOT / "docs" / "commands.md", ROOT / "docs" / "leaderboard.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBER = r"-?\d+\.?\d*(?:e-?\d+)?"


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run(page: Path, **given: object) -> tuple[dict[str, object], list[str]]:
    """The names that the Python blocks of a page leave, run one after the other, and what each printed."""
    namespace: dict[str, object] = {"__name__": page.stem, **given}
    printed = []
    for block in blocks("python", page):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(block, page.name, "exec"), namespace)
        printed.append(said.getvalue())
    return namespace, printed


BY_THEMSELVES = [page for page in PAGES if blocks("python", page) and page.name != "engine.md"]
"""The recipe for SLURM waits for a person: it has a test of its own, below."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.name == "README.md" else pytest.mark.slow) for page in BY_THEMSELVES],
    ids=lambda page: page.name,
)
def test_the_python_blocks_run(page, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(
        ROOT if page.name == "api.md" else tmp_path
    )  # that one reads a result of ours, and writes nothing
    namespace, printed = run(page)
    if page.name == "README.md":
        (shown,) = blocks("text")
        assert same_output(shown, printed[0])
        mine = namespace["MyMap"]()
        assert mine.fit([[0.0], [2.0]], [[1.0], [5.0]]).transform([[1.0]]).tolist() == [[3.0]]


SBATCH = """#!/bin/sh
# One job gets the node; the others wait in the queue, as they do.
job=$$
if mkdir "{folder}/node" 2> /dev/null; then
  setsid bash "$1" > "{folder}/log" 2>&1 &
  job=$!
  touch "{folder}/node/$job"
fi
echo "Submitted batch job $job"
"""
SCANCEL = """#!/bin/sh
[ ! -e "{folder}/node/$1" ] || kill -- "-$1"
"""
GRID = """
name = "grid"
evaluation_points = 100
[[estimators]]
name = ["identity", "bures"]
[[problems]]
name = "gaussian"
[budget]
n_source = 50
n_target = 50
"""


@pytest.mark.slow  # eight workers, each of which imports everything
def test_the_recipe_for_slurm_records_every_cell_and_leaves_no_process(monkeypatch, tmp_path) -> None:
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script.format(folder=tmp_path), encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")

    def answer(_: str) -> str:
        address = sys.stdout.getvalue().split()[-1]  # as it was printed
        words = ["run", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "run")]
        done = CliRunner().invoke(cli.app, [*words, "--engine", "dask", "--scheduler", address])
        assert done.exit_code == 0, done.output
        assert of_the_job()
        return ""

    def of_the_job() -> list[psutil.Process]:
        """Whatever was started since the PATH was changed, and still runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PATH", "").startswith(str(tmp_path)):
                    found.append(process)
        return found

    with dask.config.set({"jobqueue.slurm.scheduler-options": {"host": "127.0.0.1", "dashboard_address": ":0"}}):
        run(ROOT / "docs" / "engine.md", input=answer)
    records = list(RunDirectory(tmp_path / "run").records())
    assert [record.status.measured for record in records] == [True] * 2
    assert {record.provenance.workers for record in records} == {8}
    assert not psutil.wait_procs(of_the_job(), timeout=10)[1]


def same_output(shown: str, printed: str) -> bool:
    """Word for word, and number for number up to what another machine's rounding changes; seconds are any."""
    words = [re.sub(NUMBER, "#", text) for text in (shown, printed)]
    numbers = [re.findall(NUMBER, text) for text in (shown, printed)]
    seconds = {i for i, match in enumerate(re.finditer(NUMBER, printed)) if printed[match.end() :].startswith(" s")}
    pairs = [pair for i, pair in enumerate(zip(*numbers, strict=False)) if i not in seconds]
    close = all(float(a) == pytest.approx(float(b), rel=2e-2, abs=2e-4) for a, b in pairs)
    return words[0] == words[1] and len(numbers[0]) == len(numbers[1]) and close


def test_output_that_is_no_longer_true_is_noticed() -> None:
    assert same_output("uvp 0.5412 in 0.01 s\n", "uvp 0.5413 in 3.2 s\n")
    assert not same_output("uvp 0.5412 in 0.01 s\n", "uvp 0.6412 in 0.01 s\n")
    assert not same_output("uvp 0.5412\n", "l2 0.5412\n")
    assert not same_output("uvp 0.5412\n", "uvp 0.5412 1\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_gives_exist(page) -> None:
    pieces = page.read_text(encoding="utf-8").split("```")  # prose, block, prose, block, ...
    shown = [*pieces[1::2], *re.findall("`([^`]+)`", " ".join(pieces[::2]))]
    given = set(re.findall(r"^mongebench ([a-z][a-z-]*)", "\n".join(shown), flags=re.MULTILINE))
    assert given <= set(COMMANDS)


@pytest.fixture(scope="module")
def nightly():
    return read_run(ROOT / "results" / "nightly.zip").frame()


@pytest.mark.parametrize(("page", "top"), [(BOARD_PAGE, None), (ROOT / "README.md", 6)], ids=["whole", "short"])
def test_the_leaderboard_is_computed_from_the_records_of_the_nightly_run(nightly, tmp_path, page, top) -> None:
    computed = exports.write_board(nightly, Format.MARKDOWN, tmp_path / "board.md", top).read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    tables = r"^\*\*Knowing .*?\n\n(?:\|.*\n)+"
    assert re.findall(tables, text, flags=re.MULTILINE) == re.findall(tables, computed, flags=re.MULTILINE)
    measured = nightly["status"].isin(["ok", "at_floor"]).sum()
    assert f"{measured}/{(nightly['status'] != 'unsupported').sum()} cells" in text.replace("\n", " ")


def test_the_main_finding_is_what_the_leaders_of_the_nightly_run_have(nightly) -> None:
    said = " ".join(README[README.index("**Main finding") : README.index("## Two commands")].split())
    leaders = [line for line in leaderboard.board(nightly) if line["leader"] == line["estimator"]]
    for tier in ("source samples + target samples", "source samples + target potential"):
        (line,) = [one for one in leaders if one["tier"] == tier]
        value, low, high = (f"{100 * line[key]:.2g}" for key in ("ratio", "low", "high"))
        assert f"`{line['estimator']}`" in said
        assert f"{value} % of the error of doing nothing (95 % interval {low} to {high} %)" in said


def test_the_front_page_is_short_and_begins_with_what_to_do() -> None:
    assert len(README.split()) <= 1640  # half of what it was
    assert len(README[: README.index("make bench")].split()) <= 200


def test_the_toml_block_is_a_valid_experiment() -> None:
    (text,) = blocks("toml", COMMAND_PAGE)
    declared = Experiment.model_validate(tomllib.loads(text))
    assert declared.named() == {"bures", "exact", "entropic"}


COMMANDS = [
    *("run", "check", "new-estimator", "list", "show", "table", "status", "why-rerun"),
    *("rate", "figures", "export", "compare", "report", "asv", "nightly", "tune", "fit", "apply"),
    *("init-ci", "submit", "verify", "certify", "references"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_command_page_exists_and_the_reverse(command: str) -> None:
    assert f"| `mongebench {command} " in COMMAND_PAGE.read_text(encoding="utf-8")
    names = {found.name or found.callback.__name__ for found in cli.app.registered_commands}
    assert command in names
    assert len(names) == len(COMMANDS)
