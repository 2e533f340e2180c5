"""Records -> tidy frame -> aggregates: what the terminal, the figures and the report read.

No aggregate is without n_ok/n_planned; means are over the seeds that were measured, the failures stand beside them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mongebench.run.record import Cell, Record, Spec, Status, budget
from mongebench.run.store import RunDirectory

ANCHOR_ORDER = ("truth", "identity", "mean_shift", "bures")
TIME_COLUMNS = ("fit_seconds", "fit_cpu_seconds", "compile_seconds", "wall_seconds")
IDENTITY_COLUMNS = ["problem", "dim", "budget", "estimator"]


def labels(specs: Iterable[Spec], ignore: Sequence[str] = ()) -> dict[str, str]:
    """Shortest label of each spec (by its full label) that tells it from the others of its name."""
    by_name: dict[str, list[Spec]] = defaultdict(list)
    for spec in {spec.label: spec for spec in specs}.values():
        by_name[spec.name].append(spec)
    short = {}
    for name, group in by_name.items():
        varying = [
            key
            for key in group[0].parameters
            if key not in ignore and len({repr(spec.parameters.get(key)) for spec in group}) > 1
        ]
        for spec in group:
            inside = ", ".join(f"{key}={spec.parameters.get(key)}" for key in varying)
            short[spec.label] = f"{name}({inside})" if inside else name
    return short


def labels_by_problem(cells: Iterable[Cell], ignore: Sequence[str] = ()) -> dict[str, str]:
    """Shortest label of each cell's estimator (by the cell's key) that tells it from the others on the same problem."""
    by_problem: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_problem[cell.problem.label].append(cell)
    short: dict[str, str] = {}
    for group in by_problem.values():
        names = labels((cell.estimator for cell in group), ignore)
        short |= {cell.key: names[cell.estimator.label] for cell in group}
    return short


def frame(directory: RunDirectory) -> pd.DataFrame:
    """One row a planned cell: identity, status, times, and `<metric>`, `<metric>_se`, `<metric>_floor` columns.

    Cells without a record have status "missing".
    """
    plan = directory.plan()
    cells = [planned.cell for planned in plan.cells]
    estimators = labels_by_problem(cells)
    problems = labels((cell.problem for cell in cells), ignore=("dim",))
    rows = []
    for planned in plan.cells:
        cell, record = planned.cell, directory.read(planned.cell)
        rows.append(
            {
                "estimator": estimators[cell.key],
                "estimator_name": cell.estimator.name,
                "problem": problems[cell.problem.label],
                "problem_name": cell.problem.name,
                "dim": planned.dim,
                "tier": planned.tier,
                "anchor": planned.anchor,
                "n_source": np.inf if cell.n_source is None else cell.n_source,
                "budget": f"n = {budget(cell.n_source)} / {budget(cell.n_target)}",
                "seed": cell.seed,
                "status": "missing",
                "reason": "",
                **(_measured(record) if record else {}),
            }
        )
    return pd.DataFrame(rows)


def _measured(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": str(record.status),
        "reason": record.reason,
        "device": record.provenance.device,
        "threads": record.provenance.threads,
        "workers": record.provenance.workers,
    }
    if record.times is not None:
        row |= {"fit_seconds": record.times.fit, "fit_cpu_seconds": record.times.fit_cpu}
        row |= {"compile_seconds": record.times.compile, "wall_seconds": record.times.wall}
    if record.status.measured:
        for name, value in record.metrics.items():
            row |= {name: value.value, f"{name}_se": value.standard_error, f"{name}_floor": value.floor}
    return row


def aggregate(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over seeds of a metric (or of a time column), one row per problem x dim x budget x estimator.

    Columns: `mean`, `standard_error`, `floor`, `n_ok`, `n_planned`, `failures` (status -> count), `tier`, `anchor`.
    All seeds share their evaluation points, so that their spread shows the fits' variance alone: the standard error
    adds that of the evaluation. With one seed it is the latter, and of a time the former.
    """

    def summary(group: pd.DataFrame) -> pd.Series:
        values = group[metric].dropna() if metric in group else pd.Series(dtype=float)
        count = len(values)
        of_fits = values.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
        of_points = group.loc[values.index, f"{metric}_se"].mean() if f"{metric}_se" in group else np.nan
        known = [error for error in (of_fits, of_points) if not np.isnan(error)]
        failures = Counter(status for status in group["status"] if status not in (Status.OK, Status.AT_FLOOR))
        return pd.Series(
            {
                "mean": values.mean() if count else np.nan,
                "standard_error": float(np.linalg.norm(known)) if known else np.nan,
                "floor": group[f"{metric}_floor"].max() if f"{metric}_floor" in group else np.nan,
                "n_ok": count,
                "n_planned": len(group),
                "failures": dict(failures),
                "tier": group["tier"].iloc[0],
                "anchor": bool(group["anchor"].iloc[0]),
            }
        )

    grouped = rows.groupby(IDENTITY_COLUMNS, sort=False, dropna=False)
    return pd.DataFrame([{**dict(zip(IDENTITY_COLUMNS, key, strict=True)), **summary(group)} for key, group in grouped])


def cost_exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Slope of log fit seconds against log n_source, per estimator x problem x dim, with a 95 % interval.

    Least squares over all measured seeds (Student's t with the residual degrees of freedom); at least three sizes.
    """
    found = []
    measured = rows[rows["status"].isin([Status.OK, Status.AT_FLOOR]) & np.isfinite(rows["n_source"])]
    for key, group in measured.groupby(["estimator", "problem", "dim"], sort=False):
        sizes = np.sort(group["n_source"].unique())
        if len(sizes) < 3:
            continue
        line = stats.linregress(np.log(group["n_source"].astype(float)), np.log(group["fit_seconds"]))
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
                "largest_fit_seconds": group.loc[group["n_source"] == sizes[-1], "fit_seconds"].median(),
                "n_ok": len(group),
                "n_planned": len(planned),
            }
        )
    return pd.DataFrame(found)


def row_order(estimators: Iterable[str]) -> list[str]:
    """Anchors first, in a fixed order, then the rest by name."""
    names = sorted(set(estimators))
    return [name for name in ANCHOR_ORDER if name in names] + [name for name in names if name not in ANCHOR_ORDER]
