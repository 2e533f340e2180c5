"""The time of a plan, from what was recorded of the same cells with other seeds."""

from pathlib import Path

import pytest

import mongebench as mb
from mongebench.run.forecast import Forecast, forecast, spoken
from mongebench.run.record import PlannedCell, Record, Status
from mongebench.run.store import Invocation, Plan, RunDirectory


@pytest.fixture(scope="module")
def measured() -> Record:
    return mb.run_cell(mb.problem("gaussian"), mb.estimator("identity"), evaluation_points=50)


def planned(record: Record, *, seed: int = 9, n_source: int = 1000, **manifest: object) -> PlannedCell:
    facts = {name: getattr(record, name) for name in PlannedCell.model_fields}
    cell = record.cell.model_copy(update={"seed": seed, "n_source": n_source})
    return PlannedCell(**facts | {"cell": cell, "manifest": record.manifest.model_copy(update=manifest)})


def write(path: Path, records: list[Record]) -> None:
    directory = RunDirectory(path)
    directory.create()
    directory.write_plan(Plan(invocation=Invocation(experiment="any"), cells=[planned_as(one) for one in records]))
    for record in records:
        directory.write(record)


def planned_as(record: Record) -> PlannedCell:
    return PlannedCell(**{name: getattr(record, name) for name in PlannedCell.model_fields})


def took(record: Record, seed: int, wall: float, fit: float, **changes: object) -> Record:
    times = record.times.model_copy(update={"wall": wall, "fit": fit})
    cell = record.cell.model_copy(update={"seed": seed})
    return record.model_copy(update={"cell": cell, "times": times, **changes})


def test_the_median_of_earlier_records_here_and_beside(tmp_path: Path, measured: Record) -> None:
    write(tmp_path / "here", [took(measured, 0, 1.0, 0.5), took(measured, 1, 9.0, 0.5)])
    write(tmp_path / "beside", [took(measured, 2, 2.0, 0.5)])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text("{}", encoding="utf-8")  # not ours
    here = RunDirectory(tmp_path / "here")
    once, again = planned(measured), planned(measured, seed=8, repeats=3)
    assert forecast([once, again], here) == {once.cell.key: Forecast(2.0, 3), again.cell.key: Forecast(3.0, 3)}
    for unknown in (planned(measured, n_source=2000), planned(measured, device="gpu")):
        assert forecast([unknown], here) == {}


def test_what_was_killed_took_its_limit_and_what_crashed_nobody_knows(tmp_path: Path, measured: Record) -> None:
    limited = measured.manifest.model_copy(update={"time_limit": 60.0})
    killed = measured.model_copy(update={"status": Status.TIMEOUT, "times": None, "manifest": limited})
    crashed = measured.model_copy(update={"status": Status.CRASHED, "times": None})
    next_one = planned(measured)
    for record, known in ((killed, {next_one.cell.key: Forecast(60.0, 1)}), (crashed, {})):
        write(tmp_path / "run", [record])
        assert forecast([next_one], RunDirectory(tmp_path / "run")) == known


def test_durations_are_spoken() -> None:
    assert [spoken(s) for s in (0.0123, 1.5, 101, 600, 7200)] == ["0.012 s", "1.5 s", "101 s", "10 min", "2 h"]
