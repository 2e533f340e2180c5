"""Commands that show what is registered, and what runs have found, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mongebench.cli.common import (
    CHECK_FAILED,
    NOTHING_RAN,
    Metric,
    Plugins,
    RunPath,
    add_plugins,
    checked_metric,
    note,
    share,
)
from mongebench.core.errors import InvalidParameter, MongebenchError, UnknownName, one_of
from mongebench.report.tables.formats import FailOn


def names(
    kind: Annotated[
        str | None,
        typer.Argument(help="What to list: estimators, problems, metrics or experiments.", show_default="all"),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """List estimators, problems (with their split), metrics and experiments, one line each."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mongebench import plugins

    groups = {"estimators": plugins.ESTIMATORS, "problems": plugins.DATASETS, "metrics": plugins.METRICS}
    if kind is not None and kind not in [*groups, "experiments"]:
        raise UnknownName(one_of(kind, [*groups, "experiments"], "kind"))
    add_plugins(plugin)
    console = Console()
    for name, group in groups.items():
        if kind in (None, name):
            table = Table(title=name, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
            table.add_column("name", style="cyan", no_wrap=True)
            table.add_column("what it is")
            table.add_column("from", style="dim")
            built = kind == "problems"  # what takes building each is shown to those who ask for problems alone
            if built:
                table.add_column("split")
            for found in plugins.available(group).values():
                split = [_split(found.name)] if built else []
                also = plugins.SHOWN.get(found.name) if group == plugins.ESTIMATORS else None
                summary = found.summary() + (f" Also called {also}, as in tables." if also else "")
                table.add_row(escape(found.name), escape(summary), escape(found.origin), *split)
            console.print(table, "")
    if kind in (None, "experiments"):
        from mongebench.experiments import packaged

        console.print("[bold]experiments[/bold]", " ".join(packaged()))


def _split(family: str) -> str:
    from mongebench import plugins

    try:
        return plugins.split_of(family)
    except (MongebenchError, ImportError):
        return "?"  # a plugin that does not load is listed all the same


def show(
    name: Annotated[str, typer.Argument(help="Name of an estimator, problem or metric, or the JSON file of a record.")],
    plugin: Plugins = None,
) -> None:
    """Show everything about one name, or one record."""
    from mongebench.report.tables import terminal

    add_plugins(plugin)
    if name.endswith(".json"):
        terminal.show(terminal.record(_read_record(Path(name))))
    else:
        terminal.show(terminal.registered(name))


def _read_record(path: Path) -> Any:
    from mongebench.run.store import Unreadable, read_record

    try:
        return read_record(path)
    except (FileNotFoundError, Unreadable) as error:
        why = error if isinstance(error, Unreadable) else "there is no such file"
        raise MongebenchError(f"{path} is not a readable record: {why}.") from None


def table(
    run: RunPath,
    metric: Metric = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Show how fit seconds, or the metric, grow with n: fitted exponents.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Show the results of a run, grouped by problem and tier."""
    from mongebench.report.tables import terminal
    from mongebench.run.reading import read_run

    add_plugins(plugin)
    rows = read_run(run).frame()
    shown = terminal.costs if cost else terminal.results
    terminal.show(shown(rows, checked_metric(metric)))
    note(rows)


def status(run: RunPath) -> None:
    """Count the cells of a run by status, and say why the failed ones failed."""
    from mongebench.report.tables import terminal
    from mongebench.run.reading import read_run

    rows = read_run(run).frame()
    terminal.show(terminal.status(rows))
    note(rows)


def rate(
    run: RunPath,
    horizon: Annotated[
        float | None,
        typer.Option(
            help="Flow time up to which the bounds are checked.", show_default="the experiment's, or each trace's end"
        ),
    ] = None,
    family_floor: Annotated[
        bool,
        typer.Option(
            help="Subtract the error of the best map in each flow's family, found by regression (takes minutes)."
        ),
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Check flows against the theory: |T_t - T*|^2 <= e^{-2 lambda t} |T_0 - T*|^2, and its inequalities for KL."""
    from mongebench.report.rates import flows
    from mongebench.report.tables import terminal
    from mongebench.run.reading import read_run

    add_plugins(plugin)
    found = read_run(run)
    note(found.frame())
    terminal.show(terminal.rates(flows.frame(found, horizon, family_floors=family_floor)))


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Run before the change: a directory or a zip file.")],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="[AFTER]", help="Run after the change; not needed with --a and --b."),
    ] = None,
    a: Annotated[str | None, typer.Option("--a", metavar="NAME", help="Estimator of the first run.")] = None,
    b: Annotated[
        str | None,
        typer.Option("--b", metavar="NAME", help="Estimator to compare it with, of the second run or of the same one."),
    ] = None,
    metric: Metric = None,
    level: Annotated[float, typer.Option(help="Probability that all intervals hold at once.")] = 0.95,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(help="Exit with code 1 if a place is worse or fails more often, or if any has changed."),
    ] = None,
    fail_over: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="As --fail-on worse, but pass a ratio that is off by less, such as 10%."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the comparison as Markdown.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Say what differs beyond noise between two runs, or two estimators, and what could not be decided."""
    from mongebench.report.tables import compared, pairing, terminal
    from mongebench.report.tables.compare import Change, compare, failing
    from mongebench.run.reading import read_run
    from mongebench.run.store import write_atomically

    if not 0 < level < 1:
        raise InvalidParameter(f"--level is a probability between 0 and 1, such as 0.95; got {level}.")
    over = None if fail_over is None else share(fail_over, "--fail-over")
    if (a is None) != (b is None) or (second is None and a is None):
        raise InvalidParameter("Compare two runs, RUN AFTER, or two estimators by --a NAME and --b NAME.")
    add_plugins(plugin)
    runs = [read_run(path) for path in (first, second or first)]
    before, after = (run.frame() for run in runs)
    different = pairing.conditions(*runs) if second and a is None else []
    if a is not None and b is not None:
        before, after = pairing.between(before, after, a, b)
    found = compare(before, after, checked_metric(metric), level)
    paired = int(found["n_planned"].sum())
    only = (len(before) - paired, len(after) - paired)
    told = compared.tell(found, level, only, different, pairing.other_tiers(before, after) if a else "")
    terminal.show(told.on_terminal())
    if markdown is not None:
        write_atomically(markdown, told.as_markdown())
    for path, rows in {first: before, second or first: after}.items():
        note(rows, f"{path}: ")
    if fail_on is None and over is None:
        return
    unlike = int((found["change"] == Change.INCOMPARABLE).sum())
    if unlike == len(found):
        why = f"no place is comparable, of {len(found)} in both" if len(found) else "the runs have no cell in common"
        typer.echo(f"Nothing could be compared: {why}.", err=True)
        raise typer.Exit(NOTHING_RAN)
    if unlike:
        typer.echo(f"Not comparable, and so not judged: {unlike} of {len(found)} places.", err=True)
    failed = failing(found, fail_on or FailOn.WORSE, over or 0.0)
    if failed.any():
        typer.echo(f"FAILED: {failed.sum()} of {len(found)} places.", err=True)
        raise typer.Exit(CHECK_FAILED)
