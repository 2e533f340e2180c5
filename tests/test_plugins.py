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
    path.parent.mkdir(exist_ok=True)
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


MEASURED = """
from __future__ import annotations
import mongebench as mb
from mongebench.metrics.base import Direction, Evaluation, Value, metric
from mongebench.datasets.gaussian import gaussian  # somebody else's: not registered again
from mongebench.run.reading import read_run

def moved(dim: int = 2, shift: float = 1.0) -> mb.Problem:
    "A standard Gaussian and its translate."
    return mb.Problem(
        source=mb.Source(dim=dim, sampler=lambda n, rng: rng.normal(size=(n, dim))),
        target=mb.Target(dim=dim, sampler=lambda n, rng: rng.normal(size=(n, dim)) + shift),
        dim=dim, version=1, truth=lambda x: x + shift, truth_tier=mb.TruthTier.CLOSED_FORM,
    )

def wrong(dim: int = 2) -> mb.Problem:
    return "no problem" if dim == 2 else 1 / 0

def _private() -> mb.Problem: ...

def helper(): ...

@metric(unit="length", direction=Direction.LOWER)
def first_coordinate(evaluation: Evaluation) -> Value:
    "Mean of the first coordinate of the images."
    images = evaluation.pushed[:, 0]
    return Value(float(images.mean()), float(images.std() / len(images) ** 0.5), 0.0)
"""


@pytest.mark.usefixtures("_files_are_forgotten")
def test_a_file_brings_problems_and_metrics(tmp_path) -> None:
    path = write(tmp_path / "measured.py", MEASURED)
    assert [(plugin.group, plugin.name) for plugin in plugins.add_file(path)] == [
        (plugins.DATASETS, "moved"),
        (plugins.DATASETS, "wrong"),
        (plugins.METRICS, "first_coordinate"),
    ]
    problem = mb.problem("moved", dim=3, shift=2.0)
    assert (problem.name, dict(problem.parameters)) == ("moved", {"dim": 3, "shift": 2.0})
    value = mb.evaluate(lambda x: 0 * x + 5.0, problem, n=50)["first_coordinate"]
    assert (value.value, value.standard_error) == (5.0, 0.0)
    with pytest.raises(mb.InvalidParameter, match=r"'moved' has invalid parameters: dim"):
        mb.problem("moved", dim="many")
    with pytest.raises(mb.PluginError, match=r"'wrong' from .*measured\.py is a str, expected a Problem"):
        mb.problem("wrong")
    with pytest.raises(mb.InvalidParameter, match=r"'wrong' from .*measured\.py.*ZeroDivisionError"):
        mb.problem("wrong", dim=3)


@pytest.mark.usefixtures("_files_are_forgotten")
def test_a_problem_or_a_metric_of_a_file_comes_alone(tmp_path) -> None:
    path = write(tmp_path / "measured.py", MEASURED)
    assert [plugin.name for plugin in plugins.add_file(f"{path}:first_coordinate")] == ["first_coordinate"]
    assert "moved" not in mb.problems()
    with pytest.raises(mb.UnknownName, match=r"Did you mean 'moved'.*Valid: first_coordinate, moved, wrong"):
        plugins.add_file(f"{path}:mvoed")


@pytest.mark.usefixtures("_files_are_forgotten")
@pytest.mark.parametrize(
    ("kind", "name", "taken"), [("problem", "moved", "gaussian"), ("metric", "first_coordinate", "uvp")]
)
def test_two_origins_of_a_problem_or_a_metric_are_refused(tmp_path, kind, name, taken) -> None:
    text = MEASURED.replace("import gaussian ", "import gaussian as other ").replace(f"def {name}(", f"def {taken}(")
    path = write(tmp_path / "measured.py", text)
    with pytest.raises(mb.PluginError, match=rf"Two {kind}s are called '{taken}': one from mongebench, .*measured\.py"):
        plugins.add_file(path)
    other = write(tmp_path / "other.py", MEASURED)
    plugins.add_file(write(tmp_path / "measured2.py", MEASURED))
    with pytest.raises(mb.PluginError, match=r"'moved': one from .*measured2\.py, one from .*other\.py"):
        plugins.add_file(other)


@pytest.mark.usefixtures("_files_are_forgotten")
def test_a_file_without_an_estimator_has_nothing_to_check(tmp_path, monkeypatch, capsys) -> None:
    from mongebench import cli

    path = write(tmp_path / "measured.py", MEASURED)
    monkeypatch.setattr("sys.argv", ["mongebench", "check", f"{path}:moved"])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert "defines no estimator to check" in capsys.readouterr().err


@pytest.mark.usefixtures("_files_are_forgotten", "no_children")
def test_an_experiment_on_a_problem_and_with_a_metric_of_a_file(tmp_path) -> None:
    from mongebench.run.runner import Execution, Machinery
    from mongebench.run.store import Invocation, RunDirectory

    path = write(tmp_path / "measured.py", MEASURED)
    grid = write(
        tmp_path / "grid.toml",
        'name = "grid"\nevaluation_points = 100\n[[estimators]]\nname = "truth"\n'
        '[[problems]]\nname = "moved"\nshift = [1.0, 3.0]\n[budget]\nn_source = 20\nn_target = 20\n',
    )
    asked = {"experiment": str(grid), "only": "truth"}
    run = Execution(Invocation(**asked, plugins=(str(path),)), RunDirectory(tmp_path / "run"), Machinery(workers=1))
    run.execute()
    records = list(run.directory.records())
    assert [record.reason for record in records if not record.status.measured] == []
    for record in records:
        shift = record.cell.problem.parameters["shift"]
        assert record.metrics["first_coordinate"].value == pytest.approx(shift, abs=0.5)  # five standard errors
    # What was measured without the metric, or with another version of it, is measured again.
    changed = write(tmp_path / "changed" / "measured.py", MEASURED + "CHANGED = True\n")
    for files in ((), (str(changed),)):
        plugins._from_files.clear()
        if not files:
            plugins.add_file(f"{path}:moved")
        again = Execution(Invocation(**asked, plugins=files), run.directory)
        assert all("metrics_source" in run.directory.why_rerun(cell) for cell in again.plan.cells)


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


@pytest.mark.usefixtures("broken_package", "no_children")
def test_a_broken_package_harms_only_itself(tmp_path) -> None:
    from mongebench.run.runner import Execution, Machinery
    from mongebench.run.store import Invocation, RunDirectory

    for group, kind in plugins.KINDS.items():
        with pytest.raises(mb.PluginError, match=rf"broken_{kind}.*broken-package.*RuntimeError: compiled for another"):
            plugins.find(group, f"broken_{kind}").load()
    grid = write(
        tmp_path / "grid.toml",
        'name = "grid"\nevaluation_points = 100\n'
        '[[estimators]]\nname = ["bures", "broken_estimator"]\n[[problems]]\nname = ["gaussian", "broken_problem"]\n'
        "[budget]\nn_source = 20\nn_target = 20\n",
    )
    run = Execution(Invocation(experiment=str(grid)), RunDirectory(tmp_path / "run"), Machinery(workers=1))
    run.execute()
    records = {(record.cell.estimator.name, record.cell.problem.name): record for record in run.directory.records()}
    assert len(records) == 4
    assert records.pop(("bures", "gaussian")).status.measured
    for names, record in records.items():
        assert record.status is mb.Status.ERROR
        broken = "broken_problem" if "broken_problem" in names else "broken_estimator"
        assert broken in record.reason
        assert "compiled for another machine" in record.reason
        assert "\n" not in record.reason
    assert mb.read_run(run.directory.path).frame()["status"].tolist().count("error") == 3
    assert not Execution(run.invocation, run.directory).pending


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


def test_names_that_say_more_are_understood_and_shown_and_keys_stay() -> None:
    from mongebench.run.experiment import Experiment, select
    from mongebench.run.frame import labels

    for old, better in plugins.SHOWN.items():
        assert plugins.find(plugins.ESTIMATORS, better).name == old
        assert type(mb.estimator(better)) is type(mb.estimator(old))
    grids = [
        Experiment.model_validate(
            {
                "name": "grid",
                "estimators": [{"name": name}],
                "problems": [{"name": "gaussian"}],
                "budget": {"n_source": 20, "n_target": 20},
            }
        )
        for name in ("exact", "exact_coupling")
    ]
    one, other = (list(grid.cells()) for grid in grids)
    assert [cell.key for cell in one] == [cell.key for cell in other]
    assert set(labels(cell.estimator for cell in one).values()) == {"exact_coupling"}
    assert select(one, "exact_coupling") == select(one, "exact") == one
