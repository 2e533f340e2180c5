"""Estimators that nobody here wrote, through the checks and through an experiment."""

import inspect
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mongebench import cli, plugins
from mongebench.check import Outcome, parametrize_with_checks, run_checks
from mongebench.run.store import RunDirectory

FILE = Path(__file__).with_name("outside.py")
outside = plugins.import_file(FILE)
WRAPPED = [outside.BarycentricRegression, outside.MappingTransport, outside.LinearTransport]


@pytest.mark.parametrize("cls", WRAPPED)
def test_wrapping_takes_less_than_25_lines(cls) -> None:
    assert len(inspect.getsource(cls).strip().splitlines()) < 25


@parametrize_with_checks([cls() for cls in WRAPPED])
def test_the_contract(estimator, check) -> None:
    check(estimator)


def test_the_checks_find_the_shortcut_that_the_wrapper_avoids() -> None:
    """Asked for exactly the points it was fitted on, POT's `transform` gives barycentres of the coupling instead."""

    class AsItIs(outside.MappingTransport):
        """Without the detour."""

        def transform(self, X):
            return self.transport_.transform(Xs=X)

    (result,) = run_checks(AsItIs(), ["gives_a_point_one_image"])
    assert result.outcome is Outcome.FAILED
    assert "Two points alone have other images" in result.reason


@pytest.mark.long
@pytest.mark.parametrize("cls", WRAPPED)
def test_quickstart(cls, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plugins, "_from_files", {})
    name = plugins.snake_case(cls.__name__)
    words = ["run", "quickstart", "--plugin", f"{FILE}:{cls.__name__}", "--only", name, "--seeds", "1"]
    result = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    records = list(RunDirectory(tmp_path).records())
    assert len(records) == 13
    assert [record.reason for record in records if not record.status.measured] == []
