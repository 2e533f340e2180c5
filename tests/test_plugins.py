"""Names: ours and anyone's, found without being imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import mongebench as mb
from mongebench import plugins

ROOT = Path(__file__).resolve().parents[1]


def test_listing_loads_neither_jax_nor_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from mongebench.cli import app\n"
        "result = CliRunner().invoke(app, ['list']); assert result.exit_code == 0, result.output\n"
        "assert 'entropic' in result.output\n"
        "print(sorted({'jax', 'torch', 'sklearn', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_names_are_a_function_and_a_package() -> None:
    import mongebench.estimators

    assert "bures" in mb.estimators()
    assert mongebench.estimators() == plugins.estimators()
    assert "gaussian" in mb.problems()


@pytest.mark.parametrize("group", list(plugins.KINDS))
def test_every_registered_name_loads_and_has_a_summary(group) -> None:
    found = plugins.available(group)
    assert len(found) >= 7
    for plugin in found.values():
        assert plugin.load() is not None
        assert plugin.summary(), f"{plugin.name} has no docstring"


def test_every_package_folder_is_listed_in_pyproject() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {"mongebench": ROOT / "mongebench", "mongebench.estimators": ROOT / "estimators"}
    folders |= {"mongebench.datasets": ROOT / "datasets", "mongebench.experiments": ROOT / "benchmarks/experiments"}
    wanted = set()
    for package, folder in folders.items():
        for marker in folder.rglob("__init__.py"):  # rglob does not follow the links to the other three
            wanted.add(".".join([package, *marker.parent.relative_to(folder).parts]))
    assert wanted == set(listed)


def test_unknown_names_and_parameters_list_the_valid_ones() -> None:
    with pytest.raises(mb.UnknownName, match=r"Did you mean 'gaussian'.*Valid:.*mixture"):
        mb.problem("gausian")
    with pytest.raises(mb.UnknownName, match=r"Valid:.*bures"):
        mb.estimator("xyz")
    with pytest.raises(mb.InvalidParameter, match=r"Did you mean 'dim'"):
        mb.problem("gaussian", dims=3)
    with pytest.raises(mb.InvalidParameter, match=r"dim.*greater than 0"):
        mb.problem("gaussian", dim=0)
    with pytest.raises(mb.InvalidParameter, match=r"needs source, target"):
        mb.problem("files")
    with pytest.raises(mb.InvalidParameter, match=r"Unknown parameter of estimator 'bures'"):
        mb.estimator("bures", nothing=1)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


MINE = """
import mongebench as mb

class {name}(mb.MapEstimator):
    "Stays."
    needs = frozenset()
    def fit(self, source, target, *, seed=0, trace=None):
        return self
    def transform(self, X):
        return X
"""


@pytest.fixture
def _files_are_forgotten(monkeypatch):
    monkeypatch.setattr(plugins, "_from_files", {})


@pytest.mark.usefixtures("_files_are_forgotten")
def test_a_file_brings_its_classes(tmp_path) -> None:
    path = write(tmp_path / "mine.py", MINE.format(name="MyOTMap") + MINE.format(name="Another"))
    assert [plugin.name for plugin in plugins.add_file(path)] == ["my_ot_map", "another"]
    assert mb.estimator("my_ot_map").fit([[0.0]], [[1.0]]).transform([[2.0]]).tolist() == [[2.0]]
    assert plugins.find(plugins.ESTIMATORS, "another").summary() == "Stays."
    plugins.add_file(path)  # twice is once


@pytest.mark.usefixtures("_files_are_forgotten")
def test_a_class_of_a_file_comes_alone(tmp_path) -> None:
    path = write(tmp_path / "two.py", MINE.format(name="First") + MINE.format(name="Second"))
    assert [plugin.name for plugin in plugins.add_file(f"{path}:Second")] == ["second"]
    assert "first" not in mb.estimators()
    with pytest.raises(mb.UnknownName, match=r"Did you mean 'First'.*Valid: First, Second"):
        plugins.add_file(f"{path}:Frist")


@pytest.mark.usefixtures("_files_are_forgotten")
def test_estimators_that_cannot_be_made_are_one_sentence(tmp_path) -> None:
    broken = MINE.format(name="NoNeeds").replace("needs = frozenset()", "")
    broken += MINE.format(name="Refuses").replace(
        "needs = frozenset()", "needs = frozenset(); __init__ = lambda self: 1/0"
    )
    plugins.add_file(write(tmp_path / "unmakeable.py", broken))
    with pytest.raises(mb.PluginError, match="declares no `needs`"):
        mb.estimator("no_needs")
    with pytest.raises(mb.InvalidParameter, match="ZeroDivisionError"):
        mb.estimator("refuses")


@pytest.mark.usefixtures("_files_are_forgotten")
def test_two_origins_of_one_name_are_refused(tmp_path) -> None:
    path = write(tmp_path / "clash.py", MINE.format(name="Bures"))
    with pytest.raises(mb.PluginError, match=r"'bures'.*mongebench.*clash\.py"):
        plugins.add_file(path)
    assert mb.estimator("bures")  # the refused file leaves nothing behind


@pytest.fixture
def broken_package(tmp_path, monkeypatch):
    """An installed distribution, in effect, all of whose entry points fail at import."""
    write(tmp_path / "broken_package.py", "raise RuntimeError('compiled for another machine')")
    info = tmp_path / "broken_package-1.0.dist-info"
    info.mkdir()
    write(info / "METADATA", "Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    lines = "\n".join(f"[{group}]\nbroken_{kind} = broken_package:it" for group, kind in plugins.KINDS.items())
    write(info / "entry_points.txt", lines)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("broken_package")
def test_a_broken_package_harms_only_itself(tmp_path) -> None:
    from mongebench.run.runner import Machinery, Run
    from mongebench.run.store import Invocation, RunDirectory

    for group, kind in plugins.KINDS.items():
        with pytest.raises(mb.PluginError, match=rf"broken_{kind}.*broken-package.*RuntimeError: compiled for another"):
            plugins.find(group, f"broken_{kind}").load()
    grid = write(
        tmp_path / "grid.toml",
        'name = "grid"\nevaluation_points = 100\n'
        '[[estimators]]\nname = ["bures", "broken_estimator"]\n[[problems]]\nname = "gaussian"\n'
        "[budget]\nn_source = 20\nn_target = 20\n",
    )
    run = Run(Invocation(experiment=str(grid)), RunDirectory(tmp_path / "run"), Machinery(workers=1))
    run.execute()
    records = {record.cell.estimator.name: record for record in run.directory.records()}
    assert records["bures"].status.measured
    assert records["broken_estimator"].status is mb.Status.ERROR
    assert "compiled for another machine" in records["broken_estimator"].reason


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    from mongebench import cli

    lacking = plugins.Plugin("lacking", plugins.ESTIMATORS, "a_package_nobody_has.maps", "Lacking", "here")
    monkeypatch.setattr(plugins, "_from_files", {"lacking": lacking})
    monkeypatch.setattr("sys.argv", ["mongebench", "check", "lacking"])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert "pip install a_package_nobody_has" in capsys.readouterr().err


@pytest.mark.usefixtures("broken_package")
def test_a_broken_metric_is_left_out_with_a_warning() -> None:
    problem = mb.problem("gaussian")
    with pytest.warns(UserWarning, match="broken_metric.*left out.*compiled for another machine"):
        values = mb.evaluate(problem.truth, problem, n=50)
    assert "uvp" in values
    assert "broken_metric" not in values


def test_a_file_that_is_not_python_is_listed_all_the_same(tmp_path) -> None:
    path = write(tmp_path / "typo.py", "class (")
    assert "SyntaxError" in plugins.Plugin("typo", plugins.ESTIMATORS, str(path), "Typo", "here").summary()


@pytest.mark.usefixtures("_files_are_forgotten")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "no class"),
        ("1/0", "ZeroDivisionError"),
        ("import nothing_like_it", "nothing_like_it"),
        ("(", "Syntax"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, text, words) -> None:
    with pytest.raises(mb.PluginError, match=words):
        plugins.add_file(write(tmp_path / "broken.py", text))


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(mb.PluginError, match=r"nowhere\.py"):
        plugins.add_file(tmp_path / "nowhere.py")


@pytest.mark.parametrize(
    ("name", "snake"),
    [("MyMap", "my_map"), ("OTMap", "ot_map"), ("Bures", "bures"), ("A2B", "a2_b"), ("W2Dual", "w2_dual")],
)
def test_snake_case(name, snake) -> None:
    assert plugins.snake_case(name) == snake
