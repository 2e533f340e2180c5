"""Commands that write what runs have found: figures, files for other programs, pages, a dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mongebench.cli.common import Metric, Plugins, RunPath, add_plugins, beside, checked_metric, inside, note
from mongebench.core.errors import InvalidParameter, MongebenchError
from mongebench.report.tables.formats import Format

if TYPE_CHECKING:
    from mongebench.run.reading import Run


def figures(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures.", show_default="RUN/figures")] = None,
) -> None:
    """Draw the figures of a run as PNG, SVG and PDF."""
    from mongebench.report.figures import printed
    from mongebench.run.reading import read_run

    found = read_run(run)
    for path in printed.draw(found, out or inside(run, "figures")):
        typer.echo(f"figure: {path}")
    note(found.frame())


def export(
    run: RunPath,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.CSV,
    out: Annotated[
        Path | None, typer.Option(help="Output file.", show_default="RUN/results.csv, .parquet, .tex or .md")
    ] = None,
    metric: Metric = None,
    leaderboard: Annotated[bool, typer.Option("--leaderboard", help="Export only the leaderboard.")] = False,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="With --leaderboard: only the first rows of each tier, in few columns.", metavar="N"),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Export every cell as CSV or Parquet, the tables as LaTeX or Markdown, or only the leaderboard."""
    from mongebench.report.tables import exports
    from mongebench.run.reading import read_run

    add_plugins(plugin)
    rows = read_run(run).frame()
    name = "leaderboard" if leaderboard else "results"
    path = out or beside(run, f"{name}.{format.suffix}")
    if leaderboard and metric is not None:
        raise InvalidParameter("--leaderboard ranks by each problem's own metric; leave --metric out.")
    if path.exists() and not path.is_file():
        raise MongebenchError(f"{path} is not a file, and would be replaced; give the name of a file.")
    written = (
        exports.write_board(rows, format, path, top)
        if leaderboard
        else exports.write(rows, format, path, checked_metric(metric))
    )
    typer.echo(f"written: {written}")
    note(rows)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs (directories or zip files), shown as one run.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the pages.", show_default="FIRST_RUN/report")] = None,
) -> None:
    """Build a report: pages to open from disk, with a leaderboard, figures, failures and downloads."""
    from mongebench.cli.progress import sentences
    from mongebench.report.site import pages
    from mongebench.run.reading import read_run

    with sentences() as say:
        say(f"Reading {', '.join(map(str, runs))}")
        found = read_run(*runs)
        front = pages.build(found, out or inside(runs[0], "report"), progress=say)
    typer.echo(f"report: {front}")
    note(found.frame())


def asv(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="Runs (directories or zip files).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for asv's results.", show_default="results_dir of the configuration")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Folder for asv's pages.", show_default="html_dir of the configuration")
    ] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Also build the dashboard, to open from disk.")] = False,
    commit: Annotated[
        str | None,
        typer.Option(help="Commit that was measured.", show_default="what was checked out where it was run"),
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="Name of the machine that measured.", show_default="its processor's")
    ] = None,
    config: Annotated[Path, typer.Option(help="asv's configuration file, written if there is none.")] = Path(
        "asv.conf.json"
    ),
    backfill: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="First measure a small fixed experiment at the last N commits."),
    ] = None,
) -> None:
    """Import the records of runs as asv results, to compare errors, rates, failures and times over commits."""
    from mongebench.report.asv import dashboard, history
    from mongebench.run.reading import read_run

    if not runs and backfill is None and not publish:
        raise InvalidParameter("Nothing to do: give a RUN to import, --backfill N, or --publish.")
    measured = [read_run(run) for run in runs or ()]
    if publish:
        dashboard.require()
    found = configuration(config)
    found |= {key: str(path.resolve()) for key, path in (("results_dir", out), ("html_dir", html)) if path}
    for sentence in history.backfill(found, backfill, machine=machine) if backfill else ():
        typer.echo(sentence)
    for run in measured:
        import_records(run, found, commit, machine)
    if publish:
        typer.echo(f"dashboard: {dashboard.publish(found)}")


def configuration(path: Path) -> dict[str, Any]:
    """Of asv; one is written where there is none."""
    from mongebench.report.asv import dashboard

    if not path.exists():
        dashboard.begin(path)
        typer.echo(f"written: {path}")
    return dashboard.configuration(path)


def import_records(run: Run, found: dict[str, Any], commit: str | None, machine: str | None) -> None:
    """Records -> asv's results, with a word on what no commit has."""
    from mongebench.report.asv import export

    out, repository = Path(found["results_dir"]), Path(found["repo"])
    written = export.write(run, out, repository=repository, commit=commit, machine=machine)
    typer.echo(f"asv results: {written}")
    note(run.frame())
    if dirty := uncommitted(run):
        typer.echo(f"{dirty} records of {run.path} were made with changes that no commit has.", err=True)


def uncommitted(run: Run) -> int:
    """How many records were made where files differed from the commit that they name."""
    own = run.plan.commit is not None
    return sum(bool(run.plan.dirty if own else record.provenance.dirty) for record in run.records)
