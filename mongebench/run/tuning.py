"""Choosing an estimator's parameters on problems that no board shows: as many trials, on as much CPU, for everybody.

Every trial is a row of one experiment: the tuning experiment's problems, budgets and seeds with the trial's parameters.
So a tuning is a run like any other, whose records stay, can be looked at, and are reused where it is started again. The
first trial is the estimator's defaults, the others are proposed by optuna's tree-structured Parzen estimator.

The score of a trial is the geometric mean, over its cells, of the error over the identity's on the same cell. A cell
that failed, and one beyond `WORST` times the identity, count as `WORST`.

Reference: Bergstra, Bardenet, Bengio and Kegl 2011, Algorithms for hyper-parameter optimization.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mongebench import plugins
from mongebench.core.errors import ExperimentError, InvalidParameter
from mongebench.core.estimator import Range, idle
from mongebench.core.problem import Split
from mongebench.plugins import ESTIMATORS, completed, find
from mongebench.run import experiment as experiments
from mongebench.run import settings
from mongebench.run.record import Cell, Record, Spec
from mongebench.run.runner import Execution, Machinery
from mongebench.run.store import Invocation, RunDirectory, write_atomically

WORST = 10.0
"""Of a cell's error over the identity's: what a failed fit counts as."""
REFERENCE = "identity"


@dataclass
class Trial:
    """Parameters that were tried, and what came of them.

    Attributes
    ----------
    parameters
        Those that differ from the defaults.
    score
        Geometric mean of error / the identity's error, or `WORST` where a fit failed.
    failed
        Cells without a measured map.
    cpu_seconds
        Of all its fits, compilation included.
    """

    parameters: dict[str, Any]
    score: float = float("nan")
    failed: int = 0
    cpu_seconds: float = 0.0


@dataclass
class Tuning:
    """A search for the parameters of one estimator.

    Parameters
    ----------
    estimator
        A registered name whose class declares `tunable`.
    directory
        Of the run.
    experiment
        Name or file of the tuning experiment; all its problems must be of the tuning split.
    trials
        How many, the defaults among them.
    seed
        Of the proposals.
    plugins
        Files that bring the estimator.
    machinery
        Who runs the cells.
    """

    estimator: str
    directory: Path
    experiment: str = "tuning"
    trials: int = 8
    seed: int = 0
    plugins: tuple[str, ...] = ()
    machinery: Machinery = field(default_factory=Machinery)

    def search(self, execute: Callable[[Execution], None]) -> Iterator[Trial]:
        """Run one trial after the other, by `execute`, and give each when it is done.

        Raises
        ------
        InvalidParameter
            An estimator that declares nothing to tune, or fewer than two trials.
        ExperimentError
            A problem of the experiment that boards show.
        """
        import optuna

        if self.trials < 2:
            raise InvalidParameter(f"A tuning needs at least two trials, the defaults and another; got {self.trials}.")
        space = self._space()
        self._check_problems()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=5))
        found: list[Trial] = []
        for _ in range(self.trials):
            asked = study.ask() if found else None
            proposed = {name: _propose(asked, name, choice) for name, choice in space.items()} if asked else {}
            trial = Trial(self._changed(proposed))
            found.append(trial)
            self._write([known.parameters for known in found])
            run = self._run()
            execute(run)
            self._judge(trial, run)
            if asked is not None:
                study.tell(asked, float(np.log(trial.score)))
            yield trial

    def _changed(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """What of a proposal is not the default, without what does nothing beside the rest."""
        changed = {name: value for name, value in proposed.items() if value != self._defaults[name]}
        without_effect = idle(self._cls(**self._defaults | changed))
        return {name: value for name, value in changed.items() if name not in without_effect}

    def _space(self) -> Mapping[str, Any]:
        for path in self.plugins:
            plugins.add_file(path)
        plugin = find(ESTIMATORS, self.estimator)
        self._cls = plugin.load()
        self._defaults = completed(plugin, self._cls, {})
        space: Mapping[str, Any] = self._cls.tunable
        if not space:
            raise InvalidParameter(
                f"Estimator {self.estimator!r} declares nothing to tune. Give its class a `tunable`: a dictionary of "
                "parameter names with a Range or a list of choices each."
            )
        if unknown := set(space) - set(self._defaults):
            raise InvalidParameter(f"`tunable` of {self.estimator!r} names no parameter: {', '.join(sorted(unknown))}.")
        return space

    def _check_problems(self) -> None:
        self._write([{}])
        for planned in self._run().plan.cells:
            if planned.split != Split.TUNE:
                raise ExperimentError(
                    f"{self.experiment} has the problem {planned.cell.problem.label}, which boards show: settings are "
                    "chosen on problems of the tuning split alone. `mongebench list problems` tells which these are."
                )

    def _write(self, trials: list[dict[str, Any]]) -> None:
        """The experiment of all trials so far, beside the run."""
        import tomli_w

        source = experiments.path_of(self.experiment)
        content = tomllib.loads(source.read_text(encoding="utf-8"))
        content["name"] = f"tuning-{self.estimator}"
        own = [{"name": self.estimator, **parameters} for parameters in trials]
        content["estimators"] = [{"name": REFERENCE}, *own]
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / "tuning.toml", tomli_w.dumps(content))

    def _run(self) -> Execution:
        invocation = Invocation(experiment=str(self.directory / "tuning.toml"), plugins=self.plugins)
        return Execution(invocation, RunDirectory(self.directory), self.machinery)

    def _judge(self, trial: Trial, run: Execution) -> None:
        records = {record.cell.key: record for record in run.directory.records()}
        reference = {
            _place(record.cell): record for record in records.values() if record.cell.estimator.name == REFERENCE
        }
        ratios = []
        for cell in run.cells:
            if cell.estimator.name != self.estimator or cell.estimator.parameters != self._defaults | trial.parameters:
                continue
            found = records.get(cell.key)
            ratios.append(_ratio(found, reference[_place(cell)]))
            trial.failed += not (found and found.status.measured)
            if found is not None and found.times is not None:
                trial.cpu_seconds += found.times.fit_cpu
        trial.score = float(np.exp(np.mean(np.log(ratios))))

    def tuned(self, trials: list[Trial]) -> settings.Tuned:
        """The best trial as a tuned setting; the defaults where nothing was better."""
        best = min(trials, key=lambda trial: trial.score)
        return settings.Tuned(
            experiment=self.experiment,
            trials=len(trials),
            score=round(best.score, 6),
            default_score=round(trials[0].score, 6),
            cpu_seconds=round(sum(trial.cpu_seconds for trial in trials), 1),
            parameters=best.parameters,
        )


def record(name: str, tuned: settings.Tuned, path: Path) -> None:
    """Put one tuned setting into a file of them, in place of an earlier one of the same name."""
    import tomli_w

    known = settings.read(path) | {name: tuned}
    content = {key: known[key].model_dump() for key in sorted(known)}
    write_atomically(path, tomli_w.dumps(content))


def _propose(asked: Any, name: str, choice: Any) -> Any:
    if not isinstance(choice, Range):
        return asked.suggest_categorical(name, list(choice))
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return asked.suggest_int(name, choice.low, choice.high, log=choice.log)
    # Three digits: what is written down is what was tried.
    return float(f"{asked.suggest_float(name, choice.low, choice.high, log=choice.log):.3g}")


def _place(cell: Cell) -> str:
    """What cells of different estimators share."""
    return cell.model_copy(update={"estimator": Spec(name=REFERENCE)}).key


def _ratio(found: Record | None, reference: Record) -> float:
    """Error over the identity's, no lower than the floors allow and at most `WORST`."""
    if found is None or not found.status.measured:
        return WORST
    value, base = found.metrics["uvp"], reference.metrics["uvp"]
    ratio = max(value.value, value.floor) / max(base.value, base.floor)
    return float(min(ratio, WORST))
