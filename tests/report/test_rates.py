"""Verdicts of a run: which traces go together, which row they make, and what a run without them is answered with."""

import io

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mongebench import cli
from mongebench.metrics.rate import rate_verdict, step_bounds
from mongebench.report import terminal
from mongebench.report.rates import flows, frame
from mongebench.run.record import Status
from mongebench.run.store import RunDirectory, RunError

from .conftest import cell, exponential, trace


def shown(renderable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def implicit(tau: float, end: float = 2.0) -> list:
    """The implicit scheme where the bound is an equality: slower than e^{-2 t} at any step."""
    steps = np.arange(round(end / tau) + 1)
    return trace(tau * steps, 3.0 * step_bounds(tau, 1.0).implicit ** steps)


def test_a_fit_and_its_refinement_are_one_row(write_run) -> None:
    run = write_run(
        [
            (cell("flow_implicit", tau=0.1, steps=20, units=8), implicit(0.1)),
            (cell("flow_implicit", tau=0.05, steps=40, units=8), implicit(0.05)),
            (cell("flow_implicit", tau=0.05, steps=40, units=9), implicit(0.05)),
        ]
    )
    first, other = frame(run).to_dict("records")
    assert first["steps"] == "0.1 and 0.05"
    assert first["verdict"] == "consistent"
    assert first["extrapolated"]
    assert first["rate"] == pytest.approx(2.0, rel=0.01)
    # Without a refinement the scheme's own error in tau counts: it is slower than the flow.
    assert other["steps"] == "0.05"
    assert other["verdict"] == "slower"
    assert other["estimator"] == "flow_implicit(units=9)"


def test_of_three_steps_each_but_the_last_has_its_refinement(write_run) -> None:
    run = write_run([(cell("flow", tau=0.2 / k, steps=10 * k), implicit(0.2 / k)) for k in (4, 1, 2)])
    assert frame(run)["steps"].tolist() == ["0.2 and 0.1", "0.1 and 0.05"]


def test_a_step_written_as_a_whole_number_finds_its_refinement(write_run) -> None:
    run = write_run(
        [(cell("flow", tau=1, steps=5), implicit(1.0, 5)), (cell("flow", tau=0.5, steps=10), implicit(0.5, 5))]
    )
    assert frame(run)["steps"].tolist() == ["1 and 0.5"]


def test_seeds_problems_and_other_parameters_are_never_paired(write_run) -> None:
    coarse = cell("flow", tau=0.2, steps=10, units=8)
    others = [
        cell("flow", seed=1, tau=0.1, steps=20, units=8),
        cell("flow", problem={"condition": 10.0}, tau=0.1, steps=20, units=8),
        cell("flow", tau=0.1, steps=20, units=9),
        cell("flow", tau=0.1, steps=10, units=8),
        cell("other", tau=0.1, steps=20, units=8),
    ]
    run = write_run([(one, exponential(2.0, one.estimator.parameters["tau"])) for one in (coarse, *others)])
    assert len(flows(run)) == 6
    assert all(flow.refined is None for flow in flows(run))


def test_schemes_of_a_fixed_final_time_are_refined_by_their_steps(write_run) -> None:
    run = write_run(
        [(cell("natural", final_time=2.0, steps=steps), exponential(2.0, 2.0 / steps)) for steps in (10, 20)]
    )
    assert frame(run)["steps"].tolist() == ["0.2 and 0.1"]


def test_the_row_is_the_verdict_with_the_records_floor(write_run) -> None:
    points = exponential(2.0, 0.1)
    run = write_run([(cell("flow"), points)], floor=0.1)
    (row,) = frame(run).to_dict("records")
    found = rate_verdict(points, 1.0, floor=0.1)
    assert (row["verdict"], row["rate"], row["floor"]) == (found.verdict, found.rate, 0.1)
    assert (row["low"], row["high"], row["constant"]) == (*found.interval, found.constant)


def test_flows_that_left_no_trace_are_rows_too(write_run) -> None:
    run = write_run(
        [(cell("flow", seed=seed), points) for seed, points in enumerate((exponential(2.0, 0.1), [], None))]
    )
    assert frame(run)["verdict"].tolist() == ["consistent", "ok", "missing"]
    said = shown(terminal.rates(frame(run)))
    assert "1/3" in said
    assert "2 lambda = 2" in said


def test_one_estimators_wrong_trace_does_not_hide_the_others(write_run) -> None:
    backwards = trace([0.0, 0.4, 0.3, 0.2, 0.1], [5.0, 4.0, 3.0, 2.0, 1.0])
    rows = frame(write_run([(cell("mine"), backwards), (cell("flow"), exponential(2.0, 0.1))]))
    assert rows["verdict"].tolist() == ["inconclusive", "consistent"]
    assert "must increase" in rows["reason"][0]


def test_a_fit_that_failed_on_its_way_says_so(write_run) -> None:
    (row,) = frame(write_run([(cell("flow"), exponential(2.0, 0.1))], status=Status.DIVERGED)).to_dict("records")
    assert row["reason"].startswith("the fit ended as diverged; ")


def test_the_command_shows_the_verdicts(write_run) -> None:
    run = write_run([(cell("flow", tau=0.1, steps=20), exponential(3.0, 0.1))])
    result = CliRunner().invoke(cli.app, ["rate", str(run.path)], catch_exceptions=False)
    assert result.exit_code == 0
    for words in ("flow", "faster", "the whole interval is above the bound", "1/1"):
        assert words in result.output


def test_estimators_that_follow_no_flow_are_left_out(write_run) -> None:
    descent = trace([0.0, None, None], [3.0, 2.0, 1.0])
    run = write_run([(cell("euclidean"), descent), (cell("flow"), exponential(2.0, 0.1))])
    assert frame(run)["estimator"].tolist() == ["flow"]


def test_without_strong_convexity_the_table_says_so(write_run) -> None:
    run = write_run([(cell("flow"), exponential(2.0, 0.1))], strong_convexity=None)
    assert "lambda = not known" in shown(terminal.rates(frame(run)))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "has a trace"),
        (trace([None, None], [1.0, 0.5]), "has flow time"),
        (trace([0.0, 0.1], [None, None]), "has an error"),
    ],
)
def test_runs_without_a_rate_are_answered_with_a_sentence(write_run, points, words) -> None:
    run = write_run([(cell("flow"), points)], status=Status.OK)
    with pytest.raises(RunError, match=words):
        frame(run)


def test_a_folder_that_is_no_run(tmp_path) -> None:
    with pytest.raises(RunError, match="not a run"):
        frame(RunDirectory(tmp_path))


def test_a_scheme_that_shortened_its_steps_has_no_refinement(write_run) -> None:
    """As explicit steps beyond the stability limit do: both fits took the steps that the limit allows."""
    run = write_run([(cell("flow", tau=tau, steps=steps), implicit(0.05)) for tau, steps in ((0.4, 20), (0.2, 40))])
    assert frame(run)["steps"].tolist() == ["0.05", "0.05"]
    assert not frame(run)["extrapolated"].any()
