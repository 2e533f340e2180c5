"""Commands that run cells, or say which would run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mongebench.cli.common import CHECK_FAILED, NOTHING_RAN, Only, Plugins, RunPath, note
from mongebench.cli.write import configuration, import_records, uncommitted
from mongebench.core.errors import ExperimentError, InvalidParameter


def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or its TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory for the records.", show_default="results/runs/NAME")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Run seeds 0 to K-1 instead of the experiment's own.", metavar="K")
    ] = None,
    only: Only = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print a summary of the plan; run and write nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With --dry-run: one line per cell.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of parallel child processes.", show_default="as many as cores")
    ] = None,
    plugin: Plugins = None,
    engine: Annotated[
        str, typer.Option(help="Where cells run: local (child processes here) or dask (its workers).")
    ] = "local",
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Address of a running dask scheduler.", show_default="workers are started here"
        ),
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="For timing: one cell at a time on this machine, pinned to its cores.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device: cpu, gpu, or auto (a GPU where nvidia-smi lists one).")] = "auto",
    report: Annotated[bool, typer.Option("--report", help="Also build the report, in OUT/report.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Show the result on the leaderboard of a published run, without measuring its cells again.",
        ),
    ] = None,
) -> None:
    """Run an experiment: one record per cell, then tables, a figure and a verdict. Run again to resume."""
    from mongebench.cli import progress
    from mongebench.report import verdict
    from mongebench.report.figures import printed
    from mongebench.report.site import pages
    from mongebench.report.tables import joint, terminal
    from mongebench.run import experiment as experiments
    from mongebench.run.reading import read_run, unpacked
    from mongebench.run.record import Status
    from mongebench.run.runner import Execution, Machinery
    from mongebench.run.store import Invocation, RunDirectory

    if against is not None:
        unpacked(against).plan()  # a run that is none is said at once, not when the grid is planned
    invocation = Invocation(
        experiment=experiment,
        seeds=seeds,
        only=only,
        plugins=tuple(map(str, plugin or ())),
        exclusive=exclusive,
        device=device,
        against=None if against is None else str(against),
    )
    machinery = Machinery(engine, scheduler, workers)
    name = experiments.read(experiment).name
    planned = Execution(invocation, RunDirectory(out or Path("results", "runs", name)), machinery)
    if dry_run:
        progress.print_plan(planned, every_cell=verbose)
        return
    progress.execute(planned)
    directory = planned.directory
    found = read_run(directory.path)
    rows = found.frame()
    terminal.show(terminal.results(rows))
    terminal.show(terminal.status(rows))
    for sentence in verdict.sentences(found, rows):
        typer.echo(sentence)
    drawn = printed.draw(found, directory.path / "figures")
    if drawn:
        typer.echo(f"figure: {drawn[0]} ({len(drawn) - 1} more files beside it)")
    typer.echo(f"records: {directory.cells}")
    if report:
        typer.echo(f"report: {pages.build(found, directory.path / 'report', figures=drawn)}")
    note(rows)
    if against is not None:
        both = joint.joined(directory.path, against)
        terminal.show(terminal.board(both.rows))
        for remark in both.remarks:
            typer.echo(remark)
    if set(rows["status"]) <= {Status.UNSUPPORTED, Status.MISSING_DEPENDENCY}:
        typer.echo("Nothing could run: every cell is unsupported or lacks a package.", err=True)
        raise typer.Exit(NOTHING_RAN)


def nightly(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or its TOML file.")] = "nightly",
    out: Annotated[
        Path | None, typer.Option(help="Directory for the records.", show_default="results/runs/NAME-COMMIT")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of parallel child processes.")] = None,
    commit: Annotated[
        str | None, typer.Option(help="Commit that is measured.", show_default="what is checked out here")
    ] = None,
    config: Annotated[Path, typer.Option(help="asv's configuration file, written if there is none.")] = Path(
        "asv.conf.json"
    ),
    record: Annotated[
        bool, typer.Option("--record", help="Write new gates from this run, unless it breaks one of the old.")
    ] = False,
    accept_worse: Annotated[
        bool, typer.Option("--accept-worse", help="With --record: also raise the gates that this run breaks.")
    ] = False,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="Put the run into asv's history although files differ from the commit.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Measure this commit, publish dashboard and report, and judge the run by its gates; exit code 1 if it fails."""
    from mongebench.cli import progress
    from mongebench.report import gates
    from mongebench.report.asv import dashboard, export
    from mongebench.report.site import pages
    from mongebench.run import experiment as experiments
    from mongebench.run.provenance import working_commit
    from mongebench.run.reading import read_run
    from mongebench.run.runner import Execution, Machinery
    from mongebench.run.store import Invocation, RunDirectory, write_atomically

    # Whatever can be wrong is said before the hour.
    dashboard.require()
    declared = experiments.read(experiment)
    path = gates.path_of(declared, record)
    recorded = gates.read(path) if path.exists() or (declared.gates and not record) else gates.none()
    if accept_worse and not record:
        raise InvalidParameter("--accept-worse raises gates, which --record alone does: give both, or neither.")
    measured = commit or working_commit()[0]
    if measured is None:
        raise ExperimentError(f"A nightly run measures a commit, and {Path.cwd()} has none: git init, then git commit.")
    invocation = Invocation(experiment=experiment, plugins=tuple(map(str, plugin or ())))
    found = configuration(config)
    full, _ = export.known_commit(measured, Path(found["repo"]))
    directory = RunDirectory(out or Path("results", "runs", f"{declared.name}-{full[:8]}"))
    planned = Execution(invocation, directory, Machinery(workers=workers))
    progress.execute(planned)
    run = read_run(directory.path)
    changed = uncommitted(run)
    if changed and not dirty:
        typer.echo(
            f"Not put into asv's history: files here differ from commit {full[:8]}, whose numbers these would seem to "
            "be. Commit them and measure again, or publish this run all the same with --dirty."
        )
    else:
        import_records(run, found, full, None)
        typer.echo(f"dashboard: {dashboard.publish(found)}")
    typer.echo(f"report: {pages.build(run, directory.path / 'report')}")
    rows = run.frame()
    if record:
        new, worse = gates.record(rows), gates.worse(rows, recorded)
        for sentence in (*gates.changes(recorded, new), *(f"worse: {sentence}" for sentence in worse)):
            typer.echo(sentence)
        if worse and not accept_worse:
            typer.echo(f"Not recorded, {path} is as it was: what got worse is raised with --accept-worse alone.")
        else:
            recorded = new
            gates.write(recorded, path)
            typer.echo(f"gates: {path}")
    judgement = gates.judge(rows, recorded)
    said = judgement.sentences()
    write_atomically(directory.path / "nightly.md", "".join(f"- {sentence}\n" for sentence in said))
    for sentence in said:
        typer.echo(sentence)
    if judgement.failed:
        raise typer.Exit(CHECK_FAILED)


def tune(
    estimator: Annotated[str, typer.Argument(help="Name of an estimator that declares which parameters to tune.")],
    trials: Annotated[int, typer.Option(min=2, help="Number of settings to try, including the defaults.")] = 8,
    experiment: Annotated[str, typer.Option(help="Experiment that names the problems and budgets.")] = "tuning",
    out: Annotated[
        Path | None, typer.Option(help="Directory for the records.", show_default="results/runs/tuning-NAME")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the proposed settings.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of parallel child processes.")] = None,
    plugin: Plugins = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Add the result to this file of tuned settings.")
    ] = None,
) -> None:
    """Choose an estimator's parameters on problems that no leaderboard shows; keep the records of every trial."""
    from mongebench.cli import progress
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


def why_rerun(run: RunPath) -> None:
    """Say which cells would run again if the command were repeated, and which field of their records is the reason."""
    from mongebench.core.text import on_one_line
    from mongebench.run.reading import unpacked
    from mongebench.run.runner import Execution

    directory = unpacked(run)
    planned = Execution.again(directory)
    reasons = [(cell.cell.label, directory.why_rerun(cell)) for cell in planned.plan.cells]
    for label, reason in reasons:
        if reason:
            typer.echo(on_one_line(f"{label}: {reason}"))
    typer.echo(f"{sum(reason is not None for _, reason in reasons)} of {len(reasons)} cells would run.")
