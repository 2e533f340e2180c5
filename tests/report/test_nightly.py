"""A night on a small experiment, end to end in a repository made here, and its judgement on frames that are known."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mongebench import cli, plugins
from mongebench.core.errors import ExperimentError
from mongebench.report import nightly
from mongebench.run import experiment as experiments

from .conftest import git, repository

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EXPERIMENT = """
name = "tiny"
seeds = 4
evaluation_points = 200
gates = "gates.csv"
[[estimators]]
name = ["identity", "bures", "sorting"]
[[problems]]
name = "gaussian"
dim = [1, 2]
[budget]
n_source = 50
n_target = 50
"""


def frame(values: dict[str, list[float]], **columns) -> pd.DataFrame:
    """Estimator -> its UVP at each seed; NaN is a cell that crashed."""
    rows = [
        {"estimator": name, "seed": seed, "key": f"{name}-{seed}", "uvp": value, "fit_seconds": 1.0 + seed}
        | {"status": "crashed" if np.isnan(value) else "ok"}
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    same = {"problem": "gaussian", "dim": 2, "budget": "n = 1 / 1", "problem_digest": "0", "evaluation_points": 10}
    return pd.DataFrame(rows).assign(uvp_se=0.0, uvp_floor=1e-6, tier="t", anchor=False, **same | columns)


def test_a_gate_lets_pass_what_other_seeds_show_and_nothing_worse(rng) -> None:
    """Four standard errors: seeds of another twenty nights stay below; twice the error does not."""
    recorded = nightly.record(frame({"a": list(5 + rng.normal(size=10))}))
    broken = sum(nightly.judge(frame({"a": list(5 + rng.normal(size=10))}), recorded).failed for _ in range(20))
    assert broken <= 1
    worse = nightly.judge(frame({"a": list(10 + rng.normal(size=10))}), recorded)
    assert worse.failed
    assert worse.sentences()[0].startswith("FAILED: a on gaussian, d = 2, n = 1 / 1: mean uvp 1")


def test_rounding_moves_no_gate_and_lower_errors_are_welcome() -> None:
    recorded = nightly.record(frame({"exact": [1e-12] * 4, "a": [2.0] * 4}))
    assert recorded["high"].tolist() == pytest.approx([1.1e-6, 2.2])
    assert not nightly.judge(frame({"exact": [9e-7] * 4, "a": [0.1] * 4}), recorded).failed


def test_lost_cells_fail_the_night_and_unsupported_ones_do_not() -> None:
    recorded = nightly.record(frame({"a": [1.0] * 4}))
    lost = nightly.judge(frame({"a": [1.0, 1.0, 1.0, np.nan]}), recorded)
    assert (lost.measured, lost.planned, lost.failed, lost.broken) == (3, 4, True, ())
    rows = frame({"a": [1.0] * 4, "sorting": [np.nan] * 4})
    rows.loc[rows["estimator"] == "sorting", "status"] = "unsupported"
    assert not nightly.judge(rows, recorded).failed
    gone = nightly.judge(frame({"b": [1.0] * 4}), recorded)
    assert gone.broken == (
        "a on gaussian, d = 2, n = 1 / 1 is planned no more, but has a gate; record the gates again.",
    )
    with pytest.raises(ExperimentError, match="1 of 4 cells of a on gaussian"):
        nightly.record(frame({"a": [1.0, 1.0, 1.0, np.nan]}))


def test_equal_halves_raise_few_alarms_and_unequal_ones_do(rng) -> None:
    """At 95 %: of 20 nights of five places one alarms; of the hundred alone, five. Three deviations are allowed."""
    nights = [frame({f"e{k}": list(rng.normal(5, 1, size=8)) for k in range(5)}) for _ in range(20)]
    found = [nightly.false_alarms(rows) for rows in nights]
    assert {places for _, _, places in found} == {5}
    assert sum(together > 0 for together, _, _ in found) <= 1 + 3
    assert 0 < sum(alone for _, alone, _ in found) <= 5 + 3 * np.sqrt(5)
    drifting = frame({"a": [1.0, 1.1, 0.9, 1.05, 9.0, 9.1, 8.9, 9.05]})
    assert nightly.false_alarms(drifting) == (1, 1, 1)
    assert nightly.false_alarms(frame({"a": [1.0, 2.0, 3.0]})) == (0, 0, 0)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    repository(tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "checkout")
    Path("tiny.toml").write_text(EXPERIMENT, encoding="utf-8")
    git(tmp_path / "checkout", "commit", "--quiet", "--allow-empty", "--message", "any")
    return tmp_path / "checkout"


def night(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["nightly", "tiny.toml", "--commit", "HEAD", *words], catch_exceptions=False)
    return done.exit_code, done.output


def test_a_night_from_end_to_end(checkout) -> None:
    with pytest.raises(ExperimentError, match=r"gates\.csv cannot be read"):
        night()
    code, said = night("--record", "--out", "run")
    assert code == 0, said
    assert "20/20 planned cells were measured" in said
    assert "5 of 5 accuracy gates hold" in said
    assert re.search(r"False alarms of compare on errors, .*: 0 of \d places", said)
    assert (checkout / "html" / "index.html").is_file()
    assert (checkout / "run" / "report" / "index.html").is_file()
    gates = pd.read_csv("gates.csv")
    gates.assign(high=gates["high"].where(gates["estimator"] != "sorting", 0.0)).to_csv("gates.csv", index=False)
    code, said = night("--out", "run")
    assert code == 1
    assert "FAILED: sorting on gaussian, d = 1" in said
    assert "4 of 5 accuracy gates hold" in (checkout / "run" / "nightly.md").read_text(encoding="utf-8")


def test_every_estimator_has_a_cell_of_the_night_and_gates_are_of_its_places() -> None:
    declared = experiments.read("nightly")
    ours = {found.name for found in plugins.available(plugins.ESTIMATORS).values() if found.origin == "mongebench"}
    assert declared.named() == ours
    gates = nightly.read(declared.base / str(declared.gates))
    assert len(gates) >= 50
    assert set(gates["estimator"]) <= ours
    assert set(gates["problem"]) == {cell.problem.name for cell in declared.cells()}
    assert (gates["high"] > gates["recorded"]).all()
    assert (gates["n"] == declared.seeds).all()


def test_workflows_are_what_github_reads() -> None:
    """By the schema of schemastore.org, of which check-jsonschema carries a copy."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
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
