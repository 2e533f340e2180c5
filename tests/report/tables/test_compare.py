"""Comparisons on runs whose difference is known, and on runs that differ by noise alone."""

import io
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from mongebench import cli
from mongebench.core.errors import InvalidParameter, UnknownName
from mongebench.report.tables.compare import Change, compare, failing
from mongebench.report.tables.compared import tell
from mongebench.report.tables.formats import FailOn
from mongebench.report.tables.pairing import between
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
    for field, value, told in (("problem_digest", "1", "0 -> 1"), ("evaluation_points", 11, "10 -> 11")):
        (row,) = compare(first, first.assign(uvp=9.0, **{field: value})).to_dict("records")
        assert (row["change"], row["unlike"]) == (Change.INCOMPARABLE, f"{field}: {told}")
    second = first.assign(uvp=[np.nan] * 3, status="timeout")
    (row,) = compare(second, second).to_dict("records")
    assert (row["change"], row["unlike"]) == (Change.INCOMPARABLE, "status: timeout -> timeout")


def test_times_of_two_machines_are_not_compared_and_their_errors_are() -> None:
    first = frame({"a": [1.0, 1.1, 1.2]}, fit_seconds=1.0, processor="old")
    second = first.assign(fit_seconds=9.0, processor="new")
    (row,) = compare(first, second, "fit_seconds").to_dict("records")
    assert (row["change"], row["unlike"]) == (Change.INCOMPARABLE, "processor: old -> new")
    assert changes(first, second) == {"a": Change.SAME}
    assert changes(first, first.assign(fit_seconds=9.0), metric="fit_seconds") == {"a": Change.WORSE}


def settings(values: dict[str, list[float]], n: int = 50, **problem) -> pd.DataFrame:
    """Parameters of an estimator (JSON) -> its UVP at each seed: keys are of the cell's content, as those of runs."""
    rows = frame(values).rename(columns={"estimator": "estimator_parameters"})
    rows = rows.assign(
        estimator="mine", estimator_name="mine", problem_name="gaussian", instance=0, n_source=float(n), n_target=np.inf
    )
    rows["problem_parameters"] = json.dumps({"dim": 2, "seed": 0, **problem})
    rows["key"] = rows["key"] + f"-{n}-{problem}"
    return rows


def test_a_changed_default_is_matched_by_name_and_named() -> None:
    first = settings({'{"epsilon": 0.05, "steps": 3}': [1.0, 1.1, 1.2]})
    second = settings({'{"epsilon": 0.1, "steps": 3, "fast": true}': [3.0, 3.3, 3.7]})
    (row,) = compare(first, second).to_dict("records")
    assert row["change"] == Change.WORSE
    assert row["changed"] == "epsilon: 0.05 -> 0.1; fast: none -> True"
    assert "mine (epsilon: 0.05 -> 0.1; fast: none -> True) on gaussian" in said(compare(first, second))


def test_of_several_settings_the_nearest_are_matched_and_where_there_is_a_choice_none() -> None:
    first = settings({'{"rank": 1, "tau": 2}': [1.0, 1.1], '{"rank": 2, "tau": 2}': [5.0, 5.1]})
    second = settings({'{"rank": 2, "tau": 9}': [5.0, 5.1], '{"rank": 1, "tau": 9}': [1.0, 1.1]})
    found = compare(first, second)
    assert found["changed"].tolist() == ["tau: 2 -> 9"]
    assert found["change"].tolist() == [Change.SAME]  # of both, each with its own
    three = settings({f'{{"rank": {rank}, "tau": 2}}': [1.0, 1.1] for rank in (3, 4, 5)})
    assert compare(first, three).empty


def test_another_budget_or_problem_is_named_and_not_compared() -> None:
    first = settings({"{}": [1.0, 1.1]})
    second = settings({"{}": [9.0, 9.1]}, n=100, condition=4)
    (row,) = compare(first, second).to_dict("records")
    assert row["change"] == Change.INCOMPARABLE
    assert row["unlike"] == "n_source: 50 -> 100; problem.condition: none -> 4"


def test_two_estimators_of_one_run_are_paired_by_what_they_met(rng) -> None:
    """Draws scatter a hundredfold and are shared; one estimator has 1.3 times the error of the other."""
    base = np.exp(3 * rng.normal(size=6))
    rows = pd.concat(
        [settings({"{}": list(base)}), settings({"{}": list(1.3 * base * np.exp(0.05 * rng.normal(size=6)))})]
    )
    names = np.repeat(["one", "other"], 6)
    rows = rows.assign(estimator=names, estimator_name=names)
    first, second = between(rows, rows, "one", "other")
    (row,) = compare(first, second).to_dict("records")
    assert row["estimator"] == "other against one"
    assert row["change"] == Change.WORSE
    assert row["low"] < 1.3 < row["high"]
    with pytest.raises(UnknownName, match="Did you mean 'other'"):
        between(rows, rows, "one", "othr")
    twice = rows.assign(estimator=[f"mine({k})" for k in range(12)], estimator_name="mine")
    with pytest.raises(UnknownName, match="mine has several rows"):
        between(twice, twice, "mine", "mine(0)")


def test_what_fails_is_what_is_worse_beyond_noise_and_by_more_than_is_let_pass(rng) -> None:
    values = {"worse": [1.0, 1.1, 1.2], "little": [1.0, 1.1, 1.2], "better": [1.0, 1.1, 1.2], "lost": [1.0, 1.1, 1.2]}
    first, second = frame(values), frame(values | {"lost": [1.0, np.nan, 1.2]})
    second["uvp"] *= second["estimator"].map({"worse": 3.0, "little": 1.05, "better": 0.3, "lost": 1.0})
    found = compare(first, second)

    def named(on: FailOn, over: float) -> set[str]:
        return set(found.loc[failing(found, on, over), "estimator"])

    assert named(FailOn.WORSE, 0.0) == {"worse", "little", "lost"}
    assert named(FailOn.WORSE, 0.1) == {"worse", "lost"}
    assert named(FailOn.CHANGED, 0.1) == {"worse", "better", "lost"}
    noise = compare(first, first.assign(uvp=first["uvp"] * np.exp(rng.normal(size=len(first)))))
    assert not failing(noise, FailOn.CHANGED).any()


def test_a_comment_shows_harmful_names_as_text_and_folds_what_decides_nothing(rng) -> None:
    first = frame({"<b>|a": [1.0, 1.1, 1.2], "b": list(np.exp(rng.normal(size=3)))})
    second = first.assign(uvp=first["uvp"] * np.array([3.0, 3.0, 3.0, 0.5, 2.0, 1.0]))
    text = tell(compare(first, second), 0.95).as_markdown()
    assert r"\<b\>\|a on gaussian" in text
    head, folded = text.split("<details>")
    assert "1 worse, 1 no difference beyond noise" in head
    assert "findable" in folded


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
    console.print(tell(found, 0.95, only).on_terminal())
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
    assert "1 cells are only in the first, 2 only in the second" in text


def test_the_command_compares_two_runs(write_run, tmp_path) -> None:
    """The same directory against itself, and against one whose errors are ten times as large."""
    first = write_run([(cell("flow", seed=seed), trace([0.0], [1.0 + seed])) for seed in range(3)])
    moved = first.path.rename(tmp_path / "first")
    lone = write_run([(cell("late", seed=seed), trace([0.0], [1.0])) for seed in range(3)]).path
    lone = lone.rename(tmp_path / "lone")
    lost = write_run([(cell("flow", seed=seed), None) for seed in range(3)]).path.rename(tmp_path / "lost")
    second = write_run([(cell("flow", seed=seed), trace([0.0], [10.0 + seed])) for seed in range(3)]).path

    def ends(*words) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["compare", *map(str, words)], catch_exceptions=False)
        return done.exit_code, done.output

    def call(*words) -> str:
        code, output = ends(*words)
        assert code == 0
        return output

    assert "1 same" in call(moved, moved)
    assert "1 worse" in call(moved, second)
    assert "1 better" in call(second, moved)
    rows = read_run(moved).frame()
    assert Counter(compare(rows, rows)["change"]) == {Change.SAME: 1}
    for words, code in (
        ((moved, second), 0),
        ((moved, second, "--fail-on", "worse"), 1),
        ((moved, second, "--fail-over", "10%"), 1),
        ((moved, second, "--fail-over", "1000%"), 0),
        ((second, moved, "--fail-on", "worse"), 0),
        ((second, moved, "--fail-on", "changed"), 1),
        ((moved, moved, "--fail-on", "changed"), 0),
        ((moved, lone, "--fail-on", "worse"), 3),
        ((lost, lost, "--fail-on", "worse"), 3),
    ):
        assert ends(*words)[0] == code, words
    call(moved, second, "--markdown", tmp_path / "comment.md")
    assert "1 worse" in (tmp_path / "comment.md").read_text(encoding="utf-8")
    for words, answer in (
        ((moved,), "Compare two runs"),
        ((moved, second, "--a", "flow"), "Compare two runs"),
        ((moved, second, "--fail-over", "ten"), "such as 10% or 0.1; got 'ten'"),
        ((moved, second, "--fail-over", "2"), "may mean 2% or 200%"),
    ):
        with pytest.raises(InvalidParameter, match=answer):
            ends(*words)
