"""What a nightly run says of a commit: was everything measured, is an error above its gate, does `compare` cry wolf.

A *gate* is the largest factor by which the errors of an estimator at a place may have grown since a recorded run.
Instances and seeds are the same every night, so that each recorded error comes back up to rounding, and each fit is
held against its own: the mean of these ratios breaks the gate. A change of the code that changes no quality may draw
other numbers; the factor lets pass what that does, and never half as much again. It comes from what fits scatter,
within instances or over all, whichever is less: what fits share is cancelled by holding each against its own. An
estimator that got a little worse everywhere may break no gate of a place, but the one of all its places together, whose
noise averages out. Times have no gate: machines of nightly runs differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mongebench.core.errors import ExperimentError
from mongebench.core.text import counted
from mongebench.experiments import packaged
from mongebench.report.tables.compare import LEVEL, Change, compare
from mongebench.report.tables.results import IDENTITY_COLUMNS, aggregate, chosen_metric, number
from mongebench.run.experiment import Experiment
from mongebench.run.provenance import repository
from mongebench.run.record import MEASURED, Status
from mongebench.run.store import write_atomically

ERRORS = 2.0
"""Margin of a gate, in standard errors of the mean log error that was recorded."""
LEAST, MOST = 1.1, 1.5
"""Factors between which every gate is: a doubling never passes."""
COLUMNS = (*IDENTITY_COLUMNS, "metric", "recorded", "n", "catches", "fits")
"""Of a file of gates."""
TOGETHER = 3.0
"""Margin of the gate of all places of an estimator, in standard errors: it is one more than each place has."""


@dataclass(frozen=True)
class Judgement:
    """Of one run.

    Attributes
    ----------
    measured, planned
        Cells; those that no estimator serves are left out, and refused before they are tried.
    broken
        A sentence a gate that does not hold.
    gates
        How many were asked.
    alarms
        A sentence a quantity: how often `compare` found a difference where there is none.
    catches
        A sentence: what change the gates catch. Empty for a file without recorded fits.
    """

    measured: int
    planned: int
    broken: tuple[str, ...]
    gates: int
    alarms: tuple[str, ...]
    catches: str = ""

    @property
    def failed(self) -> bool:
        """Whether the night is to be looked at."""
        return bool(self.broken) or self.measured < self.planned

    def sentences(self) -> list[str]:
        """What a person reads, the worst first."""
        lost = self.planned - self.measured
        return [
            *([f"FAILED: {lost} of {self.planned} planned cells were not measured."] if lost else []),
            *(f"FAILED: {sentence}" for sentence in self.broken),
            f"{self.measured}/{self.planned} planned cells were measured.",
            f"{self.gates - len(self.broken)} of {self.gates} accuracy gates hold."
            if self.gates
            else "No gate is recorded yet: --record makes them from a run.",
            *([self.catches] if self.catches else []),
            *self.alarms,
        ]


def judge(rows: pd.DataFrame, gates: pd.DataFrame) -> Judgement:
    """Of a frame of `tables.frame`, against those of `record`."""
    served = rows[rows["status"] != Status.UNSUPPORTED]
    alarms = [
        sentence
        for metric, name in ((None, "errors"), ("fit_seconds", "fit seconds"))
        if (sentence := _alarms(rows, metric, name))
    ]
    alone, overall = (_broken(rows, gates), _broken_together(rows, gates)) if len(gates) else ([], [])
    several = gates["estimator"].value_counts().gt(1).sum() if "fits" in gates else 0
    return Judgement(
        measured=int(served["status"].isin(MEASURED).sum()),
        planned=len(served),
        broken=(*overall, *alone),
        gates=len(gates) + int(several),
        alarms=tuple(alarms),
        catches=_catches(gates) if "fits" in gates and len(gates) else "",
    )


def _catches(gates: pd.DataFrame) -> str:
    median, most = gates["catches"].median(), gates["catches"].max()
    overall = together(gates, pd.Series(1.0, gates.index))["catches"]
    said = (
        f"Errors that grow {number(median)}-fold break half of the gates, {number(most)}-fold all of them: means over "
        "fits, each against the recorded one of its instance and seed."
    )
    if len(overall):
        said += (
            f" All places of an estimator together break at {number(overall.min())} to {number(overall.max())} times "
            "what was recorded."
        )
    return said


def record(rows: pd.DataFrame) -> pd.DataFrame:
    """Gates from a run: identity, `metric`, what it was (`recorded`, the mean, and `fits`, "instance/seed:error ..."),
    `n` fits, and `catches`, the factor that breaks it.

    Raises `ExperimentError` where a served cell was not measured: what failed can be no gate.
    """
    found, errors = _summary(rows), _errors(rows)
    lost = found[found["n_ok"] < found["n_planned"]]
    if len(lost):
        place = lost.iloc[0]
        raise ExperimentError(
            f"No gates from this run: {place['n_planned'] - place['n_ok']} of {place['n_planned']} cells of "
            f"{_name(place)} were not measured."
        )
    by_place = errors.groupby(IDENTITY_COLUMNS, sort=False)
    scatter = _scatter(errors).rename("scatter")
    more = by_place.agg(n=("error", "size"), fits=("fit", " ".join)).join(scatter).reset_index()
    found = found.merge(more, on=IDENTITY_COLUMNS, sort=False).assign(recorded=lambda own: own["mean"])
    margin = np.exp(ERRORS * found["scatter"].fillna(0) / np.sqrt(found["n"]))
    found["catches"] = margin.clip(LEAST, MOST)
    return found[list(COLUMNS)]


def worse(rows: pd.DataFrame, gates: pd.DataFrame) -> tuple[str, ...]:
    """A sentence a gate that this run would raise by breaking it; one that nothing is measured for any more is none."""
    if gates.empty:
        return ()
    there = gates.merge(_summary(rows)[[*IDENTITY_COLUMNS, "metric"]], on=[*IDENTITY_COLUMNS, "metric"])
    if "fits" in there:
        there = there[_grown(rows, there).notna()].reset_index(drop=True)
    return judge(rows, there).broken


def changes(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """What recording `after` in place of `before` does to each gate: a sentence a change, those to the worse first."""
    both = before.merge(after, on=[*IDENTITY_COLUMNS, "metric"], how="outer", suffixes=("_before", ""), indicator=True)
    ratio = both["recorded"] / both["recorded_before"]
    both = both.assign(ratio=ratio).sort_values("ratio", ascending=False, kind="stable")
    moved = both[(both["_merge"] == "both") & ~np.isclose(both["ratio"].astype(float), 1, rtol=1e-4)]
    gone, new = both[both["_merge"] == "left_only"], both[both["_merge"] == "right_only"]
    return [
        *(
            f"{_name(row)}: {row['metric']} {number(row['recorded_before'])} -> {number(row['recorded'])}, "
            f"{number(row['ratio'])} times what was recorded."
            for row in moved.to_dict("records")
        ),
        *(
            f"{_name(row)}: its gate goes, {row['metric']} was {number(row['recorded_before'])}."
            for row in gone.to_dict("records")
        ),
        *([f"New: {counted(len(new), 'gate')}."] if len(new) else []),
    ]


def _scatter(errors: pd.DataFrame) -> pd.Series:
    """Standard deviation of the log errors of each place: within its instances or over all its fits, the smaller."""
    logs = errors.assign(log=np.log(errors["error"]))
    within = logs.groupby([*IDENTITY_COLUMNS, "instance"], sort=False)["log"].agg(["var", "count"])
    freedom = (within["count"] - 1).groupby(level=IDENTITY_COLUMNS, sort=False).sum()
    squares = (within["var"].fillna(0) * (within["count"] - 1)).groupby(level=IDENTITY_COLUMNS, sort=False).sum()
    over = logs.groupby(IDENTITY_COLUMNS, sort=False)["log"].std()
    return pd.Series((squares / freedom.where(freedom > 0)) ** 0.5).clip(upper=over).fillna(over)


def read(path: Path) -> pd.DataFrame:
    """Gates from a file of `write`, or of a version without `fits`, whose gate was `high`. Raises `ExperimentError`."""
    try:
        found = pd.read_csv(path, dtype={name: str for name in (*IDENTITY_COLUMNS, "fits") if name != "dim"})
        if lacking := {*COLUMNS} - {*found.columns, *({"catches", "fits"} if "high" in found else ())}:
            raise ValueError(f"it has no column {', '.join(sorted(lacking))}")
    except (OSError, ValueError) as error:
        raise ExperimentError(f"The gates {path} cannot be read: {error}. Write them with --record.") from None
    return found


def path_of(declared: Experiment, recording: bool = False) -> Path:
    """Where the gates of an experiment are: in the file that it names, or in NAME_gates.csv beside it.

    Of an experiment that comes with mongebench, whoever measures another project has gates of their own: NAME_gates.csv
    in the working directory, once they are recorded there.
    """
    beside = declared.base / (declared.gates or f"{declared.name}_gates.csv")
    own = Path(f"{declared.name}_gates.csv")
    packaged_there = any(declared.base == path.resolve().parent for path in packaged().values())
    if packaged_there and not declared.base.is_relative_to(repository() or Path.cwd()):
        return own if recording or own.exists() else beside
    return beside


def none() -> pd.DataFrame:
    """No gates yet."""
    return pd.DataFrame(columns=list(COLUMNS))


def write(gates: pd.DataFrame, path: Path) -> None:
    """Five digits: more would be noise, and a change in a review."""
    write_atomically(path, gates.to_csv(index=False, float_format="%.5g"))


def false_alarms(rows: pd.DataFrame, metric: str | None = None) -> tuple[int, int, int]:
    """The seeds of a run in two halves, `compare`d as two runs; both were made by the same code: each claim is false.

    Their draws differ, which compared runs of one plan share: this is the harder case. A place needs four seeds.

    Returns
    -------
    Differences claimed by intervals that hold together, those each place would claim alone, and places looked at.
    """
    rows = rows.assign(instance=rows.get("instance", 0))
    # Instances in pairs with themselves where they have two fits: what differs between them is no alarm.
    within = rows.groupby([*IDENTITY_COLUMNS, "instance"], sort=False)["seed"]
    twice = within.transform("size").groupby([rows[name] for name in IDENTITY_COLUMNS], sort=False).transform("min") > 1
    rows = rows.assign(block=rows["instance"].where(twice, 0))
    order = rows.groupby([*IDENTITY_COLUMNS, "block"], sort=False).cumcount()
    half = rows.groupby([*IDENTITY_COLUMNS, "block"], sort=False)["seed"].transform("size") // 2
    names = rows[[*IDENTITY_COLUMNS, "block"]].astype(str).agg("|".join, axis=1)
    paired = rows.assign(key=names + "|" + (order % half.clip(lower=1)).astype(str))
    enough = rows.groupby(IDENTITY_COLUMNS, sort=False)["seed"].transform("size") >= 4
    first, second = paired[enough & (order < half)], paired[enough & (order >= half) & (order < 2 * half)]
    if first.empty:
        return 0, 0, 0
    found = compare(first, second, metric)
    open_ = found[found["n_paired"].ge(2) & found["change"].isin([Change.BETTER, Change.WORSE, Change.UNCLEAR])]
    return int((open_["change"] != Change.UNCLEAR).sum()), int((open_["p"] < 1 - LEVEL).sum()), len(open_)


def _alarms(rows: pd.DataFrame, metric: str | None, name: str) -> str:
    together, alone, places = false_alarms(rows, metric)
    if not places:
        return ""
    share = 100 * (1 - LEVEL)
    return (
        f"False alarms of compare on {name}, half of the seeds against the other: {together} of {places} places (any "
        f"in {share:.0f} % of nights); each place alone would raise {alone}, {100 * alone / places:.1f} % "
        f"({share:.0f} % are due)."
    )


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The `aggregate` of the `chosen_metric` of each problem, lifted to its floor, without what nobody serves."""
    served = rows[rows["status"] != Status.UNSUPPORTED]
    parts = [
        aggregate(own, metric).assign(metric=metric)
        for _, own in served.groupby(["problem", "budget"], sort=False)
        for metric in [chosen_metric(own)]
    ]
    found = pd.concat(parts, ignore_index=True)
    return found.assign(mean=found["mean"].clip(lower=found["floor"]))


def _errors(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a measured cell: identity, `metric`, its `error` lifted to the floor, and `fit`, as gates name it."""
    rows = rows[rows["status"].isin(MEASURED)]
    parts = []
    for _, own in rows.groupby(["problem", "budget"], sort=False):
        metric = chosen_metric(own)
        least = own.get(f"{metric}_floor", pd.Series(np.nan, own.index)).fillna(0).clip(lower=np.finfo(float).tiny)
        parts.append(own.assign(metric=metric, error=own[metric].clip(lower=least)))
    found = pd.concat(parts, ignore_index=True) if parts else rows.assign(metric="", error=np.nan)
    found = found.assign(instance=found.get("instance", pd.Series(0, found.index)))
    cell = found["instance"].astype(str) + "/" + found["seed"].astype(str)
    found = found.assign(cell=cell, fit=cell + ":" + found["error"].map("{:.5g}".format))
    return found[[*IDENTITY_COLUMNS, "metric", "instance", "cell", "error", "fit"]]


def _grown(rows: pd.DataFrame, gates: pd.DataFrame) -> pd.Series:
    """The mean ratio of each gate's errors to those that were recorded; NaN where no fit of it was measured."""
    fits = gates["fits"].str.split(" ").explode().str.rsplit(":", n=1)
    recorded = gates.loc[fits.index, [*IDENTITY_COLUMNS, "metric"]].assign(
        gate=fits.index, cell=fits.str[0], recorded=fits.str[1].astype(float)
    )
    both = recorded.merge(_errors(rows), on=[*IDENTITY_COLUMNS, "metric", "cell"])
    both["ratio"] = both["error"] / both["recorded"]
    return both.groupby("gate")["ratio"].mean().reindex(gates.index)


def _broken(rows: pd.DataFrame, gates: pd.DataFrame) -> list[str]:
    found = gates.merge(_summary(rows), on=[*IDENTITY_COLUMNS, "metric"], how="left", suffixes=("_recorded", ""))
    found["grown"] = _grown(rows, gates).to_numpy() if "fits" in gates else np.nan
    said = []
    for row in found.to_dict("records"):
        if pd.isna(row["n_planned"]):
            said.append(f"{_name(row)} is planned no more, but has a gate; record the gates again.")
        elif row["n_ok"] == 0:
            said.append(f"{_name(row)} was not measured: {', '.join(row['failures'])}.")
        elif "fits" in row and pd.isna(row["grown"]):
            said.append(
                f"{_name(row)}: none of its fits has the instance and seed of its gate; record the gates again."
            )
        elif "fits" in row and not row["grown"] <= row["catches"]:
            said.append(
                f"{_name(row)}: {row['metric']} {number(row['grown'])} times what was recorded, above its gate "
                f"{number(row['catches'])} (mean over {row['n']} fits, each against its own; recorded mean "
                f"{number(row['recorded'])}, now {number(row['mean'])})."
            )
        elif "fits" not in row and not row["mean"] <= row["high"]:
            said.append(
                f"{_name(row)}: mean {row['metric']} {number(row['mean'])}, above its gate {number(row['high'])} "
                f"(recorded {number(row['recorded'])} over {row['n']} seeds)."
            )
    return said


def together(gates: pd.DataFrame, grown: pd.Series) -> pd.DataFrame:
    """One row per estimator of two places or more: `grown`, the geometric mean over `places`, and `catches`, its gate.

    A place's gate is `ERRORS` standard errors wide, so that the gates tell the noise of their mean.
    """
    logs = gates.assign(grown=np.log(grown), variance=(np.log(gates["catches"]) / ERRORS) ** 2).dropna(subset="grown")
    found = logs.groupby("estimator", sort=False).agg(
        grown=("grown", "mean"), variance=("variance", "sum"), places=("grown", "size")
    )
    found = found[found["places"] > 1]
    margin = TOGETHER * np.sqrt(found["variance"]) / found["places"]
    return found.assign(grown=np.exp(found["grown"]), catches=np.exp(margin)).drop(columns="variance")


def _broken_together(rows: pd.DataFrame, gates: pd.DataFrame) -> list[str]:
    if "fits" not in gates:
        return []
    found = together(gates, _grown(rows, gates)).reset_index()
    return [
        f"{row['estimator']} at its {row['places']} places together: errors {number(row['grown'])} times what was "
        f"recorded, above its gate {number(row['catches'])}."
        for row in found[found["grown"] > found["catches"]].to_dict("records")
    ]


def _name(place: Mapping[Any, Any] | pd.Series) -> str:
    return f"{place['estimator']} on {place['problem']}, d = {place['dim']}, {place['budget']}"
