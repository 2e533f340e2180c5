"""Frame of a run -> aggregates: what the terminal, the figures, the exports and the report show.

No aggregate is without n_ok/n_planned; means are over the instances and seeds that were measured, the failures
stand beside them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from mongebench.core.problem import Split
from mongebench.plugins import ANCHORS, METRICS, find
from mongebench.run.frame import FIT_COLUMNS, TIME_COLUMNS, TRANSFORM_COLUMN, clocks
from mongebench.run.record import MEASURED, Status
from mongebench.run.settings import Setting

NO_GPU = "no gpu"
IDENTITY_COLUMNS = ["problem", "dim", "budget", "estimator"]


def aggregate(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of a metric (or of a time column) over instances and seeds, one row per problem x dim x budget x estimator.

    Columns: `mean`, `standard_error`, `floor`, `n_ok`, `n_planned`, `failures` (status -> count), `tier`, `anchor`.
    Instances weigh the same in the mean. Where two or more were measured they are the units of the standard error, as
    fits of one instance go together; else the fits are. To either the error of the evaluation is added in full: all
    fits of an instance share their evaluation points. With a single fit it stands alone, and says nothing of the fit.
    """
    measured = rows.assign(
        value=rows.get(metric, np.nan),
        error=rows.get(f"{metric}_se", np.nan),
        floor=rows.get(f"{metric}_floor", np.nan),
        instance=rows.get("instance", 0),
    )
    measured["error"] = measured["error"].where(measured["value"].notna())
    fits = measured.groupby([*IDENTITY_COLUMNS, "instance"], sort=False, dropna=False).agg(
        mean=("value", "mean"),
        of_fits=("value", "sem"),
        of_points=("error", "mean"),
        floor=("floor", "max"),
        n_ok=("value", "count"),
        n_planned=("value", "size"),
        tier=("tier", "first"),
        anchor=("anchor", "first"),
    )
    summary = fits.groupby(IDENTITY_COLUMNS, sort=False, dropna=False).agg(
        mean=("mean", "mean"),
        of_instances=("mean", "sem"),
        of_fits=("of_fits", "first"),
        of_points=("of_points", "mean"),
        floor=("floor", "max"),
        n_ok=("n_ok", "sum"),
        n_planned=("n_planned", "sum"),
        tier=("tier", "first"),
        anchor=("anchor", "first"),
    )
    errors = pd.DataFrame(
        {"of_fits": summary["of_instances"].fillna(summary["of_fits"]), "of_points": summary["of_points"]}
    )
    summary["standard_error"] = np.hypot(*errors.fillna(0.0).to_numpy().T)
    summary.loc[errors.isna().all(axis=1), "standard_error"] = np.nan
    failed = rows[~rows["status"].isin(MEASURED)]
    failures: dict[Any, Counter[str]] = defaultdict(Counter)
    for *key, status in failed[[*IDENTITY_COLUMNS, "status"]].itertuples(index=False):
        failures[tuple(key)][status] += 1
    counts = [dict(failures[key]) if key in failures else {} for key in summary.index]
    summary["failures"] = pd.Series(counts, index=summary.index, dtype=object)
    return summary.drop(columns=["of_instances", "of_fits", "of_points"]).reset_index()


def spread(rows: pd.DataFrame) -> str:
    """What the standard errors of `aggregate` are over, in words."""
    if rows.empty:
        return "standard error"
    by_place = rows.assign(instance=rows.get("instance", 0)).groupby(IDENTITY_COLUMNS, sort=False, dropna=False)
    instances = by_place["instance"].nunique()
    fits = by_place.size() / instances
    alone = "of the evaluation points only: this says nothing about the fit"
    if (by_place.size() == 1).all():
        return f"standard error {alone}"
    over = f"{_range(fits)} fits"
    over = f"{over} of one instance" if (instances == 1).all() else f"{_range(instances)} instances x {over}"
    single = f"; where there is one fit, {alone}" if (by_place.size() == 1).any() else ""
    return f"standard error over {over}, plus evaluation points{single}"


def _range(counts: pd.Series) -> str:
    low, high = number(counts.min()), number(counts.max())
    return low if low == high else f"{low} to {high}"


def number(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 10 000."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"


def known_number(value: float | None) -> str:
    """The `number`; empty where there is none."""
    return "" if value is None or pd.isna(value) else number(value)


@dataclass(frozen=True)
class Shown:
    """One aggregate as people read it: `text`, the `count` n_ok/n_planned, and what `kind` of answer it is."""

    text: str
    count: str
    kind: Literal["value", "floor", "failed", "unsupported"]

    @classmethod
    def of(cls, row: Any, metric: str = "") -> Shown:
        """A row of `aggregate` of `metric`: mean ± standard error, "at floor", or what became of the cells."""
        count = f"{row['n_ok']}/{row['n_planned']}"
        if row["n_ok"] == 0:
            statuses = ", ".join(row["failures"]) or (NO_GPU if metric == "gpu_fit_seconds" else "no value")
            return cls(statuses, count, "unsupported" if statuses == Status.UNSUPPORTED else "failed")
        if row["mean"] <= row["floor"]:
            return cls("at floor", count, "floor")
        error = "" if math.isnan(row["standard_error"]) else f" ± {number(row['standard_error'])}"
        return cls(number(row["mean"]) + error, count, "value")


@dataclass(frozen=True)
class Block:
    """One table that people read: a problem at one budget, the rivals of one tier among the anchors.

    Attributes
    ----------
    problem, budget, tier, metric
        What it is about.
    summary
        `aggregate` of the metric, of these estimators.
    seconds
        Means over seeds of `FIT_COLUMNS`, `fit_iqr_seconds` and `TRANSFORM_COLUMN`, by estimator and dim; empty where
        they are `mixed`.
    """

    problem: str
    budget: str
    tier: str
    metric: str
    summary: pd.DataFrame
    seconds: pd.DataFrame

    @property
    def title(self) -> str:
        """Everything but the numbers."""
        return f"{self.problem}, {self.budget}: {self.metric}{unit(self.metric)}, tier: {self.tier}"

    @property
    def dims(self) -> list[int]:
        """Columns of the table."""
        return sorted(int(dim) for dim in self.summary["dim"].unique())

    def lines(self) -> Iterator[tuple[str, list[Shown | None], str, str, str]]:
        """(estimator, what it reached in each of `dims`, seconds at the largest: fit on the CPU, on a GPU, transform).

        Anchors come first. "no gpu" stands in place of the second where the fits were on the CPU.
        """
        summary, seconds = _by_estimator(self.summary), _by_estimator(self.seconds)
        for name in row_order(summary):
            shown = [Shown.of(summary[name][dim], self.metric) if dim in summary[name] else None for dim in self.dims]
            on_cpu, on_gpu, transform = (
                _at_the_largest(seconds.get(name, {}), column) for column in (*FIT_COLUMNS, TRANSFORM_COLUMN)
            )
            yield name, shown, on_cpu, on_gpu or (on_cpu and NO_GPU), transform

    def floors(self) -> list[str]:
        """What a perfect map would show in each of `dims`; empty where no metric has one."""
        floors = self.summary.groupby("dim")["floor"].max()
        if not floors.notna().any():
            return []
        return [number(floors[dim]) if math.isfinite(floors[dim]) else "" for dim in self.dims]


def _by_estimator(rows: pd.DataFrame) -> dict[str, dict[int, Any]]:
    """Estimator -> dimension -> row."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    for row in rows.to_dict("records"):
        found[row["estimator"]][row["dim"]] = row
    return found


def _at_the_largest(rows: dict[int, Any], column: str) -> str:
    """Mean seconds at the largest dimension that has any; of fits with the interquartile range of repeated ones."""
    known = [dim for dim, row in rows.items() if not pd.isna(row[column])]
    if not known:
        return ""
    last = rows[max(known)]
    spread = last["fit_iqr_seconds"] if column in FIT_COLUMNS else math.nan
    return number(last[column]) + ("" if pd.isna(spread) else f" (IQR {number(spread)})")


def chosen_metric(rows: pd.DataFrame) -> str:
    """UVP where the exact map is known, the energy distance where it is not."""
    return "uvp" if "uvp" in rows and rows["uvp"].notna().any() else "energy_distance"


def blocks(rows: pd.DataFrame, metric: str | None = None) -> Iterator[Block]:
    """The tables of a frame, one per problem, budget and tier; without `metric`, of the `chosen_metric`."""
    for _, own in rows.groupby(["problem", "budget"], sort=False):
        problem, draws = own[["problem", "budget"]].iloc[0]
        chosen = metric or chosen_metric(own)
        summary, seconds = aggregate(own, chosen), _fit_times(own)
        if mixed(rows):
            seconds = seconds.iloc[:0]
        if mixed(rows, TRANSFORM_COLUMN):
            seconds = seconds.assign(**{TRANSFORM_COLUMN: np.nan})
        if chosen in TIME_COLUMNS and mixed(rows, chosen):
            summary = summary.assign(n_ok=0)
        tiers = summary.loc[~summary["anchor"], "tier"].unique().tolist()
        for tier in tiers or [summary["tier"].iloc[0]]:
            rivals = (summary["tier"] == tier) | summary["anchor"]
            yield Block(problem, draws, tier, chosen, summary[rivals], seconds)


def _fit_times(rows: pd.DataFrame) -> pd.DataFrame:
    columns = [*FIT_COLUMNS, "fit_iqr_seconds", TRANSFORM_COLUMN]
    times = rows.reindex(columns=["estimator", "dim", *columns]).astype(dict.fromkeys(columns, float))
    return times.groupby(["estimator", "dim"], sort=False)[columns].mean().reset_index()


def unit(metric: str) -> str:
    """Unit and direction of a metric or a time column, to be written behind its name."""
    if metric == TRANSFORM_COLUMN:
        return " [s per 1000 points]"
    if metric.endswith("_seconds"):
        return " [s]"
    found = find(METRICS, metric).load()
    return f" [{found.unit}], {found.direction} is better" if found.unit else f", {found.direction} is better"


def mixed(rows: pd.DataFrame, *columns: str) -> str:
    """Why the times of these rows are not comparable, if so: some cells ran alone, or on another device.

    `columns` are the `TIME_COLUMNS` that are shown, by default `FIT_COLUMNS`: each holds the times of one device.
    """
    if "exclusive" not in rows:
        return ""
    exclusive = rows["exclusive"].dropna().astype(bool)
    if exclusive.nunique() > 1:
        return (
            f"no times: {exclusive.sum()} cells ran alone (--exclusive) and {(~exclusive).sum()} did not, which are "
            "not comparable; run the rest with --exclusive too"
        )
    for column in columns or FIT_COLUMNS:
        if column in rows and (devices := sorted(rows.loc[rows[column].notna(), "device"].unique()))[1:]:
            return f"no times: {column} of {' and '.join(devices)} are not comparable; run all cells on one of them"
    return ""


def untimed(rows: pd.DataFrame, *columns: str) -> str:
    """Why no times of these rows are shown, if so; `columns` as in `mixed`."""
    if rows["wall_seconds"].notna().any():
        return mixed(rows, *columns)
    apart = clocks(rows)
    return f"no times: the runs were not timed alike ({'; '.join(apart)})" if apart else "no times"


def circumstances(rows: pd.DataFrame) -> str:
    """What the times of these rows were measured on."""
    timed = rows.dropna(subset=["wall_seconds"])
    described = {
        f"{row['device']}, {int(row['threads'])} thread(s), {int(row['workers'])} cell(s) at a time"
        + (", nothing else of ours on the machine" if row["exclusive"] else "")
        for row in timed[["device", "threads", "workers", "exclusive"]].drop_duplicates().to_dict("records")
    }
    return "on " + "; ".join(sorted(described))


def hand_set(rows: pd.DataFrame) -> str:
    """The sentence that marks a run whose experiment sets parameters by hand on problems of the test split; or none."""
    if "setting" not in rows:
        return ""
    marked = rows[(rows["setting"] == Setting.HAND_SET) & (rows["split"] == Split.TEST) & ~rows["anchor"]]
    if marked.empty:
        return ""
    names = ", ".join(sorted(marked["estimator_name"].unique()))
    return (
        f"Hand-set: this experiment sets parameters of {names} by hand on problems that boards show, so that these "
        "rows may have been tuned on what they are measured by."
    )


def legend(rows: pd.DataFrame, metric: str | None = None) -> str:
    """The sentences under tables of `blocks`."""
    columns = FIT_COLUMNS if metric not in TIME_COLUMNS else (*FIT_COLUMNS, metric)
    timed = untimed(rows, *columns) or (
        "mean fit seconds at the largest dimension on the CPU and on a GPU, compilation excluded, of repeated fits the "
        f"median with its interquartile range, {circumstances(rows)}"
    )
    marked = hand_set(rows)
    return (f"{marked} " if marked else "") + (
        f"mean ± {spread(rows)}; n_ok/n_planned; "
        f"fit s and GPU s: {timed}; "
        f"transform s: {untimed(rows, TRANSFORM_COLUMN) or 'seconds of the map per 1000 points there'}{_notes(rows)}"
    )


def _notes(rows: pd.DataFrame) -> str:
    """What the fit seconds of these rows do not show, and whose: see `Times.remarks`."""
    if "remarks" not in rows:
        return ""
    names = row_order(rows.loc[rows["remarks"].fillna("") != "", "estimator"])
    said = "; work outside of fit s (compilation, threads, processes: the records say what): "
    return said + ", ".join(names) if names else ""


def exponents(rows: pd.DataFrame, column: str = "fit_seconds") -> pd.DataFrame:
    """Slope of log `column` against log n_source, per estimator x problem x dim, with a 95 % interval.

    Of fit seconds it says how the cost grows, of an error how fast it falls. Least squares over all measured seeds
    (Student's t with the residual degrees of freedom); at least three sizes. A metric counts as its floor below it.
    """
    found = []
    measured = rows[rows["status"].isin(MEASURED) & np.isfinite(rows["n_source"])]
    value = measured.get(column, pd.Series(np.nan, measured.index))
    measured = measured.assign(value=value.clip(lower=measured.get(f"{column}_floor")))
    measured = measured[measured["value"] > 0]
    for key, group in measured.groupby(["estimator", "problem", "dim"], sort=False):
        sizes = np.sort(group["n_source"].unique())
        if len(sizes) < 3:
            continue
        line = stats.linregress(np.log(group["n_source"].astype(float)), np.log(group["value"]))
        half = stats.t.ppf(0.975, len(group) - 2) * line.stderr
        planned = rows[(rows["estimator"] == key[0]) & (rows["problem"] == key[1]) & (rows["dim"] == key[2])]
        found.append(
            {
                "estimator": key[0],
                "problem": key[1],
                "dim": key[2],
                "exponent": line.slope,
                "low": line.slope - half,
                "high": line.slope + half,
                "sizes": f"{int(sizes[0])} .. {int(sizes[-1])}",
                "largest": group.loc[group["n_source"] == sizes[-1], "value"].median(),
                "n_ok": len(group),
                "n_planned": len(planned),
            }
        )
    return pd.DataFrame(found)


def row_order(estimators: Iterable[str]) -> list[str]:
    """Anchors first, in a fixed order, then the rest by name."""
    names = sorted(set(estimators))
    return [name for name in ANCHORS if name in names] + [name for name in names if name not in ANCHORS]
