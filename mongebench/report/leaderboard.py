"""Who leads, by a stated rule: estimators of one tier, ranked at every place, failures counted.

A *place* is a problem in one dimension at one budget.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mongebench.report.tables import (
    FIT_COLUMNS,
    IDENTITY_COLUMNS,
    NO_GPU,
    aggregate,
    chosen_metric,
    mixed,
    number,
    row_order,
)
from mongebench.run.record import Status

BEYOND_NOISE = 2.0
"""Standard errors of a difference that make it one; both errors added in quadrature, which overstates them."""
NAMED = 3
"""Leaders that a sentence names."""
PLACE = ["problem", "dim", "budget"]
RULE = (
    "At each place (a problem in one dimension at one budget), an estimator's rank is 1 + the number of rivals of its "
    "tier that beat it. A rival beats it if its mean error (UVP; energy distance where the exact map is unknown) is "
    f"lower by more than {BEYOND_NOISE:g} standard errors of the difference, or if it was measured on every seed and "
    "the other was not; whoever was not measured at all, unsupported included, is beaten by all who were. What is "
    "below the floor counts as the floor; places where no rival was measured do not count. The board is in order of "
    "the mean rank over all places where an estimator was planned, and of the median error over the identity's where "
    "that is equal. Anchors are shown for scale and not ranked."
)


def places(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an estimator and place, of a frame of `tables.frame`.

    Columns: those of `tables.aggregate` of the problem's `chosen_metric`, and `metric`, `FIT_COLUMNS` (means),
    `n_source`, `n_target`, `key` (of its first cell), `estimator_name`, `reason` (of its first failure), `rank`
    (NaN for anchors, and where no rival was measured) and `relative` (error over the identity's; NaN where that was
    not measured). Anchors come first at each place.
    """
    parts = []
    for _, own in rows.groupby(["problem", "budget"], sort=False):
        metric = chosen_metric(own)
        times = {name: np.nan if mixed(rows) else aggregate(own, name)["mean"] for name in FIT_COLUMNS}
        parts.append(aggregate(own, metric).assign(metric=metric, **times))
    found = pd.concat(parts, ignore_index=True)
    # An empty reason is the first value too, but of no use.
    told = rows.assign(reason=rows["reason"].replace("", np.nan))
    first = told.groupby(IDENTITY_COLUMNS, sort=False, dropna=False)[
        ["key", "estimator_name", "problem_name", "n_source", "n_target", "reason"]
    ].first()
    found = found.merge(first.reset_index(), on=IDENTITY_COLUMNS, sort=False)
    order = {name: index for index, name in enumerate(row_order(found["estimator"]))}
    by_place = np.lexsort((found["estimator"].map(order), found.groupby(PLACE, sort=False).ngroup()))
    found = found.iloc[by_place].reset_index(drop=True)
    found["reason"] = found["reason"].fillna("")
    found["rank"] = np.nan
    for _, rivals in found[~found["anchor"]].groupby([*PLACE, "tier"], sort=False):
        found.loc[rivals.index, "rank"] = _ranks(rivals)
    loss = found["mean"].clip(lower=found["floor"].fillna(-np.inf))
    identity = found[found["estimator"] == "identity"].assign(identity=loss)[[*PLACE, "identity"]]
    base = found[PLACE].merge(identity, on=PLACE, how="left")["identity"].to_numpy()
    found["relative"] = loss / np.where(base > 0, base, np.nan)
    return found


def _ranks(rivals: pd.DataFrame) -> NDArray[np.float64]:
    """(k,) 1 + the number of rivals that beat each, by `RULE`; NaN where none was measured."""
    loss = rivals["mean"].clip(lower=rivals["floor"].fillna(-np.inf)).fillna(np.inf).to_numpy(float)
    error = rivals["standard_error"].fillna(0.0).to_numpy(float)
    complete = (rivals["n_ok"] == rivals["n_planned"]).to_numpy()
    with np.errstate(invalid="ignore"):  # infinity - infinity: neither beats the other
        lower = loss[:, None] - loss > BEYOND_NOISE * np.hypot(error[:, None], error)
    beaten = np.where(complete[:, None] == complete, lower, complete & ~complete[:, None])
    return np.where(np.isfinite(loss).any(), 1.0 + beaten.sum(axis=1), np.nan)


def board(found: pd.DataFrame) -> list[dict[str, Any]]:
    """The leaderboard of `places`: a dictionary an estimator and tier, in order of tier, then `RULE`; anchors last.

    Keys: `tier`, `estimator`, `estimator_name`, `anchor`, `mean_rank`, `first` (places of rank 1), `places` (that are
    ranked), `lost` (places where the identity is better) of `against` (places where both were measured), `relative`
    (median), `n_ok`, `n_planned`, `FIT_COLUMNS` (medians), `failures`.
    """
    tiers = list(dict.fromkeys(found.loc[~found["anchor"], "tier"])) or list(dict.fromkeys(found["tier"]))
    lines = []
    for tier in tiers:
        own = found[found["anchor"] | (found["tier"] == tier)]
        own = own[own.set_index(PLACE).index.isin(found[found["tier"] == tier].set_index(PLACE).index)]
        names = row_order(own["estimator"])
        entries = [_line(tier, name, own[own["estimator"] == name]) for name in names]
        lines += sorted(entries, key=_order)
    return lines


def _order(line: dict[str, Any]) -> tuple[float, ...]:
    """Rivals by mean rank, then by error, NaN last; anchors after them as they come."""
    if line["anchor"]:
        return (1.0,)
    return 0.0, *np.nan_to_num([line["mean_rank"], line["relative"]], nan=np.inf)


def _line(tier: str, name: str, own: pd.DataFrame) -> dict[str, Any]:
    failures: Counter[str] = Counter()
    for counts in own["failures"]:
        failures.update(counts)
    return {
        "tier": tier,
        "estimator": name,
        "estimator_name": own["estimator_name"].iloc[0],
        "anchor": bool(own["anchor"].iloc[0]),
        "mean_rank": float(own["rank"].mean()),
        "first": int((own["rank"] == 1).sum()),
        "places": int(own["rank"].notna().sum()),
        "lost": int((own["relative"] > 1).sum()),
        "against": int(own["relative"].notna().sum()),
        "relative": float(own["relative"].median()),
        "n_ok": int(own["n_ok"].sum()),
        "n_planned": int(own["n_planned"].sum()),
        **{name: float(own[name].median()) for name in FIT_COLUMNS},
        "failures": dict(failures),
    }


def gpu_seconds(line: dict[str, Any]) -> str:
    """What a line of the `board` shows of a GPU: its fit seconds, or "no gpu" where it was fitted on the CPU."""
    if math.isfinite(line["gpu_fit_seconds"]):
        return number(line["gpu_fit_seconds"])
    return NO_GPU if math.isfinite(line["fit_seconds"]) else ""


def _listed(names: list[str]) -> str:
    """As a sentence holds them: at most `NAMED` by name."""
    others = [f"{len(names) - NAMED} others"] if len(names) > NAMED + 1 else []
    *first, last = [*names[:NAMED], *others] if others else names
    return f"{', '.join(first)} and {last}" if first else last


def verdict(lines: list[dict[str, Any]], rows: pd.DataFrame) -> list[str]:
    """The run in sentences: who leads each tier, and what was not measured."""
    said = []
    for tier in dict.fromkeys(line["tier"] for line in lines):
        rivals = [line for line in lines if line["tier"] == tier and not line["anchor"]]
        ranked = [line for line in rivals if line["n_ok"]]
        if not ranked:
            continue
        best = ranked[0]
        leaders = [line["estimator"] for line in ranked if line["mean_rank"] == best["mean_rank"]]
        of = f"of {len(rivals)} estimators" if len(rivals) > 1 else "the only estimator"
        lead = "leads" if len(leaders) == 1 else "lead together"
        scale = (
            "" if np.isnan(best["relative"]) else f", at the median {number(best['relative'])} of the identity's error"
        )
        said.append(
            f"Knowing {tier}, {_listed(leaders)} {lead} ({of}): mean rank {best['mean_rank']:.3g} over "
            f"{best['places']} place{'s' * (best['places'] != 1)}{scale if len(leaders) == 1 else ''}."
        )
    failed = Counter(rows.loc[~rows["status"].isin([Status.OK, Status.AT_FLOOR]), "status"])
    if failed:
        said.append("Not measured: " + ", ".join(f"{count} {status}" for status, count in failed.most_common()) + ".")
    return said
