"""Records -> asv: result files that `asv publish` and `asv compare` read, written without running anything.

    RESULTS/benchmarks.json                                what is tracked, beside what `asv run` tracks
    RESULTS/MACHINE/machine.json
    RESULTS/MACHINE/<commit>-<experiment>-py<version>.json  one per run

asv holds lower to be better, compares by ratio and does not report a value that became none. Hence every value here is
positive and falls: an error not below its floor, a rate as the factor that is left. What was not measured is NaN, and
`track_failed` counts it. The format is asv 0.6's (version 2), which is not a public interface.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mongebench.report.rates import flows
from mongebench.report.rates.inequalities import MAP
from mongebench.report.tables import results
from mongebench.run.frame import FIT_COLUMNS
from mongebench.run.reading import Run
from mongebench.run.record import MEASURED, Provenance, Status
from mongebench.run.store import RunError, write_atomically

ERRORS = {"l2_error": "length^2", "uvp": "%", "energy_distance": "length"}
VERSION = "1"
"""Of what the values mean: asv compares only values of one version."""


@dataclass(frozen=True)
class Tracked:
    """One asv benchmark: a number at each point of a small grid, NaN where there is none.

    Attributes
    ----------
    name, unit, axes
        What it is, in what, against what.
    points
        The values of each axis, as text.
    values
        In row-major order of `points`.
    """

    name: str
    unit: str
    axes: tuple[str, ...]
    points: tuple[tuple[str, ...], ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, name: str, unit: str, found: pd.Series) -> Tracked:
        """A series over a MultiIndex of the axes."""
        names = [str(name) for name in found.index.names]
        axes = [list(dict.fromkeys(found.index.get_level_values(name))) for name in names]
        grid = found.reindex(pd.MultiIndex.from_product(axes, names=names))
        points = tuple(tuple(_point(value) for value in axis) for axis in axes)
        return cls(name, unit, tuple(names), points, tuple(grid.astype(float)))

    def description(self) -> dict[str, Any]:
        """The entry of benchmarks.json."""
        kind = "time" if self.name.rpartition(".")[2].startswith("time_") else "track"
        return {
            "code": f"{self.name}, from the records of mongebench run",
            "name": self.name,
            "pretty_name": self.name,
            "param_names": list(self.axes),
            "params": [list(axis) for axis in self.points],
            "setup_cache_key": None,
            "timeout": 60,
            "type": kind,
            "unit": self.unit,
            "version": VERSION,
        }


def tracked(run: Run) -> list[Tracked]:
    """What asv is told of a run: for each problem, its errors, failures, times and rates."""
    rows = run.frame()
    measured = rows["status"].isin(MEASURED)
    for column in FIT_COLUMNS:
        rows[column] = rows.get(column, pd.Series(np.nan, rows.index)).where(measured)
    try:
        verdicts = flows.frame(run)
        verdicts = verdicts[verdicts["inequality"] == MAP.name]
    except RunError:  # no estimator here follows a flow
        verdicts = pd.DataFrame(columns=["problem", "dim", "estimator", "rate"])
    experiment = _slug(Path(run.plan.invocation.experiment).stem)
    found = []
    for problem, own in rows.groupby("problem", sort=False):
        followed = verdicts[verdicts["problem"] == problem]
        found += [
            Tracked.of(f"{experiment}.{_slug(str(problem))}.{name}", unit, values)
            for name, unit, values in _values(own, followed)
            if values.notna().any()
        ]
    return found


def _values(own: pd.DataFrame, flows: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series]]:
    """(name, unit, values) of one problem."""
    place = ["dim", "budget", "estimator"]
    for metric, unit in ERRORS.items():
        summary = results.aggregate(own, metric).set_index(place)
        yield f"track_{metric}", f"{metric.replace('_', ' ')} [{unit}]", summary["mean"].clip(lower=summary["floor"])
    for name, column in zip(("time_fit", "time_gpu_fit"), FIT_COLUMNS, strict=True):
        yield name, "seconds", results.aggregate(own, column).set_index(place)["mean"]
    served = own[own["status"] != Status.UNSUPPORTED]
    failed = ~served["status"].isin(MEASURED)
    yield "track_failed", "failed cells", failed.groupby([served[axis] for axis in place], sort=False).sum()
    place = ["dim", "estimator"]
    falling = results.exponents(own, "uvp")
    if len(falling):
        yield (
            "track_uvp_factor_per_doubling",
            "factor of uvp per doubling of n",
            2 ** falling.set_index(place)["exponent"],
        )
    if "rate" in flows:
        remaining = flows.assign(factor=np.exp(-flows["rate"].astype(float))).groupby(place, sort=False)["factor"]
        yield "track_flow_factor", "factor of |T_t - T*|^2 per flow time", remaining.mean()


def write(run: Run, results: Path, *, repository: Path, commit: str | None = None, machine: str | None = None) -> Path:
    """Write the asv result file of one run, and what asv must know of it; the file.

    Parameters
    ----------
    run
        What was measured.
    results
        asv's `results_dir`.
    repository
        A checkout that knows the commit.
    commit
        What the run measured; by default, that of the repository it was asked in, or the one its records name.
    machine
        By default a name made of the processor: no host's.

    Raises
    ------
    RunError
        Where the run has no record, or its commit is not known.
    """
    made = [record.provenance for record in run.records]
    if not made:
        raise RunError(f"{run.path} has no record yet; run its experiment first.")
    full, seconds = known_commit(commit or run.plan.commit or _only_commit(made, run), repository)
    where = _machine(made[0], machine)
    python = ".".join(made[0].python.split(".")[:2])
    benchmarks = tracked(run)
    experiment = _slug(Path(run.plan.invocation.experiment).stem)
    folder = results / where["machine"]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "machine.json", where | {"version": 1})
    known = results / "benchmarks.json"
    earlier = _known(known) if known.is_file() else {}
    _write(known, {**earlier, **{one.name: one.description() for one in benchmarks}, "version": 2})
    path = folder / f"{full[:8]}-{experiment}-py{python}.json"
    _write(
        path,
        {
            "commit_hash": full,
            "env_name": f"{experiment}-py{python}",
            "date": 1000 * seconds,
            "params": where | {"python": python},
            "python": python,
            "requirements": {},
            "env_vars": {},
            "result_columns": ["result", "params", "version", "started_at", "duration"],
            "results": {
                one.name: [list(one.values), [list(axis) for axis in one.points], VERSION, 1000 * seconds, 0.0]
                for one in benchmarks
            },
            "durations": {},
            "version": 2,
        },
    )
    return path


def _only_commit(made: Sequence[Provenance], run: Run) -> str:
    commits = sorted({one.commit or "none" for one in made})
    if len(commits) > 1 or commits == ["none"]:
        named = "no commit" if commits == ["none"] else "several commits: " + ", ".join(name[:8] for name in commits)
        raise RunError(f"The records of {run.path} name {named}; say with --commit what they measured.")
    return commits[0]


def known_commit(commit: str, repository: Path) -> tuple[str, int]:
    """(full hash, seconds since 1970) of a commit. Raises `RunError` where the repository has none of that name."""
    command = ["git", "-C", str(repository), "show", "--no-patch", "--format=%H %ct", f"{commit}^{{commit}}", "--"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        raise RunError(
            f"git knows no commit {commit!r} in {repository.resolve()}; say with --commit what was measured, and with "
            "--config in which repository."
        ) from None
    full, seconds = done.stdout.split()
    return full, int(seconds)


def _machine(made: Provenance, name: str | None) -> dict[str, str]:
    return {
        "machine": _slug(name or f"{made.platform} {made.processor} {made.cores} cores"),
        "os": made.platform.partition(" ")[0],
        "arch": made.platform.partition(" ")[2],
        "cpu": made.processor,
        "num_cpu": str(made.cores),
        "ram": "",
    }


def _known(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not JSON ({error}); delete it, and import again.") from None
    return known


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1, sort_keys=True))


def _slug(text: str) -> str:
    """A name that asv's pages and file systems take as it is; a dot would begin another group."""
    return re.sub(r"[^\w=-]+", "_", text).strip("_")[:100] or "unnamed"


def _point(value: object) -> str:
    """A value of an axis, as asv writes it. Its pages show parameters as text in most places, not in all."""
    return str(value) if isinstance(value, int) else repr(re.sub(r"[<>&\"'`\\]", "_", str(value)))
