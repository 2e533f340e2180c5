"""What got better or worse from one run to another, beyond noise, and what could not have been told.

A *place* is an estimator on a problem at a budget; its cells are paired by their key, so that both runs fitted the same
draws and were evaluated on the same points, and what they share cancels. The change of a cell is the log-ratio of its
losses: 10 % are 10 % of an error of any size. The noise is that of the mean log-ratio over a place's fits (over its
instances where there are two or more), each place's variance drawn towards those of the others (`paired.moderated`).
All places share the level by Holm's procedure: with at least that probability, none is called changed that is not.
A single fit has no spread of its own, and takes that of the other places; where no place has two, the standard errors
over the evaluation points are all there is, which say nothing about the fit.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mongebench.metrics.base import Direction
from mongebench.plugins import METRICS, find
from mongebench.report import paired
from mongebench.report.tables import IDENTITY_COLUMNS, TIME_COLUMNS, chosen_metric
from mongebench.run.record import Status

LEVEL = 0.95
"""Of all claims together."""
ROUNDING = 1e-9
"""Relative difference that counts as none: sums in another order."""
TICK = 1e-3
"""Seconds below which times do not differ."""

Vector = NDArray[np.float64]


class Change(StrEnum):
    """What became of a place."""

    BETTER = "better"
    WORSE = "worse"
    FAILS = "fails more"
    RECOVERED = "fails less"
    UNCLEAR = "no difference beyond noise"
    SAME = "same"
    INCOMPARABLE = "not comparable"

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


_MEANING = {
    Change.BETTER: "the whole interval of the ratio is below 1",
    Change.WORSE: "the whole interval of the ratio is above 1",
    Change.FAILS: "seeds that the first run measured failed in the second",
    Change.RECOVERED: "seeds that failed in the first run were measured in the second, and none the other way round",
    Change.UNCLEAR: "the interval of the ratio holds 1, or nothing tells the noise",
    Change.SAME: "equal at every seed, or both at the floor",
    Change.INCOMPARABLE: "no seed has the metric in both runs, or they differ in the problem or its evaluation points",
}


def compare(first: pd.DataFrame, second: pd.DataFrame, metric: str | None = None, level: float = LEVEL) -> pd.DataFrame:
    """One row a place of both runs.

    Parameters
    ----------
    first, second
        Of `tables.frame`.
    metric
        A metric or a time column; by default the `chosen_metric` of each problem.
    level
        Probability that no place is called changed that is not.

    Returns
    -------
    Columns: identity, `metric`, `before` and `after` (means over the paired cells), `ratio` of the losses (geometric
    mean; above 1 is worse; what is below the floor counts as the floor), its interval `low`, `high`, `worst` (the
    largest ratio of a cell), `findable` (the ratio that would have been found with probability `paired.POWER`), `p` (of
    the place alone), `n_paired` and `n_planned` cells, `change`, `compared` (how many places share the level).
    """
    common = first.merge(second, on="key", suffixes=("", "_after"), sort=False)
    rows = []
    for _, problem in common.groupby(["problem", "budget"], sort=False):
        chosen = metric or chosen_metric(problem)
        rows += [
            dict(zip(IDENTITY_COLUMNS, key, strict=True)) | {"metric": chosen} | _change(place, chosen)
            for key, place in problem.groupby(IDENTITY_COLUMNS, sort=False)
        ]
    found = pd.DataFrame(rows, columns=[*IDENTITY_COLUMNS, "metric", *_NUMBERS])
    open_ = found["change"].isna()
    found["compared"] = int(open_.sum())
    own = found[open_].astype(dict.fromkeys(("log_ratio", "variance", "of_points", "units", "freedom"), float))
    variance, freedom = paired.moderated(own["variance"].to_numpy(), own["freedom"].to_numpy())
    alone = np.isnan(variance)
    error = np.sqrt(np.where(alone, own["of_points"] ** 2, variance / own["units"]))
    claims = paired.claims(own["log_ratio"].to_numpy(), error, np.where(alone, np.inf, freedom), level)
    found.loc[open_, "low"], found.loc[open_, "high"] = np.exp(claims.low), np.exp(claims.high)
    found.loc[open_, "findable"], found.loc[open_, "p"] = np.exp(claims.findable), claims.p
    verdicts = np.where(own["log_ratio"] < 0, Change.BETTER, Change.WORSE)
    found.loc[open_, "change"] = np.where(claims.found, verdicts, Change.UNCLEAR)
    found["ratio"] = np.exp(found["log_ratio"].astype(float))
    return found.drop(columns=["log_ratio", "variance", "of_points", "units", "freedom"])


_NUMBERS = ["before", "after", "ratio", "low", "high", "worst", "findable", "p", "n_paired", "n_planned", "change"]
_NUMBERS += ["log_ratio", "variance", "of_points", "units", "freedom"]


def _change(place: pd.DataFrame, metric: str) -> dict[str, object]:
    """The paired log-ratio of one place; `change` where it needs no interval."""
    measured = [place[status].isin([Status.OK, Status.AT_FLOOR]) for status in ("status", "status_after")]
    row: dict[str, object] = dict.fromkeys(_NUMBERS, np.nan) | {"n_planned": len(place), "n_paired": 0, "change": None}
    alike = measured[0] & measured[1]
    for name in ("problem_digest", "evaluation_points"):
        if alike.any() and (place.loc[alike, name] != place.loc[alike, f"{name}_after"]).any():
            return row | {"change": Change.INCOMPARABLE}
    if (measured[0] & ~measured[1]).any():
        row["change"] = Change.FAILS
    elif (measured[1] & ~measured[0]).any():
        row["change"] = Change.RECOVERED
    columns = [metric, f"{metric}_after"]
    both = place.dropna(subset=columns) if set(columns) <= set(place) else place.iloc[:0]
    if both.empty:
        return row | {"change": row["change"] or Change.INCOMPARABLE}
    before, after = (_loss(both, metric, suffix) for suffix in ("", "_after"))
    if row["change"] is None and np.allclose(before, after, rtol=ROUNDING, atol=0):
        row["change"] = Change.SAME
    ratios = np.log(after / before)
    values = paired.units(ratios, both.get("instance", pd.Series(0, both.index)).to_numpy())
    errors = both.reindex(columns=[f"{metric}_se", f"{metric}_se_after"]).to_numpy(float)[0]
    variance = float(values.var(ddof=1)) if len(values) > 1 else np.nan
    return row | {
        **{name: both[column].mean() for name, column in zip(("before", "after"), columns, strict=True)},
        "n_paired": len(both),
        "worst": float(np.exp(ratios.max())),
        "log_ratio": float(values.mean()),
        "variance": 0.0 if variance < ROUNDING**2 else variance,
        "of_points": float(np.hypot(*(errors / [before[0], after[0]]))),
        "units": len(values),
        "freedom": len(values) - 1,
    }


def _loss(both: pd.DataFrame, metric: str, suffix: str) -> Vector:
    """(cells,) The metric turned so that lower is better, and lifted to its floor: below it nothing is ranked."""
    values: Vector = both[f"{metric}{suffix}"].to_numpy(float)
    if metric in TIME_COLUMNS:
        return np.maximum(values, TICK)
    direction = find(METRICS, metric).load().direction
    loss = {Direction.LOWER: values, Direction.HIGHER: 1 - values, Direction.ZERO: np.abs(values)}[direction]
    floor = both.get(f"{metric}_floor{suffix}", pd.Series(np.nan, both.index)).fillna(0).to_numpy(float)
    lifted: Vector = np.maximum(loss, np.maximum(floor, np.finfo(float).tiny))
    return lifted
