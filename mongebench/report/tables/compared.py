"""A comparison in words: for the terminal, and as Markdown for a comment on a pull request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.markup import escape

from mongebench.report.tables.compare import Change
from mongebench.report.tables.exports import markdown
from mongebench.report.tables.results import number

FOLDED = (Change.UNCLEAR, Change.INCOMPARABLE)
"""What a comment shows only to those who open it."""


@dataclass(frozen=True)
class Told:
    """A comparison in words.

    Attributes
    ----------
    summary
        How many places there are of each kind.
    parts
        The places of each kind, a sentence each: what could hide the most comes first.
    closing
        What was not compared, what else differs between the runs, and how the level is shared.
    """

    summary: str
    parts: list[tuple[Change, list[str]]]
    closing: list[str]

    def on_terminal(self) -> RenderableType:
        """All of it."""
        parts = [
            "\n".join([f"[bold]{change}[/bold]: {change.meaning}", *(escape(f"  {line}") for line in lines)])
            for change, lines in self.parts
        ]
        return Group(escape(self.summary), *parts, *map(escape, self.closing))

    def as_markdown(self) -> str:
        """The same, with what decides nothing folded away."""
        parts = [f"**{markdown(self.summary)}**"]
        for change, lines in self.parts:
            listed = "\n".join(f"- {markdown(line)}" for line in lines)
            if change in FOLDED:
                head = f"<summary>{len(lines)} {change}: {change.meaning}</summary>"
                parts.append(f"<details>{head}\n\n{listed}\n\n</details>")
            else:
                parts.append(f"**{change}**: {change.meaning}\n\n{listed}")
        return "\n\n".join([*parts, *map(markdown, self.closing)]) + "\n"


def tell(
    found: pd.DataFrame, level: float, only: tuple[int, int] = (0, 0), conditions: Sequence[str] = (), hint: str = ""
) -> Told:
    """What `compare.compare` found.

    Parameters
    ----------
    found, level
        What `compare` returned, and was given.
    only
        Cells of the first run alone, and of the second alone.
    conditions
        What differs between the runs, see `pairing.conditions`.
    hint
        A sentence that follows the summary.
    """
    counts = Counter(found["change"])
    kinds = ", ".join(f"{counts[change]} {change}" for change in Change if counts[change]) or "nothing in common"
    summary = f"{len(found)} places (estimator x problem x budget) are in both: {kinds}.{hint}"
    listed = found[found["change"] != Change.SAME].sort_values("high", ascending=False, kind="stable")
    parts = [
        (change, [_place(row) for row in rows])
        for change in Change
        if (rows := listed[listed["change"] == change].to_dict("records"))
    ]
    idle = found[(found["change"] == Change.SAME) & (found["changed"] != "")]
    if len(idle):
        parts.append((Change.SAME, [_changed(row) for row in idle.to_dict("records")]))
    closing = []
    if any(only):
        closing.append(f"{only[0]} cells are only in the first, {only[1]} only in the second: not compared.")
    if conditions:
        closing.append(f"Beside the code of the estimators, the runs differ in {'; '.join(conditions)}.")
    return Told(summary, parts, closing + _level(found, level))


def _level(found: pd.DataFrame, level: float) -> list[str]:
    compared = int(found["compared"].max()) if len(found) else 0
    cells = found.loc[found["n_paired"] > 0, "n_paired"]
    if not compared:
        return []
    return [
        "Ratios are geometric means over cells, paired: same instance, same seed, same draws, same evaluation "
        f"points; {cells.min():.0f} to {cells.max():.0f} cells per place. Of all {compared} places with a difference "
        f"none is called better or worse that is not, with probability {100 * level:g} % (Holm; Student's t, the "
        "variances of places drawn towards each other; of the evaluation points alone where no place has two "
        "fits). Findable: the ratio that would have been found in four of five runs of so many fits."
    ]


def _place(row: dict[Hashable, Any]) -> str:
    """One place, a sentence."""
    place, cells = _changed(row), f"{row['n_paired']} of {row['n_planned']} cells paired"
    if not row["n_paired"]:
        return f"{place}: {row['unlike']}, {cells}"
    numbers = f"{row['metric']} {number(row['before'])} -> {number(row['after'])}"
    if math.isnan(row["low"]):
        return f"{place}: {numbers}, {cells}"
    ratio = f"loss times {number(row['ratio'])} ({number(row['low'])} .. {number(row['high'])})"
    more = f", findable {number(row['findable'])}" if row["change"] == Change.UNCLEAR else ""
    return f"{place}: {numbers}, {ratio}, at worst {number(row['worst'])}{more}, {cells}"


def _changed(row: dict[Hashable, Any]) -> str:
    """The name of a place, with the parameters that were changed."""
    changed = f" ({row['changed']})" if row["changed"] else ""
    return f"{row['estimator']}{changed} on {row['problem']}, d = {row['dim']}, {row['budget']}"
