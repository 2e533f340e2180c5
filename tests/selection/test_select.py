"""Two samples in, the best map out: ranked as the truth would rank it, in the user's own units and columns."""

import numpy as np
import pandas as pd
import pytest

import mongebench as mb

CHEAP = ["identity", "bures", "smoothed_plugin"]


@pytest.fixture(scope="module")
def problem():
    return mb.problem("potential", dim=2, seed=3)


@pytest.fixture(scope="module")
def samples(problem):
    return problem.source.sample(300, seed=1), problem.target.sample(280, seed=2)


@pytest.fixture(scope="module")
def selection(samples):
    return mb.select(*samples, CHEAP, folds=3, scale="none")


def test_the_order_is_that_of_the_true_errors(problem, samples, selection) -> None:
    table = selection.table
    errors = {n: mb.evaluate(mb.estimator(n).fit(*samples).transform, problem, n=2000)["uvp"].value for n in CHEAP}
    assert list(table["estimator"]) == sorted(CHEAP, key=errors.get)
    worst = table.iloc[-1]
    behind = errors[worst["estimator"]] - errors[table["estimator"][0]]
    assert worst["excess"] == pytest.approx(behind, rel=0.6)  # equal for Hessians of 1
    assert table["best_share"].sum() == pytest.approx(1)
    assert bool(worst["separated"])
    assert str(selection).startswith(f"{table['estimator'][0]} is best in")
    assert selection.used == selection.given == (300, 280)


def test_the_best_is_fitted_to_all_points(samples, selection) -> None:
    name = selection.table["estimator"][0]
    expected = mb.estimator(name).fit(*samples).transform(samples[0][:20])
    np.testing.assert_allclose(selection.best.transform(samples[0][:20]), expected)


def test_units_of_a_column_change_nothing_and_frames_give_frames(samples) -> None:
    factors = np.array([1e6, 1.0])
    x, y = (pd.DataFrame(points * factors, columns=["height", "weight"]) for points in samples)
    one = mb.select(*samples, ["bures", "smoothed_plugin"], folds=2)
    other = mb.select(x, y[["weight", "height"]], ["bures", "smoothed_plugin"], folds=2)
    moved = other.best.transform(x[["weight", "height"]])
    assert list(moved.columns) == ["weight", "height"]
    expected = one.best.transform(samples[0]) * factors
    np.testing.assert_allclose(moved[["height", "weight"]].to_numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.table["excess"], other.table["excess"], rtol=1e-5, atol=1e-8)


def test_the_map_can_be_taken_home(tmp_path, samples, selection) -> None:
    mb.save(selection.best, tmp_path / "map.npz")
    again = mb.load(tmp_path / "map.npz")
    np.testing.assert_array_equal(again.transform(samples[0]), selection.best.transform(samples[0]))


def test_one_that_fails_is_last_with_its_reason(samples) -> None:
    found = mb.select(*samples, ["bures", "sorting"], folds=2)  # sorting serves d = 1 alone
    assert list(found.table["estimator"]) == ["bures", "sorting"]
    assert "fold 1" in found.table["reason"][1]
    with pytest.raises(mb.InvalidParameter, match="No estimator could be fitted: sorting"):
        mb.select(*samples, ["sorting"], folds=2)


def test_larger_samples_are_cut_and_that_is_said(samples) -> None:
    found = mb.select(*samples, ["bures"], folds=2, most=100)
    assert (found.used, found.fitted, found.given) == ((100, 100), (300, 280), (300, 280))
    assert str(found) == "bures was the only one to choose from."


def test_the_best_is_fitted_to_all_points_where_its_cost_allows(samples) -> None:
    """`bures` to all, `exact`, whose cost is in the square of their number, to those of the ranking."""
    for name, count in (("bures", 300), ("exact", 60)):
        found = mb.select(*samples, [name], folds=2, most=60, scale="none")
        assert found.fitted[0] == count
        np.testing.assert_array_equal(found.best.seen_[0] <= samples[0].min(axis=0), count == 300)
    expected = mb.estimator("bures").fit(*samples).transform(samples[0])
    found = mb.select(*samples, ["bures"], folds=2, most=60, scale="none")
    np.testing.assert_allclose(found.best.transform(samples[0]), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: np.c_[x, np.ones(len(x))], "Column 2 is constant"),
        (lambda x: np.c_[x, x[:, 0]], "Columns 0 and 2 are equal"),
        (lambda x: x[:5], "at least 8"),
        (lambda x: np.where(x > 1, np.nan, x), "NaN"),
    ],
)
def test_samples_that_say_nothing_are_refused(samples, change, said) -> None:
    with pytest.raises(mb.InvalidInput, match=said):
        mb.select(*map(change, samples), ["bures"], folds=2)


def test_what_cannot_be_selected_is_refused(samples) -> None:
    with pytest.raises(mb.InvalidParameter, match=r"flow_newton learns from the .*target potential"):
        mb.select(*samples, ["flow_newton"])
    with pytest.raises(mb.InvalidParameter, match="folds must be a whole number of at least 2, got 1"):
        mb.select(*samples, ["bures"], folds=1)
    for most in (-5, 3, True, 7.5):
        with pytest.raises(mb.InvalidParameter, match="most must be None or a whole number"):
            mb.select(*samples, ["bures"], folds=2, most=most)
    with pytest.raises(mb.InvalidParameter, match="estimators is empty"):
        mb.select(*samples, [])
    with pytest.raises(mb.UnknownName, match="bures"):
        mb.select(*samples, ["burres"])
    with pytest.raises(mb.UnknownName, match="joint"):
        mb.select(*samples, ["bures"], scale="each")
    with pytest.raises(mb.InvalidInput, match="must agree"):
        mb.select(samples[0], samples[1][:, :1], ["bures"])
