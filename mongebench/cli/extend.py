"""Commands for those who add an estimator or a problem."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from mongebench.cli.common import CHECK_FAILED, Plugins, add_plugins
from mongebench.core.errors import InvalidInput, InvalidParameter, MongebenchError, UnknownName, one_of


def check(
    target: Annotated[str, typer.Argument(help="Registered name, file.py, or file.py:Class.")] = "",
    list_checks: Annotated[
        bool, typer.Option("--list", help="Print what each check asks, why, and how to fix what fails.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Check that an estimator with its default parameters keeps the contract; exit code 1 if it does not."""
    from mongebench import plugins
    from mongebench.check import CHECKS, Outcome, run_checks
    from mongebench.report.tables import terminal

    if list_checks:
        terminal.show(terminal.catalogue(CHECKS.values()))
        return
    if not target:
        raise UnknownName("Give an estimator to check: a registered name, file.py, or file.py:Class.")
    add_plugins(plugin)
    names = [target]
    if plugins.is_file(target):
        names = [found.name for found in plugins.add_file(target) if found.group == plugins.ESTIMATORS]
        if not names:
            raise UnknownName(f"{target} defines no estimator to check.")
    failed = 0
    for name in names:
        results = run_checks(plugins.estimator(name))
        terminal.show(terminal.checks(name, results))
        failed += sum(result.outcome is Outcome.FAILED for result in results)
    if failed:
        raise typer.Exit(CHECK_FAILED)


def certify(
    problem: Annotated[str, typer.Argument(help="Registered name; if omitted, every recorded problem.")] = "",
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Parameters of the problem, such as dim=8.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Samples per side for the energy distance.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    record: Annotated[
        bool, typer.Option("--record", help="Record the version, digest and checks of a problem that passes.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="File of recorded verdicts.", show_default="that of the package")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Check everything that a problem claims, and its digest against the recorded one; exit code 1 if either fails."""
    from mongebench import plugins
    from mongebench.check import certified

    add_plugins(plugin)
    path = file or certified.STORED
    entries = certified.stored(path)
    if problem:
        given = _values(parameters or [])
        built = plugins.problem(problem, **given)
        entry = next((one for one in entries if one.is_of(built)), None)
        certificate, verdict = certified.trial(built, entry, n=n, seed=seed)
        offer = " --record keeps this." if verdict.new and not record else ""
        typer.echo(f"{built}\n{certificate}\n{verdict.sentence}{offer}")
        if not verdict.ok:
            raise typer.Exit(CHECK_FAILED)
        if record:
            certified.record(built, given, certificate, n=n, seed=seed, path=path)
            typer.echo(f"recorded: {path}")
        return
    if not entries:
        raise UnknownName(f"{path} has no recorded problem: name one to certify, and --record keeps it.")
    verdicts = []
    for entry in entries:
        try:
            verdicts.append(certified.trial(entry.build(), entry, n=entry.n, seed=entry.seed)[1])
        except MongebenchError as error:  # it is no longer made with these parameters
            verdicts.append(certified.Verdict(False, f"REFUSED: {error}"))
        typer.echo(f"{entry.title}: {verdicts[-1].sentence}")
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(CHECK_FAILED)


def references(
    action: Annotated[
        str, typer.Argument(help="build: make the draws; list: show which draws exist, and how good they are.")
    ],
    model: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Model of the problem `posterior`; if omitted, all.")
    ] = None,
    prior: Annotated[float, typer.Option(help="Standard deviation of the coefficients.", min=1e-3)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the chains.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the draws.", show_default="the user's cache")] = None,
) -> None:
    """Make or list reference draws of posteriors: NUTS chains, run until R-hat and effective sample size suffice."""
    from mongebench.cli.progress import sentences
    from mongebench.datasets import references as drawn
    from mongebench.datasets.posterior import MODELS, Regression

    if action not in ("build", "list"):
        raise UnknownName(one_of(action, ("build", "list"), "action"))
    chosen = [one for one in MODELS if one in (model or MODELS)]
    for name in model or []:
        if name not in MODELS:
            raise UnknownName(one_of(name, MODELS, "model"))
    for name in chosen:
        regression = Regression.of(name, prior)
        if action == "build":
            with sentences() as say:
                reference = regression.sample(seed, lambda said, name=name: say(f"{name}: {said}"))  # type: ignore[misc]
            path = drawn.save(reference, regression.digest, regression.potential, out or drawn.cache())
            typer.echo(f"{name}: {path}")
        try:
            kept = drawn.load(regression.digest, regression.potential, regression.how, out)
        except InvalidInput as error:
            typer.echo(f"{name}: {error}")
            continue
        told = kept.certificate
        typer.echo(
            f"{name}: {len(kept.draws)} draws, d = {regression.dim}, R-hat {told['r_hat']:.4f}, "
            f"bulk effective sample size {told['bulk']:.0f}, {told['divergent']} divergent transitions"
        )


def _values(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE as parameters; a value is read as JSON where it is that, and else as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise InvalidParameter(f"{pair!r} is not a parameter; write NAME=VALUE, such as dim=8.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def new_estimator(
    name: Annotated[str, typer.Argument(help="Name of the new estimator, such as my_map.")],
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder for the package.", show_default="NAME")
    ] = None,
    framework: Annotated[str, typer.Option(help="Framework of the template: numpy, jax or torch.")] = "numpy",
    ci: Annotated[bool, typer.Option("--ci", help="Add the workflows that init-ci writes.")] = False,
) -> None:
    """Start a package of your own: a working estimator with its entry point, tests and README."""
    from mongebench.cli.ci import Measured, check_top
    from mongebench.cli.ci import init_ci as add_ci
    from mongebench.cli.scaffold import Framework
    from mongebench.cli.scaffold import new_estimator as write

    if framework not in list(Framework):
        raise UnknownName(one_of(framework, [str(known) for known in Framework], "framework"))
    directory = directory or Path(name)
    if ci:
        check_top(directory)
    written = write(name, directory, Framework(framework))
    for path in [*written, *(add_ci(directory, Measured((name,))) if ci else [])]:
        typer.echo(str(path))
    typer.echo(f"Next: pip install -e {shlex.quote(str(directory))} && mongebench check {name}")


def init_ci(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Top folder of the repository.")] = Path(),
    estimator: Annotated[
        list[str] | None,
        typer.Option(help="Estimator to measure.", show_default="those that DIR/pyproject.toml registers"),
    ] = None,
    plugin: Annotated[str, typer.Option(help="File in DIR with estimators that are not installed: file.py.")] = "",
    install: Annotated[
        str | None, typer.Option(help="Shell command that installs DIR.", show_default="pip install .")
    ] = None,
) -> None:
    """Add CI workflows that measure pull requests and run nightly, with an experiment and a file for its gates."""
    from mongebench.cli.ci import EXPERIMENT, found_in
    from mongebench.cli.ci import init_ci as write

    for path in write(directory, found_in(directory, tuple(estimator or ()), plugin, install)):
        typer.echo(str(path))
    given = f" --plugin {shlex.quote(plugin)}" if plugin else ""
    there = "" if directory.resolve() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    record = f"{there}mongebench nightly {EXPERIMENT}{given} --record"
    typer.echo(f"Next: commit these files, then fill in the gates with {record}")
