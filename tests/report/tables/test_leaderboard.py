"""The rule of the board, sentence by sentence, on frames whose ratios are known; simulations are in test_ranking."""

import time

import numpy as np
import pandas as pd
import pytest

from mongebench.report.tables import leaderboard
from mongebench.report.tables.leaderboard import LEAST, LOSS, board, places
from mongebench.report.tables.leaderboard_text import legend, shown, verdict

NAN = float("nan")


def frame(values: dict[str, list[float]], dims=(2,), error: float = 0.1, **columns) -> pd.DataFrame:
    """Estimator -> its UVP at each seed (NaN: it timed out; None: it serves no such problem), in each dimension."""
    rows = [
        {
            "estimator": name,
            "estimator_name": name,
            "anchor": name in ("identity", "truth"),
            "dim": dim,
            "seed": seed,
            "key": f"{name}-{dim}-{seed}",
            "status": "unsupported" if value is None else "timeout" if np.isnan(value) else "ok",
            "reason": "" if value is not None and value == value else "over 1 s",
            "uvp": NAN if value is None else value,
        }
        for name, own in values.items()
        for dim in dims
        for seed, value in enumerate(own)
    ]
    same = {"problem": "gaussian", "problem_name": "gaussian", "budget": "n = 1 / 1", "tier": "samples"}
    sizes = {"n_source": 1, "n_target": 1, "fit_seconds": 1.0, "wall_seconds": NAN, "uvp_se": error, "uvp_floor": 1e-6}
    return pd.DataFrame(rows).assign(**same | sizes | columns)


def several(*families: dict[str, list[float]]) -> pd.DataFrame:
    """One family each."""
    parts = [frame(own, problem=f"p{k}", problem_name=f"p{k}") for k, own in enumerate(families)]
    return pd.concat(parts, ignore_index=True)


def lines(rows: pd.DataFrame) -> dict[str, dict]:
    return {line["estimator"]: line for line in board(rows)}


def test_the_mean_is_arithmetic_over_fits_and_geometric_over_places() -> None:
    found = lines(several({"identity": [10.0] * 2, "a": [1.0, 3.0]}, {"identity": [4.0] * 2, "a": [4.0, 12.0]}))
    assert found["a"]["ratio"] == pytest.approx(np.sqrt(0.2 * 2.0))
    assert found["a"]["reference"] == "identity"
    assert found["identity"]["ratio"] == 1
    assert list(found) == ["a", "identity"]


def test_errors_are_divided_by_the_reference_on_the_same_instance() -> None:
    rows = frame({"identity": [10.0, 1.0], "a": [5.0, 0.5]}).assign(instance=[0, 1, 0, 1], seed=0)
    (row,) = places(rows).query("estimator == 'a'").to_dict("records")
    assert row["ratio"] == row["worst"] == 0.5


def test_places_weigh_the_same_whatever_their_fits() -> None:
    few = frame({"identity": [1.0], "a": [0.1]}, problem="few", problem_name="few")
    many = frame({"identity": [1.0] * 6, "a": [0.9] * 6})
    assert lines(pd.concat([few, many], ignore_index=True))["a"]["ratio"] == pytest.approx(np.sqrt(0.09))


def test_a_failure_costs_a_stated_loss_and_nothing_measured_costs_more() -> None:
    """Failing in place of being bad wins nothing, however bad."""
    fails = lines(frame({"identity": [1.0] * 2, "a": [0.5, NAN], "b": [0.5, 0.5]}))
    bad = lines(frame({"identity": [1.0] * 2, "a": [0.5, 1e9], "b": [0.5, 0.5]}))
    assert fails["a"]["ratio"] == bad["a"]["ratio"] == pytest.approx((0.5 + LOSS) / 2)
    assert fails["a"]["worst_where"] == "gaussian, d = 2, instance 0, seed 1 (timeout)"
    assert bad["a"]["worst"] == 1e9
    assert (fails["a"]["n_ok"], fails["a"]["n_planned"], fails["a"]["failures"]) == (1, 2, {"timeout": 1})


def test_an_exact_map_at_one_place_wins_a_bounded_amount() -> None:
    found = lines(several({"identity": [1.0], "a": [1e-30]}, {"identity": [1.0], "a": [0.5]}))
    assert found["a"]["ratio"] == pytest.approx(np.sqrt(LEAST * 0.5))


def test_below_the_floor_errors_are_the_floor() -> None:
    found = lines(frame({"identity": [1e-3], "a": [1e-9], "b": [1e-12]}))
    assert found["a"]["ratio"] == found["b"]["ratio"] == pytest.approx(1e-3)
    negative = frame({"identity": [1.0], "a": [-0.1]}).rename(
        columns=lambda name: name.replace("uvp", "energy_distance")
    )
    assert lines(negative)["a"]["ratio"] == pytest.approx(LEAST)  # a U-statistic may be negative


def test_fits_that_lose_to_the_identity_are_counted_one_by_one() -> None:
    found = lines(several({"identity": [1.0] * 3, "a": [0.1, 1.1, NAN]}, {"identity": [2.0] * 3, "a": [0.1] * 3}))
    assert (found["a"]["lost"], found["a"]["against"]) == (2, 6)
    table = shown(board(several({"identity": [1.0], "a": [2.0]})))[0]
    assert "1 of 1 fits" in table.cells(table.lines[0])


def test_specialists_are_judged_where_they_serve_and_never_in_the_order() -> None:
    """`sorting` is the best where it serves; against the whole board it would lead by a factor."""
    hard = {"identity": [1.0] * 2, "a": [0.8, 0.9], "b": [0.9, 0.8], "sorting": [None] * 2}
    easy = {"identity": [1.0] * 2, "a": [0.02, 0.03], "b": [0.04, 0.05], "sorting": [0.01, 0.012]}
    rows = several(easy, hard, hard)
    assert [line["estimator"] for line in board(rows)] == ["a", "b", "sorting", "identity"]
    sorting = lines(rows)["sorting"]
    assert (sorting["group"], sorting["places"], sorting["leader"]) == ("specialist", 1, "a")
    assert sorting["ratio"] == pytest.approx(0.011)
    assert sorting["over_leader"] == pytest.approx(0.011 / 0.025)
    assert lines(rows)["a"]["places"] == 3
    titles = [(table.title, len(table.lines)) for table in shown(board(rows))]
    assert titles == [("Knowing samples", 3), ("Knowing samples: specialists, where they serve", 1)]


def test_tiers_are_never_rivals() -> None:
    found = board(pd.concat([frame({"a": [5.0]}), frame({"b": [1.0]}, tier="potential")], ignore_index=True))
    assert [(line["tier"], line["leader"]) for line in found] == [("samples", "a"), ("potential", "b")]


def test_without_an_identity_another_anchor_or_the_median_is_the_reference() -> None:
    anchors = frame({"a": [5.0, 5.0], "bures": [2.0, 2.0]})
    anchors["anchor"] = anchors["estimator"] == "bures"
    assert (lines(anchors)["a"]["reference"], lines(anchors)["a"]["ratio"]) == ("bures", 2.5)
    alone = lines(frame({"a": [1.0], "b": [2.0], "c": [4.0]}))
    assert [alone[name]["ratio"] for name in "abc"] == pytest.approx([0.5, 1.0, 2.0])
    assert alone["a"]["reference"] == "the median fit"
    assert alone["a"]["against"] == 0


def test_places_where_nobody_was_measured_do_not_count() -> None:
    found = lines(several({"a": [1.0], "b": [2.0]}, {"a": [NAN], "b": [NAN]}))
    assert found["b"]["over_leader"] == pytest.approx(2.0)
    nothing = lines(frame({"a": [NAN], "b": [NAN]}))
    assert np.isnan(nothing["a"]["ratio"])
    assert verdict(list(nothing.values()), frame({"a": [NAN]})) == ["Not measured: 1 timeout."]


def steady(factors: dict[str, float], families: int = 6, seeds: int = 4) -> pd.DataFrame:
    """Errors of these factors with common noise of a fifth over seeds, and own noise of a twentieth."""
    rng = np.random.default_rng(2)
    parts = []
    for _ in range(families):
        common = np.exp(0.2 * rng.normal(size=seeds))
        own = {name: list(factor * common * np.exp(0.05 * rng.normal(size=seeds))) for name, factor in factors.items()}
        parts.append({"identity": [1.0] * seeds, **own})
    return several(*parts)


def test_the_verdict_names_the_leader_its_interval_and_who_is_not_separated() -> None:
    rows = steady({"a": 0.1, "b": 0.101, "c": 0.3})
    found = lines(rows)
    assert found["c"]["separated"]
    assert not found["b"]["separated"]
    assert found["c"]["over_low"] < 3 < found["c"]["over_high"]
    (leads,) = verdict(board(rows), rows)
    best, other = ("a", "b") if found["a"]["ratio"] < found["b"]["ratio"] else ("b", "a")
    assert leads.startswith(f"Knowing samples, {best} leads 3 estimators with 0.")
    assert f"; {other} is not separated from it. Place by place, it is separated from the next, {other}, " in leads
    assert leads.endswith("at 0 of 6 places.")
    apart = verdict(board(steady({"a": 0.1, "c": 0.3})), rows)[0]
    assert "all are separated. Place by place, it is separated from the next, c, at 6 of 6 places." in apart


def test_many_names_are_counted() -> None:
    rows = frame({name: [1.0] for name in "abcdefg"})
    assert "b, c, d and 3 others are not separated from it" in verdict(board(rows), rows)[0]


def test_one_estimator_at_one_place_leads_nobody() -> None:
    rows = frame({"identity": [1.0, 1.0], "a": [0.1, 0.9]})
    assert verdict(board(rows), rows) == []


def test_a_run_of_anchors_alone_has_a_board() -> None:
    rows = frame({"identity": [4.0], "truth": [0.0]})
    assert [line["estimator"] for line in board(rows)] == ["truth", "identity"]
    assert verdict(board(rows), rows) == []


def test_settings_and_transform_seconds_are_shown() -> None:
    rows = frame({"a": [1.0, 1.0], "identity": [4.0, 4.0]}, transform_seconds=0.25)
    rows["setting"] = ["default", "hand-set", "default", "default"]
    table = shown(board(rows))[0]
    cells = dict(zip(table.headings, table.cells(table.lines[0]), strict=True))
    assert (cells["setting"], cells["transform s"]) == ("default, hand-set", "0.25")
    assert "2 seeds per place" in legend(rows)


def test_four_thousand_cells_take_two_seconds() -> None:
    """CPU seconds of this process: other work on the machine does not count."""
    rng = np.random.default_rng(0)
    values = {f"e{k}": list(np.exp(rng.normal(size=10))) for k in range(22)} | {"identity": [1.0] * 10}
    parts = [frame(values, dims=(1, 2, 4), problem=f"p{k}", problem_name=f"p{k}") for k in range(6)]
    rows = pd.concat(parts, ignore_index=True).assign(instance=lambda own: own["seed"] // 2)
    assert len(rows) > 4000
    began = time.process_time()
    assert len(leaderboard.board(rows)) == 23
    assert time.process_time() - began < 2
