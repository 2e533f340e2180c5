"""Commands that write what runs have found: figures, files for other programs, pages, a dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mongebench.cli.common import Metric, Plugins, RunPath, add_plugins, checked_metric, inside, note
from mongebench.core.errors import InvalidParameter, MongebenchError
from mongebench.report.tables.formats import Format

if TYPE_CHECKING:
    from mongebench.run.reading import Run


def figures(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="Where to put them [default: RUN/figures].")] = None,
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
    format: Annotated[Format, typer.Option(help="Of the file.")] = Format.CSV,
    out: Annotated[
        Path | None, typer.Option(help="The file [default: RUN/results.csv, .parquet, .tex or .md].")
    ] = None,
    metric: Metric = None,
    leaderboard: Annotated[bool, typer.Option("--leaderboard", help="That alone, in any format.")] = False,
    plugin: Plugins = None,
) -> None:
    """Write the results of a run: every cell as CSV or Parquet, the tables as LaTeX or Markdown; or its leaderboard."""
    from mongebench.report.tables import exports
    from mongebench.run.reading import read_run

    add_plugins(plugin)
    rows = read_run(run).frame()
    name = "leaderboard" if leaderboard else "results"
    path = out or run / f"{name}.{format.suffix}"
    if leaderboard and metric is not None:
        raise InvalidParameter("--leaderboard ranks by each problem's own metric; leave --metric out.")
    if path.exists() and not path.is_file():
        raise MongebenchError(f"{path} is no file, and would be replaced; give the name of a file.")
    written = (
        exports.write_board(rows, format, path)
        if leaderboard
        else exports.write(rows, format, path, checked_metric(metric))
    )
    typer.echo(f"written: {written}")
    note(rows)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, shown as one.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the pages [default: FIRST_RUN/report].")] = None,
) -> None:
    """Write a report: pages to open from disk, with a leaderboard, figures, failures, downloads."""
    from mongebench.report.site import pages
    from mongebench.run.reading import read_run

    found = read_run(*runs)
    typer.echo(f"report: {pages.build(found, out or inside(runs[0], 'report'))}")
    note(found.frame())


def asv(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs.")],
    out: Annotated[Path | None, typer.Option(help="asv's results [default: results_dir of the configuration].")] = None,
    html: Annotated[Path | None, typer.Option(help="asv's pages [default: html_dir of the configuration].")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Then write the dashboard, to open from disk.")] = False,
    commit: Annotated[
        str | None, typer.Option(help="What was measured [default: what was checked out where it was run].")
    ] = None,
    machine: Annotated[str | None, typer.Option(help="Name of the machine [default: its processor's].")] = None,
    config: Annotated[Path, typer.Option(help="asv's configuration, written if there is none.")] = Path(
        "asv.conf.json"
    ),
) -> None:
    """Import the records of runs as asv results: errors, rates, failures and times, to be compared over commits."""
    from mongebench.report.asv import dashboard
    from mongebench.run.reading import read_run

    measured = [read_run(run) for run in runs]
    if publish:
        dashboard.require()
    found = configuration(config)
    found |= {key: str(path.resolve()) for key, path in (("results_dir", out), ("html_dir", html)) if path}
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
    own = run.plan.commit is not None
    if dirty := sum(bool(run.plan.dirty if own else record.provenance.dirty) for record in run.records):
        typer.echo(f"{dirty} records of {run.path} were made with changes that no commit has.", err=True)
