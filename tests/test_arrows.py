"""All arrows point down: no module imports one of a room above its own, inside of functions neither."""

import ast
import os
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mongebench"
ROOMS = (
    *("core", "foreign", "plugins", "metrics", "datasets", "estimators", "experiments", "selection"),
    *("run", "saved", "check", "report", "cli", "__main__"),
)
"""From the lowest to the highest; each may import those before it."""
REPORT = ("rates", "tables", "figures", "verdict", "asv", "site", "gates", "submission")
"""The same inside of `report`."""
UP = {("mongebench.plugins", "mongebench.metrics.base")}
"""What a plugin file defines is told apart by its class, inside of a function."""


def modules() -> dict[str, ast.Module]:
    """Every module by its name; those of `estimators` and `datasets` are behind links."""
    found = {}
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            parts = ["mongebench", *path.relative_to(PACKAGE).with_suffix("").parts]
            if "templates" not in parts:  # files to be written elsewhere, no modules
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The modules of ours that import statements name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "an import with dots hides where it points"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
        else:
            continue
        yield from (name for name in names if name.startswith("mongebench."))


def room(module: str, rooms: tuple[str, ...], level: int = 1) -> int:
    return rooms.index(module.split(".")[level])


def test_every_room_is_listed() -> None:
    assert {name.split(".")[1] for name in MODULES if "." in name} == set(ROOMS)
    assert {name.split(".")[2] for name in MODULES if name.startswith("mongebench.report.")} == set(REPORT)
    assert len(MODULES) > 100


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"mongebench"}))
def test_arrows_point_down(module: str) -> None:
    for name in imported(ast.walk(MODULES[module])):
        if (module, name) not in UP:
            assert room(name, ROOMS) <= room(module, ROOMS), f"{module} imports {name}"
        if module.startswith("mongebench.report.") and name.startswith("mongebench.report."):
            assert room(name, REPORT, 2) <= room(module, REPORT, 2), f"{module} imports {name}"


def test_no_import_goes_round() -> None:
    """At import time: neither inside of functions nor for type checkers alone."""
    at_once = {name: set(imported(iter(tree.body))) - {name} for name, tree in MODULES.items()}
    assert len(list(TopologicalSorter(at_once).static_order())) >= len(MODULES)
