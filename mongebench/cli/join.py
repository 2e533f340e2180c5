"""Commands for those who join a leaderboard from outside, and for its maintainers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mongebench.cli.common import CHECK_FAILED, share
from mongebench.core.errors import InvalidParameter


def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run that measured your estimators.")],
    out: Annotated[
        Path | None, typer.Option(metavar="ZIP", help="Zip file to write.", show_default="RUN/submission.zip")
    ] = None,
) -> None:
    """Pack the records of your estimators, their provenance and their source into one zip file for verification."""
    from mongebench.report import submission
    from mongebench.run.store import RunDirectory

    path = out or run / "submission.zip"
    if out is not None and not out.parent.is_dir():
        raise InvalidParameter(f"--out {out}: there is no folder {out.parent}.")
    found = submission.submit(RunDirectory(run), path)
    for name in (*found.plugins, *found.requirements):
        typer.echo(f"source: {name}")
    typer.echo(f"written: {path} ({', '.join(found.estimators)})")
    typer.echo(f"A maintainer checks it with: mongebench verify {shlex.quote(str(path))}")


def verify(
    path: Annotated[Path, typer.Argument(metavar="ZIP", help="Zip file written by `mongebench submit`.")],
    part: Annotated[str, typer.Option("--share", help="Share of the cells to measure again.")] = "10%",
    tolerance: Annotated[str, typer.Option(help="Relative difference that is allowed in an error.")] = "5%",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the choice of cells.", show_default="drawn anew each time")
    ] = None,
) -> None:
    """Measure a random tenth of a submission again and compare. This runs its code, so read the code first."""
    from mongebench.core.text import on_one_line
    from mongebench.report import submission

    of, within = share(part, "--share"), share(tolerance, "--tolerance")
    for name in submission.opened(path).plugins:
        typer.echo(f"runs: {on_one_line(name)}")
    found = submission.verify(path, of, within, seed)
    for fault in found.faults:
        typer.echo(on_one_line(f"FAILED: {fault}"))
    for one in found.checked:
        typer.echo(on_one_line(f"{'agrees' if one.agrees else 'FAILED'}: {one.label}: {one.said}"))
    good = sum(one.agrees for one in found.checked)
    typer.echo(f"{good} of {len(found.checked)} cells agree, of {found.planned} submitted.")
    if not found.holds:
        raise typer.Exit(CHECK_FAILED)
    typer.echo(f"verified: {submission.mark(path, found, of, within)}")
