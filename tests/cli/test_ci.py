"""Workflows, ours and those for others: their schemas, and their steps, run as GitHub would in a scratch repository."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli
from mongebench.cli.ci import EXPERIMENT, FILES, GATES, Measured, found_in, init_ci
from mongebench.cli.scaffold import new_estimator
from mongebench.core.address import REPOSITORY

from ..report.conftest import git

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PLUGIN = """
import mongebench as mb


class Mine(mb.MapEstimator):
    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

    def fit(self, source, target, *, seed=0, trace=None):
        x, y = source.samples, target.samples
        self.slope_ = y.std(axis=0) / x.std(axis=0)
        self.shift_ = y.mean(axis=0) - self.slope_ * x.mean(axis=0)
        return self

    def transform(self, X):
        return self.slope_ * X + self.shift_
"""
SMALL = """
name = "mongebench"
evaluation_points = 500
seeds = 3
[[estimators]]
name = "identity"
[[problems]]
name = "product"
[budget]
n_source = 200
n_target = 200
"""
GH = """#!/bin/sh
# Keeps the body of the one comment of a pull request; a second one replaces it, by its number.
case "$*" in
  *--paginate*) test ! -e "$COMMENTS/7" || echo 7 ;;
  *)
    for word in "$@"; do case "$word" in body=@*) cp "${word#body=@}" "$COMMENTS/7" ;; esac; done
    echo "$*" >> "$COMMENTS/calls"
    ;;
esac
"""


def committed(top: Path, message: str) -> str:
    if not (top / ".git").exists():
        git(top, "init", "--quiet")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "--message", message)
    return git(top, "rev-parse", "HEAD")


def validated(schema: str, *paths: Path) -> None:
    """By the schema of schemastore.org, of which check-jsonschema carries a copy."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Runner:
    """A machine of GitHub's, as far as the shell steps of a job can see: those that `uses` others are not run."""

    def __init__(self, top: Path, scratch: Path, **context: str) -> None:
        self.top, self.context = top, context
        scratch.mkdir()
        self.comments = scratch / "comments"
        self.comments.mkdir()
        self.summary = scratch / "summary.md"
        bin_ = scratch / "bin"
        bin_.mkdir()
        (bin_ / "gh").write_text(GH, encoding="utf-8")
        (bin_ / "mongebench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mongebench "$@"\n', encoding="utf-8")
        for path in bin_.iterdir():
            path.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GITHUB_"))},
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(scratch),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(top),
            "GITHUB_REPOSITORY": "me/library",
            "GITHUB_ACTION_PATH": str(ROOT),
            "COMMENTS": str(self.comments),
        }

    def filled(self, text: str, inputs: dict[str, str]) -> str:
        known = {f"inputs.{name}": str(value) for name, value in inputs.items()} | self.context
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: known[found[1]], text)

    def steps(self, steps: list[dict[str, Any]], inputs: dict[str, str], without: tuple[str, ...] = ()) -> int:
        """The exit code of the first step that fails, or 0."""
        for step in steps:
            if "run" not in step or step.get("name") in without:
                continue
            own = {name: self.filled(str(value), inputs) for name, value in step.get("env", {}).items()}
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.filled(step["run"], inputs)]
            done = subprocess.run(command, cwd=self.top, env=self.environment | own, capture_output=True, text=True)
            self.said = done.stdout + done.stderr
            if done.returncode:
                return done.returncode
        return 0

    def pull_request(self, base: str, without: tuple[str, ...] = ("Install mongebench",)) -> int:
        """The job of the workflow that `init-ci` has written, with the action that it calls."""
        workflow = yaml.safe_load((self.top / FILES["pull_request.yml"]).read_text(encoding="utf-8"))
        (call,) = (step for step in workflow["jobs"]["compare"]["steps"] if step["uses"].startswith(REPOSITORY))
        action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
        assert call["with"].keys() <= action["inputs"].keys()
        self.context |= {
            "github.event.pull_request.base.sha": base,
            "github.event.pull_request.number": "3",
            "github.token": "secret",
        }
        inputs = {name: self.filled(str(one["default"]), {}) for name, one in action["inputs"].items()}
        return self.steps(action["runs"]["steps"], inputs | call["with"], without)

    def night(self, without: tuple[str, ...] = ("Install",)) -> int:
        workflow = yaml.safe_load((self.top / FILES["nightly.yml"]).read_text(encoding="utf-8"))
        self.environment |= workflow["jobs"]["nightly"]["env"]
        return self.steps(workflow["jobs"]["nightly"]["steps"], {}, without)

    def comment(self) -> str:
        return (self.comments / "7").read_text(encoding="utf-8")


def test_the_action_and_what_is_written_are_what_github_reads(tmp_path) -> None:
    (tmp_path / 'my "file".py').write_text(PLUGIN, encoding="utf-8")
    asked = (
        Measured(("bures",)),
        Measured((), 'my "file".py', ""),
        Measured(("bures",), "", "cd it && pip install .\nls"),
    )
    for number, measured in enumerate(asked):
        written = init_ci(tmp_path / str(number), measured)
        validated("github-workflows", *(path for path in written if path.suffix == ".yml"))
        tomllib.loads((tmp_path / str(number) / EXPERIMENT).read_text(encoding="utf-8"))
        call = yaml.safe_load(written[0].read_text(encoding="utf-8"))["jobs"]["compare"]["steps"][1]
        assert (call["with"]["plugin"], call["with"]["install"]) == (measured.plugin, measured.install)
        lines = written[0].read_text(encoding="utf-8").partition(f"- uses: {REPOSITORY}@")[2].splitlines()
        assert len(lines) <= 6
    validated("github-actions", ACTION)
    validated("github-workflows", *WORKFLOWS)
    assert len(WORKFLOWS) == 2


def test_workflows_call_commands_that_exist_and_both_ends_of_python() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    names = {found.name or found.callback.__name__ for found in cli.app.registered_commands}
    called = set(re.findall(r"\bmongebench ([a-z-]+)", text))
    assert "nightly" in called
    assert called <= names
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    versions = sorted(re.findall(r"3\.\d+", " ".join(classifiers)), key=lambda version: int(version[2:]))
    assert f'python: ["{versions[0]}", "{versions[-1]}"]' in text


def test_nothing_is_written_over_and_what_is_missing_is_named(tmp_path) -> None:
    (tmp_path / GATES).parent.mkdir()
    (tmp_path / GATES).write_text("mine", encoding="utf-8")
    with pytest.raises(mb.InvalidParameter, match=r"mongebench_gates\.csv exists; nothing was written"):
        init_ci(tmp_path, Measured(("bures",)))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mongebench_gates.csv"]
    with pytest.raises(mb.InvalidParameter, match="name one that is installed by --estimator NAME"):
        found_in(tmp_path, (), "", None)
    with pytest.raises(mb.InvalidParameter, match=r"There is no nowhere\.py"):
        found_in(tmp_path, (), "nowhere.py", None)
    (tmp_path / "pyproject.toml").write_text("[project", encoding="utf-8")
    with pytest.raises(mb.InvalidParameter, match="cannot be read"):
        found_in(tmp_path, (), "", None)


def test_a_folder_within_a_repository_or_none_is_refused_and_what_comes_next_holds_here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "library" / "new").mkdir(parents=True)
    git(tmp_path / "library", "init", "--quiet")

    def call(*words: str) -> Any:
        return CliRunner().invoke(cli.app, words)

    for words in (
        ["init-ci", "library/new", "--estimator", "bures"],
        ["new-estimator", "my_map", "library/it", "--ci"],
    ):
        assert "GitHub reads workflows only from its top folder" in str(call(*words).exception)
    assert not [path for path in (tmp_path / "library").rglob("*") if path.is_file() and ".git/" not in str(path)]
    assert "There is no folder nowhere" in str(call("init-ci", "nowhere").exception)
    said = call("init-ci", "library", "--estimator", "bures").output
    assert f"with cd library && mongebench nightly {EXPERIMENT} --record" in said


def test_the_estimators_of_a_package_are_found_in_its_pyproject(tmp_path) -> None:
    new_estimator("my_map", tmp_path / "new")
    assert found_in(tmp_path / "new", (), "", None) == Measured(("my_map",))
    assert found_in(tmp_path / "new", ("bures",), "", "make") == Measured(("bures",), "", "make")


@pytest.mark.slow  # two runs of two commits in processes of their own
def test_a_pull_request_that_ruins_a_map_is_commented_on_and_fails(tmp_path) -> None:
    """From nothing to the comment: + 0.5 on a map of an error of some percent, at three seeds."""
    top = tmp_path / "library"
    top.mkdir()
    (top / "mine.py").write_text(PLUGIN, encoding="utf-8")
    said = CliRunner().invoke(cli.app, ["init-ci", str(top), "--plugin", "mine.py"], catch_exceptions=False)
    assert said.exit_code == 0
    (top / EXPERIMENT).write_text(SMALL, encoding="utf-8")
    base = committed(top, "measured")
    ruined = PLUGIN.replace("X + self.shift_", "X + self.shift_ + 0.5")
    assert ruined != PLUGIN
    (top / "mine.py").write_text(ruined, encoding="utf-8")
    committed(top, "ruined")
    runner = Runner(top, tmp_path / "machine")
    (runner.comments / "7").write_text("an earlier comment of ours", encoding="utf-8")
    assert runner.pull_request(base) == 1
    told = runner.comment()
    assert "1 worse, 1 same" in told.replace("**", "")
    assert re.search(r"mine on product, d = 2, .*3 of 3 cells paired", told)
    assert told in runner.summary.read_text(encoding="utf-8")
    assert "PATCH repos/me/library/issues/comments/7" in (runner.comments / "calls").read_text(encoding="utf-8")


def test_a_head_that_cannot_be_measured_is_commented_on_and_fails(tmp_path) -> None:
    top = tmp_path / "library"
    top.mkdir()
    (top / "mine.py").write_text(PLUGIN, encoding="utf-8")
    init_ci(top, Measured((), "mine.py", ""))
    base = committed(top, "measured")
    (top / "mine.py").write_text("import there_is_none", encoding="utf-8")
    committed(top, "broken")
    runner = Runner(top, tmp_path / "machine")
    run, compare = (f'if [ "$1" = {word} ]; then' for word in ("run", "compare"))
    (tmp_path / "machine" / "bin" / "mongebench").write_text(
        f"#!/bin/sh\n{run} cat mine.py; ! grep -q there_is_none mine.py; exit; fi\n{compare} exit 9; fi\n"
    )
    assert runner.pull_request(base) == 1
    assert "the head could not be measured" in runner.comment()
    assert "    import there_is_none" in runner.comment()
    assert "the base could not" not in runner.comment()


@pytest.mark.long
def test_a_package_from_nothing_to_a_night_and_a_pull_request_that_changes_a_default(tmp_path) -> None:
    """As `new-estimator --ci` writes it, with what it installs; packages are borrowed, nothing is downloaded."""
    top = tmp_path / "library"
    said = CliRunner().invoke(cli.app, ["new-estimator", "my_map", str(top), "--ci"], catch_exceptions=False)
    assert said.exit_code == 0
    runner = Runner(top, tmp_path / "machine")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    lent = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "borrowed.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")
    tools = {
        "mongebench": f'exec "{python}" -m mongebench "$@"',
        "pip": f'exec "{sys.executable}" -m pip --python "{python}" "$@"',
    }
    for name, command in tools.items():
        path = tmp_path / "machine" / "bin" / name
        path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
        path.chmod(0o755)
    runner.environment |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    experiment = (top / EXPERIMENT).read_text(encoding="utf-8")
    for much, little in (('["gaussian", "product", "potential"]', '"product"'), ("[2, 8]", "2")):
        assert much in experiment
        experiment = experiment.replace(much, little)
    (top / EXPERIMENT).write_text(experiment, encoding="utf-8")
    committed(top, "begun")
    for command in ("pip install --quiet .", f"mongebench nightly {EXPERIMENT} --record"):
        assert runner.steps([{"run": command}], {}) == 0, runner.said
    base = committed(top, "with gates")
    assert runner.night() == 0, runner.said
    night = (top / "results" / "runs" / "nightly" / "nightly.md").read_text(encoding="utf-8")
    assert "- 3 of 3 accuracy gates hold.\n" in night  # three estimators at one place
    module = top / "mongebench_my_map" / "__init__.py"
    code = module.read_text(encoding="utf-8")
    assert "regularisation=1e-6" in code
    module.write_text(code.replace("regularisation=1e-6", "regularisation=1.5"), encoding="utf-8")
    committed(top, "another default")
    assert runner.pull_request(base) == 0, runner.said  # five instances do not decide it, and the comment says so
    assert "findable" in runner.comment()
    assert "regularisation: 1e-06 -\\> 1.5" in runner.comment()
