"""`mongebench init-ci`: workflows that measure pull requests and nights of another repository, and their experiment."""

from __future__ import annotations

import json
import shlex
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from mongebench import plugins
from mongebench.core.address import REPOSITORY
from mongebench.core.errors import InvalidParameter
from mongebench.report import gates
from mongebench.run.provenance import repository

ANCHORS = ("identity", "bures")
EXPERIMENT = "benchmarks/mongebench.toml"
"""Where the experiment is, from the top of the repository."""
FILES = {
    "pull_request.yml": ".github/workflows/mongebench.yml",
    "nightly.yml": ".github/workflows/mongebench-nightly.yml",
    "experiment.toml": EXPERIMENT,
}
GATES = "benchmarks/mongebench_gates.csv"


@dataclass(frozen=True)
class Measured:
    """What a repository measures.

    Attributes
    ----------
    names
        Registered names of its estimators, where installing it registers them.
    plugin
        A file of it, from its top, that defines estimators which are not installed; or empty.
    install
        The shell command that installs it; empty for none.
    """

    names: tuple[str, ...] = ()
    plugin: str = ""
    install: str = "pip install ."


def found_in(directory: Path, names: tuple[str, ...], plugin: str, install: str | None) -> Measured:
    """What a repository measures, from what was asked and what its pyproject.toml says.

    Raises `InvalidParameter` where that names no estimator, or a file or folder that is not there.
    """
    if not directory.is_dir():
        raise InvalidParameter(f"There is no folder {directory}; init-ci adds workflows to a repository that exists.")
    project = _project(directory / "pyproject.toml")
    if not names and not plugin:
        names = tuple(project.get("entry-points", {}).get(plugins.ESTIMATORS, {}))
    if not names and not plugin:
        raise InvalidParameter(
            f"Nothing to measure: {directory}/pyproject.toml registers no estimator (entry point of the group "
            f"{plugins.ESTIMATORS}); name one that is installed by --estimator NAME, or a file by --plugin FILE.py."
        )
    if plugin and not (directory / plugin.partition(".py:")[0].removesuffix(".py")).with_suffix(".py").is_file():
        raise InvalidParameter(f"There is no {plugin} in {directory}; --plugin is a file of the repository.")
    default = "pip install ." if project or (directory / "setup.py").is_file() else ""
    return Measured(names, plugin, default if install is None else install)


def _project(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    try:
        project: dict[str, dict[str, dict[str, str]]] = tomllib.loads(path.read_text(encoding="utf-8")).get(
            "project", {}
        )
        return project
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{path} cannot be read: {error}.") from None


def check_top(directory: Path) -> None:
    """Raise `InvalidParameter` for a folder below the top of a repository, where GitHub reads no workflow."""
    existing = next(folder for folder in (directory.resolve(), *directory.resolve().parents) if folder.is_dir())
    top = repository(existing)
    if top is not None and top.resolve() != directory.resolve():
        raise InvalidParameter(
            f"{directory} is in the repository {top}, and GitHub reads workflows only from its top folder. Nothing was "
            f"written: try mongebench init-ci {shlex.quote(str(top))}, with --install for what installs the estimators."
        )


def init_ci(directory: Path, measured: Measured) -> list[Path]:
    """Write two workflows, an experiment and a file for its gates; the files.

    Raises `InvalidParameter` where one of them is there already, or the folder is not the top of its repository;
    nothing is written then.
    """
    check_top(directory)
    paths = {template: directory / path for template, path in FILES.items()}
    for path in (*paths.values(), directory / GATES):
        if path.exists():
            raise InvalidParameter(f"{path} exists; nothing was written. Move it away to begin again.")
    words = {
        "repository": REPOSITORY,
        "plugin": json.dumps(measured.plugin),  # YAML takes a text of JSON as it is
        "plugin_option": f" --plugin {shlex.quote(measured.plugin)}" if measured.plugin else "",
        "install": json.dumps(measured.install),
        "install_line": measured.install.replace("\n", "\n          "),
        "names": ", ".join(json.dumps(name) for name in (*ANCHORS, *measured.names)),
        "joining": f"what {measured.plugin} defines" if measured.plugin else "the estimators of this repository",
    }
    for template, path in paths.items():
        text = files("mongebench.cli").joinpath("templates", "ci", f"{template}.template").read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    gates.write(gates.none(), directory / GATES)
    return [*paths.values(), directory / GATES]
