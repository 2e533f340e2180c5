"""Commands for those who add an estimator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mongebench.cli.common import CHECK_FAILED, Plugins, add_plugins
from mongebench.core.errors import UnknownName, one_of


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


def new_estimator(
    name: Annotated[str, typer.Argument(help="Name of the new estimator, such as my_map.")],
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder for the package.", show_default="NAME")
    ] = None,
    framework: Annotated[str, typer.Option(help="Framework of the template: numpy, jax or torch.")] = "numpy",
    ci: Annotated[bool, typer.Option("--ci", help="Add the workflows that init-ci writes.")] = False,
) -> None:
    """Start a package of your own: a working estimator with its entry point, tests and README."""
    from mongebench.cli.ci import Measured
    from mongebench.cli.ci import init_ci as add_ci
    from mongebench.cli.scaffold import Framework
    from mongebench.cli.scaffold import new_estimator as write

    if framework not in list(Framework):
        raise UnknownName(one_of(framework, [str(known) for known in Framework], "framework"))
    directory = directory or Path(name)
    written = write(name, directory, Framework(framework))
    for path in [*written, *(add_ci(directory, Measured((name,))) if ci else [])]:
        typer.echo(str(path))
    typer.echo(f"Next: pip install -e {directory} && mongebench check {name}")


def init_ci(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Top folder of the repository.")] = Path(),
    estimator: Annotated[
        list[str] | None, typer.Option(help="To measure [default: those that DIR/pyproject.toml registers].")
    ] = None,
    plugin: Annotated[str, typer.Option(help="file.py of DIR, of estimators that are not installed.")] = "",
    install: Annotated[
        str | None, typer.Option(help="Shell command that installs DIR [default: pip install .].")
    ] = None,
) -> None:
    """Have your CI measure pull requests and nights: two workflows, an experiment, and a file for its gates."""
    from mongebench.cli.ci import EXPERIMENT, found_in
    from mongebench.cli.ci import init_ci as write

    for path in write(directory, found_in(directory, tuple(estimator or ()), plugin, install)):
        typer.echo(str(path))
    given = f" --plugin {plugin}" if plugin else ""
    typer.echo(f"Next: commit them, and mongebench nightly {EXPERIMENT}{given} --record, which fills in the gates")
