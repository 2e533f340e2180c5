"""What got better or worse from one run to another, beyond noise.

A *place* is an estimator on a problem at a budget; its seeds are paired by the cell's key, so that both runs fitted the
same draws and were evaluated on the same points, and what they share cancels in the difference. The noise is that of
the mean paired difference over seeds (Student's t). A single seed has no such spread: there the standard errors of both
values over the evaluation points are added in quadrature, which is too much where errors at common points go together.
As many places are looked at, all intervals are widened (Bonferroni) to hold together at the stated level.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mongebench.metrics.base import Direction
from mongebench.plugins import METRICS, find
from mongebench.report.tables import IDENTITY_COLUMNS, TIME_COLUMNS, chosen_metric
from mongebench.run.record import Status

LEVEL = 0.95
"""Of all intervals together."""
ROUNDING = 1e-9
"""Relative difference that counts as none: sums in another order."""

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
    Change.BETTER: "the whole interval of the difference is on the better side",
    Change.WORSE: "the whole interval of the difference is on the worse side",
    Change.FAILS: "seeds that the first run measured failed in the second",
    Change.RECOVERED: "seeds that failed in the first run were measured in the second, and none the other way round",
    Change.UNCLEAR: "the interval of the difference holds zero, or nothing tells the noise",
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
        Probability that all intervals hold together.

    Returns
    -------
    Columns: identity, `metric`, `before` and `after` (means over the paired seeds), `difference` of the losses
    (positive is worse; what is below the floor counts as the floor), `standard_error`, `low`, `high`, `n_paired` and
    `n_planned` seeds, `change`, `compared` (how many places share the level).
    """
    common = first.merge(second, on="key", suffixes=("", "_after"), sort=False)
    rows = []
    for _, problem in common.groupby(["problem", "budget"], sort=False):
        chosen = metric or chosen_metric(problem)
        rows += [
            dict(zip(IDENTITY_COLUMNS, key, strict=True)) | {"metric": chosen} | _difference(place, chosen)
            for key, place in problem.groupby(IDENTITY_COLUMNS, sort=False)
        ]
    found = pd.DataFrame(rows, columns=[*IDENTITY_COLUMNS, "metric", *_NUMBERS])
    open_ = found["change"].isna()
    found["compared"] = int(open_.sum())
    # An infinite number of degrees of freedom is the normal distribution.
    quantile = stats.t.ppf(1 - (1 - level) / (2 * max(1, open_.sum())), found["freedom"].astype(float))
    found["low"] = found["difference"] - quantile * found["standard_error"]
    found["high"] = found["difference"] + quantile * found["standard_error"]
    verdicts = np.select([found["high"] < 0, found["low"] > 0], [Change.BETTER, Change.WORSE], Change.UNCLEAR)
    found["change"] = found["change"].where(~open_, verdicts)
    return found.drop(columns="freedom")


_NUMBERS = ["before", "after", "difference", "standard_error", "freedom", "n_paired", "n_planned", "change"]


def _difference(place: pd.DataFrame, metric: str) -> dict[str, object]:
    """The paired difference of one place; `change` where it needs no interval."""
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
    paired = place.dropna(subset=columns) if set(columns) <= set(place) else place.iloc[:0]
    if paired.empty:
        return row | {"change": row["change"] or Change.INCOMPARABLE}
    before, after = (_loss(paired, metric, suffix) for suffix in ("", "_after"))
    difference = after - before
    row |= {name: paired[column].mean() for name, column in zip(("before", "after"), columns, strict=True)}
    row |= {"n_paired": len(paired), "difference": difference.mean()}
    if row["change"] is None and np.allclose(before, after, rtol=ROUNDING, atol=0):
        row["change"] = Change.SAME
    if len(paired) > 1:
        return row | {"standard_error": stats.sem(difference), "freedom": len(paired) - 1}
    errors = paired.reindex(columns=[f"{metric}_se", f"{metric}_se_after"]).to_numpy(float)
    return row | {"standard_error": float(np.hypot(*errors[0])), "freedom": np.inf}


def _loss(paired: pd.DataFrame, metric: str, suffix: str) -> Vector:
    """(seeds,) The metric turned so that lower is better, and lifted to its floor: below it nothing is ranked."""
    values: Vector = paired[f"{metric}{suffix}"].to_numpy(float)
    if metric in TIME_COLUMNS:
        return values
    direction = find(METRICS, metric).load().direction
    loss = {Direction.LOWER: values, Direction.HIGHER: 1 - values, Direction.ZERO: np.abs(values)}[direction]
    lifted: Vector = np.maximum(loss, paired[f"{metric}_floor{suffix}"].to_numpy(float))
    return lifted
