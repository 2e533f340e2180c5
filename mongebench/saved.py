"""Fitted estimators on disk: one .npz that is read without pickle, so that a file from elsewhere runs no code.

    mb.save(mb.estimator("bures").fit(X, Y), "map.npz")
    T = mb.load("map.npz").transform

The file holds arrays, and a JSON header with the estimator's class, its parameters, what `fit` learnt and the versions
it was made with. A state may consist of numbers, text, arrays (NumPy, JAX, torch), lists, tuples, dictionaries and
dataclasses (equinox modules are some) of mongebench or of the estimator's own package. What is something else, a
network of torch or a tree of scikit-learn, is made again from such parts: see `MapEstimator.fitted_state`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from sklearn.exceptions import NotFittedError

from mongebench.core.errors import InvalidInput, NotSavable
from mongebench.core.estimator import MapEstimator
from mongebench.core.npz import DAMAGED, TooLarge, read_arrays
from mongebench.plugins import ESTIMATORS, available
from mongebench.run.provenance import versions
from mongebench.selection.scaled import Scaled

FORMAT: Literal["mongebench estimator 1"] = "mongebench estimator 1"
SELECTED = f"{Scaled.__module__}:{Scaled.__qualname__}"
"""An estimator of ours that is not registered."""
HEADER = "header"
"""Name of the header among the arrays."""
MOST_BYTES = 1 << 30
"""What `load` lets a file unpack to unless it is told otherwise."""


class Header(BaseModel):
    """What stands beside the arrays."""

    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["mongebench estimator 1"]
    estimator: str
    dim: int
    columns: list[str | int] | None = None
    parameters: dict[str, Any]
    state: dict[str, Any]
    versions: dict[str, str]


def save(estimator: MapEstimator, path: str | Path | IO[bytes]) -> None:
    """Write a fitted estimator to one .npz, without pickle.

    Parameters
    ----------
    estimator
        Fitted; anyone's.
    path
        Path of the file, which is replaced; or a binary file that is open.

    Raises
    ------
    NotSavable
        A parameter, or a part of what `fit` learnt, that such a file cannot hold. Nothing is written then.
    """
    cls = type(estimator)
    if getattr(estimator, "n_features_in_", None) is None:
        raise NotFittedError(f"This {cls.__name__} is not fitted yet; call fit(source, target) before saving it.")
    writer = _Writer(cls)
    header = Header(
        format=FORMAT,
        estimator=f"{cls.__module__}:{cls.__qualname__}",
        dim=int(estimator.n_features_in_),
        columns=None if estimator.column_names_ is None else list(estimator.column_names_),
        parameters=writer.encode_all(estimator.get_params(deep=False)),
        state=writer.encode_all(estimator.fitted_state()),
        versions={"mongebench": importlib.metadata.version("mongebench"), **versions()},
    )
    content = {HEADER: np.array(json.dumps(header.model_dump())), **writer.arrays}
    with _opened(path, "wb") as file:
        np.savez(file, **content)  # type: ignore[arg-type]


def load(
    path: str | Path | IO[bytes],
    estimator_class: type[MapEstimator] | None = None,
    *,
    max_bytes: int | None = MOST_BYTES,
) -> MapEstimator:
    """Load a fitted estimator that `save` wrote; with the same versions, its map is the same to the last bit.

    No code in the file runs, and it can cause only registered estimators to be imported: give the class itself
    where it is not registered.

    Parameters
    ----------
    path
        Path of the file; or a binary file that is open.
    estimator_class
        Class of the estimator, where no installed package and no `--plugin` registers it.
    max_bytes
        Most that the file may unpack to, which is looked at before anything is read; None for no bound.

    Raises
    ------
    InvalidInput
        No such file, one that `save` has not written or that does not fit the class, or one that is too large.
    """
    try:
        with _opened(path, "rb") as file:
            arrays = read_arrays(file, max_bytes)
        header = Header.model_validate(json.loads(str(arrays.pop(HEADER))))
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.") from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise InvalidInput(f"{path} was not saved by this mongebench: {place} of its header is unknown.") from None
    except TooLarge as error:
        raise InvalidInput(f"{path} was not read: {error}. If you trust it, raise max_bytes.") from None
    except DAMAGED as error:
        what = str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{path} is not a file that mongebench.save wrote ({what}).") from None
    cls = estimator_class or _registered(header.estimator)
    if cls.__qualname__ != header.estimator.partition(":")[2]:
        raise InvalidInput(f"{path} holds a fitted {header.estimator}; the class {cls.__qualname__} was given.")
    reader = _Reader(cls, arrays)
    try:
        parameters = {name: reader.decode(value) for name, value in header.parameters.items()}
        estimator = cls(**parameters)
        estimator.n_features_in_ = header.dim
        estimator.column_names_ = None if header.columns is None else tuple(header.columns)
        estimator.restore({name: reader.decode(value) for name, value in header.state.items()})
    except (AttributeError, *DAMAGED) as error:
        raise InvalidInput(f"{path} does not fit {cls.__name__}: {error}") from error
    return estimator


def _opened(path: str | Path | IO[bytes], mode: Literal["rb", "wb"]) -> AbstractContextManager[IO[bytes]]:
    """The file, opened here: NumPy would add a suffix to a new name, and leaves open what it cannot read."""
    if not isinstance(path, (str, Path)):
        return nullcontext(path)
    if Path(path).exists() and not Path(path).is_file():
        raise InvalidInput("it is not a regular file")
    return open(path, mode)


def _registered(estimator: str) -> type[MapEstimator]:
    """The registered class of that module and name; of that name in the same package, where its module has moved."""
    if estimator == SELECTED:
        return Scaled
    module, _, name = estimator.partition(":")
    named: list[type[MapEstimator]] = [p.load() for p in available(ESTIMATORS).values() if p.attribute == name]
    for same in (str, lambda path: path.partition(".")[0]):
        for cls in named:
            if cls.__qualname__ == name and same(cls.__module__) == same(module):
                return cls
    raise InvalidInput(
        f"The file holds a fitted {estimator}, which is not registered: import the class yourself and give it, "
        "mongebench.load(path, TheClass)."
    )


@dataclass
class _Own:
    """The dataclasses that a state may hold: those of mongebench and of the estimator's own package."""

    estimator_class: type[MapEstimator]

    def path_of(self, cls: type) -> str:
        """`module:Class`, without the module where it is the estimator's, which has another name in a script."""
        home = cls.__module__ == self.estimator_class.__module__
        return f"{'' if home else cls.__module__}:{cls.__qualname__}"

    def find(self, path: str) -> type | None:
        """The dataclass of a path, among the modules that are imported already; None where there is none.

        A class that has moved is found where it was as long as its name is there.
        """
        module, _, name = path.partition(":")
        module = module or self.estimator_class.__module__
        packages = ("mongebench", self.estimator_class.__module__.partition(".")[0])
        found: Any = sys.modules.get(module) if module.partition(".")[0] in packages else None
        for part in name.split("."):
            found = getattr(found, part, None)
        known = isinstance(found, type) and dataclasses.is_dataclass(found)
        return found if known and found.__module__.partition(".")[0] in packages else None


@dataclass
class _Writer(_Own):
    """Values -> JSON that names arrays, and these arrays."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def encode_all(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: self.encode(value, name) for name, value in values.items()}

    def encode(self, value: Any, where: str) -> Any:
        """Raises `NotSavable`."""
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is list:
            return [self.encode(item, where) for item in value]
        if kind is tuple:
            return {"tuple": [self.encode(item, where) for item in value]}
        if kind is dict:
            items = value.items()
            return {"dict": [[self.encode(key, where), self.encode(item, f"{where}[{key!r}]")] for key, item in items]}
        if library := _library(value):
            return {library: self._keep(value, where)}
        if dataclasses.is_dataclass(kind) and self.find(self.path_of(kind)) is kind:
            fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
            content = {name: self.encode(item, f"{where}.{name}") for name, item in fields.items()}
            return {"object": self.path_of(kind), "fields": content}
        raise NotSavable(
            f"{where} of {self.estimator_class.__name__} is a {kind.__module__}.{kind.__qualname__}, which cannot be "
            "saved without pickle: let `fit` learn arrays, or write `fitted_state` and `restore`."
        )

    def _keep(self, value: Any, where: str) -> str:
        """Keep an array; the name it is kept under."""
        what = f"{where} of {self.estimator_class.__name__}"
        try:
            array = np.asarray(value.detach().cpu() if _library(value) == "torch" else value)
        except TypeError as error:  # what NumPy has no type for
            raise NotSavable(f"{what} cannot be saved: {error}.") from None
        if array.dtype.kind not in "biufcSU":
            raise NotSavable(f"{what} has entries of type {array.dtype}; numbers or text were expected.")
        name = f"array{len(self.arrays)}"
        self.arrays[name] = array
        return name


@dataclass
class _Reader(_Own):
    """The way back. Raises `InvalidInput` on what `_Writer` does not write."""

    arrays: dict[str, NDArray[Any]]

    def decode(self, value: Any) -> Any:
        match value:
            case None | bool() | int() | float() | str():
                return value
            case list(items):
                return [self.decode(item) for item in items]
            case {"tuple": list(items)}:
                return tuple(self.decode(item) for item in items)
            case {"dict": list(items)}:
                return {self.decode(key): self.decode(item) for key, item in items}
            case {"numpy": str(name)}:
                return self._array(name)
            case {"scalar": str(name)}:
                return self._array(name)[()]
            case {"torch": str(name)}:
                import torch

                return torch.from_numpy(self._array(name))
            case {"jax": str(name)}:
                import jax

                with jax.enable_x64(True):  # or float64 would come back as float32
                    return jax.numpy.asarray(self._array(name))
            case {"object": str(path), "fields": dict(content)}:
                return self._restored(path, content)
        raise InvalidInput(f"{str(value)[:80]} is not something that mongebench.save writes.")

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self.arrays:
            raise InvalidInput(f"the array {name} is missing.")
        return self.arrays[name]

    def _restored(self, path: str, content: dict[str, Any]) -> Any:
        """An object with these fields; its class's `__init__` does not run."""
        cls = self.find(path)
        if cls is None or {one.name for one in dataclasses.fields(cls)} != content.keys():
            raise InvalidInput(f"there is no dataclass {path} with the fields {', '.join(content)}.")
        restored: Any = object.__new__(cls)
        for name, value in content.items():
            object.__setattr__(restored, name, self.decode(value))
        return restored


def _library(value: Any) -> str | None:
    """Whose array a value is."""
    if isinstance(value, np.generic):
        return "scalar"
    if type(value) is np.ndarray:
        return "numpy"
    for name, array in (("jax", "Array"), ("torch", "Tensor")):
        library = sys.modules.get(name)
        if library is not None and isinstance(value, getattr(library, array)):
            return name
    return None
