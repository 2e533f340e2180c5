"""What got better or worse from one run to another, beyond noise, and what could not have been told.

A *place* is an estimator on a problem at a budget; its cells are paired (`pairing.pair`), so that both runs fitted the
same draws and were evaluated on the same points, and what they share cancels. The change of a cell is the log-ratio of
its losses: 10 % are 10 % of an error of any size. The noise is that of the mean log-ratio over a place's fits (over its
instances where there are two or more), each place's variance drawn towards what those of the others, and the scatter
of its fits, let expect (`paired.moderated`).
All places share the level by Holm's procedure: with at least that probability, none is called changed that is not.
A single fit has no spread of its own, and takes that of the other places; where no place has two, the standard errors
over the evaluation points are all there is, which say nothing about the fit.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pandas as pd

from mongebench.metrics.base import Direction
from mongebench.plugins import METRICS, find
from mongebench.report.tables import paired
from mongebench.report.tables.formats import FailOn
from mongebench.report.tables.pairing import pair
from mongebench.report.tables.results import IDENTITY_COLUMNS, chosen_metric
from mongebench.run.frame import TIME_COLUMNS
from mongebench.run.record import MEASURED

LEVEL = 0.95
"""Of all claims together."""
ROUNDING = 1e-9
"""Relative difference that counts as none: sums in another order."""
TICK = 1e-3
"""Seconds below which times do not differ."""
STEADY = 1e-6
"""Variance of log losses over fits below which places are as steady as each other."""
QUESTION = ("problem_digest", "evaluation_points")
"""Columns that must be equal: else two cells are answers to different questions."""
CLOCK = ("processor", "device", "threads", "workers", "exclusive")
"""Columns that must be equal too where times are compared."""


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
    Change.INCOMPARABLE: "what differs is named: no seed has the metric in both runs, or they answer two questions",
}


def failing(found: pd.DataFrame, on: FailOn, over: float = 0.0) -> pd.Series:
    """Which places of a `compare` fail: worse beyond noise and by more than the share `over`, or no longer measured.

    `FailOn.CHANGED` asks for no change at all: those that are better, or fail less, fail too.
    """
    ratio = found["ratio"].astype(float)
    size = ratio.where(ratio >= 1, 1 / ratio)
    decided = [Change.WORSE] if on is FailOn.WORSE else [Change.WORSE, Change.BETTER]
    certain = [Change.FAILS] if on is FailOn.WORSE else [Change.FAILS, Change.RECOVERED]
    failed: pd.Series = (found["change"].isin(decided) & (size > 1 + over)) | found["change"].isin(certain)
    return failed


def compare(first: pd.DataFrame, second: pd.DataFrame, metric: str | None = None, level: float = LEVEL) -> pd.DataFrame:
    """One row per place of both runs.

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
    the place alone), `n_paired` and `n_planned` cells, `change`, `compared` (how many places share the level),
    `changed` (parameters of the estimator) and `unlike` (why it is not comparable): a field with both its values each.
    """
    common = pair(first, second)
    ends = [f"{name}{suffix}" for name in ("value", "loss", "error") for suffix in ("", "_after")]
    common = common.assign(instance=common.get("instance", 0), metric=metric, **dict.fromkeys(ends, np.nan))
    for _, problem in common.groupby(["problem", "budget"], sort=False):
        chosen = metric or chosen_metric(problem)
        common.loc[problem.index, "metric"] = chosen
        for suffix in ("", "_after"):
            common.loc[problem.index, f"value{suffix}"] = problem.get(f"{chosen}{suffix}", np.nan)
            common.loc[problem.index, f"loss{suffix}"] = _loss(problem, chosen, suffix)
            common.loc[problem.index, f"error{suffix}"] = problem.get(f"{chosen}_se{suffix}", np.nan)
    found = _places(common)
    open_ = found["change"].isna()
    found["compared"] = int(open_.sum())
    own = found[open_]
    variance, freedom = paired.moderated(*(own[name].to_numpy(float) for name in ("variance", "freedom", "scatter")))
    alone = np.isnan(variance)
    error = np.sqrt(np.where(alone, own["of_points"] ** 2, variance / (own["freedom"] + 1)))
    claims = paired.claims(own["log_ratio"].to_numpy(float), error, np.where(alone, np.inf, freedom), level)
    found[["low", "high", "findable", "p"]] = np.nan
    with np.errstate(over="ignore"):  # with one degree of freedom, an interval may well reach infinity
        found.loc[open_, ["low", "high", "findable"]] = np.exp(np.c_[claims.low, claims.high, claims.findable])
    found.loc[open_, "p"] = claims.p
    verdicts = np.where(own["log_ratio"] < 0, Change.BETTER, Change.WORSE)
    found.loc[open_, "change"] = np.where(claims.found, verdicts, Change.UNCLEAR)
    return found.drop(columns=["log_ratio", "variance", "freedom", "scatter", "of_points"])


def _places(common: pd.DataFrame) -> pd.DataFrame:
    """One row per place of paired cells with `value`, `loss` and `error`; `change` where that needs no interval."""
    measured = [common[name].isin(MEASURED) for name in ("status", "status_after")]
    both = measured[0] & measured[1]
    unlike = _unlike(common, both)
    ratio = pd.Series(np.log(common["loss_after"] / common["loss"]), common.index)
    cells = common.assign(
        lost=measured[0] & ~measured[1],
        won=measured[1] & ~measured[0],
        unlike=unlike,
        other=unlike != "",
        ratio=ratio,
        moved=ratio.abs() > ROUNDING,
        paired=ratio.notna(),
        fate=("status: " + common["status"] + " -> " + common["status_after"]).where(ratio.isna(), ""),
        value=common["value"].where(ratio.notna()),
        value_after=common["value_after"].where(ratio.notna()),
        of_points=np.hypot(common["error"] / common["loss"], common["error_after"] / common["loss_after"]),
        # Of two equally noisy runs, sum and difference are independent: the one may tell of the other's variance.
        sum=np.log(common["loss_after"]) + np.log(common["loss"]),
    )
    found = cells.groupby(IDENTITY_COLUMNS, sort=False).agg(
        metric=("metric", "first"),
        before=("value", "mean"),
        after=("value_after", "mean"),
        worst=("ratio", "max"),
        n_paired=("paired", "sum"),
        n_planned=("paired", "size"),
        of_points=("of_points", "first"),
        **{name: (name, "any") for name in ("lost", "won", "other", "moved")},
    )
    for name in ("changed", "unlike", "fate"):
        said = cells[cells[name] != ""].groupby(IDENTITY_COLUMNS, sort=False)[name].agg(_listed)
        found[name] = said.reindex(found.index).fillna("")
    units = cells.groupby([*IDENTITY_COLUMNS, "instance"], sort=False)["ratio"]
    means = units.agg(["mean", "count"]).dropna()["mean"].groupby(level=IDENTITY_COLUMNS, sort=False)
    fits = cells.groupby(IDENTITY_COLUMNS, sort=False)["ratio"]
    several = means.size().reindex(found.index, fill_value=0) > 1
    found["log_ratio"] = means.mean()
    found["variance"] = means.var().where(several, fits.var())
    found["variance"] = found["variance"].mask(found["variance"] < ROUNDING**2, 0.0)
    found["freedom"] = means.size().where(several, fits.count()).clip(lower=1) - 1
    within = cells.groupby(IDENTITY_COLUMNS, sort=False)["sum"].var()
    found["scatter"] = np.log(within.fillna(within.median()).fillna(1.0).clip(lower=STEADY))
    found["ratio"], found["worst"] = np.exp(found["log_ratio"]), np.exp(found["worst"])
    found["change"] = None
    rules = [
        (~found["moved"], Change.SAME),
        (found["n_paired"] == 0, Change.INCOMPARABLE),
        (found["won"], Change.RECOVERED),
        (found["lost"], Change.FAILS),
        (found["other"], Change.INCOMPARABLE),
    ]
    for rule, change in rules:  # the last that holds
        found.loc[rule, "change"] = change
    found.loc[found["other"], ["before", "after", "ratio", "worst"]] = np.nan
    found.loc[found["other"], "n_paired"] = 0
    found["unlike"] = found["unlike"].mask((found["change"] == Change.INCOMPARABLE) & ~found["other"], found["fate"])
    return found.drop(columns=["lost", "won", "other", "moved", "fate"]).reset_index()


def _unlike(common: pd.DataFrame, both: pd.Series) -> pd.Series:
    """Why the measured cells of a pair cannot be compared, each field with both values; empty where they can."""
    found = common["unlike"].where(both, "")
    timed = common["metric"].isin(TIME_COLUMNS)
    for name in (*QUESTION, *CLOCK):
        if {name, f"{name}_after"} <= {*common.columns}:
            ours, theirs = common[name], common[f"{name}_after"]
            differs = both & (ours != theirs) & (timed | (name in QUESTION))
            told = f"{name}: " + ours.astype(str) + " -> " + theirs.astype(str)
            found = found.mask(differs, found.where(found == "", found + "; ") + told)
    return found


def _listed(texts: pd.Series) -> str:
    """The different ones."""
    return "; ".join(dict.fromkeys(texts))


def _loss(cells: pd.DataFrame, metric: str, suffix: str) -> pd.Series:
    """The metric turned so that lower is better, and lifted to its floor: below it nothing is ranked."""
    values = cells.get(f"{metric}{suffix}", pd.Series(np.nan, cells.index)).astype(float)
    if metric in TIME_COLUMNS:
        return values.clip(lower=TICK)
    direction = find(METRICS, metric).load().direction
    loss = {Direction.LOWER: values, Direction.HIGHER: 1 - values, Direction.ZERO: values.abs()}[direction]
    floor = cells.get(f"{metric}_floor{suffix}", pd.Series(np.nan, cells.index)).fillna(0)
    return loss.clip(lower=floor.clip(lower=np.finfo(float).tiny))
