"""Whether a map was kept from an earlier fit: which cell had it first, and the estimator as it was before any fit."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from mongebench.core.arrays import Points
from mongebench.core.errors import PluginError
from mongebench.core.estimator import MapEstimator
from mongebench.run.record import Cell

_first: dict[tuple[str, str], Cell] = {}
"""The first cell of this process to have a map, by its key but for the seed and the map's values."""


def same_map_before(cell: Cell, pushed: Points) -> Cell | None:
    """The first cell of this process, equal but for the seed, whose images were these to the last bit; not this one."""
    content = hashlib.sha256(np.ascontiguousarray(pushed).tobytes()).hexdigest()
    first = _first.setdefault((cell.model_copy(update={"seed": 0}).key, content), cell)
    return first if first.seed != cell.seed else None


def read_afresh(estimator: MapEstimator) -> MapEstimator:
    """The same estimator, unfitted, of a copy of its module; the modules of its package or folder are copies too.

    Raises `PluginError` where the module cannot be read again: a notebook's, a script that would run again, a class
    that is defined inside a function. Raises what the module raises.
    """
    cls = type(estimator)
    name = cls.__module__
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if module is None or path is None or name == "__main__" or getattr(module, cls.__qualname__, None) is not cls:
        raise PluginError(f"{cls.__qualname__} cannot be read afresh: it is not defined at the top of a module")
    with _forgotten(module):
        if "." in name:
            importlib.import_module(name.rpartition(".")[0])  # which may import the module
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None:
                raise PluginError(f"{path} is not a Python file")
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        fresh: MapEstimator = getattr(sys.modules[name], cls.__qualname__)(**estimator.get_params(deep=False))
    return fresh


@contextmanager
def _forgotten(module: ModuleType) -> Iterator[None]:
    """Import the module and its neighbours anew inside; afterwards all are the ones they were."""
    kept = {name: sys.modules.pop(name) for name in _neighbours(module)}
    try:
        yield
    finally:
        for name in _neighbours(module):
            del sys.modules[name]
        sys.modules.update(kept)


def _neighbours(module: ModuleType) -> list[str]:
    """Names of the loaded modules of the same package, or in the folder of a file; of our own estimators just one."""
    name = module.__name__
    top = name.partition(".")[0]
    if top == "mongebench":
        return [name] if name in sys.modules else []
    folder = Path(str(module.__file__)).parent
    alone = "site-packages" in folder.parts or "." in name  # others' modules may lie beside it

    def belongs(other: str) -> bool:
        return other.partition(".")[0] == top or (not alone and _folder(sys.modules[other]) == folder)

    return [other for other in list(sys.modules) if other != "__main__" and belongs(other)]


def _folder(module: ModuleType) -> Path | None:
    """Where a module's file is; asked so that a module that loads at its first use does not load."""
    if not isinstance(module, ModuleType):
        return None
    path = object.__getattribute__(module, "__dict__").get("__file__")
    return Path(path).parent if isinstance(path, str) else None
