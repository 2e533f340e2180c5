"""Comparisons on runs whose difference is known, and on runs that differ by noise alone."""

import io
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from mongebench import cli
from mongebench.report.tables import terminal
from mongebench.report.tables.compare import Change, compare
from mongebench.run.reading import read_run

from ..conftest import cell, trace


def frame(values: dict[str, list[float]], metric: str = "uvp", **columns) -> pd.DataFrame:
    """Estimator -> its value at each seed; NaN is a cell that failed."""
    rows = [
        {"estimator": name, "seed": seed, "key": f"{name}-{seed}", metric: value}
        | {"status": "timeout" if np.isnan(value) else "ok"}
        for name, own in values.items()
        for seed, value in enumerate(own)
    ]
    same = {"problem": "gaussian", "dim": 2, "budget": "n = 1 / 1", "problem_digest": "0", "evaluation_points": 10}
    errors = {f"{metric}_se": 0.1, f"{metric}_floor": 1e-6}
    return pd.DataFrame(rows).assign(**same | errors | columns)


def changes(first, second, **options) -> dict[str, Change]:
    found = compare(first, second, **options)
    return dict(zip(found["estimator"], found["change"], strict=True))


def test_a_known_difference_is_found_though_seeds_scatter_far_more(rng) -> None:
    """Paired: the scatter of seeds, a hundred times the change, cancels."""
    base = 10 + rng.normal(size=12)
    noise = 0.002 * rng.normal(size=(2, 12))
    first = frame({"up": base, "down": base, "still": base})
    second = frame({"up": base + 0.01 + noise[0], "down": base - 0.01 + noise[1], "still": base})
    assert changes(first, second) == {"up": Change.WORSE, "down": Change.BETTER, "still": Change.SAME}


def test_the_interval_of_one_place_is_the_paired_t_test_of_logs(rng) -> None:
    first = frame({"a": np.exp(rng.normal(size=6))})
    second = first.assign(uvp=first["uvp"] * np.exp(rng.normal(size=6)))
    (row,) = compare(first, second).to_dict("records")
    told = stats.ttest_rel(np.log(second["uvp"]), np.log(first["uvp"]))
    np.testing.assert_allclose([row["low"], row["high"]], np.exp(told.confidence_interval(0.95)))
    np.testing.assert_allclose(row["p"], told.pvalue)
    # Power of the t test at the size called findable, by the noncentral distribution; ours is a shifted central one.
    error = np.log(second["uvp"] / first["uvp"]).sem()
    power = stats.nct.sf(stats.t.isf(0.025, 5), 5, np.log(row["findable"]) / error)
    assert power == pytest.approx(0.8, abs=0.05)


def test_instances_are_the_units_where_there_are_two(rng) -> None:
    """Five instances of two fits each, whose change is the instance's: five values, not ten."""
    first = frame({"a": np.ones(10)}, instance=np.repeat(range(5), 2))
    change = rng.normal(size=5)
    second = first.assign(uvp=np.exp(np.repeat(change, 2)))
    (row,) = compare(first, second).to_dict("records")
    assert row["p"] == pytest.approx(stats.ttest_1samp(change, 0).pvalue)
    assert row["n_paired"] == 10


def test_a_doubling_at_four_seeds_is_found_among_many_places(rng) -> None:
    """Paired noise of a fifth; thirty places share the level, one of them is worse. The old rule found none."""
    base = {str(place): np.exp(rng.normal(size=4)) for place in range(30)}
    first = frame(base)
    noise = np.exp(0.2 * rng.normal(size=len(first)))
    second = first.assign(uvp=first["uvp"] * noise * np.where(first["estimator"] == "7", 2.0, 1.0))
    found = compare(first, second).set_index("estimator")
    assert found.index[found["change"] == Change.WORSE].tolist() == ["7"]
    assert found["findable"].drop("7").max() < 2.2
    exactly = compare(first, first.assign(uvp=first["uvp"] * np.where(first["estimator"] == "7", 2.0, 1.0)))
    assert Counter(exactly["change"]) == {Change.SAME: 29, Change.WORSE: 1}


def test_a_shifted_map_is_found_at_three_seeds(rng) -> None:
    """UVP from 2.0 to 16.5, as half a standard deviation added to a map makes it, beside places with noise."""
    first = frame({"a": [1.8, 2.0, 2.2], **{str(k): 5 + rng.normal(size=3) for k in range(20)}})
    second = first.assign(uvp=first["uvp"] * np.exp(0.1 * rng.normal(size=len(first))))
    second.loc[:2, "uvp"] = [16.2, 16.5, 16.8]
    assert Counter(compare(first, second)["change"]) == {Change.WORSE: 1, Change.UNCLEAR: 20}


def test_noise_alone_is_called_a_difference_in_five_percent_of_runs_at_most(rng) -> None:
    """Any claim is false; the count is binomial, three deviations allowed. Uncorrected, a third would err."""
    runs, false = 30, 0
    for _ in range(runs):
        first = frame({str(place): 5 + rng.normal(size=4) for place in range(8)})
        second = first.assign(uvp=first["uvp"] + 0.1 * rng.normal(size=len(first)))
        false += bool(set(compare(first, second)["change"]) - {Change.UNCLEAR})
    assert false / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_one_seed_falls_back_to_the_errors_over_points() -> None:
    first, second = frame({"a": [1.0], "b": [1.0]}), frame({"a": [1.2], "b": [2.0]})
    found = compare(first, second).set_index("estimator")
    error = np.hypot(0.1, 0.1 / np.array([1.2, 2.0]))  # relative, of both
    quantile = stats.norm.isf([0.025, 0.025])  # of a, whose step of Holm's procedure is the last; b's is the first
    quantile[1] = stats.norm.isf(0.025 / 2)
    np.testing.assert_allclose(np.log(found["high"] / found["ratio"]), quantile * error)
    assert found["change"].to_dict() == {"a": Change.UNCLEAR, "b": Change.WORSE}


def test_below_the_floor_nothing_is_ranked() -> None:
    first, second = frame({"a": [1e-8, 1e-9, 1e-8]}), frame({"a": [1e-7, 2e-7, 3e-7]})
    assert changes(first, second) == {"a": Change.SAME}


def test_failures_are_changes_of_their_own() -> None:
    first = frame({"worse": [1.0, 1.0], "mended": [np.nan, 1.0], "never": [np.nan, np.nan]})
    second = frame({"worse": [1.0, np.nan], "mended": [1.0, 1.0], "never": [np.nan, np.nan]})
    expected = {"worse": Change.FAILS, "mended": Change.RECOVERED, "never": Change.INCOMPARABLE}
    assert changes(first, second) == expected


def test_another_problem_under_the_same_name_is_not_compared() -> None:
    first = frame({"a": [1.0, 1.1, 1.2]})
    assert changes(first, first.assign(problem_digest="1", uvp=9.0)) == {"a": Change.INCOMPARABLE}
    assert changes(first, first.assign(evaluation_points=11, uvp=9.0)) == {"a": Change.INCOMPARABLE}


@pytest.mark.parametrize(("metric", "better"), [("cosine", [0.9, 0.91, 0.9]), ("cost_gap", [0.1, -0.1, 0.1])])
def test_directions_are_the_metrics_own(metric, better) -> None:
    first = frame({"a": [0.5, 0.51, 0.49]}, metric)
    assert changes(first, frame({"a": better}, metric), metric=metric) == {"a": Change.BETTER}


def test_the_inputs_are_left_alone(rng) -> None:
    first, second = frame({"a": rng.normal(size=3)}), frame({"a": rng.normal(size=3)})
    copies = first.copy(), second.copy()
    compare(first, second)
    pd.testing.assert_frame_equal(first, copies[0])
    pd.testing.assert_frame_equal(second, copies[1])


def said(found: pd.DataFrame, only=(0, 0)) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(terminal.comparison(found, 0.95, only))
    return console.file.getvalue()


def test_the_words_name_the_place_the_numbers_and_the_level() -> None:
    first = frame({"a[red]": [1.0, 1.1, 1.2], "b": [1.0, 1.0, 1.0]})
    text = said(compare(first, first.assign(uvp=first["uvp"] + [5.0, 5.1, 4.9, 0, 0, 0])), (1, 2))
    for words in (
        "2 places",
        "1 worse, 1 same",
        "a[red] on gaussian, d = 2",
        "uvp 1.1 -> 6.1",
        "loss times 5.5",
        "95 %",
    ):
        assert words in text, words
    assert "1 cells are only in the first run, 2 only in the second" in text


def test_the_command_compares_two_runs(write_run, tmp_path) -> None:
    """The same directory against itself, and against one whose errors are ten times as large."""
    first = write_run([(cell("flow", seed=seed), trace([0.0], [1.0 + seed])) for seed in range(3)])
    moved = first.path.rename(tmp_path / "first")
    second = write_run([(cell("flow", seed=seed), trace([0.0], [10.0 + seed])) for seed in range(3)]).path

    def call(*words) -> str:
        return CliRunner().invoke(cli.app, ["compare", *map(str, words)], catch_exceptions=False).output

    assert "1 same" in call(moved, moved)
    assert "1 worse" in call(moved, second)
    assert "1 better" in call(second, moved)
    rows = read_run(moved).frame()
    assert Counter(compare(rows, rows)["change"]) == {Change.SAME: 1}
