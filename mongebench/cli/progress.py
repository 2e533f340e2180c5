"""A run at the terminal: what it plans, how far it is, and what is said when it has to stop.

Exit codes: 4 the run had to stop (disk full, no worker left), or ended with cells that have no record; 130 interrupted;
143 terminated.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mongebench.core.problem import INSTANCE
from mongebench.core.text import counted, on_one_line, printable
from mongebench.run.forecast import forecast, spoken
from mongebench.run.frame import labels
from mongebench.run.provenance import commit_unknown
from mongebench.run.record import Cell, budget
from mongebench.run.runner import Execution
from mongebench.run.store import RunStopped

STOPPED, INTERRUPTED, TERMINATED = 4, 130, 143


def print_plan(planned: Execution, every_cell: bool = False) -> None:
    """The grid in a few lines, what cannot be met, and how long it will take; or a line for every cell before that."""
    _announce(planned)
    total, pending = len(planned.cells), {waiting.cell.key for waiting in planned.pending}
    known = forecast(planned.pending, planned.directory)
    for cell in planned.cells if every_cell else ():
        label = on_one_line(cell.label)
        if cell.key not in pending:
            typer.echo(f"{label}: recorded")
        elif cell.key in known:
            one = known[cell.key]
            typer.echo(f"{label}: about {spoken(one.seconds)}, from {one.records} earlier record(s)")
        else:
            typer.echo(f"{label}: no earlier record")
    if not every_cell:
        _print_grid(planned)
    typer.echo(
        f"{total} cells planned, {total - len(pending)} recorded, {len(pending)} to run in {planned.directory.path}."
    )
    workers, seconds = planned.conditions.workers, sum(one.seconds for one in known.values())
    if known:
        typer.echo(
            f"Predicted for {len(known)} of the {len(pending)} cells to run: about {spoken(seconds / workers)} "
            f"({spoken(seconds)} of cells, {workers} at a time)."
        )
    if unknown := len(pending) - len(known):
        typer.echo(f"Not predicted: {unknown} cells, which have no earlier record here or in the runs beside it.")


def _announce(planned: Execution) -> None:
    """What the selection leaves out, and what cannot be met: once, before anything runs."""
    if planned.selection:
        typer.echo(on_one_line(planned.selection))
    for sentence in planned.shortages:
        typer.echo(on_one_line(sentence), err=True)


def _print_grid(planned: Execution) -> None:
    """A line for each problem: dimensions, budgets, seeds, and how many estimators."""
    named = labels((cell.problem for cell in planned.cells), ignore=("dim", INSTANCE))
    for name in dict.fromkeys(named.values()):
        own = [cell for cell in planned.cells if named[cell.problem.label] == name]
        dims = sorted({int(cell.problem.parameters["dim"]) for cell in own if "dim" in cell.problem.parameters})
        budgets = dict.fromkeys(f"{budget(cell.n_source)} / {budget(cell.n_target)}" for cell in own)
        estimators = {cell.estimator.label for cell in own}
        where = f", d = {', '.join(map(str, dims))}" if dims else ""
        seeds = len({cell.seed for cell in own})
        typer.echo(
            on_one_line(
                f"{name}{where}, n = {', '.join(budgets)}: {counted(len(estimators), 'estimator')}, up to "
                f"{counted(seeds, 'seed')}, {counted(len(own), 'cell')}"
            )
        )


@contextmanager
def sentences() -> Iterator[Callable[[str], None]]:
    """A line on standard error that says what is being done; nothing where that is no terminal."""
    console = Console(stderr=True)
    with console.status("") as status:
        yield lambda sentence: status.update(printable(sentence))


def execute(planned: Execution) -> None:
    """Plan, and run what is missing behind a progress bar; exit where it has to stop or a cell ends without record."""
    try:
        with _terminable():
            _execute(planned)
    except _Terminated:
        _stop("Terminated", TERMINATED, planned)
    except KeyboardInterrupt:
        _stop("Interrupted", INTERRUPTED, planned)
    except RunStopped as error:
        _stop(f"mongebench: {error}", STOPPED, planned)


def _execute(planned: Execution) -> None:
    _announce(planned)
    total, pending = len(planned.cells), len(planned.pending)
    typer.echo(f"{planned.experiment.name}: {total} cells, {total - pending} already recorded, {pending} to run.")
    if unknown := commit_unknown():
        typer.echo(f"Warning: the records will not say all of their commit: {unknown}.", err=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=pending)

        def on_progress(cell: Cell, event: str) -> None:
            if event == "started":
                name = on_one_line(f"{cell.estimator.name} on {cell.problem.name}, seed {cell.seed}")
                progress.update(task, description=name[:48].ljust(48))
            else:
                progress.advance(task)

        planned.execute(on_progress)
    if lost := planned.lost():  # deleted, or made with files that changed meanwhile
        _stop(f"mongebench: {lost}", STOPPED, planned)


def _stop(what: str, code: int, planned: Execution) -> NoReturn:
    """End a run before its end."""
    how = f"the same command goes on from there:\n  {planned.resume_command}"
    typer.echo(printable(f"{what}; what was recorded stays, and {how}"), err=True)
    raise typer.Exit(code) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let the first SIGTERM or Ctrl-C end a run; another one meanwhile changes nothing.

    A signal that this process was started to ignore stays ignored.
    """
    endings = {signal.SIGTERM: _Terminated, signal.SIGINT: KeyboardInterrupt}
    before = {number: signal.getsignal(number) for number in endings}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]

    def end(number: int, _: Any) -> None:
        for one in heeded:
            signal.signal(one, lambda *_: None)
        raise endings[signal.Signals(number)]

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
