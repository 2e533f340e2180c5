"""How long a plan will take: from records of the same cells with any seed, in its directory and in those beside it."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mongebench.run.record import PlannedCell, Record, Status
from mongebench.run.store import RunDirectory, RunError


@dataclass(frozen=True)
class Forecast:
    """Seconds that one cell will take, the median of what `records` earlier ones took."""

    seconds: float
    records: int


def forecast(pending: Sequence[PlannedCell], directory: RunDirectory) -> dict[str, Forecast]:
    """What is known of the time of cells of a run, by their keys; those that nothing is known of are left out.

    A record counts for a cell of the same estimator, problem and budget on the same kind of device; where it stands for
    a cell that was killed at its time limit, that limit counts.
    """
    known: defaultdict[str, list[Record]] = defaultdict(list)
    for record in _records({_but_for_the_seed(planned) for planned in pending}, directory):
        known[_but_for_the_seed(record)].append(record)
    found = {}
    for planned in pending:
        every = [_seconds(record, planned.manifest.repeats) for record in known[_but_for_the_seed(planned)]]
        if seconds := [value for value in every if value is not None]:
            found[planned.cell.key] = Forecast(statistics.median(seconds), len(seconds))
    return found


def spoken(seconds: float) -> str:
    """A duration as people say it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


def _records(wanted: set[str], directory: RunDirectory) -> Iterator[Record]:
    for plan in sorted(directory.path.resolve().parent.glob("*/plan.json")):
        beside = RunDirectory(plan.parent)
        with contextlib.suppress(RunError):  # whatever else lies there
            for planned in beside.plan().cells:
                if _but_for_the_seed(planned) in wanted and (record := beside.find_any(planned.cell).record):
                    yield record


def _but_for_the_seed(planned: PlannedCell) -> str:
    return f"{planned.cell.model_copy(update={'seed': 0}).key} on {planned.manifest.device}"


def _seconds(record: Record, repeats: int) -> float | None:
    """What a cell took, had it been fitted so often; None where that is not known."""
    if record.times is not None:
        return record.times.wall + (repeats - 1) * record.times.fit_median
    if record.status is Status.TIMEOUT and record.manifest.time_limit is not None:
        return record.manifest.time_limit * repeats
    return 0.0 if record.status in (Status.UNSUPPORTED, Status.MISSING_DEPENDENCY) else None
