"""Records: what a resumed run of ten thousand cells reads before it starts, and what each cell writes."""

import pytest

from mongebench.metrics.base import Value
from mongebench.run.provenance import provenance
from mongebench.run.reading import read_run
from mongebench.run.record import Cell, Facts, Manifest, Record, Spec, Status, Times, TracePoint
from mongebench.run.store import Invocation, Plan, PlannedCell, RunDirectory

SCANNED = 100
MANIFEST = Manifest(problem_digest="0", estimator_source="0", evaluation_points=1000, threads=1)
FACTS = Facts(tier="target potential", anchor=False, dim=2, strong_convexity=1.0, truth_tier="closed_form").model_dump()
TIMES = Times(imports=1, compile=1, fit=1, evaluate=1, overhead=0, wall=4, fit_cpu=1, transform=0)
TRACE = [
    TracePoint(iteration=k, flow_time=0.1 * k, oracle_calls=k, fit_seconds=0.1 * k, l2_error=0.9**k) for k in range(50)
]


def record(seed: int) -> Record:
    cell = Cell(
        estimator=Spec(name="flow", parameters={"tau": 0.1}),
        problem=Spec(name="gaussian", parameters={"dim": 2}),
        n_source=1000,
        n_target=1000,
        seed=seed,
    )
    return Record(
        cell=cell,
        manifest=MANIFEST,
        **FACTS,
        status=Status.OK,
        metrics={"uvp": Value(1.0, 0.1, 1e-9), "energy_distance": Value(0.1, 0.01, 0.001)},
        times=TIMES,
        trace=TRACE,
        provenance=provenance(threads=1, workers=1),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    """All recorded but the last."""
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    directory.create()
    records = [record(seed) for seed in range(SCANNED)]
    planned = [PlannedCell(cell=one.cell, manifest=MANIFEST, **FACTS) for one in records]
    directory.write_plan(Plan(invocation=Invocation(experiment="written"), cells=planned))
    for one in records[:-1]:
        directory.write(one)
    return directory


def test_write(benchmark, tmp_path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create()
    one = record(0)
    benchmark(directory.write, one)
    assert directory.read(one) == one


def test_read(benchmark, run) -> None:
    planned = run.plan().cells[0]
    assert benchmark(run.read, planned).cell == planned.cell


def test_scan_for_what_is_missing(benchmark, run) -> None:
    cells = run.plan().cells
    assert benchmark(run.pending, cells) == cells[-1:]


def test_frame(benchmark, run) -> None:
    assert len(benchmark(lambda: read_run(run.path).frame())) == SCANNED
