"""Runs made of records that nobody had to fit: the tests of the report write what it reads."""

import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mongebench import cli
from mongebench.metrics.base import Value
from mongebench.run.record import Cell, Facts, Manifest, Provenance, Record, Spec, Status, Times, TracePoint
from mongebench.run.sketch import POINTS, Sketch
from mongebench.run.store import Invocation, Plan, PlannedCell, RunDirectory

EXPERIMENT = """
name = "small"
seeds = 2
evaluation_points = 100
[[estimators]]
name = ["identity", "truth", "bures", "sorting"]
[[problems]]
name = "gaussian"
dim = [1, 2]
[budget]
n_source = [20, 40]
n_target = [20, 40]
"""
MANIFEST = Manifest(problem_digest="0", estimator_source="0", evaluation_points=10, threads=1)
PROVENANCE = Provenance(
    mongebench="0",
    commit=None,
    dirty=None,
    python="3",
    platform="any",
    processor="any",
    cores=1,
    device="cpu",
    dtype="float64",
    threads=1,
    workers=1,
    versions={},
    environment={},
    started_at="2026-01-01T00:00:00Z",
)
TIMES = Times(imports=0, compile=0, fit=1, evaluate=0, overhead=0, wall=1, fit_cpu=1, transform=0)


def cell(estimator: str, seed: int = 0, problem: dict[str, Any] | None = None, **parameters: Any) -> Cell:
    return Cell(
        estimator=Spec(name=estimator, parameters=parameters),
        problem=Spec(name="gaussian", parameters={"dim": 2, **(problem or {})}),
        n_source=None,
        n_target=100,
        seed=seed,
    )


def trace(times: Any, errors: Any, **diagnostics: float) -> list[TracePoint]:
    return [
        TracePoint(
            iteration=k,
            flow_time=time,
            oracle_calls=100 * k,
            fit_seconds=0.1 * k,
            l2_error=error,
            energy_distance=None if error is None else error / 10,
            diagnostics=diagnostics,
        )
        for k, (time, error) in enumerate(zip(times, errors, strict=True))
    ]


def exponential(rate: float, tau: float, end: float = 2.0) -> list[TracePoint]:
    times = np.arange(0, end + tau / 2, tau)
    return trace(times, 3.0 * np.exp(-rate * times))


Entry = tuple[Cell, list[TracePoint] | None]


def writer(folder: Path) -> Callable[..., RunDirectory]:
    """(entries, ...) -> a run of these cells and traces in `folder`; None for a cell without a record."""

    def write(
        entries: list[Entry],
        *,
        strong_convexity: float | None = 1.0,
        floor: float = 1e-12,
        horizon: float | None = None,
        status: Status = Status.OK,
        energy_distance: Callable[[Cell], float] = lambda cell: 0.1,
    ) -> RunDirectory:
        def facts(cell: Cell) -> dict[str, Any]:
            dim = cell.problem.parameters.get("dim", 2)
            known = Facts(
                tier="potential", anchor=False, dim=dim, strong_convexity=strong_convexity, truth_tier="closed_form"
            )
            return known.model_dump()

        directory = RunDirectory(folder / "run")
        directory.create()
        planned = [PlannedCell(cell=cell, manifest=MANIFEST, **facts(cell)) for cell, _ in entries]
        directory.write_plan(Plan(invocation=Invocation(experiment="written"), cells=planned, horizon=horizon))
        for cell, points in entries:
            if points is not None:
                error = points[-1].l2_error if points and points[-1].l2_error is not None else 1.0
                metrics = {
                    "l2_error": Value(error, 0.0, floor),
                    "uvp": Value(100 * error, 0.0, 100 * floor),
                    "energy_distance": Value(energy_distance(cell), 0.01, 0.001),
                    "energy_distance_v": Value(energy_distance(cell), 0.01, 0.001),
                }
                directory.write(
                    Record(
                        cell=cell,
                        manifest=MANIFEST,
                        **facts(cell),
                        status=status,
                        metrics=metrics if status.measured else {},
                        times=TIMES,
                        trace=points,
                        provenance=PROVENANCE,
                    )
                )
        return directory

    return write


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """What `writer` gives for the folder of the test."""
    return writer(tmp_path)


@functools.cache
def simulated(name: str) -> ModuleType:
    """The module benchmarks/simulations/NAME.py, which is a script and in no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "simulations" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"simulated_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def repository(checkout: Path) -> None:
    """An empty repository at `checkout`, with a configuration of asv."""
    checkout.mkdir()
    settings = {"version": 1, "project": "small", "repo": ".", "branches": ["HEAD"], "dvcs": "git"}
    (checkout / "asv.conf.json").write_text(json.dumps(settings), encoding="utf-8")
    git(checkout, "init", "--quiet")


def sketch(shift: float = 0.0) -> Sketch:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, POINTS, 2)).astype(np.float32)
    return Sketch(x, x + np.float32(shift), y)


def git(checkout: Path, *words: str) -> str:
    identity = ["-c", "user.name=any", "-c", "user.email=any@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(checkout), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def history(checkout: Path, write_run: Callable[..., RunDirectory]) -> None:
    """A repository of two commits at `checkout`, each measured, imported and published as `mongebench asv` does."""
    repository(checkout)
    for rate in (2.0, 4.0):
        git(checkout, "commit", "--quiet", "--allow-empty", "--message", f"rate {rate}")
        run = write_run([(cell("flow"), exponential(rate, 0.1)), *((cell("late", seed=s), None) for s in (0, 1))])
        words = ["asv", str(run.path), "--config", str(checkout / "asv.conf.json"), "--commit", "HEAD"]
        done = CliRunner().invoke(cli.app, [*words, "--publish"] if rate == 4.0 else words, catch_exceptions=False)
        assert done.exit_code == 0, done.output


def report(*words) -> str:
    result = CliRunner().invoke(cli.app, ["report", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def real(in_this_process, tmp_path_factory) -> Path:
    """A small run with failures, and its report in `site`."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "small.toml").write_text(EXPERIMENT, encoding="utf-8")
    with in_this_process():
        said = CliRunner().invoke(cli.app, ["run", str(folder / "small.toml"), "--out", str(folder / "run")])
    assert said.exit_code == 0, said.output
    report(folder / "run", "--out", folder / "site")
    return folder
