"""A run from plan to records: what is planned, what is still missing, and the engine that fills it in."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mongebench import plugins
from mongebench.core.errors import ExperimentError, HarmfulPlugin, InvalidParameter, PluginError, UnknownName, one_of
from mongebench.core.estimator import MapEstimator
from mongebench.core.problem import Problem
from mongebench.core.session import shortage
from mongebench.plugins import SHOWN, Plugin
from mongebench.run import device as devices
from mongebench.run import experiment as experiments
from mongebench.run import settings
from mongebench.run.batch import Progress
from mongebench.run.build import Builder
from mongebench.run.child import Job
from mongebench.run.engine import Engine, LocalEngine
from mongebench.run.experiment import Experiment
from mongebench.run.measurement import failed
from mongebench.run.planned import Conditions, forget_code, planned
from mongebench.run.provenance import working_commit
from mongebench.run.reading import read_run
from mongebench.run.record import Cell, PlannedCell, Spec, Status
from mongebench.run.status import refusal, status_of
from mongebench.run.store import Declaration, Invocation, Plan, RunDirectory
from mongebench.run.trial import trial

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
class Execution:
    """One experiment (or a selection of its cells) in one directory.

    Attributes
    ----------
    invocation
        What was asked.
    directory
        Where records go.
    machinery
        Who runs it.
    tried
        Somebody else's code is imported here at once: it was tried in another process, or this is that process.
    declaration
        The experiment itself; None to read the one that the invocation names.
    chosen
        Keys of the cells that are meant, of those that were asked for; None for all.
    """

    invocation: Invocation
    directory: RunDirectory
    machinery: Machinery = Machinery()
    tried: bool = False
    declaration: Declaration | None = None
    chosen: frozenset[str] | None = None

    @classmethod
    def again(cls, directory: RunDirectory) -> Execution:
        """The run that a directory holds, as it was declared there: from whichever folder this is asked."""
        plan = directory.plan()
        if plan.declaration is None:  # of an earlier version: there is but the name
            return cls(plan.invocation, directory)
        invocation = plan.invocation.model_copy(update={"plugins": plan.declaration.plugins, "against": None})
        kept = frozenset(planned.cell.key for planned in plan.cells) if plan.invocation.against else None
        return cls(invocation, directory, declaration=plan.declaration, chosen=kept)

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment with the asked seeds and estimators.

        A plugin file's estimators join the grid unless the experiment names some of them; so does one that only
        `--only` names.
        """
        name = self.invocation.experiment
        declared = experiments.declared(self.declaration, name) if self.declaration else experiments.read(name)
        if self.invocation.seeds is not None:
            declared.give_seeds(self.invocation.seeds)
        if not self.tried:
            trial(self.invocation, declared)
        added = [plugin for path in self.invocation.plugins for plugin in self._added(path)]
        from_files = [plugin.name for plugin in added if plugin.group == plugins.ESTIMATORS]
        joining = [] if declared.named() & set(from_files) else from_files
        only = self.invocation.only
        if only in plugins.estimators():
            joining = [*joining, only]
        declared.estimators += [{"name": name} for name in joining if name not in declared.named()]
        return declared

    def _added(self, path: str) -> list[Plugin]:
        """What a plugin file defines, or seems to define where it must not be imported: its cells say why."""
        try:
            return plugins.add_file(path)
        except HarmfulPlugin:
            if found := plugins.add_harmful_file(path):
                self._harmful.append(path)
                return found
            raise

    @functools.cached_property
    def _harmful(self) -> list[str]:
        """The plugin files that no process should import."""
        return []

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """The asked part of the grid; set against a published run, of that what it lacks, and somebody else's alone."""
        cells = experiments.select(self.experiment.cells(), self.invocation.only)
        if self.chosen is not None:
            cells = [cell for cell in cells if cell.key in self.chosen]
        if (against := self.invocation.against) is not None:
            known = {record.cell.key for record in read_run(against).records}
            cells = [cell for cell in cells if cell.key not in known]
            cells = [cell for cell in cells if not plugins.is_ours(cell.estimator.name)] or cells
            if not cells:
                raise ExperimentError(
                    f"{against} has every cell of {self.experiment.name}; name an estimator of yours."
                )
        return cells

    @property
    def selection(self) -> str:
        """What `--only` has kept and left out, in a sentence; empty without it."""
        if self.invocation.only is None:
            return ""
        kept, every = self.cells, self.experiment.cells()
        there = {cell.estimator.name for cell in kept}
        out = sorted({SHOWN.get(name, name) for name in {cell.estimator.name for cell in every} - there})
        beside = sorted(name for name in there if name in plugins.ANCHORS)
        anchors = f", the anchors {', '.join(beside)} among them" if beside else ""
        without = f" Estimators left out: {', '.join(out)}." if out else ""
        return f"--only {self.invocation.only}: {len(kept)} of {len(every)} cells{anchors}.{without}"

    @property
    def shortages(self) -> list[str]:
        """Budgets that a problem's points cannot meet, a sentence each: their cells will be `unsupported`."""
        asked = {(cell.problem.model_dump_json(), cell.n_source, cell.n_target): cell for cell in self.cells}
        found = []
        for cell in asked.values():
            problem = self.problem(cell.problem)
            if problem is not None and (short := shortage(problem, cell.n_source, cell.n_target)):
                found.append(
                    f'{cell.problem.label}: {short}, so no cell there can run; n_source = "all" uses them all.'
                )
        return found

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
            cpu_budget=self.experiment.cpu_budget,
            memory_limit=self.experiment.memory_limit,
            seeds_together=self.experiment.seeds_together,
        )

    @functools.cached_property
    def plan(self) -> Plan:
        """Every cell with what its record must have been made with. Raises what building a problem raises."""
        cells = self.cells
        forget_code()  # files may have changed since this process planned another run
        files = tuple(_absolute(path) for path in self.invocation.plugins)
        commit, dirty = working_commit()
        return Plan(
            invocation=self.invocation,
            declaration=self.experiment.declaration.model_copy(update={"plugins": files}),
            cells=[self._planned(cell) for cell in cells],
            horizon=self.experiment.horizon,
            commit=commit,
            dirty=dirty,
        )

    def _planned(self, cell: Cell) -> PlannedCell:
        try:
            known = planned(cell, self.problem(cell.problem), self.estimator(cell.estimator), self.conditions)
            return known.model_copy(update={"setting": self._setting(cell.estimator.model_dump_json())})
        except InvalidParameter:
            raise
        except (
            Exception
        ) as error:  # what somebody else's class says of itself, such as its `needs`, is not what it seems
            self._unplannable[cell.key] = status_of(error)
            return planned(cell, None, None, self.conditions)

    @functools.cached_property
    def _unplannable(self) -> dict[str, tuple[Status, str]]:
        """What to record for cells of which nothing can be told before they run."""
        return {}

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
            plugin_files=[_absolute(path) for path in self.invocation.plugins if path not in self._harmful],
            base=str(self.experiment.base),
            conditions=self.conditions,
        )

    @property
    def resume_command(self) -> str:
        """The shell command that goes on where this run stopped."""
        return self.invocation.command(None, "--out", str(self.directory.path), *self.machinery.options())

    def lost(self) -> str:
        """A sentence on the cells that have no record that holds once the run has ended; empty where all have one."""
        cells = self.plan.cells
        left = [(one.cell.label, reason) for one in cells if (reason := self.directory.why_rerun(one)) is not None]
        if not left:
            return ""
        label, reason = left[0]
        return f"{len(left)} of {len(cells)} cells have no record that holds; the first is {label}: {reason}"

    def _refusal(self, cell: Cell) -> tuple[Status, str] | None:
        """Why a cell need not be tried, if so; whether somebody else's estimator supports it is asked in its child."""
        if cell.key in self._unplannable:
            return self._unplannable[cell.key]
        try:
            problem, estimator = self._builder.problem(cell.problem), self._builder.estimator(cell.estimator)
        except (ImportError, PluginError) as error:
            return status_of(error)
        return refusal(cell, problem, estimator) if plugins.is_ours(cell.estimator.name) else None

    def problem(self, spec: Spec) -> Problem | None:
        """The problem of a spec; None where it, or a package that it imports, cannot be imported."""
        with contextlib.suppress(ImportError, PluginError):
            return self._builder.problem(spec)
        return None

    def estimator(self, spec: Spec) -> MapEstimator | None:
        """The estimator of a spec; None where it, or a package that it imports, cannot be imported."""
        with contextlib.suppress(ImportError, PluginError):
            return self._builder.estimator(spec)
        return None

    @functools.cached_property
    def _builder(self) -> Builder:
        return Builder(self.experiment.base)

    @functools.cached_property
    def _setting(self) -> Callable[[str], str]:
        tuned = self.experiment.tuned_settings
        return functools.cache(lambda spec: str(settings.setting_of(Spec.model_validate_json(spec), tuned)))


def _absolute(plugin: str) -> str:
    """`file.py` or `file.py:Name` with the file's whole path."""
    return str(Path(plugin).resolve())
