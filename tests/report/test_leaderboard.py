"""The ranking rule, sentence by sentence, and the board and verdict that follow from it."""

import numpy as np
import pandas as pd
import pytest

from mongebench.report.leaderboard import board, places, verdict

NAN = float("nan")


def frame(values: dict[str, list[float]], dims=(2,), error: float = 0.1, **columns) -> pd.DataFrame:
    """Estimator -> its UVP at each seed (NaN: it timed out), the same in each dimension."""
    rows = [
        {
            "estimator": name,
            "estimator_name": name,
            "anchor": name in ("identity", "truth"),
            "dim": dim,
            "seed": seed,
            "key": f"{name}-{dim}-{seed}",
            "status": "timeout" if np.isnan(value) else "ok",
            "reason": "over 1 s" if np.isnan(value) else "",
            "uvp": value,
        }
        for name, own in values.items()
        for dim in dims
        for seed, value in enumerate(own)
    ]
    same = {"problem": "gaussian", "problem_name": "gaussian", "budget": "n = 1 / 1", "tier": "samples"}
    sizes = {"n_source": 1, "n_target": 1, "fit_seconds": 1.0, "uvp_se": error, "uvp_floor": 1e-6}
    return pd.DataFrame(rows).assign(**same | sizes | columns)


def ranks(rows: pd.DataFrame) -> dict[str, float]:
    found = places(rows)
    return dict(zip(found["estimator"], found["rank"], strict=True))


def test_only_differences_beyond_noise_count() -> None:
    """Errors of 0.1 each: 2 sqrt(0.02) = 0.283 makes a difference, so b is not beaten by a, but c is by both."""
    assert ranks(frame({"c": [1.5], "a": [1.0], "b": [1.2]})) == {"a": 1, "b": 1, "c": 3}
    assert ranks(frame({"c": [1.5], "a": [1.0], "b": [1.2]}, error=0.0)) == {"a": 1, "b": 2, "c": 3}


def test_whoever_lost_a_seed_stands_behind_whoever_lost_none() -> None:
    values = {"lossy": [0.1, NAN], "whole": [9.0, 9.0], "never": [NAN, NAN]}
    assert ranks(frame(values)) == {"whole": 1, "lossy": 2, "never": 3}


def test_the_floor_is_shared() -> None:
    assert ranks(frame({"a": [1e-9], "b": [1e-12]}, error=0.0)) == {"a": 1, "b": 1}


def test_places_without_a_measurement_have_no_ranks() -> None:
    assert np.isnan(list(ranks(frame({"a": [NAN], "b": [NAN]})).values())).all()


def test_anchors_are_shown_and_not_ranked() -> None:
    rows = frame({"a": [5.0], "identity": [1.0], "truth": [0.0]})
    assert np.isnan(ranks(rows)["identity"])
    assert ranks(rows)["a"] == 1
    assert [line["estimator"] for line in board(places(rows))] == ["a", "truth", "identity"]


def test_equal_ranks_are_in_order_of_the_error() -> None:
    rows = frame({"noisy": [6.0], "steady": [1.0], "identity": [10.0]}, error=5.0)
    assert ranks(rows)["noisy"] == ranks(rows)["steady"] == 1
    assert [line["estimator"] for line in board(places(rows))] == ["steady", "noisy", "identity"]


def test_tiers_are_never_rivals() -> None:
    rows = pd.concat([frame({"a": [5.0]}), frame({"b": [1.0]}, tier="potential")], ignore_index=True)
    assert ranks(rows) == {"a": 1, "b": 1}


def test_the_board_averages_ranks_and_holds_errors_against_the_identity() -> None:
    near = frame({"identity": [4.0], "a": [1.0], "b": [2.0]}, dims=(2, 8))
    far = frame({"identity": [4.0], "a": [8.0], "b": [2.0]}, dims=(32,))
    lines = {line["estimator"]: line for line in board(places(pd.concat([near, far], ignore_index=True)))}
    assert list(lines) == ["a", "b", "identity"]
    assert lines["a"]["mean_rank"] == pytest.approx(4 / 3)
    assert lines["b"]["mean_rank"] == pytest.approx(5 / 3)
    assert (lines["a"]["first"], lines["a"]["places"]) == (2, 3)
    assert (lines["a"]["lost"], lines["a"]["against"], lines["a"]["relative"]) == (1, 3, 0.25)


def test_the_verdict_names_the_leader_and_what_failed() -> None:
    rows = frame({"identity": [4.0, 4.0], "a": [1.0, 1.0], "b": [2.0, NAN]})
    leads, failed = verdict(board(places(rows)), rows)
    assert leads.startswith("Knowing samples, a leads (of 2 estimators): mean rank 1 over 1 place, ")
    assert leads.endswith("at the median 0.25 of the identity's error.")
    assert failed == "Not measured: 1 timeout."


def test_equal_ranks_lead_together() -> None:
    rows = frame({"a": [1.0], "b": [1.0]})
    assert verdict(board(places(rows)), rows)[0].startswith("Knowing samples, a and b lead together (of 2 estimators)")
    many = frame({name: [1.0] for name in "abcdefg"})
    assert "a, b, c and 4 others lead together (of 7 estimators)" in verdict(board(places(many)), many)[0]


def test_a_run_of_anchors_alone_has_a_board() -> None:
    rows = frame({"identity": [4.0], "truth": [0.0]})
    assert [line["estimator"] for line in board(places(rows))] == ["truth", "identity"]
    assert verdict(board(places(rows)), rows) == []
