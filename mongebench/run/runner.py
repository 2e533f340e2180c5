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
from mongebench.core.errors import InvalidParameter, PluginError, UnknownName, one_of
from mongebench.core.estimator import MapEstimator
from mongebench.core.problem import Problem
from mongebench.run import device as devices
from mongebench.run import experiment as experiments
from mongebench.run.batch import Progress
from mongebench.run.cell import failed, refusal, status_of
from mongebench.run.child import Job
from mongebench.run.engine import Engine, LocalEngine
from mongebench.run.experiment import Experiment
from mongebench.run.planned import Conditions, planned
from mongebench.run.record import Cell, PlannedCell, Spec, Status
from mongebench.run.store import Invocation, Plan, RunDirectory

ENGINES = ("local", "dask")


@dataclass(frozen=True)
class Machinery:
    """Who runs the cells; no part of what is recorded.

    Attributes
    ----------
    engine
        "local" or "dask".
    scheduler
        Address of a dask scheduler; None for a cluster of this machine's own.
    workers
        Child processes beside each other; None for as many as the cores, or the GPUs, allow.
    """

    engine: str = "local"
    scheduler: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UnknownName(one_of(self.engine, ENGINES, "engine"))
        if self.scheduler is not None and self.engine != "dask":
            raise InvalidParameter("--scheduler is the address of a dask scheduler; give --engine dask with it.")
        if self.scheduler is not None and self.workers is not None:
            raise InvalidParameter("--workers starts workers here; those of --scheduler are as many as it has.")

    def options(self) -> list[str]:
        """As the command line takes them."""
        words = ["--engine", self.engine] if self.engine != "local" else []
        words += ["--scheduler", self.scheduler] if self.scheduler is not None else []
        return words + (["--workers", str(self.workers)] if self.workers is not None else [])


@dataclass
class Run:
    """One experiment (or a selection of its cells) in one directory.

    Attributes
    ----------
    invocation
        What was asked.
    directory
        Where records go.
    machinery
        Who runs it.
    """

    invocation: Invocation
    directory: RunDirectory
    machinery: Machinery = Machinery()

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment with the asked seeds and estimators.

        A plugin file's estimators join the grid unless the experiment names some of them; so does one that only
        `--only` names.
        """
        declared = experiments.read(self.invocation.experiment)
        if self.invocation.seeds is not None:
            declared.seeds = self.invocation.seeds
        added = [plugin for path in self.invocation.plugins for plugin in plugins.add_file(path)]
        from_files = [plugin.name for plugin in added if plugin.group == plugins.ESTIMATORS]
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
        threads, exclusive = self.experiment.threads, self.invocation.exclusive
        device = devices.chosen(self.invocation.device, elsewhere=self.machinery.scheduler is not None)
        room = len(devices.gpus()) if device == "gpu" else (os.cpu_count() or 1) // threads
        return Conditions(
            evaluation_points=self.experiment.evaluation_points,
            threads=threads,
            workers=1 if exclusive else self.machinery.workers or max(1, room),
            exclusive=exclusive,
            device=device,
            repeats=self.experiment.repeats,
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
            horizon=self.experiment.horizon,
        )

    def _planned(self, cell: Cell) -> PlannedCell:
        return planned(cell, self.problem(cell.problem), self.estimator(cell.estimator), self.conditions)

    @functools.cached_property
    def pending(self) -> list[PlannedCell]:
        """The cells still to run, as it was when first asked."""
        return self.directory.pending(self.plan.cells)

    def execute(self, on_progress: Progress = lambda cell, event: None) -> None:
        """Leave a record for every pending cell; raises what `Engine.run` raises."""
        self.directory.create()
        self.directory.write_plan(self.plan)
        to_run = []
        for waiting in self.pending:
            refusal = self._refusal(waiting.cell)
            if refusal is None:
                to_run.append(waiting)
            else:
                self.directory.write(failed(waiting, self.conditions, *refusal))
                on_progress(waiting.cell, "recorded")
        if to_run:
            self._engine(on_progress).run(to_run)

    def _engine(self, on_progress: Progress) -> Engine:
        job = self._job()
        if self.machinery.engine == "local":
            return LocalEngine(job, on_progress)
        from mongebench.run.dask_engine import DaskEngine

        return DaskEngine(job, on_progress, self.machinery.scheduler)

    def _job(self) -> Job:
        """What all batches share."""
        return Job(
            cells=[],
            run_directory=str(self.directory.path.resolve()),
            plugin_files=[str(Path(path).resolve()) for path in self.invocation.plugins],
            base=str(self.experiment.base),
            conditions=self.conditions,
        )

    @property
    def resume_command(self) -> str:
        """The shell command that goes on where this run stopped."""
        return self.invocation.command(None, "--out", str(self.directory.path), *self.machinery.options())

    def statuses(self) -> Counter[Status]:
        """How many records of the plan have which status."""
        return Counter(record.status for record in self.directory.records())

    def _refusal(self, cell: Cell) -> tuple[Status, str] | None:
        """Why a cell need not be tried, if so."""
        estimator = self._estimator(cell.estimator.name, json.dumps(cell.estimator.parameters))
        problem = self._problem(cell.problem.name, json.dumps(cell.problem.parameters))
        for found in (problem, estimator):
            if isinstance(found, Exception):
                return status_of(found)
        assert isinstance(problem, Problem)
        assert isinstance(estimator, MapEstimator)
        return refusal(cell, problem, estimator)

    def problem(self, spec: Spec) -> Problem | None:
        """The problem of a spec, built once; None where it, or a package that it imports, cannot be imported."""
        problem = self._problem(spec.name, json.dumps(spec.parameters))
        return None if isinstance(problem, Exception) else problem

    def estimator(self, spec: Spec) -> MapEstimator | None:
        """The estimator of a spec; None where it, or a package that it imports, cannot be imported."""
        estimator = self._estimator(spec.name, json.dumps(spec.parameters))
        return None if isinstance(estimator, Exception) else estimator

    # functools.cache on a method would keep every run alive; these are built once a run instead.
    @functools.cached_property
    def _problem(self) -> Callable[[str, str], Problem | Exception]:
        def build(name: str, parameters: str) -> Problem | Exception:
            try:
                return plugins.problem(name, base=self.experiment.base, **json.loads(parameters))
            except (ImportError, PluginError) as error:
                return error

        return functools.cache(build)

    @functools.cached_property
    def _estimator(self) -> Callable[[str, str], MapEstimator | Exception]:
        def build(name: str, parameters: str) -> MapEstimator | Exception:
            try:
                return plugins.estimator(name, **json.loads(parameters))
            except (ImportError, PluginError) as error:
                return error

        return functools.cache(build)
