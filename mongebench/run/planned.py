"""What is known of a cell before it runs: under which conditions, and what its record must be made with."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mongebench.core.estimator import MapEstimator
from mongebench.core.oracle import tier
from mongebench.core.problem import Problem, Split
from mongebench.plugins import METRICS, plugin_files
from mongebench.run.device import CPU_ALONE, Device, framework
from mongebench.run.record import Cell, Manifest, PlannedCell


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
    return PlannedCell(cell=cell, manifest=_manifest(problem, estimator, conditions), **facts)


def _manifest(problem: Problem | None, estimator: MapEstimator | None, conditions: Conditions) -> Manifest:
    return Manifest(
        problem_digest=problem.digest if problem else "not importable",
        estimator_source=_source_digest(type(estimator)) if estimator else "not importable",
        evaluation_points=conditions.evaluation_points,
        threads=conditions.threads or 0,
        time_limit=conditions.time_limit,
        cpu_budget=conditions.cpu_budget,
        memory_limit=conditions.memory_limit,
        exclusive=conditions.exclusive,
        device="cpu" if _framework(estimator) == CPU_ALONE else conditions.device,
        repeats=conditions.repeats,
        metrics_source=_digest(tuple(files)) if (files := plugin_files(METRICS)) else "",
    )


def _facts(cell: Cell, problem: Problem | None, estimator: MapEstimator | None) -> dict[str, Any]:
    asked = cell.problem.parameters.get("dim")
    return {
        "tier": tier(estimator.needs) if estimator else "unknown",
        "anchor": estimator.anchor if estimator else False,
        "framework": _framework(estimator),
        "dim": problem.dim if problem else asked if isinstance(asked, int) else 0,
        "strong_convexity": problem.strong_convexity if problem else None,
        "truth_tier": str(problem.truth_tier) if problem else "unknown",
        "split": str(problem.split) if problem else str(Split.TEST),
    }


def _framework(estimator: MapEstimator | None) -> str:
    return framework(estimator.modules if estimator else ())


@functools.cache
def _source_digest(cls: type[MapEstimator]) -> str:
    return _digest(tuple(source_files(cls)))


@functools.cache
def _digest(files: tuple[Path, ...]) -> str:
    content = hashlib.sha256()
    for path in files:
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def source_files(cls: type[MapEstimator]) -> list[Path]:
    """The files an estimator is made of: its module's, and those of its own package that it uses, directly or not.

    A class typed at a prompt has none.
    """
    name = cls.__module__
    package = "mongebench.estimators." if name.startswith("mongebench.") else name.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in found or not name.startswith(package) or getattr(module, "__file__", None) is None:
            continue
        found[name] = Path(str(getattr(module, "__file__", "")))
        waiting += [
            value.__name__ if inspect.ismodule(value) else str(getattr(value, "__module__", ""))
            for value in vars(module).values()
        ]
    return [found[name] for name in sorted(found)]
