"""The leaderboard as people read it: its tables, the rule under them, and the verdict in sentences."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mongebench.report.tables.leaderboard import PLACE, REFERENCES, RULE
from mongebench.report.tables.results import NO_GPU, circumstances, known_number, number, untimed
from mongebench.run.record import MEASURED

NAMED = 3
"""Estimators that a sentence names."""


def gpu_seconds(line: dict[str, Any]) -> str:
    """What a line of the `board` shows of a GPU: its fit seconds, or "no gpu" where it was fitted on the CPU."""
    if math.isfinite(line["gpu_fit_seconds"]):
        return number(line["gpu_fit_seconds"])
    return NO_GPU if math.isfinite(line["fit_seconds"]) else ""


@dataclass(frozen=True)
class Table:
    """Lines of the `board` that stand together, as people read them."""

    NUMBERS: ClassVar[tuple[int, ...]] = (2, 3, 6, 7, 8, 9, 10)
    """Columns of numbers."""
    WORST: ClassVar = 5
    FEW: ClassVar = (0, 1, 2, 4, 10)
    """What a terminal has room for."""
    tier: str
    group: str
    lines: list[dict[str, Any]]

    @property
    def title(self) -> str:
        """The tier, and what is special about these lines."""
        return f"Knowing {self.tier}" + (": specialists, where they serve" if self.group == "specialist" else "")

    @property
    def headings(self) -> list[str]:
        """Of the columns of `cells`."""
        reference = self.lines[0]["reference"]
        return [
            *("estimator", "setting", f"error / {reference}'s (95 %)", "P(best)", "against the leader"),
            *("worst fit", "lose to the identity", "fit s", "transform s", "GPU s", "n_ok/n_planned"),
        ]

    @property
    def idle(self) -> list[str]:
        """Names for the columns that tell nothing here: a setting that all share, a GPU that nobody used."""
        settings = {line["setting"] for line in self.lines if not line["anchor"]}
        gpu = any(math.isfinite(line["gpu_fit_seconds"]) for line in self.lines)
        return [name for name, idle in (("one-setting", len(settings) < 2), ("no-gpu", not gpu)) if idle]

    @staticmethod
    def cells(line: dict[str, Any]) -> list[str]:
        """What each column shows of a line."""
        identity = line["estimator"] == REFERENCES[0]
        return [
            line["estimator"],
            "anchor" if line["anchor"] else line["setting"],
            _interval(line["ratio"], line["low"], line["high"]),
            "" if math.isnan(line["best"]) else f"{line['best']:.2f}",
            _against(line),
            _worst(line),
            "" if identity or not line["against"] else f"{line['lost']} of {line['against']} fits",
            known_number(line["fit_seconds"]),
            known_number(line["transform_seconds"]),
            gpu_seconds(line),
            f"{line['n_ok']}/{line['n_planned']}",
        ]


class Brief(Table):
    """The same in five columns, for a page that has no room."""

    COLUMNS: ClassVar = (0, 2, 4, 5, 7)
    NUMBERS: ClassVar[tuple[int, ...]] = (1, 4)

    @property
    def headings(self) -> list[str]:
        """Of the columns of `cells`."""
        every = super().headings
        return [every[column] for column in self.COLUMNS]

    @staticmethod
    def cells(line: dict[str, Any]) -> list[str]:
        """What each column shows of a line."""
        every = Table.cells(line)
        return [every[column] for column in Brief.COLUMNS]


def brief(lines: list[dict[str, Any]], top: int) -> list[Table]:
    """The first `top` estimators of each table of a `board`, and of its anchors the Gaussian map and the identity."""
    found: list[Table] = []
    for table in shown(lines):
        rivals = [line for line in table.lines if not line["anchor"]]
        anchors = [line for name in ("bures", "identity") for line in table.lines if line["estimator"] == name]
        found.append(Brief(table.tier, table.group, [*rivals[:top], *anchors]))
    return found


def _interval(value: float, low: float, high: float) -> str:
    return known_number(value) + ("" if math.isnan(low) else f" ({number(low)} .. {number(high)})")


def _against(line: dict[str, Any]) -> str:
    """Whether a line is separated from its leader."""
    if not line["leader"]:
        return ""
    if line["leader"] == line["estimator"]:
        return "leads" if line["group"] == "rival" else "alone there"
    over = f"{number(line['over_leader'])} of {line['leader']}'s"
    if math.isnan(line["over_low"]):
        return f"{over}, not separated"
    return f"{'separated' if line['separated'] else 'not separated'}: {_interval(*_over(line))} of {line['leader']}'s"


def _over(line: dict[str, Any]) -> tuple[float, float, float]:
    return line["over_leader"], line["over_low"], line["over_high"]


def _worst(line: dict[str, Any]) -> str:
    if math.isnan(line["worst"]):
        return ""
    problem, dim, *_ = line["worst_where"].rsplit(", ", 3)
    failed = line["worst_where"].partition(" (")[2] if line["failures"] else ""
    return f"{number(line['worst'])} at {problem}, {dim}" + (f" ({failed}" if failed else "")


def shown(lines: list[dict[str, Any]]) -> list[Table]:
    """The tables of a `board`: a tier's rivals among its anchors, and its specialists."""
    found = []
    for tier in dict.fromkeys(line["tier"] for line in lines):
        own = [line for line in lines if line["tier"] == tier]
        groups = {"rival": [one for one in own if one["group"] != "specialist"]}
        groups["specialist"] = [one for one in own if one["group"] == "specialist"]
        found += [Table(tier, group, members) for group, members in groups.items() if members]
    return found


def legend(rows: pd.DataFrame) -> str:
    """What stands under the board: its rule, what was resampled, and the times."""
    known = rows.assign(instance=rows.get("instance", 0))
    families, by_place = known["problem_name"].nunique(), known.groupby([*PLACE, "estimator"], sort=False)
    instances, seeds = by_place["instance"].nunique().max(), by_place["seed"].nunique().max()
    timed = untimed(rows) or f"medians over places of mean seconds, compilation excluded, {circumstances(rows)}"
    return (
        f"{RULE} Here: {families} famil{'y' if families == 1 else 'ies'}, at most {instances} instance{_s(instances)} "
        f"x {seeds} seed{_s(seeds)} per place. fit s, transform s (per 1000 points) and GPU s: {timed}."
    )


def _listed(names: list[str]) -> str:
    """As a sentence holds them: at most `NAMED` by name."""
    others = [f"{len(names) - NAMED} others"] if len(names) > NAMED + 1 else []
    *first, last = [*names[:NAMED], *others] if others else names
    return f"{', '.join(first)} and {last}" if first else last


def verdict(lines: list[dict[str, Any]], rows: pd.DataFrame) -> list[str]:
    """The run in sentences: who leads each tier, from whom that is not separated, and what was not measured."""
    said = []
    for tier in dict.fromkeys(line["tier"] for line in lines):
        rivals = [line for line in lines if line["tier"] == tier and line["group"] == "rival" and line["leader"]]
        if len(rivals) > 1 or (rivals and rivals[0]["places"] > 1):  # one estimator at one place leads nobody
            said.append(_leads(tier, rivals))
        said += [
            f"Knowing {tier}, the specialist {line['estimator']} has {_interval(*_over(line))} times the error of "
            f"{line['leader']}, the best rival at the {line['places']} place{_s(line['places'])} that it serves, and "
            f"is {'' if line['separated'] else 'not '}separated from it."
            for line in lines
            if line["tier"] == tier and line["group"] == "specialist" and line["leader"] != line["estimator"]
        ]
    failed = Counter(rows.loc[~rows["status"].isin(MEASURED), "status"])
    if failed:
        said.append("Not measured: " + ", ".join(f"{count} {status}" for status, count in failed.most_common()) + ".")
    return said


def _leads(tier: str, rivals: list[dict[str, Any]]) -> str:
    """Of rivals in order."""
    best, *others = rivals
    scale = _interval(best["ratio"], best["low"], best["high"])
    where = f"{best['places']} place{_s(best['places'])}"
    start = f"Knowing {tier}, {best['estimator']}"
    mean = f"{scale} times the error of {best['reference']}, averaged over {where}"
    if not others:
        return f"{start} is the only estimator that serves all shared places: it has {mean}."
    near = [line["estimator"] for line in others if not line["separated"]]
    close = (
        f"{_listed(near)} {'is' if len(near) == 1 else 'are'} not separated from it" if near else "all are separated"
    )
    return (
        f"{start} leads {len(rivals)} estimators with {mean}; {close}. Place by place, it is separated from the next, "
        f"{others[0]['estimator']}, at {best['decided']:.0f} of {where}."
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"
