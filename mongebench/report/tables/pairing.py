"""Which cell of one run is held against which of another, and what else differs between them.

Cells of the same key are the same cell. What is left over on both sides is matched by name: a default that was changed
gives every cell of its estimator another key, and is what a comparison is asked about. Of an estimator's settings on a
problem, those are matched that differ in the fewest fields, where that leaves no choice.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from mongebench.core.errors import UnknownName, one_of
from mongebench.core.problem import INSTANCE
from mongebench.report.tables.results import row_order
from mongebench.run.reading import Run

GROUP = ["estimator_name", "problem_name", "dim"]
"""What cells that are matched by name have in common; beside it, the instance and the seed."""
SPOT = ["problem_name", "problem_parameters", "n_source", "n_target", "seed"]
"""What the cells of two estimators have in common where both met the same draws."""
TOLD = ("processor", "cores", "device", "python", "mongebench", "workers")
"""Fields of the provenance that a reader of a comparison is told of."""
UNTOLD = frozenset({"estimator_source", "problem_digest", "evaluation_points", "time_limit", "memory_limit"})
"""Fields of the manifest that are what is compared, make a place incomparable, or change no number."""


def pair(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of cells of two frames of `Run.frame`: the columns of the first, of the second with `_after`.

    `changed` names the estimator's parameters that differ with both values, `unlike` the fields of the problem and the
    budget: two such cells are of one estimator, and not of one question.
    """
    same = first.merge(second, on="key", suffixes=("", "_after"), sort=False).assign(changed="", unlike="")
    if not {*GROUP, "estimator_parameters", "problem_parameters"} <= {*first.columns} & {*second.columns}:
        return same
    ours, theirs = (
        own[~own["key"].isin(other["key"])].assign(variant=lambda rows: [*map(_variant, rows.to_dict("records"))])
        for own, other in ((first, second), (second, first))
    )
    matches = pd.DataFrame(_matches(ours, theirs), columns=[*GROUP, "variant", "other", "changed", "unlike"])
    if matches.empty:
        return same
    left = ours.merge(matches, on=[*GROUP, "variant"], sort=False)
    spot = [*GROUP, "instance", "seed", "other"]
    named = left.merge(theirs.rename(columns={"variant": "other"}), on=spot, suffixes=("", "_after"), sort=False)
    return pd.concat([same, named.drop(columns=["variant", "other"])], ignore_index=True)


def _variant(row: dict[Hashable, Any]) -> str:
    """The fields in which a cell may differ from its match, as text."""
    problem = json.loads(row["problem_parameters"])
    fields = {f"estimator.{name}": value for name, value in json.loads(row["estimator_parameters"]).items()}
    fields |= {f"problem.{name}": value for name, value in problem.items() if name not in ("dim", INSTANCE)}
    draws = {name: int(row[name]) if math.isfinite(row[name]) else "unlimited" for name in ("n_source", "n_target")}
    return json.dumps(fields | draws)


def _matches(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Variants that are nearer to each other than to any other of their group, and how they differ."""
    others = dict(list(theirs.groupby(GROUP, sort=False)))
    for group, own in ours.groupby(GROUP, sort=False):
        if group not in others:
            continue
        sides = [list(dict.fromkeys(rows["variant"])) for rows in (own, others[group])]
        fields = [[json.loads(text) for text in side] for side in sides]
        far = np.array([[len(_differences(one, other)) for other in fields[1]] for one in fields[0]])
        nearest = [far == far.min(axis=axis, keepdims=True) for axis in (0, 1)]
        alone = [near.sum(axis=axis, keepdims=True) == 1 for axis, near in enumerate(nearest)]
        for i, j in np.argwhere(nearest[0] & nearest[1] & alone[0] & alone[1]):
            told = _differences(fields[0][i], fields[1][j])
            changed = "; ".join(line.removeprefix("estimator.") for line in told if line.startswith("estimator."))
            unlike = "; ".join(line for line in told if not line.startswith("estimator."))
            yield *group, sides[0][i], sides[1][j], changed, unlike


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """A line a field that differs: `estimator.epsilon: 0.05 -> 0.1`."""
    return [
        f"{name}: {one.get(name, 'none')} -> {other.get(name, 'none')}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name, "none") != other.get(name, "none")
    ]


def between(first: pd.DataFrame, second: pd.DataFrame, a: str, b: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells of estimator `a` of one frame and of `b` of another, keyed by what both met: for `compare`.

    Raises `UnknownName` where a frame has no such estimator, or several of that name.
    """
    found = [_of(rows, name) for rows, name in ((first, a), (second, b))]
    keyed = [own.assign(key=own[SPOT].astype(str).agg("|".join, axis=1), estimator=f"{b} against {a}") for own in found]
    return keyed[0], keyed[1]


def _of(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The cells of one estimator, by its name or as tables show it."""
    labels = row_order(rows["estimator"])
    own = rows[rows["estimator"] == name]
    own = own if len(own) else rows[rows["estimator_name"] == name]
    if own.empty:
        raise UnknownName(one_of(name, labels, "estimator of the run"))
    if own.duplicated(SPOT).any():
        raise UnknownName(f"{name} has several rows: {', '.join(own['estimator'].unique())}. Name one of them.")
    return own


def other_tiers(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """A sentence where two frames of `between` see different oracles; else empty."""
    tiers = [", ".join(rows["tier"].unique()) for rows in (first, second)]
    return "" if tiers[0] == tiers[1] else f" They are no rivals: one knows {tiers[0]}, the other {tiers[1]}."


def conditions(first: Run, second: Run) -> list[str]:
    """What differs in how the cells of both runs were made, beside the estimators' own code: a line a field."""
    before = {record.cell.key: record for record in first.records}
    told: Counter[str] = Counter()
    pairs = [(before[record.cell.key], record) for record in second.records if record.cell.key in before]
    for one, other in pairs:
        told.update(one.manifest.differences(other.manifest, UNTOLD))
        ours, theirs = (record.provenance.model_dump(include={*TOLD}) for record in (one, other))
        told.update(f"{name}: {ours[name]} -> {theirs[name]}" for name in TOLD if ours[name] != theirs[name])
    return [line if count == len(pairs) else f"{line} (of {count} cells)" for line, count in told.items()]
