"""The sentences that a run ends with: who is lowest in the largest dimension, and the measured rates."""

from mongebench.report import verdict
from mongebench.report.tables import leaderboard, leaderboard_text
from mongebench.run.reading import read_run

from .conftest import cell, exponential, trace


def test_the_largest_dimension_and_the_rates_are_said_with_their_numbers(write_run) -> None:
    entries = [
        *(
            (cell(name, problem={"dim": dim}), trace([0.0], [error]))
            for dim in (1, 2)
            for name, error in (("identity", 0.5),)
        ),
        *((cell("late", problem={"dim": dim}), trace([0.0], [0.02 * dim])) for dim in (1, 2)),
        *((cell("flow", problem={"dim": dim}), exponential(2.0, 0.1)) for dim in (1, 2)),
    ]
    run = read_run(write_run(entries).path)
    rows = run.frame()
    said = verdict.sentences(run, rows)
    assert said[: len(leaderboard_text.verdict(leaderboard.board(rows), rows))] == leaderboard_text.verdict(
        leaderboard.board(rows), rows
    )
    (lowest,) = [sentence for sentence in said if sentence.startswith("Lowest errors on gaussian in d = 2")]
    best = rows[(rows["dim"] == 2) & ~rows["anchor"]]["uvp"].min()
    assert f"{best:.3g}" in lowest
    rates = [sentence for sentence in said if "the measured rate" in sentence.lower()]
    assert len(rates) == 2
    assert "The measured rate is 2, where 2 lambda is 2" in rates[0]


def test_a_run_without_flows_and_dimensions_has_the_verdict_of_its_board_alone(write_run) -> None:
    run = read_run(write_run([(cell("late"), trace([0.0], [0.1]))]).path)
    rows = run.frame()
    assert verdict.sentences(run, rows) == leaderboard_text.verdict(leaderboard.board(rows), rows)


def test_where_anchors_alone_were_measured_no_lowest_is_named(write_run) -> None:
    entries = [(cell("identity", problem={"dim": dim}), trace([0.0], [0.5])) for dim in (1, 2)]
    run = read_run(write_run(entries).path)
    rows = run.frame().assign(anchor=True)
    assert not [sentence for sentence in verdict.sentences(run, rows) if sentence.startswith("Lowest")]
