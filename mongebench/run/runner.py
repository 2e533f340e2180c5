"""A run from plan to records: what is planned, what is still missing, and the engine that fills it in."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mongebench import plugins
from mongebench.core.errors import PluginError
from mongebench.core.estimator import MapEstimator
from mongebench.core.problem import Problem
from mongebench.run import experiment as experiments
from mongebench.run.cell import Conditions, facts, failed, manifest, refusal, status_of
from mongebench.run.engine import LocalEngine
from mongebench.run.experiment import Experiment
from mongebench.run.record import Cell, Spec, Status
from mongebench.run.store import Invocation, Plan, PlannedCell, RunDirectory


@dataclass
class Run:
    """One experiment (or a selection of its cells) in one directory.

    Attributes
    ----------
    invocation
        What was asked.
    directory
        Where records go.
    workers
        Child processes beside each other; None for as many as the cores allow.
    """

    invocation: Invocation
    directory: RunDirectory
    workers: int | None = None

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment with the asked seeds and estimators.

        A plugin file's estimators join the grid unless the experiment names some of them; so does one that only
        `--only` names.
        """
        declared = experiments.read(self.invocation.experiment)
        if self.invocation.seeds is not None:
            declared.seeds = self.invocation.seeds
        from_files = [plugin.name for path in self.invocation.plugins for plugin in plugins.add_file(path)]
        joining = [] if declared.named() & set(from_files) else from_files
        only = self.invocation.only
        if only in plugins.estimators():
            joining = [*joining, only]
        declared.estimators += [{"name": name} for name in joining if name not in declared.named()]
        return declared

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """The asked part of the grid."""
        return experiments.select(self.experiment.cells(), self.invocation.only)

    @functools.cached_property
    def conditions(self) -> Conditions:
        """What all cells share."""
        cores = os.cpu_count() or 1
        return Conditions(
            evaluation_points=self.experiment.evaluation_points,
            threads=self.experiment.threads,
            workers=self.workers or max(1, cores // self.experiment.threads),
            time_limit=self.experiment.time_limit,
            memory_limit=self.experiment.memory_limit,
            seeds_together=self.experiment.seeds_together,
        )

    @functools.cached_property
    def plan(self) -> Plan:
        """Every cell with what its record must have been made with. Raises what building a problem raises."""
        return Plan(
            invocation=self.invocation,
            cells=[self._planned(cell) for cell in self.cells],
        )

    def _planned(self, cell: Cell) -> PlannedCell:
        problem, estimator = self.problem(cell.problem), self.estimator(cell.estimator)
        return PlannedCell(
            cell=cell, manifest=manifest(problem, estimator, self.conditions), **facts(problem, estimator)
        )

    def pending(self) -> list[Cell]:
        """The cells still to run."""
        return [planned.cell for planned in self.directory.pending(self.plan.cells)]

    def execute(self, on_progress: Callable[[Cell, str], None] = lambda cell, event: None) -> None:
        """Leave a record for every pending cell. `on_progress` is called from the workers' threads."""
        self.directory.create()
        self.directory.write_plan(self.plan)
        to_run = []
        for cell in self.pending():
            refusal = self._refusal(cell)
            if refusal is None:
                to_run.append(cell)
            else:
                self._record_failure(cell, *refusal)
                on_progress(cell, "recorded")
        engine = LocalEngine(
            directory=self.directory,
            conditions=self.conditions,
            plugin_files=[str(Path(path).resolve()) for path in self.invocation.plugins],
            base=self.experiment.base,
            on_progress=on_progress,
            on_failure=self._record_failure,
        )
        engine.run(to_run)

    def statuses(self) -> Counter[Status]:
        """How many records of the plan have which status."""
        return Counter(record.status for record in self.directory.records())

    def _refusal(self, cell: Cell) -> tuple[Status, str] | None:
        """Why a cell need not be tried, if so."""
        estimator = self._estimator(cell.estimator.name, json.dumps(cell.estimator.parameters))
        if isinstance(estimator, Exception):
            return status_of(estimator)
        return refusal(cell, self.problem(cell.problem), estimator)

    def _record_failure(self, cell: Cell, status: Status, reason: str) -> None:
        problem, estimator = self.problem(cell.problem), self.estimator(cell.estimator)
        self.directory.write(failed(cell, problem, estimator, self.conditions, status, reason))

    def problem(self, spec: Spec) -> Problem:
        """The problem of a spec, built once."""
        return self._problem(spec.name, json.dumps(spec.parameters))

    def estimator(self, spec: Spec) -> MapEstimator | None:
        """The estimator of a spec; None where it, or a package that it imports, cannot be imported."""
        estimator = self._estimator(spec.name, json.dumps(spec.parameters))
        return None if isinstance(estimator, Exception) else estimator

    # functools.cache on a method would keep every run alive; these are built once a run instead.
    @functools.cached_property
    def _problem(self) -> Callable[[str, str], Problem]:
        def build(name: str, parameters: str) -> Problem:
            return plugins.problem(name, base=self.experiment.base, **json.loads(parameters))

        return functools.cache(build)

    @functools.cached_property
    def _estimator(self) -> Callable[[str, str], MapEstimator | Exception]:
        def build(name: str, parameters: str) -> MapEstimator | Exception:
            try:
                return plugins.estimator(name, **json.loads(parameters))
            except (ImportError, PluginError) as error:
                return error

        return functools.cache(build)
