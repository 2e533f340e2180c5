"""Who leads, by a stated rule that noise and failures cannot bend: ratios to a reference, resampled, failures a loss.

A *place* is a problem in one dimension at one budget; its fits are those of all instances and seeds. A *family* is a
problem's registered name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mongebench.core.problem import Split
from mongebench.report.tables import paired, ranking
from mongebench.report.tables.results import (
    IDENTITY_COLUMNS,
    aggregate,
    chosen_metric,
    mixed,
    row_order,
)
from mongebench.run.frame import FIT_COLUMNS
from mongebench.run.record import MEASURED, Status
from mongebench.run.store import PUBLISHED

LEAST, LOSS = 1e-4, 100.0
"""Smallest and largest ratio that counts: so exact a fit wins no more, and none is worse than a failure."""
REFERENCES = ("identity", "mean_shift", "bures")
"""Anchors that errors are held against: the first that was measured everywhere."""
MEDIAN_FIT = "the median fit"
"""What they are held against where none was."""
PLACE = ["problem", "dim", "budget"]
SECONDS = (*FIT_COLUMNS, "transform_seconds")
RULE = (
    "The board is ordered by the geometric mean of error ratios. The error of a fit (UVP, or the energy distance where "
    "the exact map is unknown; an error below the floor counts as the floor) is divided by the identity's (or that of "
    "the reference that the heading names) on the same instance of the problem. The mean over the fits of a place (a "
    "problem in one dimension at one budget) is arithmetic, so that good fits cannot make up for bad ones; the mean "
    "over places is geometric, with equal weights. "
    f"A ratio below {LEAST:g} counts as {LEAST:g}; a fit that was planned and not measured counts as {LOSS:g}, and no "
    "fit counts as worse. Intervals (95 %) and P(best), the probability of the lowest mean, come from a bootstrap of "
    "families, instances within them and seeds within those, the same for all estimators, with Student's t for the few "
    "families. Two estimators are separated if the interval of their ratio excludes 1, at 95 % for all pairs of a tier "
    "together (Tukey); all others are not separated, whatever their order. Specialists are estimators that do not "
    "serve every place that half of their tier serves; they are judged on their own, where they serve, among rivals "
    "that serve there too. Anchors are shown for scale."
)


def fits(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A frame of `tables.frame` with what `RULE` counts, and the name of the reference.

    Columns added: `place` (its number), `metric`, `chosen` (its value; `chosen_se`, `chosen_floor`), `loss` (lifted to
    the floor), `measured`, `judged` (whether the board counts the problem), `ratio` (of the loss to the reference's;
    NaN where not measured) and `counted` (the ratio cut, a failure its loss; NaN where the estimator does not serve the
    place, or nobody was measured there).
    """
    rows = rows.assign(
        instance=rows.get("instance", 0),
        setting=_setting(rows),
        **{name: rows.get(name, pd.Series(np.nan, rows.index)) for name in SECONDS},
    ).reset_index(drop=True)
    rows["place"] = rows.groupby(PLACE, sort=False).ngroup()
    rows[["chosen", "chosen_se", "chosen_floor"]] = np.nan
    for _, own in rows.groupby(["problem", "budget"], sort=False):
        metric = chosen_metric(own)
        rows.loc[own.index, "metric"] = metric
        for end in ("", "_se", "_floor"):
            if metric + end in own:
                rows.loc[own.index, f"chosen{end}"] = own[metric + end].astype(float)
    positive = rows["chosen_floor"].fillna(0).clip(lower=np.finfo(float).tiny)
    rows["loss"] = rows["chosen"].clip(lower=positive)
    rows["measured"] = rows["status"].isin(MEASURED) & rows["loss"].notna()
    # Problems of the tuning split, which settings are chosen on, decide nothing beside others.
    tuning = rows.get("split", pd.Series("", rows.index)) == Split.TUNE
    rows["judged"] = ~tuning | bool(tuning.all())
    name, base = _reference(rows)
    rows["ratio"] = (rows["loss"] / base).where(rows["measured"])
    supported = (rows["status"] != Status.UNSUPPORTED) & rows["judged"]
    served = supported.groupby([rows["place"], rows["estimator"]], sort=False).transform("any")
    rows["counted"] = rows["ratio"].clip(LEAST, LOSS).fillna(LOSS).where(served & base.notna())
    return rows, name


def _setting(rows: pd.DataFrame) -> pd.Series:
    """Who chose the parameters, and where somebody else's numbers stand among ours, which are which."""
    setting = pd.Series(rows.get("setting", "default"), rows.index)
    standing = pd.Series(rows.get("standing", ""), rows.index)
    return setting + ", " + standing.replace("", PUBLISHED) if (standing != "").any() else setting


def _reference(rows: pd.DataFrame) -> tuple[str, pd.Series]:
    """What errors are held against, and its error at each row's place and instance."""
    spot = ["place", "instance"]
    measured = rows[rows["measured"] & rows["judged"]]
    spots = len(measured[spot].drop_duplicates())
    for name in REFERENCES:
        own = measured[measured["estimator"] == name]
        if len(own) and len(own[spot].drop_duplicates()) == spots:
            break
    else:
        name, own = MEDIAN_FIT, measured
    base = own.groupby(spot, sort=False)["loss"].median().rename("base").reset_index()
    return name, rows[spot].merge(base, on=spot, how="left")["base"]


def places(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per estimator and place, of a frame of `tables.frame`.

    Columns: those of `tables.aggregate` of the problem's `chosen_metric`, and `metric`, `SECONDS` (means), `n_source`,
    `n_target`, `key` (of its first cell), `estimator_name`, `reason` (of its first failure), `setting`, `place` (its
    number), `ratio` (the mean that the board counts), `worst` (the largest, uncut), `lost` (fits that are worse than
    the identity) of `against`, `specialist`, and `counts` (whether the board counts the place). Anchors come first at
    each place.
    """
    known, reference = fits(rows)
    identity = reference == REFERENCES[0]
    times = {name: np.nan if mixed(rows) else known[name].astype(float) for name in SECONDS}
    known = known.assign(
        **times,
        reason=known["reason"].replace("", np.nan),  # an empty one is the first value too, but of no use
        worst=known["ratio"].where(known["measured"], known["counted"]),
        lost=known["counted"].gt(1) & identity,
        against=known["counted"].notna() & identity,
    )
    kept = ["key", "estimator_name", "problem_name", "n_source", "n_target", "reason", "setting", "metric", "place"]
    own = known.groupby(IDENTITY_COLUMNS, sort=False, dropna=False)
    more = own.agg(
        **{name: (name, "first") for name in kept},
        **{name: (name, "mean") for name in SECONDS},
        ratio=("counted", "mean"),
        worst=("worst", "max"),
        lost=("lost", "sum"),
        against=("against", "sum"),
    )
    found = aggregate(known, "chosen").merge(more.reset_index(), on=IDENTITY_COLUMNS, sort=False)
    order = {name: index for index, name in enumerate(row_order(found["estimator"]))}
    found = found.iloc[np.lexsort((found["estimator"].map(order), found["place"]))].reset_index(drop=True)
    found["reason"] = found["reason"].fillna("")
    found["specialist"], found["counts"] = False, False
    for tier in _tiers(known):
        own_rows = (found["tier"] == tier.name) & ~found["anchor"]
        special = own_rows & found["estimator"].isin(tier.specialists)
        found["specialist"] |= special
        found["counts"] |= special | (own_rows & found["place"].isin(tier.shared))
    return found


@dataclass(frozen=True)
class _Tier:
    """The rivals of a tier: `cells` of theirs, the places that half of them serve, and who serves all of those.

    `served` has the places that count for each of them.
    """

    name: str
    cells: pd.DataFrame
    shared: list[int]
    general: list[str]
    specialists: list[str]
    served: dict[str, list[int]]


def _tiers(known: pd.DataFrame) -> Iterator[_Tier]:
    """Of `fits`: places where no rival was measured are left out."""
    for name, own in known[~known["anchor"]].groupby("tier", sort=False):
        names = row_order(own["estimator"])
        own = own.loc[own.groupby("place", sort=False)["measured"].transform("any"), _COUNTED]
        serving = own.loc[own["counted"].notna(), ["place", "estimator"]].drop_duplicates()
        served = {str(one): there.tolist() for one, there in serving.groupby("estimator", sort=False)["place"]}
        many = serving.groupby("place", sort=False).size()
        shared = many.index[2 * many >= len(names)].tolist()
        general = [one for one in names if shared and {*shared} <= {*served.get(one, ())}]
        others = [one for one in names if one not in general and one in served]
        yield _Tier(str(name), own, shared, general, others, served)


_COUNTED = ["estimator", "place", "problem_name", "instance", "seed", "counted"]


def _array(cells: pd.DataFrame, names: list[str], where: list[int]) -> tuple[ranking.Array, NDArray[np.intp]]:
    """(estimators, places, instances, seeds) of `counted`, and (places,) the family of each."""
    own = cells[cells["estimator"].isin(names) & cells["place"].isin(where)]
    instances = own[["place", "instance"]].drop_duplicates()
    instances = instances.assign(number=instances.groupby("place", sort=False).cumcount())
    index = [
        pd.Index(names).get_indexer(pd.Index(own["estimator"])),
        pd.Index(where).get_indexer(pd.Index(own["place"])),
        own[["place", "instance"]].merge(instances, on=["place", "instance"], how="left")["number"].to_numpy(),
        pd.factorize(own["seed"])[0],
    ]
    ratio = np.full([len(names), len(where), *(values.max() + 1 for values in index[2:])], np.nan)
    ratio[tuple(index)] = own["counted"]
    families = own.drop_duplicates("place").set_index("place")["problem_name"].reindex(where)
    return ratio, pd.factorize(families)[0]


def board(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The leaderboard of a frame of `tables.frame`: a dictionary an estimator and tier, in order of tier, then `RULE`.

    Specialists follow the others of their tier, and anchors them.

    Keys: `tier`, `group` ("rival", "specialist" or "anchor"), `estimator`, `estimator_name`, `anchor`, `setting`;
    `reference` (what errors are held against), `ratio` (geometric mean), `low`, `high`, `best` (the probability of the
    lowest); `leader` (of the tier; of a specialist: the best rival where it serves), `over_leader` (ratio to it),
    `over_low`, `over_high`, `separated` (from it), `decided` (of the leader: places where it is separated from the
    next); `worst`, `worst_where`, `lost` (fits worse than the identity) of `against`, `places`, `n_ok`, `n_planned`,
    `SECONDS` (medians of the means at places), `failures`.
    """
    known, reference = fits(rows)
    found = places(rows)
    rivals, anchors = ((known[known["anchor"] == is_], found[found["anchor"] == is_]) for is_ in (False, True))
    everywhere = list(known["place"].unique())
    tiers = list(_tiers(known)) or [_Tier(str(rows["tier"].iloc[0]), known, everywhere, [], [], {})]
    lines: list[dict[str, Any]] = []
    for tier in tiers:
        own = [one[one["tier"] == tier.name] for one in rivals]
        planned = own[1]["place"].unique() if len(own[1]) else everywhere
        there = [one[one["place"].isin(planned)] for one in anchors]
        both = [*_rivals(tier, *own), *_anchors(tier, *there)]
        lines += [{"tier": tier.name, "reference": reference} | line for line in both]
    return lines


def _rivals(tier: _Tier, known: pd.DataFrame, found: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Those who serve all shared places in order of their mean, then specialists, then whoever was measured nowhere."""
    known_of, found_of = (dict(iter(one.groupby("estimator", sort=False))) for one in (known, found))
    if tier.general:
        ratio, family = _array(tier.cells, tier.general, tier.shared)
        result = ranking.rank(ratio, family)
        order = sorted(range(len(ratio)), key=lambda k: result.log_mean[k])
        for k in order:
            name = tier.general[k]
            line = _line(known_of[name], found_of[name], tier.shared) | _judged(result, tier.general, k, order[0])
            if k == order[0] and len(order) > 1:
                line["decided"] = _decided(ratio[k], ratio[order[1]])
            yield line | {"group": "rival"}
    served = {one: {*tier.served[one]} for one in (*tier.general, *tier.specialists)}
    ranked: dict[frozenset[int], ranking.Ranking] = {}  # one for all specialists of the same places
    for name in tier.specialists:
        where, names = tier.served[name], [one for one in served if served[name] <= served[one]]
        if (there := frozenset(where)) not in ranked:
            ranked[there] = ranking.rank(*_array(tier.cells, names, where))
        result, k = ranked[there], names.index(name)
        leader = min((one for one in range(len(names)) if one != k), key=lambda one: result.log_mean[one], default=k)
        line = _line(known_of[name], found_of[name], where)
        yield line | _judged(result, names, k, leader) | {"group": "specialist"}
    for name in row_order(known["estimator"]):
        if name not in served:
            yield _line(known_of[name], found_of[name], []) | {"group": "rival"}


def _judged(result: ranking.Ranking, names: list[str], k: int, leader: int) -> dict[str, Any]:
    """What `ranking` says of the k-th, against a leader (itself, where it leads or is alone)."""
    with np.errstate(over="ignore"):  # with one degree of freedom, an interval may well reach infinity
        over = np.exp(result.versus(k, leader))
        values = np.exp([result.log_mean[k], result.low[k], result.high[k]])
    return {
        **dict(zip(("ratio", "low", "high"), values.tolist(), strict=True)),
        "best": float(result.best[k]) if len(names) > 1 else math.nan,
        "leader": names[leader],
        **dict(zip(("over_leader", "over_low", "over_high"), over.tolist(), strict=True)),
        "separated": bool(over[1] > 1 or over[2] < 1),
    }


def _decided(leader: ranking.Array, following: ranking.Array) -> int:
    """Places where paired log-ratios of two (places, instances, seeds) are below zero, all places together."""
    difference = np.log(leader) - np.log(following)
    count = len(difference)
    mean, error, freedom = np.full(count, np.nan), np.full(count, np.nan), np.zeros(count)
    for place, own in enumerate(difference):
        instance, _ = np.nonzero(~np.isnan(own))
        values = paired.units(own[~np.isnan(own)], instance)
        if len(values):
            mean[place], freedom[place] = values.mean(), len(values) - 1
            error[place] = values.var(ddof=1) / len(values) if len(values) > 1 else np.nan
    variance, gained = paired.moderated(np.nan_to_num(error), freedom)
    claims = paired.claims(mean, np.sqrt(variance), gained, ranking.LEVEL)
    return int((claims.found & (mean < 0)).sum())


def _anchors(tier: _Tier, known: pd.DataFrame, found: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for name in row_order(known["estimator"]):
        planned = known[known["estimator"] == name]
        own = planned[planned["counted"].notna() & planned["place"].isin(tier.shared)]
        line = _line(planned, found[found["estimator"] == name], tier.shared) | {"group": "anchor"}
        if len(own):
            ratio, _ = _array(own, [name], list(own["place"].drop_duplicates()))
            line["ratio"] = float(np.exp(ranking.log_means(ratio)[0]))
        yield line


def _line(known: pd.DataFrame, found: pd.DataFrame, where: list[int]) -> dict[str, Any]:
    """What is counted of an estimator: fits and failures wherever it was planned, ratios at the places `where`."""
    judged, cells = found[found["place"].isin(where)], known[known["place"].isin(where)]
    worst = cells["ratio"].where(cells["measured"], cells["counted"])
    at = cells.iloc[int(np.nanargmax(worst))] if worst.notna().any() else None
    failures: Counter[str] = Counter()
    for counts in found["failures"]:
        failures.update(counts)
    return {
        **dict.fromkeys(("ratio", "low", "high", "best", "over_leader", "over_low", "over_high", "decided"), math.nan),
        "leader": "",
        "separated": False,
        "estimator": known["estimator"].iloc[0],
        "estimator_name": known["estimator_name"].iloc[0],
        "anchor": bool(known["anchor"].iloc[0]),
        "setting": ", ".join(known["setting"].unique()),
        "worst": math.nan if at is None else float(worst.max()),
        "worst_where": "" if at is None else _where(at),
        "lost": int(judged["lost"].sum()),
        "against": int(judged["against"].sum()),
        "places": len(judged),
        "n_ok": int(found["n_ok"].sum()),
        "n_planned": int(found["n_planned"].sum()),
        **{column: float(found[column].median()) for column in SECONDS},
        "failures": dict(failures),
    }


def _where(cell: pd.Series) -> str:
    fate = "" if cell["measured"] else f" ({cell['status']})"
    return f"{cell['problem']}, d = {cell['dim']}, instance {cell['instance']}, seed {cell['seed']}{fate}"
