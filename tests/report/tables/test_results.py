"""Aggregates: means over what was measured, counts over what was planned."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from mongebench.report.tables import terminal
from mongebench.report.tables.results import (
    aggregate,
    blocks,
    circumstances,
    exponents,
    legend,
    number,
    row_order,
    spread,
)
from mongebench.run.frame import labels, labels_by_problem
from mongebench.run.reading import read_run
from mongebench.run.record import Cell, Spec

from ..conftest import TIMES, cell, trace


def rows(values, statuses=None, **columns) -> pd.DataFrame:
    count = len(values)
    base = {
        "estimator": "bures",
        "problem": "gaussian",
        "dim": 2,
        "budget": "n = 10 / 10",
        "tier": "samples",
        "anchor": True,
        "status": statuses or ["ok"] * count,
        "uvp": values,
        "uvp_se": 0.5,
        "uvp_floor": 1e-20,
    }
    return pd.DataFrame(base | columns, index=range(count))


def test_mean_and_standard_error_over_seeds_and_points() -> None:
    (row,) = aggregate(rows([1.0, 2.0, 4.0]), "uvp").to_dict("records")
    assert row["mean"] == pytest.approx(7 / 3)
    of_fits = np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert row["standard_error"] == pytest.approx(np.hypot(of_fits, 0.5))
    assert (row["n_ok"], row["n_planned"]) == (3, 3)


def test_one_seed_keeps_the_metrics_own_error() -> None:
    assert aggregate(rows([3.0]), "uvp")["standard_error"].tolist() == [0.5]


def test_instances_are_the_units_of_the_standard_error_where_there_are_two() -> None:
    """Two fits each that agree, three instances that do not: three values, not six."""
    table = rows([1.0, 1.0, 2.0, 2.0, 6.0, 6.0], instance=[0, 0, 1, 1, 2, 2], uvp_se=0.0)
    (row,) = aggregate(table, "uvp").to_dict("records")
    assert row["standard_error"] == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))
    assert (row["mean"], row["n_ok"], row["n_planned"]) == (3.0, 6, 6)
    failing = table.assign(uvp=[1.0, 1.0, 2.0, np.nan, 6.0, 6.0], status=["ok"] * 3 + ["timeout"] + ["ok"] * 2)
    (lost,) = aggregate(failing, "uvp").to_dict("records")
    assert (lost["mean"], lost["n_ok"], lost["failures"]) == (3.0, 5, {"timeout": 1})  # instances weigh the same
    (one,) = aggregate(table.assign(instance=0), "uvp").to_dict("records")
    assert one["standard_error"] == pytest.approx(np.std([1, 1, 2, 2, 6, 6], ddof=1) / np.sqrt(6))


def test_what_the_standard_errors_are_over_is_said() -> None:
    both = rows([1.0] * 6, instance=[0, 0, 1, 1, 2, 2])
    assert spread(both) == "standard error over 3 instances x 2 fits, plus evaluation points"
    assert spread(rows([1.0] * 4)) == "standard error over 4 fits of one instance, plus evaluation points"
    single = "of the evaluation points only: this says nothing about the fit"
    assert spread(rows([1.0])) == f"standard error {single}"
    mixed = pd.concat([rows([1.0] * 2), rows([1.0], estimator="slow")], ignore_index=True)
    assert spread(mixed) == (
        f"standard error over 1 to 2 fits of one instance, plus evaluation points; where there is one fit, {single}"
    )
    assert f"mean ± {spread(both)}; n_ok/n_planned" in legend(both.assign(wall_seconds=np.nan))


def test_instances_of_one_problem_share_its_label(write_run) -> None:
    made = [cell("bures", seed, problem={"seed": instance, "dim": 2}) for instance in (0, 3) for seed in (0, 1)]
    table = read_run(write_run([(one, trace([0.0], [1.0])) for one in made]).path).frame()
    assert table["problem"].unique().tolist() == ["gaussian"]
    assert table["instance"].tolist() == [0, 0, 3, 3]
    assert aggregate(table, "uvp")["n_planned"].tolist() == [4]
    (block,) = blocks(table)
    assert next(block.lines())[1][0].count == "4/4"


def test_times_have_the_spread_of_the_seeds() -> None:
    summary = aggregate(rows([1.0, 1.0, 1.0], fit_seconds=[1.0, 2.0, 3.0]), "fit_seconds")
    assert summary["standard_error"].iloc[0] == pytest.approx(1 / np.sqrt(3))


def test_failures_are_counted_never_dropped() -> None:
    summary = aggregate(rows([1.0, np.nan, np.nan], ["ok", "timeout", "missing"]), "uvp")
    assert summary[["n_ok", "n_planned"]].to_numpy().tolist() == [[1, 3]]
    assert summary["failures"].iloc[0] == {"timeout": 1, "missing": 1}
    nothing = aggregate(rows([np.nan], ["crashed"]), "uvp")
    assert nothing["n_ok"].tolist() == [0]
    assert np.isnan(nothing["mean"].iloc[0])


def test_cost_exponent_of_a_known_power(rng) -> None:
    n = np.repeat([100, 200, 400, 800], 5)
    seconds = 1e-6 * n**1.5 * np.exp(0.02 * rng.normal(size=n.size))
    table = rows([1.0] * n.size, n_source=n, fit_seconds=seconds)
    (row,) = exponents(table).to_dict("records")
    assert row["low"] < 1.5 < row["high"]
    assert row["high"] - row["low"] < 0.1
    assert exponents(table[table["n_source"] < 400]).empty


def test_the_exponent_of_a_metric_is_shown_with_its_name(write_run) -> None:
    sizes = [cell("bures", seed).model_copy(update={"n_source": n}) for n in (100, 200, 400) for seed in (0, 1)]
    run = write_run([(one, trace([0.0], [50 / one.n_source * (1 + 0.01 * one.seed)])) for one in sizes])
    console = Console(width=200, record=True, file=io.StringIO())
    for metric in ("uvp", "fit_cpu_seconds", None):
        console.print(terminal.costs(read_run(run.path).frame(), metric))
    errors, cpu, wall = console.export_text().split("^exponent")[1:]
    assert "-1.00 (" in errors
    assert "uvp at the largest n" in errors
    assert "fit_cpu_seconds at the largest n" in cpu
    assert "fit s at the largest n" in wall
    assert "no gpu" in wall
    assert cpu.count("0.00 (") == wall.count("0.00 (") == 1  # every record of this run took a second
    assert "compilation and the drawing of samples excluded" in wall
    console.print(terminal.costs(read_run(run.path).frame(), "wall_seconds"))
    assert "excluded" not in console.export_text()  # they hold all of a cell


def test_exponents_of_errors_need_no_common_device(write_run) -> None:
    run = write_run([(cell("bures").model_copy(update={"n_source": n}), trace([0.0], [1 / n])) for n in (10, 20, 40)])
    mixed = read_run(run.path).frame().assign(exclusive=[True, False, False])
    assert isinstance(terminal.costs(mixed), str)
    assert isinstance(terminal.costs(mixed, "uvp"), Table)


def test_labels_show_what_differs() -> None:
    specs = [Spec(name="a", parameters={"e": 1, "f": 2}), Spec(name="a", parameters={"e": 3, "f": 2}), Spec(name="b")]
    assert list(labels(specs).values()) == ["a(e=1)", "a(e=3)", "b"]


def test_labels_show_the_fewest_parameters_that_tell_rows_apart() -> None:
    def named(*rows):
        return list(labels(Spec(name="a", parameters=row) for row in rows).values())

    assert named({"e": 1, "f": 1, "g": 5}, {"e": 2, "f": 1, "g": 6}) == ["a(e=1)", "a(e=2)"]
    assert named({"e": 1, "f": 1, "g": 5}, {"e": 1, "f": 2, "g": 6}, {"e": 2, "f": 3, "g": 7}) == [
        "a(f=1)",
        "a(f=2)",
        "a(f=3)",
    ]
    grid = [{"e": e, "f": f} for e in (1, 2) for f in (3, 4)]
    assert named(*grid) == ["a(e=1, f=3)", "a(e=1, f=4)", "a(e=2, f=3)", "a(e=2, f=4)"]


def test_labels_by_problem_ignore_what_only_differs_between_problems() -> None:
    def planned(problem, **parameters):
        estimator, spec = Spec(name="a", parameters=parameters), Spec(name=problem)
        return Cell(estimator=estimator, problem=spec, n_source=1, n_target=1, seed=0)

    cells = [planned("p", e=1, f=1), planned("p", e=2, f=1), planned("q", e=1, f=2)]
    short = labels_by_problem(cells)
    assert [short[cell.key] for cell in cells] == ["a(e=1)", "a(e=2)", "a"]


def test_anchors_come_first() -> None:
    assert row_order(["entropic", "identity", "bures", "truth"]) == ["truth", "identity", "bures", "entropic"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.5, "0.5"), (12.345, "12.3"), (1234.5, "1234"), (1e-5, "1.0e-05"), (2e7, "2.0e+07")],
)
def test_numbers_are_short(value, shown) -> None:
    assert number(value) == shown


def timed(**devices: str) -> pd.DataFrame:
    """One row per estimator, which took a second on its device."""
    on_cpu = [device == "cpu" for device in devices.values()]
    return rows([1.0] * len(devices)).assign(
        estimator=list(devices),
        device=list(devices.values()),
        exclusive=False,
        threads=1,
        workers=1,
        fit_seconds=np.where(on_cpu, 1.0, np.nan),
        gpu_fit_seconds=np.where(on_cpu, np.nan, 1.0),
        wall_seconds=2.0,
    )


def seconds(table: pd.DataFrame, metric: str = "uvp") -> dict[str, tuple[str, str]]:
    return {name: (on_cpu, on_gpu) for block in blocks(table, metric) for name, _, on_cpu, on_gpu, _ in block.lines()}


def test_a_cpu_has_no_gpu_time_and_a_gpu_no_cpu_time() -> None:
    table = timed(bures="cpu", flow="Fake H1")
    assert seconds(table) == {"bures": ("1", "no gpu"), "flow": ("", "1")}
    assert circumstances(table) == "on Fake H1, 1 thread(s), 1 cell(s) at a time; cpu, 1 thread(s), 1 cell(s) at a time"
    (block,) = blocks(table, "gpu_fit_seconds")
    assert {name: shown.text for name, (shown,), *_ in block.lines()} == {"bures": "no gpu", "flow": "1"}


def test_times_of_different_devices_do_not_share_a_column() -> None:
    table = timed(bures="cpu", flow="Fake H1", other="Fake A1")
    assert set(seconds(table).values()) == {("", "")}
    assert "gpu_fit_seconds of Fake A1 and Fake H1 are not comparable" in legend(table)
    table = timed(bures="cpu", flow="Fake H1")
    assert "no times" not in legend(table)
    assert "fit s and GPU s: no times; transform s: no times" in legend(timed(bures="cpu").assign(wall_seconds=np.nan))
    (block,) = blocks(table, "wall_seconds")
    assert {shown.text for _, (shown,), *_ in block.lines()} == {"no value"}
    assert "wall_seconds of Fake H1 and cpu are not comparable" in legend(table, "wall_seconds")
    (block,) = blocks(timed(bures="cpu"), "wall_seconds")
    assert {shown.text for _, (shown,), *_ in block.lines()} == {"2"}


def test_repeated_fits_show_their_range() -> None:
    assert seconds(timed(flow="Fake H1").assign(fit_iqr_seconds=0.25)) == {"flow": ("", "1 (IQR 0.25)")}


def test_the_time_of_the_map_stands_beside_that_of_the_fit() -> None:
    table = timed(bures="cpu", slow="cpu").assign(transform_seconds=[1e-3, 0.3])
    (block,) = blocks(table, "uvp")
    assert {name: own for name, *_, own in block.lines()} == {"bures": "0.001", "slow": "0.3"}
    assert "transform s: seconds of the map per 1000 points there" in legend(table)
    (block,) = blocks(table, "transform_seconds")
    assert block.title.endswith("transform_seconds [s per 1000 points], tier: samples")
    mixed_devices = timed(bures="cpu", flow="Fake H1").assign(transform_seconds=1.0)
    (block,) = blocks(mixed_devices, "uvp")
    assert [own for *_, own in block.lines()] == ["", ""]
    assert "transform s: no times: transform_seconds of Fake H1 and cpu are not comparable" in legend(mixed_devices)


def test_a_note_names_whoever_works_outside_of_fit_seconds() -> None:
    table = timed(bures="cpu", flow="cpu")
    assert "work outside" not in legend(table)
    assert "work outside" not in legend(table.assign(remarks=["", np.nan]))
    told = legend(table.assign(remarks=["", "compilation took 9 s, the fit 0.1 s"]))
    assert told.endswith("work outside of fit s (compilation, threads, processes: the records say what): flow")


def test_seconds_of_the_map_are_per_1000_points(write_run) -> None:
    """Of the points that there were: a cloud has fewer than were asked for; old records say only how many were."""
    times = TIMES.model_copy(update={"evaluate": 0.5, "fit": 0.5, "transform": 0.5})
    directory = write_run([(cell("a"), trace([0], [1])), (cell("b"), trace([0], [1]))])
    few, old = directory.plan().cells
    for own, update in ((few, {"transform_points": 250}), (old, {})):
        directory.write(directory.read(own).model_copy(update={"times": times.model_copy(update=update)}))
    points = directory.plan().cells[1].manifest.evaluation_points
    assert read_run(directory.path).frame().set_index("estimator")["transform_seconds"].to_dict() == {
        "a": 2.0,
        "b": 500 / points,
    }
