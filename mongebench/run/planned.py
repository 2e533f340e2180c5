"""What is known of a cell before it runs: under which conditions, and what its record must be made with."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import Any

from mongebench.core.errors import PluginError
from mongebench.core.estimator import CPU_ALONE, MapEstimator
from mongebench.core.oracle import tier, within
from mongebench.core.problem import Problem, Split
from mongebench.plugins import DATASETS, ESTIMATORS, METRICS, available
from mongebench.run import sources
from mongebench.run.device import Device
from mongebench.run.record import Cell, Code, Manifest, PlannedCell

MEASURED_BY = "mongebench.run.measurement"
"""What makes a number of a cell; the digest follows it through `mongebench.run` and `mongebench.core`."""
DESCRIPTIVE = frozenset(
    f"mongebench.{name}"
    for name in (
        "core.address",
        "core.errors",
        "core.parameters",
        "core.syntax",
        "core.text",
        "run.planned",
        "run.provenance",
        "run.record",
        "run.sketch",
        "run.sources",
    )
)
"""Modules that write or describe what others measure: a change there changes no number."""
READING = frozenset(f"mongebench.core.{name}" for name in ("csvfields", "csvfile", "tablefile"))
"""Modules that read a problem's files: they count as code of the problems that import them."""
NOT_IMPORTABLE = "not importable"


@dataclass(frozen=True)
class Conditions:
    """What all cells of a run share.

    Attributes
    ----------
    evaluation_points
        Per side.
    threads
        Threads a child process may use; None in this process: whatever it uses.
    workers
        Children running beside each other.
    time_limit
        Seconds; None for none. An iterative fit is asked to stop at nine tenths of it, a child is killed at it.
    cpu_budget
        CPU seconds that a fit may take, compilation excluded; None for no limit. An iterative fit is asked to stop
        there.
    memory_limit
        Bytes; None for none. Only a child process can be held to it.
    seeds_together
        Most seeds of one cell that an estimator with `fit_together` fits in one call.
    exclusive
        No other cell of any run on this machine runs meanwhile.
    device
        Where estimators compute that can use a GPU; the others compute on the CPU.
    repeats
        Fits of each cell; the map of the first is measured, and the time of all.
    """

    evaluation_points: int = 10_000
    threads: int | None = None
    workers: int = 1
    time_limit: float | None = None
    cpu_budget: float | None = None
    memory_limit: int | None = None
    seeds_together: int = 1
    exclusive: bool = False
    device: Device = "cpu"
    repeats: int = 1


def planned(cell: Cell, problem: Problem | None, estimator: MapEstimator | None, conditions: Conditions) -> PlannedCell:
    """What is known of a cell before it runs; `problem` or `estimator` is None where it could not be imported."""
    facts = _facts(cell, problem, estimator)
    return PlannedCell(cell=cell, manifest=_manifest(cell, problem, estimator, conditions), **facts)


def with_what_is_here(known: PlannedCell, problem: Problem, estimator: MapEstimator) -> PlannedCell:
    """A planned cell with the code, libraries and data that this process has, which make its number.

    Where a file has changed since the cell was planned they are others, and its record counts for nothing.
    """
    found = dict(code(places(known.cell, estimator))) | {"problem_digest": problem.digest}
    return known.model_copy(update={"manifest": known.manifest.model_copy(update=found)})


def _manifest(cell: Cell, problem: Problem | None, estimator: MapEstimator | None, conditions: Conditions) -> Manifest:
    return Manifest(
        **dict(code(places(cell, estimator))),
        problem_digest=problem.digest if problem else NOT_IMPORTABLE,
        evaluation_points=conditions.evaluation_points,
        threads=conditions.threads or 0,
        time_limit=conditions.time_limit,
        cpu_budget=conditions.cpu_budget,
        memory_limit=conditions.memory_limit,
        exclusive=conditions.exclusive,
        device="cpu" if _framework(estimator) == CPU_ALONE else conditions.device,
        repeats=conditions.repeats,
    )


@dataclass(frozen=True)
class Places:
    """Where the code of a cell is, as `sources.files` takes it: dotted names of modules, or paths of plugin files.

    Attributes
    ----------
    estimator
        None where it cannot be imported; empty where no file holds it.
    problem
        Empty where it is registered nowhere.
    metrics
        Of all registered ones that can be imported, which are those that are computed.
    libraries
        Modules whose versions count, see `MapEstimator.versioned_libraries`.
    """

    estimator: str | None
    problem: str
    metrics: tuple[str, ...]
    libraries: tuple[str, ...] = ()


def places(cell: Cell, estimator: MapEstimator | None) -> Places:
    """Of a cell, as it would be run in this process; `estimator` is None where it could not be imported."""
    module, attribute = _registered(ESTIMATORS).get(cell.estimator.name, ("", ""))
    cls: type = type(estimator)
    own = None if estimator is None else module if attribute == cls.__name__ else _place_of(cls)
    return Places(
        estimator=own,
        problem=_registered(DATASETS).get(cell.problem.name, ("", ""))[0],
        metrics=_metrics(),
        libraries=tuple(estimator.versioned_libraries) if estimator else (),
    )


def here(there: Places) -> Places:
    """Where the code of another machine's cell is on this one, where no plugin file is registered."""
    files = {place for place in there.metrics if place.endswith(".py")}
    return replace(there, metrics=tuple(sorted(files.union(_metrics()))), libraries=tuple(there.libraries))


@functools.cache
def code(where: Places) -> Code:
    """Digests and versions of the code at some places, as it was when this process first read it."""
    return Code(
        estimator_source=NOT_IMPORTABLE
        if where.estimator is None
        else sources.digest([where.estimator] if where.estimator else [], _of_a_part),
        problem_source=sources.digest([where.problem] if where.problem else [], _of_a_part),
        metrics_source=sources.digest(["mongebench.metrics", *where.metrics], _of_metrics),
        measurement_source=sources.digest([MEASURED_BY], _of_measurement),
        versions=sources.libraries(where.estimator or "", where.libraries),
    )


def forget_code() -> None:
    """Have `code` read every file anew."""
    for cached in (code, _registered, _metrics, _place_of):
        cached.cache_clear()
    sources.forget()


def _of_metrics(module: str) -> bool:
    return module.startswith("mongebench.metrics")


def _of_measurement(module: str) -> bool:
    return module.startswith(("mongebench.core.", "mongebench.run.")) and module not in DESCRIPTIVE | READING


def _of_a_part(module: str) -> bool:
    """An estimator's or a problem's own: neither what measures all of them nor what is around a run."""
    return module.startswith(("mongebench.estimators.", "mongebench.datasets.")) or module in READING


# Asked once a cell, and slow: the metadata of every installed distribution are read.
@functools.cache
def _registered(group: str) -> dict[str, tuple[str, str]]:
    """Module and attribute of each name of a group."""
    return {name: (plugin.module, plugin.attribute) for name, plugin in available(group).items()}


@functools.cache
def _metrics() -> tuple[str, ...]:
    """Modules of the metrics that can be imported."""
    found = set()
    for plugin in available(METRICS).values():
        with contextlib.suppress(ImportError, PluginError):
            plugin.load()
            found.add(plugin.module)
    return tuple(sorted(found))


_place_of = functools.cache(sources.place_of)


def _facts(cell: Cell, problem: Problem | None, estimator: MapEstimator | None) -> dict[str, Any]:
    asked = cell.problem.parameters.get("dim")
    return {
        "tier": tier(within(estimator.needs, n_source=cell.n_source, n_target=cell.n_target))
        if estimator
        else "unknown",
        "anchor": estimator.anchor if estimator else False,
        "framework": _framework(estimator),
        "dim": problem.dim if problem else asked if isinstance(asked, int) else 0,
        "strong_convexity": problem.strong_convexity if problem else None,
        "truth_tier": str(problem.truth_tier) if problem else "unknown",
        "split": str(problem.split) if problem else str(Split.TEST),
    }


def _framework(estimator: MapEstimator | None) -> str:
    return estimator.device_framework if estimator else CPU_ALONE
