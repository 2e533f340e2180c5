"""`mongebench new-estimator`: a package with a working estimator, its tests and its entry point, to begin from."""

from __future__ import annotations

import keyword
import re
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from string import Template

from mongebench import plugins
from mongebench.core.errors import InvalidParameter


class Framework(StrEnum):
    """What the estimator computes with."""

    NUMPY = "numpy"
    JAX = "jax"
    TORCH = "torch"


DEPENDENCIES = {
    Framework.NUMPY: ["mongebench", "numpy"],
    Framework.JAX: ["mongebench", "numpy", "jax", "optax"],
    Framework.TORCH: ["mongebench", "numpy", "torch"],
}


def new_estimator(name: str, directory: Path, framework: Framework = Framework.NUMPY) -> list[Path]:
    """Write the package and return its files.

    Parameters
    ----------
    name
        What the estimator will be called, such as `my_map`; the class is then `MyMap`.
    directory
        Made if it does not exist, and refused if it holds anything.
    framework
        "numpy": moments in closed form. "jax", "torch": an iterative fit with a trace.

    Raises
    ------
    InvalidParameter
        A name that is not valid or is taken, or a directory that is not empty.
    """
    if keyword.iskeyword(name):
        raise InvalidParameter(f"{name!r} is not a name for an estimator: it is a keyword of Python.")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise InvalidParameter(f"{name!r} is not a name for an estimator; write lower-case letters, as in my_map.")
    taken = plugins.available(plugins.ESTIMATORS)
    if name in taken:
        raise InvalidParameter(f"{name!r} is taken by an estimator of {taken[name].origin}; choose another name.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidParameter(f"{directory} exists and is not an empty directory; nothing was written.")
    # A module of its own prefix: a package called like a library would hide it.
    module = f"mongebench_{name}"
    words = {
        "name": name,
        "module": module,
        "distribution": module.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "dependencies": ", ".join(f'"{package}"' for package in DEPENDENCIES[framework]),
    }
    written = []
    for template, path in (
        ("pyproject.toml", directory / "pyproject.toml"),
        ("README.md", directory / "README.md"),
        ("gitignore", directory / ".gitignore"),
        (f"{framework}.py", directory / module / "__init__.py"),
        ("test.py", directory / "tests" / f"test_{name}.py"),
    ):
        text = files("mongebench.cli").joinpath("templates", f"{template}.template").read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words), encoding="utf-8")
        written.append(path)
    return written
