"""One's own run on a published board: the same rule over both, what is comparable, and no mixed times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mongebench.run.frame import clocks
from mongebench.run.reading import read_run

OWN = "not submitted"
"""Standing of one's own rows."""
SPOT = ["problem_name", "problem_parameters", "n_source", "n_target"]
"""What a published board has a place for."""
QUESTION = ("problem_digest", "evaluation_points", "cpu_budget")
"""Columns in which a cell must be as the published ones of its place: a board compares answers to one question."""


@dataclass(frozen=True)
class Joint:
    """`rows`, a frame of `Run.frame` of both runs, and `remarks`: a sentence on each thing that differs."""

    rows: pd.DataFrame
    remarks: list[str]


def joined(mine: Path, published: Path) -> Joint:
    """A run among the rows of a published one, whose cells none of one's own replaces.

    Cells of a place that the published run lacks are left out, and so are those that answer another question there;
    where anything that times depend on differs, no time is left.
    """
    theirs = {planned.cell.key for planned in read_run(published).plan.cells}
    rows = read_run(mine, published).frame()
    mixed = clocks(rows)
    own = ~rows["key"].isin(theirs)
    rows["standing"] = rows["standing"].mask(own, OWN)
    remarks = []
    known = rows[~own & rows["problem_digest"].notna()].drop_duplicates(SPOT).set_index(SPOT)
    at = pd.MultiIndex.from_frame(rows[SPOT])
    elsewhere = own & ~at.isin(known.index)
    if elsewhere.any():
        names = ", ".join(rows.loc[elsewhere, "problem"].unique())
        remarks.append(f"{elsewhere.sum()} cells of yours ({names}) are at no published place, and are left out.")
    out = elsewhere.copy()
    for name in QUESTION:
        there = pd.Series(known[name].reindex(at).to_numpy(), rows.index)
        differs = own & ~elsewhere & rows["problem_digest"].notna() & ~_equal(rows[name], there)
        for published_, own_ in sorted(
            {*zip(there[differs].astype(str), rows.loc[differs, name].astype(str), strict=True)}
        ):
            remarks.append(
                f"Cells of yours are not comparable, and left out: {name} is {own_}, published {published_}."
            )
        out |= differs
    rows = rows[~out].reset_index(drop=True)
    own = own[~out].reset_index(drop=True)
    if mixed:
        remarks.append(f"Times are left out, because the runs were not timed alike: {'; '.join(mixed)}.")
    commits = {str(name)[:8] for name in rows.loc[~own, "commit"].dropna()}
    remarks.append(f"Published: {published}" + (f", mongebench at {', '.join(sorted(commits))}." if commits else "."))
    return Joint(rows, remarks)


def _equal(one: pd.Series, other: pd.Series) -> pd.Series:
    """Equal, or neither is there."""
    return (one == other) | (one.isna() & other.isna())
