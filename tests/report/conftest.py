"""Runs made of records that nobody had to fit: the tests of the report write what it reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mongebench.metrics.base import Value
from mongebench.run.record import Cell, Facts, Manifest, Provenance, Record, Spec, Status, Times, TracePoint
from mongebench.run.store import Invocation, Plan, PlannedCell, RunDirectory

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


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """(entries, ...) -> a run of these cells and traces; None for a cell without a record."""

    def write(
        entries: list[Entry],
        *,
        strong_convexity: float | None = 1.0,
        floor: float = 1e-12,
        status: Status = Status.OK,
        energy_distance: Callable[[Cell], float] = lambda cell: 0.1,
    ) -> RunDirectory:
        facts = Facts(
            tier="potential", anchor=False, dim=2, strong_convexity=strong_convexity, truth_tier="closed_form"
        ).model_dump()
        directory = RunDirectory(tmp_path / "run")
        directory.create()
        planned = [PlannedCell(cell=cell, manifest=MANIFEST, **facts) for cell, _ in entries]
        directory.write_plan(Plan(invocation=Invocation(experiment="written"), cells=planned))
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
                        **facts,
                        status=status,
                        metrics=metrics if status.measured else {},
                        times=TIMES,
                        trace=points,
                        provenance=PROVENANCE,
                    )
                )
        return directory

    return write
