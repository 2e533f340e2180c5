"""The command line.

Exit codes: 0 all cells recorded, or all checks passed; 1 a check or a night failed; 2 usage; 3 nothing could run; and
those of `progress` for runs that had to stop or left cells without a record.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mongebench.core.errors import ExperimentError, InvalidParameter, MongebenchError, UnknownName, one_of
from mongebench.core.text import printable
from mongebench.foreign import staying
from mongebench.report.formats import Format

if TYPE_CHECKING:
    from mongebench.run.store import RunDirectory

app = typer.Typer(
    help="The benchmark suite for Monge-map estimators: one clock, exact truths, honest records.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CHECK_FAILED, USAGE, NOTHING_RAN = 1, 2, 3

Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="file.py or file.py:Name, of estimators, problems, metrics.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run (its --out).")]
Metric = Annotated[
    str | None, typer.Option(help="A metric, or a time such as fit_seconds, gpu_fit_seconds, wall_seconds.")
]
Only = Annotated[str | None, typer.Option(help="Shell pattern on estimator, problem or cell label.")]


@app.command("list")
def list_names(
    kind: Annotated[str | None, typer.Argument(help="estimators, problems, metrics or experiments.")] = None,
    plugin: Plugins = None,
) -> None:
    """Names of estimators, problems, metrics and experiments, with one line each; of problems also their split."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mongebench import plugins

    groups = {"estimators": plugins.ESTIMATORS, "problems": plugins.DATASETS, "metrics": plugins.METRICS}
    if kind is not None and kind not in [*groups, "experiments"]:
        raise UnknownName(one_of(kind, [*groups, "experiments"], "kind"))
    _add(plugin)
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
                table.add_row(escape(found.name), escape(found.summary()), escape(found.origin), *split)
            console.print(table, "")
    if kind in (None, "experiments"):
        from mongebench.experiments import packaged

        console.print("[bold]experiments[/bold]", " ".join(packaged()))


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a TOML file.")],
    out: Annotated[Path | None, typer.Option(help="Directory of the run [default: results/runs/NAME].")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 .. K-1 in place of the file's.")] = None,
    only: Only = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; run and write nothing.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Child processes beside each other.")] = None,
    plugin: Plugins = None,
    engine: Annotated[str, typer.Option(help="local: child processes of this one; dask: of dask workers.")] = "local",
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of a running dask scheduler [default: workers here].")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="For times: one cell at a time on this machine, pinned to its cores.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, gpu, or auto: a GPU where nvidia-smi lists one.")] = "auto",
) -> None:
    """Run an experiment: one record a cell, then a table and a figure. Started again, it runs what is missing."""
    from mongebench import progress
    from mongebench.report import figures, tables, terminal
    from mongebench.run import experiment as experiments
    from mongebench.run.record import Status
    from mongebench.run.runner import Machinery, Run
    from mongebench.run.store import Invocation, RunDirectory

    invocation = Invocation(
        experiment=experiment,
        seeds=seeds,
        only=only,
        plugins=tuple(map(str, plugin or ())),
        exclusive=exclusive,
        device=device,
    )
    machinery = Machinery(engine, scheduler, workers)
    name = experiments.read(experiment).name
    planned = Run(invocation, RunDirectory(out or Path("results", "runs", name)), machinery)
    if dry_run:
        progress.print_plan(planned)
        return
    progress.execute(planned)
    directory = planned.directory
    rows = tables.frame(directory)
    terminal.show(terminal.results(rows))
    terminal.show(terminal.status(rows))
    for path in figures.draw(directory, directory.path / "figures"):
        typer.echo(f"figure: {path}")
    typer.echo(f"records: {directory.cells}")
    _note(rows)
    if set(planned.statuses()) <= {Status.UNSUPPORTED, Status.MISSING_DEPENDENCY}:
        typer.echo("Nothing could run: every cell is unsupported or lacks a package.", err=True)
        raise typer.Exit(NOTHING_RAN)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An estimator, problem or metric, or the JSON file of a record.")],
    plugin: Plugins = None,
) -> None:
    """Everything about one name, or one record."""
    from mongebench.report import terminal

    _add(plugin)
    if name.endswith(".json"):
        terminal.show(terminal.record(_read_record(Path(name))))
    else:
        terminal.show(terminal.registered(name))


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A registered name, file.py, or file.py:Class.")] = "",
    list_checks: Annotated[bool, typer.Option("--list", help="Print what each check asks, why, and the cure.")] = False,
    plugin: Plugins = None,
) -> None:
    """Check that an estimator, with its defaults, keeps the contract; exit code 1 if it does not."""
    from mongebench import plugins
    from mongebench.check import CHECKS, Outcome, run_checks
    from mongebench.report import terminal

    if list_checks:
        terminal.show(terminal.catalogue(CHECKS.values()))
        return
    if not target:
        raise UnknownName("Give an estimator to check: a registered name, file.py, or file.py:Class.")
    _add(plugin)
    names = [target]
    if plugins.is_file(target):
        names = [found.name for found in plugins.add_file(target) if found.group == plugins.ESTIMATORS]
        if not names:
            raise UnknownName(f"{target} has no estimator to check.")
    failed = 0
    for name in names:
        results = run_checks(plugins.estimator(name))
        terminal.show(terminal.checks(name, results))
        failed += sum(result.outcome is Outcome.FAILED for result in results)
    if failed:
        raise typer.Exit(CHECK_FAILED)


@app.command("new-estimator")
def new_estimator(
    name: Annotated[str, typer.Argument(help="What it will be called, such as my_map.")],
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where to put it [default: NAME].")] = None,
    framework: Annotated[str, typer.Option(help="numpy, jax or torch.")] = "numpy",
) -> None:
    """Begin a package of your own: a working estimator with its entry point, tests and README."""
    from mongebench.scaffold import Framework
    from mongebench.scaffold import new_estimator as write

    if framework not in list(Framework):
        raise UnknownName(one_of(framework, [str(known) for known in Framework], "framework"))
    directory = directory or Path(name)
    for path in write(name, directory, Framework(framework)):
        typer.echo(str(path))
    typer.echo(f"Next: pip install -e {directory} && mongebench check {name}")


@app.command()
def table(
    run: RunPath,
    metric: Metric = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Fit the exponent in n instead, of fit seconds or of the metric.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """The results of a run, grouped by problem and tier."""
    from mongebench.report import tables, terminal

    _add(plugin)
    rows = tables.frame(_directory(run))
    shown = terminal.costs if cost else terminal.results
    terminal.show(shown(rows, _checked(metric)))
    _note(rows)


@app.command()
def rate(
    run: RunPath,
    horizon: Annotated[
        float | None, typer.Option(help="Flow time up to which; else the experiment's, else each trace's end.")
    ] = None,
    family_floor: Annotated[
        bool, typer.Option(help="Take off what the best map of each flow's family leaves, by regression; minutes.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Whether flows keep the theory's inequalities, |T_t - T*|^2 <= e^{-2 lambda t} |T_0 - T*|^2 and those of KL."""
    from mongebench.report import rates, tables, terminal

    _add(plugin)
    directory = _directory(run)
    _note(tables.frame(directory))
    terminal.show(terminal.rates(rates.frame(directory, horizon, family_floors=family_floor)))


@app.command("figures")
def draw_figures(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="Where to put them [default: RUN/figures].")] = None,
) -> None:
    """Draw the figures of a run as PNG, SVG and PDF."""
    from mongebench.report import figures, tables

    directory = _directory(run)
    for path in figures.draw(directory, out or _inside(run, "figures")):
        typer.echo(f"figure: {path}")
    _note(tables.frame(directory))


@app.command()
def export(
    run: RunPath,
    format: Annotated[Format, typer.Option(help="Of the file.")] = Format.CSV,
    out: Annotated[
        Path | None, typer.Option(help="The file [default: RUN/results.csv, .parquet, .tex or .md].")
    ] = None,
    metric: Metric = None,
    leaderboard: Annotated[bool, typer.Option("--leaderboard", help="That alone, in any format.")] = False,
    plugin: Plugins = None,
) -> None:
    """Write the results of a run: every cell as CSV or Parquet, the tables as LaTeX or Markdown; or its leaderboard."""
    from mongebench.report import exports, tables

    _add(plugin)
    rows = tables.frame(_directory(run))
    name = "leaderboard" if leaderboard else "results"
    path = out or run / f"{name}.{format.suffix}"
    if leaderboard and metric is not None:
        raise InvalidParameter("--leaderboard ranks by each problem's own metric; leave --metric out.")
    if path.exists() and not path.is_file():
        raise MongebenchError(f"{path} is no file, and would be replaced; give the name of a file.")
    written = (
        exports.write_board(rows, format, path) if leaderboard else exports.write(rows, format, path, _checked(metric))
    )
    typer.echo(f"written: {written}")
    _note(rows)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, shown as one.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the pages [default: FIRST_RUN/report].")] = None,
) -> None:
    """Write a report: pages to open from disk, with a leaderboard, figures, failures, downloads."""
    from mongebench.report import site, tables
    from mongebench.run.store import Runs

    read = Runs(runs)
    typer.echo(f"report: {site.build(read, out or _inside(runs[0], 'report'))}")
    _note(tables.frame(read))


@app.command("asv")
def import_to_asv(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs.")],
    out: Annotated[Path | None, typer.Option(help="asv's results [default: results_dir of the configuration].")] = None,
    html: Annotated[Path | None, typer.Option(help="asv's pages [default: html_dir of the configuration].")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Then write the dashboard, to open from disk.")] = False,
    commit: Annotated[str | None, typer.Option(help="What was measured [default: as the records say].")] = None,
    machine: Annotated[str | None, typer.Option(help="Name of the machine [default: its processor's].")] = None,
    config: Annotated[Path, typer.Option(help="asv's configuration.")] = Path("asv.conf.json"),
) -> None:
    """Import the records of runs as asv results: errors, rates, failures and times, to be compared over commits."""
    from mongebench.report import dashboard

    found = dashboard.configuration(config)
    found |= {key: str(path.resolve()) for key, path in (("results_dir", out), ("html_dir", html)) if path}
    for run in runs:
        _import(_directory(run), found, commit, machine)
    if publish:
        typer.echo(f"dashboard: {dashboard.publish(found)}")


@app.command()
def nightly(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with gates, or a TOML file.")] = "nightly",
    out: Annotated[Path | None, typer.Option(help="Directory of the run [default: results/runs/NAME-COMMIT].")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Child processes beside each other.")] = None,
    commit: Annotated[str | None, typer.Option(help="What is measured [default: as the records say].")] = None,
    config: Annotated[Path, typer.Option(help="asv's configuration.")] = Path("asv.conf.json"),
    record: Annotated[bool, typer.Option("--record", help="Write the gates from this run.")] = False,
) -> None:
    """Measure this commit, publish dashboard and report, and judge; exit code 1 if cells are lost or a gate breaks."""
    from mongebench import progress
    from mongebench.report import dashboard, site, tables
    from mongebench.report import nightly as nights
    from mongebench.run import experiment as experiments
    from mongebench.run.provenance import current_commit
    from mongebench.run.runner import Machinery, Run
    from mongebench.run.store import Invocation, RunDirectory, Runs, write_atomically

    declared, found = experiments.read(experiment), dashboard.configuration(config)
    if declared.gates is None:
        raise ExperimentError(f'{declared.name} has no gates: name their file in it, gates = "gates.csv".')
    gates = declared.base / declared.gates
    recorded = None if record else nights.read(gates)  # what is wrong with them is said before the hour
    name = f"{declared.name}-{(current_commit() or 'installed')[:8]}"
    directory = RunDirectory(out or Path("results", "runs", name))
    progress.execute(Run(Invocation(experiment=experiment), directory, Machinery(workers=workers)))
    _import(directory, found, commit, None)
    typer.echo(f"dashboard: {dashboard.publish(found)}")
    typer.echo(f"report: {site.build(Runs([directory.path]), directory.path / 'report')}")
    rows = tables.frame(directory)
    if recorded is None:
        recorded = nights.record(rows)
        nights.write(recorded, gates)
        typer.echo(f"gates: {gates}")
    judgement = nights.judge(rows, recorded)
    said = judgement.sentences()
    write_atomically(directory.path / "nightly.md", "".join(f"- {sentence}\n" for sentence in said))
    for sentence in said:
        typer.echo(sentence)
    if judgement.failed:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def tune(
    estimator: Annotated[str, typer.Argument(help="Name of an estimator that declares what to tune.")],
    trials: Annotated[int, typer.Option(min=2, help="How many settings to try, the defaults among them.")] = 8,
    experiment: Annotated[str, typer.Option(help="Experiment with the problems and budgets.")] = "tuning",
    out: Annotated[Path | None, typer.Option(help="Directory of the run [default: results/runs/tuning-NAME].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the proposals.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of parallel child processes.")] = None,
    plugin: Plugins = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Add the result to this file of tuned settings.")
    ] = None,
) -> None:
    """Choose an estimator's parameters on problems that no board shows, and keep the records of every trial."""
    from mongebench import progress
    from mongebench.run import tuning
    from mongebench.run.runner import Machinery

    search = tuning.Tuning(
        estimator,
        out or Path("results", "runs", f"tuning-{estimator}"),
        experiment,
        trials,
        seed,
        tuple(map(str, plugin or ())),
        Machinery(workers=workers),
    )
    done = []
    for trial in search.search(progress.execute):
        done.append(trial)
        given = ", ".join(f"{name}={value}" for name, value in trial.parameters.items()) or "defaults"
        failed = f", {trial.failed} failed" if trial.failed else ""
        typer.echo(f"trial {len(done)}: {trial.score:.4g} of the identity's error ({given}){failed}")
    found = search.tuned(done)
    path = record or search.directory / "tuned.toml"
    tuning.record(estimator, found, path)
    typer.echo(
        f"{estimator}: {found.score:.4g} of the identity's error, {found.default_score:.4g} with its defaults "
        f"(geometric means over the tuning problems, {found.trials} trials, {found.cpu_seconds:.0f} CPU seconds)."
    )
    typer.echo(f"tuned setting: {path}")
    typer.echo(f"records: {search.directory}")


@app.command("compare")
def compare_runs(
    first: Annotated[Path, typer.Argument(metavar="A", help="Directory of the run before.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Directory of the run after.")],
    metric: Metric = None,
    level: Annotated[float, typer.Option(help="Probability that all intervals hold together.")] = 0.95,
    plugin: Plugins = None,
) -> None:
    """What got better or worse from run A to run B beyond noise: paired differences with intervals, in words."""
    from mongebench.report import tables, terminal
    from mongebench.report.compare import compare

    if not 0 < level < 1:
        raise InvalidParameter(f"--level is a probability between 0 and 1, such as 0.95; got {level}.")
    _add(plugin)
    before, after = tables.frame(_directory(first)), tables.frame(_directory(second))
    only = (len({*before["key"]} - {*after["key"]}), len({*after["key"]} - {*before["key"]}))
    terminal.show(terminal.comparison(compare(before, after, _checked(metric), level), level, only))
    for run, rows in ((first, before), (second, after)):
        _note(rows, f"{run}: ")


@app.command()
def status(run: RunPath) -> None:
    """How many cells of a run have which status, and why the failed ones failed."""
    from mongebench.report import tables, terminal

    rows = tables.frame(_directory(run))
    terminal.show(terminal.status(rows))
    _note(rows)


@app.command("why-rerun")
def why_rerun(run: RunPath) -> None:
    """What would run again if the run's command were repeated now, and which field of its record says so."""
    from mongebench.core.text import on_one_line
    from mongebench.run.runner import Run

    directory = _directory(run)
    planned = Run.again(directory)
    reasons = [(cell.cell.label, directory.why_rerun(cell)) for cell in planned.plan.cells]
    for label, reason in reasons:
        if reason:
            typer.echo(on_one_line(f"{label}: {reason}"))
    typer.echo(f"{sum(reason is not None for _, reason in reasons)} of {len(reasons)} cells would run.")


def _add(plugin: list[Path] | None) -> None:
    """Register what plugin files define."""
    from mongebench import plugins

    for path in plugin or []:
        plugins.add_file(path)


def _split(family: str) -> str:
    from mongebench import plugins

    try:
        return plugins.split_of(family)
    except (MongebenchError, ImportError):
        return "?"  # a plugin that does not load is listed all the same


def _checked(metric: str | None) -> str | None:
    """A metric or a time column. Raises `UnknownName`."""
    from mongebench.plugins import METRICS, available
    from mongebench.report.tables import TIME_COLUMNS

    if metric is not None and metric not in (valid := [*available(METRICS), *TIME_COLUMNS]):
        raise UnknownName(one_of(metric, valid, "metric"))
    return metric


def _note(rows: Any, before: str = "") -> None:
    """Say which records of a frame do not count."""
    from mongebench.report.tables import notes

    for sentence in notes(rows):
        typer.echo(before + sentence)


def _inside(run: Path, name: str) -> Path:
    """The folder of that name in a run, which may have come from elsewhere. Raises `MongebenchError` on a link."""
    folder = run / name
    if folder.is_symlink():
        raise MongebenchError(f"{folder} is a link, and what it leads to would be overwritten; say where with --out.")
    return folder


def _directory(run: Path) -> Any:
    from mongebench.run.store import RunDirectory

    directory = RunDirectory(run)
    directory.plan()
    return directory


def _import(directory: RunDirectory, found: dict[str, Any], commit: str | None, machine: str | None) -> None:
    """Records -> asv's results, with a word on what no commit has."""
    from mongebench.report import asv_export, tables

    results, repository = Path(found["results_dir"]), Path(found["repo"])
    written = asv_export.write(directory, results, repository=repository, commit=commit, machine=machine)
    typer.echo(f"asv results: {written}")
    _note(tables.frame(directory))
    if dirty := sum(bool(record.provenance.dirty) for record in directory.records()):
        typer.echo(f"{dirty} records of {directory.path} were made with changes that no commit has.", err=True)


def _read_record(path: Path) -> Any:
    from mongebench.run.store import Unreadable, read_record

    try:
        return read_record(path)
    except (FileNotFoundError, Unreadable) as error:
        why = error if isinstance(error, Unreadable) else "there is no such file"
        raise MongebenchError(f"{path} is not a readable record: {why}.") from None


def main() -> None:
    """Entry point: what a user did wrong is one sentence and exit code 2, never a traceback."""
    try:
        with staying():  # a thread that a plugin has left behind would end a run in silence, and with exit code 0
            app()
    except MongebenchError as error:
        typer.echo(f"mongebench: {printable(str(error))}", err=True)
        sys.exit(USAGE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # What is still to be written to the file that the output goes to would fail again as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        typer.echo(f"mongebench: Cannot write the output: {error.strerror}.", err=True)
        sys.exit(USAGE)
    except ImportError as error:
        from mongebench.run.cell import missing

        typer.echo(f"mongebench: {printable(missing(error))}", err=True)
        sys.exit(USAGE)
