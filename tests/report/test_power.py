"""The table of powers and false alarms in docs/protocol.md, held against what its script finds now."""

import re
from pathlib import Path

import numpy as np
import pytest

from .conftest import simulated

ROOT = Path(__file__).resolve().parents[2]
RUNS, PUBLISHED = 8, 30


@pytest.fixture(scope="module")
def power():
    return simulated("power")


@pytest.fixture(scope="module")
def rows(power):
    return power.measured()


def published(name: str) -> dict[str, list[list[float]]]:
    """Title -> shares, a list a column."""
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- power: {name} -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    lines = [line.strip("|").split("|") for line in block.splitlines()[2:]]
    return {
        title.strip(): [[float(share) / 100 for share in re.findall(r"([\d.]+) %", cell)] for cell in cells]
        for title, *cells in lines
    }


def test_the_table_has_every_situation_and_the_rule_holds_its_level(power, rows) -> None:
    shown = published("compare")
    assert list(shown) == [title for title, _ in power.situations(rows)]
    three_deviations = 3 * np.sqrt(0.05 * 0.95 / PUBLISHED)
    exchanged, *drawn = shown.values()  # the first has no fresh noise: the page says what its false claims are
    assert all(columns[0][1] < 0.05 + three_deviations for columns in drawn)
    assert 0.05 < exchanged[0][1] < 0.3
    assert all(columns[-1][1] > columns[-1][0] for columns in shown.values()), "a doubling was found more often before"


@pytest.mark.parametrize(("number", "factor"), [(0, 2.0), (4, 1.5)])
def test_the_table_of_comparisons_is_what_the_script_finds(power, rows, number, factor) -> None:
    """The means of fewer runs, of other seeds; four standard errors of them, which the runs tell themselves."""
    title, pair = list(power.situations(rows))[number]
    found = power.tried(pair, factor, RUNS, seed=123)
    expected = published("compare")[title][power.FACTORS.index(factor)]
    error = found.std() * np.sqrt(1 / RUNS + 1 / PUBLISHED)
    assert (np.abs(found.mean() - expected) < 4 * error + 1e-3).all()


def test_the_table_of_gates_is_what_the_script_finds(power, rows) -> None:
    """Without noise to three digits, and with some as above."""
    shown = published("gates")
    for number, factor in enumerate(power.FACTORS):
        exactly = power.gates_tried(rows, None, factor, 1, seed=0).mean()
        np.testing.assert_allclose(shown["none: the same numbers"][number], exactly, atol=6e-4)
    found = power.gates_tried(rows, power.SAME_CODE, 1.2, 3, seed=123)
    expected = shown[f"correlation {power.SAME_CODE:g}"][power.FACTORS.index(1.2)]
    assert (np.abs(found.mean() - expected) < 4 * found.std() * np.sqrt(1 / 3 + 1 / 3) + 0.03).all()
