"""What a number is made by: the files of a plugin, wherever a value comes from, and the libraries that they import."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mongebench as mb
from mongebench.run import planned
from mongebench.run.record import Cell, Code, Spec
from mongebench.run.sources import digest, files, libraries

OURS = Path(mb.__file__).parent


@pytest.fixture(autouse=True)
def _forget():
    yield
    planned.forget_code()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def changes(place: str, path: Path, old: str, new: str) -> bool:
    """Whether a digest does when a file of it changes."""
    planned.forget_code()
    before = digest([place])
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    planned.forget_code()
    return digest([place]) != before


@pytest.mark.parametrize(
    ("says", "where"),
    [
        ("from helper import FACTOR", "helper.py"),
        ("import helper", "helper.py"),
        ("from helper import *", "helper.py"),
        ("def f():\n    from helper import FACTOR", "helper.py"),
        ("try:\n    import helper as h\nexcept ImportError:\n    h = None", "helper.py"),
        ("import importlib\nh = importlib.import_module('helper')", "helper.py"),
        ("from parts.deep import FACTOR", "parts/deep.py"),
        ("from parts import deep", "parts/deep.py"),
        ("import parts.deep", "parts/__init__.py"),
        ("from first import FACTOR", "helper.py"),
    ],
)
def test_a_constant_of_a_file_beside_a_plugin_file_counts(tmp_path: Path, says: str, where: str) -> None:
    plugin = write(tmp_path / "plugin.py", says + "\n")
    write(tmp_path / "first.py", "from helper import FACTOR\n")
    for name in ("helper.py", "parts/__init__.py", "parts/deep.py", "stranger.py"):
        write(tmp_path / name, "FACTOR = 1\n")
    assert changes(str(plugin), tmp_path / where, "FACTOR = 1", "FACTOR = 100")
    assert not changes(str(plugin), tmp_path / "stranger.py", "FACTOR = 1", "FACTOR = 100")


@pytest.mark.parametrize(
    ("says", "where"),
    [
        ("import sys\nsys.path.insert(0, 'lib')\nfrom helper import FACTOR", "plugins/lib/helper.py"),
        ("import sys\nsys.path.insert(0, '..')\nfrom helper import FACTOR", "helper.py"),
        ("import sys\nsys.path.insert(0, '../src')\nfrom parts.deep import FACTOR", "src/parts/deep.py"),
        ("import os\nexec(open(f'{os.path.dirname(__file__)}/lib/helper.py').read())", "plugins/lib/helper.py"),
        ("import runpy\nrunpy.run_path('first.py')", "plugins/lib/helper.py"),
    ],
)
def test_a_constant_of_a_file_that_a_plugin_puts_on_the_path_or_runs_counts(
    tmp_path: Path, says: str, where: str
) -> None:
    plugin = write(tmp_path / "plugins" / "plugin.py", says + "\n")
    write(tmp_path / "plugins" / "first.py", "import sys\nsys.path.append('lib')\nimport helper\n")
    stranger = write(tmp_path / "src" / "stranger.py", "FACTOR = 1\n")
    changed = write(tmp_path / where, "FACTOR = 1\n")
    assert changes(str(plugin), changed, "1", "100")
    assert not changes(str(plugin), stranger, "1", "100")


@pytest.mark.parametrize(
    ("says", "where"),
    [
        ("from .constants import FACTOR", "constants.py"),
        ("from . import constants", "constants.py"),
        ("from ..constants import FACTOR", "../constants.py"),
        ("from acme_maps.deep import constants", "constants.py"),
        ("import acme_maps.constants", "../constants.py"),
        ("X = 1", "../__init__.py"),  # runs before any module of the package
    ],
)
def test_a_constant_of_a_package_counts(tmp_path: Path, monkeypatch, says: str, where: str) -> None:
    package = tmp_path / "acme_maps" / "deep"
    for name in ("__init__.py", "constants.py", "../__init__.py", "../constants.py", "stranger.py"):
        write(package / name, "FACTOR = 1\n")
    write(package / "maps.py", says + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert changes("acme_maps.deep.maps", package / where, "FACTOR = 1", "FACTOR = 100")
    assert not changes("acme_maps.deep.maps", package / "stranger.py", "FACTOR = 1", "FACTOR = 100")


def test_comments_docstrings_and_layout_do_not_count_and_all_else_does(tmp_path: Path) -> None:
    path = write(tmp_path / "plugin.py", '"""One."""\n\n\nclass A:\n    """Two."""\n\n    x = f(1, y="z")  # three\n')
    for old, new, counts in (
        ("One.", "Another.", False),
        ("Two.", "Another.", False),
        ("three", "another", False),
        ("\n\n\n", "\n\n", False),
        ("f(1, y", "f(1,  y", False),
        ("1", "1.0", True),
        ('"z"', "'zz'", True),
        ("x =", "w =", True),
    ):
        assert changes(str(path), path, old, new) == counts, (old, new)


def test_what_is_no_python_counts_by_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "plugin.py", "class (\n")
    assert changes(str(path), path, "class", "klass")


def test_nothing_is_imported_to_find_the_files(tmp_path: Path) -> None:
    plugin = write(tmp_path / "plugin.py", "import helper\n")
    write(tmp_path / "helper.py", "raise RuntimeError('imported')\n")
    assert set(files(str(plugin))) == {"plugin", "helper"}


def test_libraries_are_those_that_are_imported() -> None:
    assert set(libraries("mongebench.estimators.gaussian")) == {"numpy", "scipy"}
    assert {"ott-jax", "optax", "jax", "jaxlib"} <= set(libraries("mongebench.estimators.neural"))
    assert "torch" not in libraries("mongebench.estimators.neural")
    assert libraries("", ["sklearn.tree"]).keys() == {"numpy", "scipy", "scikit-learn"}


def test_measurement_metrics_problem_and_estimator_have_digests_of_their_own() -> None:
    cell = Cell(estimator=Spec(name="flow_newton"), problem=Spec(name="mixture"), n_source=10, n_target=10, seed=0)
    where = planned.places(cell, mb.estimator("flow_newton"))
    found = {
        "estimator": set(files(str(where.estimator), planned._of_a_part)),
        "problem": set(files(where.problem, planned._of_a_part)),
        "metrics": {name for place in where.metrics for name in files(place, planned._of_metrics)},
        "measurement": set(files(planned.MEASURED_BY, planned._of_measurement)),
    }
    assert "mongebench.estimators.flow.schemes.base" in found["estimator"]
    assert "mongebench.datasets.mixture" in found["problem"]
    assert {"mongebench.metrics.l2", "mongebench.metrics.pairwise"} <= found["metrics"]
    assert {"mongebench.run.clock", "mongebench.core.oracle", "mongebench.run.measurement"} <= found["measurement"]
    everything = [name for names in found.values() for name in names]
    assert len(everything) == len(set(everything))
    # Whatever measures is in one of them: what is left is named here, and describes or writes.
    measuring = {f"mongebench.core.{path.stem}" for path in (OURS / "core").glob("*.py")}
    left = {"mongebench.core.__init__", "mongebench.core.npz", *planned.DESCRIPTIVE, *planned.READING}
    assert measuring - set(everything) == left & measuring
    assert set(files("mongebench.datasets.files", planned._of_a_part)) >= planned.READING


CODE = """
import pathlib, sys, mongebench as mb
from mongebench.run import planned
from mongebench.run.record import Cell, Spec
cell = Cell(estimator=Spec(name="bures"), problem=Spec(name="gaussian"), n_source=1, n_target=1, seed=0)
def made():
    planned.forget_code()
    return planned.code(planned.places(cell, mb.estimator("bures")))
before = made()
print(before.model_dump_json())
for file in sys.argv[1:]:
    path = pathlib.Path(file)
    text = path.read_text()
    path.write_text(text + "\\nFACTOR = 1000\\n")
    print(*(line.partition(":")[0] for line in before.differences(made())))
    path.write_text(text)
"""


def test_code_of_ours_that_changes_is_named_by_its_part(tmp_path: Path) -> None:
    """In a copy of the package, whose digests are those of the original."""
    for name in ("mongebench", "estimators", "datasets"):
        shutil.copytree(OURS.parent / name, tmp_path / name, symlinks=True)
    parts = {
        "mongebench/metrics/l2.py": "metrics_source",
        "mongebench/metrics/base.py": "metrics_source",
        "mongebench/run/clock.py": "measurement_source",
        "mongebench/run/measurement.py": "measurement_source",
        "mongebench/core/measure.py": "measurement_source",
        "datasets/gaussian.py": "problem_source",
        "estimators/gaussian.py": "estimator_source",
        "estimators/entropic.py": "",
        "mongebench/report/tables/results.py": "",
    }
    words = [sys.executable, "-c", CODE, *parts]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *changed = done.stdout.splitlines()
    assert changed == list(parts.values())
    cell = Cell(estimator=Spec(name="bures"), problem=Spec(name="gaussian"), n_source=1, n_target=1, seed=0)
    assert Code.model_validate_json(first) == planned.code(planned.places(cell, mb.estimator("bures")))
