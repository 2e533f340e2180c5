"""A run as a tidy frame: one row per planned cell, which tables, figures, exports and reports are made of."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mongebench.core.problem import INSTANCE
from mongebench.core.text import bounded, on_one_line
from mongebench.plugins import SHOWN
from mongebench.run.record import Cell, Record, Spec, State, budget

if TYPE_CHECKING:
    from mongebench.run.reading import Run

FIT_COLUMNS = ("fit_seconds", "gpu_fit_seconds")
"""Wall time of a fit: on the CPU, and on a GPU. No cell has both, so that neither stands under the other's name."""
TRANSFORM_COLUMN = "transform_seconds"
"""Wall time of the map at 1000 points: work that `fit` puts off stands there."""
TIME_COLUMNS = (
    *FIT_COLUMNS,
    "fit_iqr_seconds",
    "fit_cpu_seconds",
    "late_cpu_seconds",
    "compile_seconds",
    TRANSFORM_COLUMN,
    "wall_seconds",
)
CLOCK = ("processor", "device", "threads", "workers", "exclusive")
"""Columns that must be equal everywhere for times of several runs to stand in one table."""
SAID = 300
"""Characters of a reason that a sentence quotes."""


def frame(run: Run) -> pd.DataFrame:
    """See `Run.frame`."""
    cells = [planned.cell for planned in run.plan.cells]
    estimators = labels_by_problem(cells)
    problems = labels((cell.problem for cell in cells), ignore=("dim", INSTANCE))
    rows = []
    for planned, (key, found) in zip(run.plan.cells, run.found.items(), strict=True):
        cell = planned.cell
        rows.append(
            {
                "estimator": estimators[key],
                "estimator_name": cell.estimator.name,
                "problem": problems[cell.problem.label],
                "problem_name": cell.problem.name,
                "dim": planned.dim,
                "tier": planned.tier,
                "anchor": planned.anchor,
                "truth_tier": planned.truth_tier,
                "setting": planned.setting,
                "standing": run.standing(cell),
                "split": planned.split,
                "strong_convexity": np.nan if planned.strong_convexity is None else planned.strong_convexity,
                "n_source": np.inf if cell.n_source is None else cell.n_source,
                "n_target": np.inf if cell.n_target is None else cell.n_target,
                "budget": f"n = {budget(cell.n_source)} / {budget(cell.n_target)}",
                "instance": cell.problem.parameters.get(INSTANCE, 0),
                "seed": cell.seed,
                "status": str(found.status),
                "reason": "" if found.status is State.MISSING else found.reason,
                "key": key,
                "estimator_parameters": json.dumps(cell.estimator.parameters),
                "problem_parameters": json.dumps(cell.problem.parameters),
                **dict.fromkeys(TIME_COLUMNS, np.nan),
                **(_measured(found.record) if found.record else {}),
            }
        )
    table = pd.DataFrame(rows)
    if len(run.plans) > 1 and clocks(table):
        table[list(TIME_COLUMNS)] = np.nan
    return table


def clocks(rows: pd.DataFrame) -> list[str]:
    """In which of `CLOCK` these rows differ, with the values; times of such rows are not comparable."""
    values = {name: rows[name].dropna().drop_duplicates().tolist() for name in CLOCK if name in rows}
    return [f"{name} {' and '.join(map(str, seen))}" for name, seen in values.items() if len(seen) > 1]


def _measured(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": str(record.status),
        "reason": record.reason,
        "device": record.provenance.device,
        "processor": record.provenance.processor,
        "threads": record.provenance.threads,
        "workers": record.provenance.workers,
        "exclusive": record.provenance.exclusive,
        "commit": record.provenance.commit,
        "problem_digest": record.manifest.problem_digest,
        "evaluation_points": record.manifest.evaluation_points,
        "cpu_budget": record.manifest.cpu_budget,
        "oracle_calls": sum(record.oracle_counts.values()),
    }
    if record.times is not None:
        on_cpu = record.provenance.device == "cpu"
        row |= {"fit_seconds" if on_cpu else "gpu_fit_seconds": record.times.fit_median}
        row |= {} if record.times.fit_iqr is None else {"fit_iqr_seconds": record.times.fit_iqr}
        row |= {"fit_cpu_seconds": record.times.fit_cpu, "compile_seconds": record.times.compile}
        row |= {"late_cpu_seconds": record.times.late_cpu, "wall_seconds": record.times.wall}
        if record.status.measured:
            points = record.times.transform_points or record.manifest.evaluation_points
            row |= {
                TRANSFORM_COLUMN: 1000 * record.times.transform / points,
                "remarks": "; ".join(record.times.remarks),
            }
    if record.status.measured:
        for name, value in record.metrics.items():
            row |= {name: value.value, f"{name}_se": value.standard_error, f"{name}_floor": value.floor}
    return row


def labels(specs: Iterable[Spec], ignore: Sequence[str] = ()) -> dict[str, str]:
    """Shortest label of each spec (by its full label) that tells it from the others of its name.

    It has the fewest parameters that do, the first ones where as few others would: two rows that differ in their
    family, and in a learning rate that suits it, are told apart by the family.
    """
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
        telling = _fewest(varying, group)
        for spec in group:
            inside = ", ".join(f"{key}={spec.parameters.get(key)}" for key in telling)
            shown = SHOWN.get(name, name)
            short[spec.label] = f"{shown}({inside})" if inside else shown
    return short


def _fewest(varying: list[str], group: list[Spec]) -> Sequence[str]:
    """The fewest of the varying parameters by which as many of a group differ as by all of them."""

    def distinct(keys: Sequence[str]) -> int:
        return len({tuple(repr(spec.parameters.get(key)) for key in keys) for spec in group})

    subsets = (keys for size in range(len(varying)) for keys in itertools.combinations(varying, size))
    return next((keys for keys in subsets if distinct(keys) == distinct(varying)), varying)


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


def notes(rows: pd.DataFrame) -> list[str]:
    """A sentence on records that are there and do not count, for each state that some are in."""
    said = []
    for state in (State.STALE, State.UNREADABLE):
        own = rows[rows["status"] == state]
        if len(own):
            reason = on_one_line(bounded(own["reason"].mode().iloc[0], SAID))
            many = "records are" if len(own) > 1 else "record is"
            said.append(
                f"{len(own)} {many} {state}: they count as missing, run again to replace them. Most often: {reason}."
            )
    return said
