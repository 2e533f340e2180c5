"""What a night says of a commit: was everything measured, is an error above its gate, does `compare` cry wolf.

A *gate* is the largest mean error that an estimator may show at a place: what a recorded run showed, and a margin for
its noise. Seeds are the same every night, so that the recorded value comes back up to rounding; the margin lets pass
what other seeds would show, and no more. Times have no gate: machines of a night differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from mongebench.core.errors import ExperimentError
from mongebench.report.compare import LEVEL, Change, compare
from mongebench.report.tables import IDENTITY_COLUMNS, aggregate, chosen_metric, number
from mongebench.run.record import Status
from mongebench.run.store import write_atomically

ERRORS, SHARE = 4.0, 0.1
"""Margin of a gate: so many standard errors of the recorded mean, or this share of it where that is more."""


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
    """

    measured: int
    planned: int
    broken: tuple[str, ...]
    gates: int
    alarms: tuple[str, ...]

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
            f"{self.gates - len(self.broken)} of {self.gates} accuracy gates hold.",
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
    return Judgement(
        measured=int(served["status"].isin([Status.OK, Status.AT_FLOOR]).sum()),
        planned=len(served),
        broken=tuple(_broken(rows, gates)),
        gates=len(gates),
        alarms=tuple(alarms),
    )


def record(rows: pd.DataFrame) -> pd.DataFrame:
    """Gates from a run: identity, `metric`, what it was (`recorded`, `standard_error`), `n` seeds, and `high`.

    Raises `ExperimentError` where a served cell was not measured: what failed can be no gate.
    """
    found = _summary(rows)
    lost = found[found["n_ok"] < found["n_planned"]]
    if len(lost):
        place = lost.iloc[0]
        raise ExperimentError(
            f"No gates from this run: {place['n_planned'] - place['n_ok']} of {place['n_planned']} cells of "
            f"{_name(place)} were not measured."
        )
    margin = (ERRORS * found["standard_error"].fillna(0)).clip(lower=SHARE * found["mean"])
    found = found.assign(recorded=found["mean"], n=found["n_ok"], high=found["mean"] + margin)
    return found[[*IDENTITY_COLUMNS, "metric", "recorded", "standard_error", "n", "high"]]


def read(path: Path) -> pd.DataFrame:
    """Gates from a file of `write`. Raises `ExperimentError`."""
    try:
        return pd.read_csv(path, dtype={name: str for name in IDENTITY_COLUMNS if name != "dim"})
    except (OSError, ValueError) as error:
        raise ExperimentError(f"The gates {path} cannot be read: {error}. Write them with --record.") from None


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
    place = rows.groupby(IDENTITY_COLUMNS, sort=False)["seed"]
    order, half = place.rank(method="first") - 1, place.transform("size") // 2
    names = rows[IDENTITY_COLUMNS].astype(str).agg("|".join, axis=1)
    paired = rows.assign(key=names + "|" + (order % half).astype(str))
    enough = half >= 2
    first, second = paired[enough & (order < half)], paired[enough & (order >= half) & (order < 2 * half)]
    if first.empty:
        return 0, 0, 0
    found = compare(first, second, metric)
    open_ = found[found["n_paired"].ge(2) & found["change"].isin([Change.BETTER, Change.WORSE, Change.UNCLEAR])]
    quantile = stats.t.ppf((1 + LEVEL) / 2, open_["n_paired"].astype(float) - 1)
    alone = open_["difference"].abs() > quantile * open_["standard_error"]
    return int((open_["change"] != Change.UNCLEAR).sum()), int(alone.sum()), len(open_)


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


def _broken(rows: pd.DataFrame, gates: pd.DataFrame) -> list[str]:
    found = gates.merge(_summary(rows), on=[*IDENTITY_COLUMNS, "metric"], how="left", suffixes=("_recorded", ""))
    said = []
    for row in found.to_dict("records"):
        if pd.isna(row["n_planned"]):
            said.append(f"{_name(row)} is planned no more, but has a gate; record the gates again.")
        elif row["n_ok"] == 0:
            said.append(f"{_name(row)} was not measured: {', '.join(row['failures'])}.")
        elif not row["mean"] <= row["high"]:
            said.append(
                f"{_name(row)}: mean {row['metric']} {number(row['mean'])}, above its gate {number(row['high'])} "
                f"(recorded {number(row['recorded'])} over {row['n']} seeds)."
            )
    return said


def _name(place: Mapping[Any, Any] | pd.Series) -> str:
    return f"{place['estimator']} on {place['problem']}, d = {place['dim']}, {place['budget']}"
