"""`mongebench new-estimator`: what it writes works as it stands."""

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli
from mongebench.check import Outcome, run_checks
from mongebench.cli.scaffold import Framework, new_estimator
from mongebench.plugins import import_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "framework", [Framework.NUMPY, *(pytest.param(one, marks=pytest.mark.long) for one in ("jax", "torch"))]
)
def test_a_new_package_passes_its_own_tests(tmp_path, monkeypatch, framework) -> None:
    name = f"my_{framework}_map"
    written = new_estimator(name, tmp_path / "new", Framework(framework))
    monkeypatch.syspath_prepend(tmp_path / "new")
    package = importlib.import_module(f"mongebench_{name}")
    (cls,) = (value for key, value in vars(package).items() if key == f"My{framework.capitalize()}Map")
    results = run_checks(cls())
    assert [result for result in results if result.outcome is Outcome.FAILED] == []
    tests = import_file(tmp_path / "new" / "tests" / f"test_{name}.py")
    tests.test_a_scaled_and_shifted_gaussian()
    assert len(tests.test_the_contract.pytestmark[0].args[1]) == len(results)
    for path in written:
        assert "$" not in path.read_text(encoding="utf-8")


def test_what_is_written_is_well_formed(tmp_path) -> None:
    for framework in Framework:
        new_estimator("my_map", tmp_path / framework, framework)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,W,B,UP,NPY,D1"]
    checked = subprocess.run([*command, "--ignore=D103,D104,D107", str(tmp_path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_command_says_what_comes_next(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["new-estimator", "my_map"])
    assert result.exit_code == 0, result.output
    assert "pip install -e my_map && mongebench check my_map" in result.output
    assert (tmp_path / "my_map" / "mongebench_my_map" / "__init__.py").is_file()
    assert "results/" in (tmp_path / "my_map" / ".gitignore").read_text(encoding="utf-8").split()
    assert "--record" in (tmp_path / "my_map" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "words"),
    [("MyMap", "lower-case letters"), ("2d", "not a name"), ("class", "a keyword of Python"), ("bures", "taken")],
)
def test_names_that_cannot_be_are_refused(tmp_path, name, words) -> None:
    with pytest.raises(mb.InvalidParameter, match=words):
        new_estimator(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for directory in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(mb.InvalidParameter, match="nothing was written"):
            new_estimator("my_map", directory)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unknown_framework_is_one_sentence(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("sys.argv", ["mongebench", "new-estimator", "my_map", str(tmp_path), "--framework", "jaxx"])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert "Did you mean 'jax'" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("framework", Framework)
def test_installed_checked_and_run_in_a_fresh_environment(tmp_path, framework) -> None:
    """As a newcomer does it, but offline: packages are borrowed from the environment of these tests."""
    new_estimator("my_map", tmp_path / "new", framework)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "borrowed.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n", encoding="utf-8")

    def call(*words: str) -> str:
        done = subprocess.run([*words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--editable", str(tmp_path / "new")]
    call(sys.executable, "-m", "pip", "--python", python, "install", *offline)
    assert "mongebench-my-map" in call(python, "-m", "mongebench", "list", "estimators")
    assert " 0 failed" in call(python, "-m", "mongebench", "check", "my_map")
    said = call(python, "-m", "mongebench", "run", "quickstart", "--only", "my_map", "--seeds", "1")
    assert "my_map" in said
    statuses = call(python, "-m", "mongebench", "status", "results/runs/quickstart")
    assert not {"error", "timeout", "crashed", "nonfinite", "diverged"} & set(statuses.split())
    call(python, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", str(tmp_path / "new"))
