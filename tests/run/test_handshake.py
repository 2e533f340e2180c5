"""A dask worker with other code or libraries than the plan's: told so, and not believed."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mongebench.run import dask_engine
from mongebench.run.child import Job
from mongebench.run.measurement import measure
from mongebench.run.planned import places
from mongebench.run.runner import Execution
from mongebench.run.store import Invocation, RunDirectory, RunStopped

WORKER = "tcp://10.0.0.7:4000"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execution:
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(address=WORKER))
    monkeypatch.setattr(dask_engine, "run_batch", lambda *_: None)
    grid = tmp_path / "grid.toml"
    grid.write_text(
        'name = "grid"\nevaluation_points = 50\n[[estimators]]\nname = "bures"\n[[problems]]\nname = "gaussian"\n'
        "[budget]\nn_source = 20\nn_target = 20\n",
        encoding="utf-8",
    )
    found = Execution(Invocation(experiment=str(grid)), RunDirectory(tmp_path / "run"))
    found.directory.create()
    return found


def job(run: Execution, **changes: Any) -> Job:
    """With a plan that was made where the code was another."""
    (planned,) = run.plan.cells
    changed = planned.model_copy(update={"manifest": planned.manifest.model_copy(update=changes)})
    folder = str(run.directory.path)
    return Job(cells=[changed], run_directory=folder, plugin_files=[], base=".", conditions=run.conditions)


def where(run: Execution) -> str:
    (planned,) = run.plan.cells
    return json.dumps(asdict(places(planned.cell, run.estimator(planned.cell.estimator))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics_source": "there"}, "metrics_source: there -> "),
        ({"measurement_source": "there"}, "measurement_source: there -> "),
        ({"estimator_source": "there"}, "estimator_source: there -> "),
        ({"problem_source": "there"}, "problem_source: there -> "),
        ({"versions": {"numpy": "1.0", "scipy": "1.0"}}, "versions.numpy: 1.0 -> "),
    ],
)
def test_a_worker_refuses_what_was_planned_with_other_code(run: Execution, changes: Any, words: str) -> None:
    with pytest.raises(RunStopped, match=f"The dask worker {WORKER} has other code: {words}"):
        dask_engine.run_task(job(run, **changes).model_dump_json(), "nowhere", where(run))


def test_a_worker_with_the_same_code_runs_it(run: Execution) -> None:
    assert json.loads(dask_engine.run_task(job(run).model_dump_json(), "nowhere", where(run))) == []


def test_records_made_with_other_code_stop_the_run_with_the_reason(run: Execution) -> None:
    (planned,) = run.plan.cells
    problem, estimator = run.problem(planned.cell.problem), run.estimator(planned.cell.estimator)
    assert problem is not None
    assert estimator is not None
    record, _ = measure(planned.cell, problem, estimator, run.conditions)
    assert run.directory.find(record).record is None
    run.directory.write(
        record.model_copy(update={"manifest": record.manifest.model_copy(update={"metrics_source": "x"})})
    )
    client = SimpleNamespace(who_has=lambda futures: {"key": (WORKER,)}, nthreads=lambda: {WORKER: 1})
    dispatch = dask_engine._Dispatch(client, job(run), run.directory, "mark", lambda cell, event: None)
    with pytest.raises(RunStopped, match=f"The dask worker {WORKER} has other code: metrics_source: .* -> x"):
        dispatch._believe([planned], None)
    run.directory.write(record)
    dispatch._believe([planned], None)
