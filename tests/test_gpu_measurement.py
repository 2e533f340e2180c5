"""benchmarks/gpu, without a GPU: what the script runs and leaves out, and the arithmetic of the speed-up."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tomli_w

from mongebench.run.experiment import read

ROOT = Path(__file__).resolve().parents[1]
MEASURE = ROOT / "benchmarks" / "gpu" / "measure.sh"

spec = importlib.util.spec_from_file_location("speedup", MEASURE.with_name("speedup.py"))
speedup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(speedup)


def measure(out: Path, **variables: object) -> list[str]:
    """The lines of parts.txt after a dry run."""
    given = {"DEVICE": "cpu", "OUT": out, "RUNS": out / "runs", "PYTHON": sys.executable} | variables
    environment = os.environ | {name: str(value) for name, value in given.items()}
    subprocess.run([str(MEASURE)], env=environment, check=True, capture_output=True)
    return (out / "parts.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """In place of Python: it notes what it was asked, fails as the tests and sleeps as the cells of `slow`."""
    script = tmp_path / "python"
    script.write_text(
        f"""#!/bin/bash
echo "${{JAX_DEFAULT_MATMUL_PRECISION:-}} $*" >> "{tmp_path}/asked"
case "$*" in
  *"-m pytest"*) echo "1 failed"; exit 1 ;;
  *"--only slow"*) exec sleep 60 ;;
  *"zipfile -c"*) : > "$4" ;;
esac
""",
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


def test_the_script_runs_every_estimator_of_the_experiment() -> None:
    named = re.search(r"\$\{ESTIMATORS:-(.*?)\}", MEASURE.read_text(encoding="utf-8"))[1].split()
    cells = read("gpu").cells()
    assert sorted(named) == sorted({cell.estimator.name for cell in cells})
    assert {cell.n_source for cell in cells if cell.estimator.name == "entropic"} >= {1000, 32000}
    for name in ("flow_newton", "flow_implicit", "euclidean"):
        own = [cell for cell in cells if cell.estimator.name == name]
        assert {cell.problem.parameters["dim"] for cell in own} == {8, 32, 64, 256}
        assert {cell.estimator.parameters["family"] for cell in own} == {"maxima", "icnn"}


def test_a_part_that_fails_is_named_and_the_others_run(python: Path, tmp_path: Path) -> None:
    said = measure(tmp_path / "out", PYTHON=python, ESTIMATORS="first", EXPERIMENT="small.toml")
    assert said[0].startswith("tests: FAILED with exit code 1")
    assert "1 failed" in said[0]
    outcomes = [re.match(r"(\S+): done", line)[1] for line in said[1:-1]]
    assert outcomes == ["probes-jax", "probes-torch", "gpu-first", "cpu-first", "tf32-flow_newton", "speedup"]
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    runs = [line for line in asked if "mongebench run" in line]
    assert all("run small.toml" in line and "--device cpu" in line for line in runs)
    assert [line.split(" ")[0] for line in runs] == ["", "", "tensorfloat32"]


def test_a_part_keeps_within_the_time_and_what_has_none_left_is_said(python: Path, tmp_path: Path) -> None:
    said = measure(tmp_path / "out", PYTHON=python, ESTIMATORS="slow quick", LIMIT=30, LAST=20)
    stopped, *skipped = said[3:-2]
    assert re.match(r"gpu-slow: stopped after \d+ s; what it had not measured by then is missing", stopped)
    left_out = ["cpu-slow", "gpu-quick", "cpu-quick", "tf32-flow_newton"]
    assert skipped == [f"{name}: skipped, no time left" for name in left_out]
    assert said[-2].startswith("speedup: done")  # its time is kept


def place(estimator: str, n: float, seconds: list[float | None], device: str, **more: object) -> pd.DataFrame:
    """Rows of a run's frame, one per seed; None for a cell that was killed at the time limit."""
    column = "fit_seconds" if device == "cpu" else "gpu_fit_seconds"
    return pd.DataFrame(
        {
            "key": [f"{estimator}-{n}-{seed}" for seed in range(len(seconds))],
            "estimator": estimator,
            "problem": "gaussian",
            "dim": 2,
            "n_source": n,
            "budget": f"n = {n}",
            "instance": 0,
            "status": ["timeout" if value is None else "ok" for value in seconds],
            "device": device,
            "problem_digest": "same",
            "evaluation_points": 100,
            "fit_seconds": np.nan,
            "gpu_fit_seconds": np.nan,
            "compile_seconds": 1.0,
            column: [np.nan if value is None else value for value in seconds],
            **more,
        }
    )


def records(rows: pd.DataFrame, steps: int | None = None) -> dict[str, SimpleNamespace]:
    one = SimpleNamespace(
        learned={} if steps is None else {"n_steps_": steps},
        gpu_peak_bytes=3 << 20,
        manifest=SimpleNamespace(time_limit=40.0),
    )
    return dict.fromkeys(rows["key"], one)


def test_the_speed_up_is_the_ratio_of_pairs_and_a_gpu_pays_where_its_whole_interval_does() -> None:
    """Ten seeds each whose log-ratios scatter by 0.1 around log 0.5, log 4 and log 20: n = 2000 is the first to pay."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, 10))
    base = np.exp(np.random.default_rng(1).standard_normal(10))  # of a seed, in both runs: it cancels
    sizes = {1000: 0.5, 2000: 4.0, 4000: 20.0}
    gpu = pd.concat([place("entropic", n, list(base), "Fake H1") for n in sizes])
    cpu = pd.concat(
        [
            place("entropic", n, list(ratio * base * np.exp(own)), "cpu")
            for (n, ratio), own in zip(sizes.items(), noise, strict=True)
        ]
    )
    found = speedup.speedups(gpu, cpu, records(gpu), records(cpu)).set_index("n_source")
    for (n, ratio), own in zip(sizes.items(), noise, strict=True):
        assert found.loc[n, "speedup"] == pytest.approx(ratio * np.exp(own.mean()))
        assert found.loc[n, "low"] < found.loc[n, "speedup"] < found.loc[n, "high"]
        # The interval is of the mean of ten: of the order of 0.1 / sqrt(10) on each side, times a quantile below 4.
        assert 0 < np.log(found.loc[n, "high"] / found.loc[n, "speedup"]) < 4 * 0.1 / np.sqrt(10)
    found = found.reset_index()
    assert speedup.pays(found) == ["entropic on gaussian: a GPU pays from d = 2, n = 2000 on."]
    assert speedup.pays(found[found["n_source"] == 1000]) == [
        "entropic on gaussian: a GPU is not shown to pay up to d = 2, n = 1000."
    ]


def test_other_numbers_of_steps_and_cells_that_the_cpu_did_not_finish() -> None:
    gpu, cpu = place("enot", 1000, [1.0, 1.0], "Fake H1"), place("enot", 1000, [3.0, 3.0], "cpu")
    found = speedup.speedups(gpu, cpu, records(gpu, steps=1000), records(cpu, steps=100))
    assert found["speedup"].item() == pytest.approx(30.0)  # three seconds took it a tenth of the steps
    gpu, cpu = place("enot", 1000, [2.0, 2.0], "Fake H1"), place("enot", 1000, [None, None], "cpu")
    found = speedup.speedups(gpu, cpu, records(gpu), records(cpu))
    assert found["at_least"].item() == pytest.approx(20.0)
    assert "> 20" in speedup.table(found)
    assert speedup.pays(found) == ["enot on gaussian: a GPU pays from d = 2, n = 1000 on."]


def test_a_figure_is_drawn(tmp_path: Path) -> None:
    gpu = pd.concat([place("entropic", n, [1.0, 1.1], "Fake H1") for n in (1000, 2000, np.inf)])
    cpu = pd.concat([place("entropic", n, [2.0, 2.1], "cpu") for n in (1000, 2000, np.inf)])
    speedup.draw(speedup.speedups(gpu, cpu, records(gpu), records(cpu)), tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").stat().st_size > 1000


def small(path: Path) -> Path:
    """gpu.toml with every size turned down."""
    grid = tomllib.loads((ROOT / "benchmarks/experiments/gpu.toml").read_text(encoding="utf-8"))
    least = {"steps": 3, "warm_steps": 1, "inner_steps": 2, "units": 4, "width": 8, "batch_size": 64}
    least |= {"curvature_points": 32, "max_pairs": 100}
    for entry in grid["estimators"]:
        entry |= {name: value for name, value in least.items() if name in entry}
    for entry in grid["problems"]:
        entry["dim"] = 2
        entry["budget"] = {side: n if n == "unlimited" else 60 for side, n in entry["budget"].items()}
    path.write_text(tomli_w.dumps(grid | {"evaluation_points": 100}), encoding="utf-8")
    return path


@pytest.mark.long  # eight children, each of which imports JAX: a minute or two
def test_a_dry_run_leaves_records_and_a_table_that_claims_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = {"ESTIMATORS": "entropic flow_newton", "EXPERIMENT": small(tmp_path / "small.toml"), "POINTS": 200}
    said = measure(out, LIMIT=3000, PATIENCE=10, **chosen)
    done = {line.split(":")[0] for line in said if ": done" in line}
    assert done >= {"probes-jax", "probes-torch", "gpu-entropic", "cpu-entropic", "tf32-flow_newton", "speedup"}, said
    text = (out / "speedup.txt").read_text(encoding="utf-8")
    assert "No fit of RUN_GPU computed on a GPU" in text
    assert "pays" not in text
    assert len(re.findall(r"entropic|flow_newton", text)) == 3  # two families of the flow
    assert not (out / "speedup.png").exists()
    with zipfile.ZipFile(out / "records.zip") as archive:
        names = archive.namelist()
    assert sum(name.endswith(".json") and "/cells/" in name for name in names) == 2 * 3 * 2 + 4
    assert (out / "records.zip").stat().st_size < 16 << 20
