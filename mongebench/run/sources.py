"""The code that makes a number: which files it is, a digest of them, and the libraries that it imports.

Files are found by reading, not by importing: every process finds the same ones, whatever it has loaded. What is
hashed is the syntax tree without docstrings, so that a comment, a docstring or another layout leaves a digest as it is.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mongebench.core.syntax import tree_of

OURS = "mongebench"
DISTRIBUTIONS = {"sklearn": "scikit-learn", "ot": "POT", "ott": "ott-jax"}
"""Distributions that are not called what they are imported as; others are looked for among all that are installed."""
ALWAYS = ("numpy", "scipy")
"""Libraries that every number goes through."""
WITHOUT_NUMBERS = {"pydantic"}
"""Libraries that estimators import to annotate their parameters: another version changes no number."""
IMPORTERS = ("import_module", "__import__")
"""Functions whose first argument, where it is written out, is a module's name."""
# Without the folder of the script (the current one of `python -m`), which child processes do not see.
_SEARCHED = tuple(Path(entry) for entry in (sys.path if sys.flags.safe_path else sys.path[1:]))
_STANDARD = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}

Follows = Callable[[str], bool]


def digest(places: Iterable[str], follows: Follows = lambda name: True) -> str:
    """Of the code of the `files` of some places; equal where they differ in comments, docstrings and layout alone."""
    found = {name: path for place in places for name, path in files(place, follows).items()}
    content = hashlib.sha256()
    for name in sorted(found):
        content.update(f"{name}\0".encode() + _code(found[name]))
    return content.hexdigest()[:16] if found else ""


def files(place: str, follows: Follows = lambda name: True) -> dict[str, Path]:
    """The files that the code at a place is made of, by their modules' names: its own, and those that it imports.

    Followed are the modules of its own package or folder, and others that belong to no installed distribution, whatever
    is imported from them and wherever in a file that is written. A plugin file may put more folders on the path, which
    nobody knows who only reads it: what no folder of the path has is looked for in those around its own. Files that it
    runs by their path count too, if the code has that as one text.

    Parameters
    ----------
    place
        A module's dotted name, or the path of a Python file.
    follows
        Which modules of mongebench (by dotted name) the code of one of them is followed into: the others have digests
        of their own.
    """
    found: dict[str, Path] = {}
    own, waiting = place.partition(".")[0], [place]
    folders: tuple[Path, ...] = ()
    if place.endswith(".py"):
        path = Path(place).resolve()
        own, folders, found = path.stem, _folders(path), {path.stem: path}
        waiting = sorted(_imports(path, "") | _named_files(path, path.parent))
    seen = set(found)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path_: Path | None
        if name.startswith("./"):
            path_ = folders[0] / name
        elif name.partition(".")[0] == OURS:
            path_ = _own(name) if own == OURS and follows(name) else None
        else:
            path_ = _locate(name, own, folders)
            waiting += [name.rpartition(".")[0]] if "." in name else []  # a package's __init__ runs before its modules
        if path_ is not None:
            found[name] = path_
            package = name if path_.stem == "__init__" else name.rpartition(".")[0]
            waiting += sorted(_imports(path_, "" if name.startswith("./") else package))
            waiting += sorted(_named_files(path_, folders[0])) if folders else []
    return found


def place_of(cls: type) -> str:
    """Where a class was written: its module's name, the path of a file that has none, or nothing (at a prompt)."""
    name = cls.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return ""
    located = _own(name)
    return name if located is not None and os.path.samefile(located, file) else str(file)


def libraries(place: str, modules: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the distributions that the code at a place imports, of those of `modules`, and of `ALWAYS`."""
    found = files(place) if place.partition(".")[0] != OURS else files(place, lambda name: "estimators" in name)
    own = {name.partition(".")[0] for name in found}
    named = [*modules, *(name for path in found.values() for name in _imports(path, ""))]
    names = (
        {*ALWAYS, *(name.partition(".")[0] for name in named)}
        - own
        - WITHOUT_NUMBERS
        - {OURS, *sys.stdlib_module_names}
    )
    names |= {"jaxlib"} if "jax" in names else set()
    versions = {DISTRIBUTIONS.get(name, name): _version(name) for name in names}
    return {name: version for name, version in sorted(versions.items()) if version}


def _folders(path: Path) -> tuple[Path, ...]:
    """Where the neighbours of a plugin file are: its folder, and that of the package that it lies in, if it does."""
    top = path.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    return tuple(dict.fromkeys((path.parent, top)))


def _locate(name: str, own: str, folders: tuple[Path, ...]) -> Path | None:
    """The file of a module that is to be followed; None where there is none."""
    parts = name.split(".")
    for folder in folders:
        if (path := _below(folder, parts)) is not None:
            return path
    if not folders:
        return _own(name) if parts[0] == own else _outside(name)
    if _root(parts[0]) is not None:
        return _outside(name)
    near = (_below(folder, parts) for folder in _around(folders[0])) if parts[0] not in sys.stdlib_module_names else ()
    return next((path for path in near if path is not None), None)


@functools.cache
def _around(folder: Path) -> tuple[Path, ...]:
    """The folders in a plugin's folder, the one that it lies in, and those beside it."""
    try:
        return (*sorted(filter(Path.is_dir, folder.iterdir())), folder.parent, *sorted(folder.parent.iterdir()))
    except OSError:
        return ()


@functools.cache
def _own(name: str) -> Path | None:
    """The file of a module that can be imported, without importing it."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    for root in spec.submodule_search_locations or []:
        if (path := _below(Path(root), rest or ["__init__"])) is not None:
            return path
    return Path(spec.origin) if not rest and spec.origin and spec.origin.endswith(".py") else None


@functools.cache
def _outside(name: str) -> Path | None:
    """The file of a module on the path of every process that belongs to no installed distribution."""
    top, *rest = name.split(".")
    root = _root(top)
    if root is None or top in sys.stdlib_module_names:
        return None
    installed = root in _STANDARD or {"site-packages", "dist-packages"} & set(root.parts)
    return None if installed else _below(root, [top, *rest])


def _root(top: str) -> Path | None:
    """The first folder of every process's path that has a module or a package of that name."""
    return next((root for root in _SEARCHED if (root / top).is_dir() or (root / f"{top}.py").is_file()), None)


def _below(folder: Path, parts: list[str]) -> Path | None:
    path = folder.joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@functools.cache
def _tree(path: Path) -> ast.Module | None:
    """None of what is not Python."""
    try:
        return tree_of(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


@functools.cache
def _code(path: Path) -> bytes:
    """The syntax tree as text; the bytes of what has none."""
    tree = _tree(path)
    if tree is None:
        return path.read_bytes() if path.is_file() else b""
    return "\0".join(_written(tree)).encode("utf-8", "surrogatepass")


def _written(node: ast.AST) -> Iterator[str]:
    """What a tree says, but for positions, docstrings, and fields that are empty, which versions of Python add."""
    yield type(node).__name__
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            yield name
            yield from _written(value)
        elif isinstance(value, list) and value:
            yield f"{name}["
            for item in value:
                if not (isinstance(item, ast.Expr) and _is_text(item.value)):
                    yield from _written(item) if isinstance(item, ast.AST) else [repr(item)]
            yield "]"
        elif value is not None and value != [] and name != "type_comment":
            yield f"{name}={value!r}"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@functools.cache
def _imports(path: Path, package: str) -> frozenset[str]:
    """Dotted names that a file imports, and those of `from a import b`, where b may be a module of a.

    `package` is what relative imports start from; without it they are left out.
    """
    found = set()
    tree = _tree(path)
    for node in ast.walk(tree) if tree else ():
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names, level=level) if package or not level:
                above = package.split(".")[: package.count(".") + 2 - level] if level else []
                base = ".".join([*above, *([module] if module else [])])
                found |= {base, *(f"{base}.{alias.name}" for alias in names)}
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                called = getattr(function, "attr", getattr(function, "id", ""))
                found |= {name} if called in IMPORTERS else set()
    return frozenset(name for name in found if name.strip(".") == name)


@functools.cache
def _named_files(path: Path, folder: Path) -> frozenset[str]:
    """Python files that a file names in a text, relative to its own folder, as `./` and their paths from `folder`."""
    tree = _tree(path)
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)) if tree else ()
    named = (path.parent / text.lstrip("/") for text in texts if isinstance(text, str) and text.endswith(".py"))
    found = (file for file in named if len(file.name) < 200 and file.is_file() and file != path)
    return frozenset(f"./{os.path.relpath(file, folder)}" for file in found)


@functools.cache
def _version(name: str) -> str:
    """Of the distribution that is imported by this name; empty where there is none."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        known = importlib.metadata.packages_distributions().get(name)
        return importlib.metadata.version(known[0]) if known else ""


def forget() -> None:
    """Read every file anew the next time; what a process has read once it takes to be as it was."""
    for cached in (_own, _outside, _around, _tree, _code, _imports, _named_files):
        cached.cache_clear()
