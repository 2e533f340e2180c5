"""Names -> estimators, problem families and metrics: one registration for ours and anyone's.

A name is an entry point of the group `mongebench.estimators`, `mongebench.datasets` or `mongebench.metrics` of any
installed package (ours are in our own pyproject.toml), or something a Python file defines: `--plugin file.py` for all
of it, `--plugin file.py:Name` for one. An estimator is a class that derives from `MapEstimator`, a problem family a
function annotated `-> Problem`, a metric what `@metric` made of a function: what entry points name, too.
Nothing is imported before it is used, so listing never loads jax or torch and a broken plugin harms only itself.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mongebench.core import parameters
from mongebench.core.errors import (
    CannotBeMade,
    HarmfulPlugin,
    InvalidParameter,
    MongebenchError,
    PluginError,
    UnknownName,
    one_of,
)
from mongebench.core.syntax import tree_of
from mongebench.foreign import OURS, guarded

if TYPE_CHECKING:
    from mongebench.core.estimator import MapEstimator
    from mongebench.core.problem import Problem, Split

ESTIMATORS = "mongebench.estimators"
DATASETS = "mongebench.datasets"
METRICS = "mongebench.metrics"
SHOWN = {"euclidean": "plain_descent", "exact": "exact_coupling"}
"""What tables call estimators whose registered names mislead; both names are understood, and records keep the old."""
ANCHORS = ("truth", "identity", "mean_shift", "bures")
"""Estimators that stand in every table for scale, in the order in which they stand there."""
KINDS = {ESTIMATORS: "estimator", DATASETS: "problem", METRICS: "metric"}


@dataclass(frozen=True)
class Plugin:
    """One registered name.

    Attributes
    ----------
    name, group
        What it is called, and the entry-point group it belongs to.
    module, attribute
        Where it lives; `module` is a dotted name, or the path of a file given by `--plugin`.
    origin
        Distribution or file that brought it.
    """

    name: str
    group: str
    module: str
    attribute: str
    origin: str

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{KINDS[self.group]} {self.name!r}"

    def load(self) -> Any:
        """The registered object. Raises `PluginError` naming the import error in one line."""
        try:
            return getattr(self._module(), self.attribute)
        except (ModuleNotFoundError, HarmfulPlugin):
            raise
        except Exception as error:
            raise PluginError(
                f"{KINDS[self.group]} {self.name!r} from {self.origin} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _module(self) -> ModuleType:
        path = Path(self.module)
        if path.suffix == ".py":
            return import_file(path)
        with guarded(f"The import of {self.module} from {self.origin}", self.origin):
            return importlib.import_module(self.module)

    def source_file(self) -> Path | None:
        """The file it is defined in, found without importing it; None where there is none to read."""
        if self.module.endswith(".py"):
            return Path(self.module)
        package, *rest = self.module.split(".")
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for candidate in (Path(root, *rest).with_suffix(".py"), Path(root, *rest, "__init__.py")):
                if candidate.is_file():
                    return candidate
        return Path(spec.origin) if spec and spec.origin and not rest else None

    def summary(self) -> str:
        """First line of its docstring."""
        return self.docstring().partition("\n")[0]

    def docstring(self) -> str:
        """Read without importing it; empty where there is none."""
        path = self.source_file()
        if path is None:
            return ""
        try:
            tree = tree_of(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            return f"cannot be read: {type(error).__name__}: {error}"
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == self.attribute:
                return ast.get_docstring(node) or ""
        return ""


_from_files: dict[tuple[str, str], Plugin] = {}
"""By group and name."""


def available(group: str) -> dict[str, Plugin]:
    """All registered names of a group, sorted. Raises `PluginError` where two origins claim one name."""
    plugins: dict[str, Plugin] = {}
    for plugin in [
        *_installed(group, _places()),
        *(plugin for plugin in _from_files.values() if plugin.group == group),
    ]:
        other = plugins.setdefault(plugin.name, plugin)
        if other != plugin:
            raise PluginError(_clash(other, plugin))
    return dict(sorted(plugins.items()))


# A plan asks for names thousands of times, and the metadata of every installed distribution take 40 ms to read.
@functools.lru_cache(maxsize=16)
def _installed(group: str, places: tuple[tuple[str, int], ...]) -> list[Plugin]:
    """The entry points of a group, while `places` stay as they are."""
    del places
    return [
        Plugin(point.name, group, point.module, point.attr, point.dist.name if point.dist else "unknown")
        for point in entry_points(group=group)
    ]


def _places() -> tuple[tuple[str, int], ...]:
    """Where distributions may be installed, and when something last was."""
    changed = []
    for place in sys.path:
        try:
            changed.append((place, os.stat(place or ".").st_mtime_ns))
        except OSError:
            changed.append((place, 0))
    return tuple(changed)


def find(group: str, name: str) -> Plugin:
    """The plugin of that name, or of that one of `SHOWN`. Raises `UnknownName` with the valid names."""
    plugins = available(group)
    if group == ESTIMATORS and name not in plugins:
        name = next((old for old, shown in SHOWN.items() if shown == name), name)
    if name not in plugins:
        raise UnknownName(one_of(str(name), plugins, KINDS[group]))
    return plugins[name]


def is_ours(estimator: str) -> bool:
    """Whether the estimator of this name is nobody else's."""
    plugin = available(ESTIMATORS).get(estimator)
    return plugin is not None and plugin.origin == OURS


def is_file(target: str | Path) -> bool:
    """Whether `target` has the form `file.py` or `file.py:Name`."""
    return str(target).endswith(".py") or ".py:" in str(target)


def add_file(target: str | Path) -> list[Plugin]:
    """Register the estimators, problems and metrics of `file.py`, or one, `file.py:Name`; `MyMap` is called `my_map`.

    The file is imported once a process.

    Raises
    ------
    PluginError
        The file is missing, cannot be imported, defines nothing to register, or a name of it is taken.
    UnknownName
        The file defines others than `Name`.
    """
    path, wanted = _parts(target)
    try:
        module = import_file(path)
    except HarmfulPlugin:
        raise
    except Exception as error:
        raise PluginError(f"Plugin {path} cannot be imported: {type(error).__name__}: {error}") from error
    defined = {
        name: group
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and getattr(value, "__name__", None) == name
        and (group := _group_of(value)) is not None
    }
    if not defined:
        raise PluginError(
            f"Plugin {path} defines no class that derives from mongebench.MapEstimator, no function annotated "
            "`-> mongebench.Problem`, and no metric."
        )
    return _register(path, wanted, defined)


def add_harmful_file(target: str | Path) -> list[Plugin]:
    """Register the estimators and problems that a file seems to define, without importing it: none may be found.

    Each of them raises `HarmfulPlugin` when it is loaded. Raises as `add_file` does.
    """
    path, wanted = _parts(target)
    defined: dict[str, str] = {}
    for node in tree_of(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if "MapEstimator" in bases or bases & {name for name, group in defined.items() if group == ESTIMATORS}:
                defined[node.name] = ESTIMATORS
        elif isinstance(node, ast.FunctionDef) and node.returns and not node.name.startswith("_"):
            returned = ast.unparse(node.returns).strip("'").rpartition(".")[2]
            defined |= {node.name: DATASETS} if returned == "Problem" else {}
    return _register(path, wanted, defined) if defined else []


def _parts(target: str | Path) -> tuple[Path, str]:
    """The file of `file.py` or `file.py:Name`, and the name, or nothing."""
    stem, separator, wanted = str(target).partition(".py:")
    path = Path(f"{stem}.py" if separator else target).resolve()
    if not path.is_file():
        raise PluginError(f"There is no plugin file {path}.")
    return path, wanted


def _register(path: Path, wanted: str, defined: dict[str, str]) -> list[Plugin]:
    """Register what a file defines, its groups by name; `wanted` alone unless that is empty."""
    if wanted and wanted not in defined:
        raise UnknownName(one_of(wanted, defined, f"estimator, problem or metric of {path}"))
    chosen = [wanted] if wanted else list(defined)
    plugins = [Plugin(snake_case(name), defined[name], str(path), name, str(path)) for name in chosen]
    taken = {group: available(group) for group in KINDS}
    for plugin in plugins:
        if taken[plugin.group].setdefault(plugin.name, plugin) != plugin:
            raise PluginError(_clash(taken[plugin.group][plugin.name], plugin))
    _from_files.update({(plugin.group, plugin.name): plugin for plugin in plugins})
    return plugins


def _group_of(value: Any) -> str | None:
    """What a file's class, function or metric is registered as; None where it is nothing of ours."""
    from mongebench.core.estimator import MapEstimator
    from mongebench.metrics.base import Metric

    if isinstance(value, Metric):
        return METRICS
    if inspect.isclass(value):
        return ESTIMATORS if issubclass(value, MapEstimator) and not inspect.isabstract(value) else None
    if inspect.isfunction(value) and not value.__name__.startswith("_"):
        returned = inspect.formatannotation(value.__annotations__.get("return"))  # text, with postponed evaluation
        return DATASETS if returned.strip("'").rpartition(".")[2] == "Problem" else None
    return None


def _clash(one: Plugin, other: Plugin) -> str:
    return (
        f"Two {KINDS[one.group]}s are called {one.name!r}: one from {one.origin}, one from {other.origin}. "
        "Rename one of them."
    )


def snake_case(name: str) -> str:
    """`MyMap` -> `my_map`, `OTMap` -> `ot_map`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def import_file(path: Path) -> ModuleType:
    """The module of a plugin file, imported once a process."""
    name = f"mongebench_plugin_{path.stem}"
    module = sys.modules.get(name)
    if module is not None and module.__file__ == str(path):
        return module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with guarded(f"The import of {path}", str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def completed(plugin: Plugin, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the defaults of what was left out, as a plan holds them. Raises `InvalidParameter`."""
    return parameters.plain(parameters.complete(function, given, plugin.title))


def problems() -> list[str]:
    """Names of all problem families."""
    return list(available(DATASETS))


def problem(name: str, *, base: str | Path = ".", **given: Any) -> Problem:
    """Build a problem.

    Parameters
    ----------
    name
        One of `problems()`.
    base
        Folder that relative file paths among the parameters are resolved against; no part of the problem's identity.
    **given
        Parameters of the family; `mongebench show NAME` lists them.

    Raises
    ------
    UnknownName, InvalidParameter, PluginError
    OracleNotDeclared
        While an estimator fits or maps: it may know about a problem only what its views tell.
    """
    from mongebench.core import guard
    from mongebench.core.problem import Problem

    guard.refuse(f"problem {name!r}")
    plugin = find(DATASETS, name)
    family = plugin.load()
    complete = parameters.complete(family, given, plugin.title)
    resolved = {key: Path(base, value) if isinstance(value, Path) else value for key, value in complete.items()}
    with _making(plugin, given):
        built = family(**resolved)
    if not isinstance(built, Problem):
        raise PluginError(f"Problem {name!r} from {plugin.origin} is a {type(built).__name__}, expected a Problem.")
    return replace(built, name=name, parameters=parameters.plain(complete))


def split_of(family: str) -> Split:
    """What a family of problems is for, at its defaults; `test` where it has none (data of the user's own).

    Raises
    ------
    UnknownName, PluginError
    """
    from mongebench.core.problem import Split

    try:
        return problem(family).split
    except InvalidParameter:
        return Split.TEST


def metrics() -> list[str]:
    """Names of all metrics."""
    return list(available(METRICS))


def estimators() -> list[str]:
    """Names of all estimators."""
    return list(available(ESTIMATORS))


def estimator(name: str, **given: Any) -> MapEstimator:
    """Make an unfitted estimator; `estimators()` lists the names, `mongebench show NAME` the parameters.

    Raises
    ------
    UnknownName, InvalidParameter, PluginError
    """
    from mongebench.core.estimator import refuse_idle

    plugin = find(ESTIMATORS, name)
    cls = plugin.load()
    complete = parameters.complete(cls, given, plugin.title)
    if not hasattr(cls, "needs"):
        raise PluginError(
            f"Estimator {name!r} from {plugin.origin} declares no `needs`; give it a frozenset of Oracles."
        )
    with _making(plugin, given):
        built: MapEstimator = cls(**complete)
        built.check_parameters()
    refuse_idle(built, plugin.title)
    return built


@contextmanager
def _making(plugin: Plugin, given: Mapping[str, Any]) -> Iterator[None]:
    """Around somebody else's constructor: what it raises becomes a sentence."""
    kind = KINDS[plugin.group].capitalize()
    try:
        with guarded(f"{kind} {plugin.name!r} from {plugin.origin}, made with {given},", plugin.origin):
            yield
    except (MongebenchError, ImportError):
        raise
    except Exception as error:
        raise CannotBeMade(
            f"{kind} {plugin.name!r} from {plugin.origin} cannot be made with these parameters: "
            f"{type(error).__name__}: {error}"
        ) from error
