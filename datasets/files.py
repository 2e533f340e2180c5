"""Two point clouds from files: no exact map, but held-out points to compare push-forwards on."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeInt

from mongebench.core.arrays import Points, as_points
from mongebench.core.errors import InvalidInput
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem


def files(
    source: Path,
    target: Path,
    *,
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Point clouds from .npy, .npz, .csv or .parquet files; one part to fit on, the other to evaluate on.

    Parameters
    ----------
    source, target
        Files of n points in d columns: .npy; .npz with one array or one called `points`; .csv with or without a
        header row; .parquet with numeric columns only.
    held_out
        Share of each cloud that is kept for evaluation, rounded so that both parts have at least two points.
    seed
        Of the split.

    Raises
    ------
    InvalidInput
        A missing file, an unknown suffix, an array that is not a finite (n, d) one with n >= 4, two dimensions.
    """
    source_points, target_points = load_points(source), load_points(target)
    if source_points.shape[1] != target_points.shape[1]:
        raise InvalidInput(
            f"{source} has d = {source_points.shape[1]} columns, {target} has d = {target_points.shape[1]}; "
            "source and target must have the same."
        )
    # A generator a side, so that the split of one cloud does not depend on the size of the other.
    source_rng, target_rng = np.random.default_rng(seed).spawn(2)
    source_fit, source_rest = _split(source_points, held_out, source_rng)
    target_fit, target_rest = _split(target_points, held_out, target_rng)
    total_variance = float(target_points.var(axis=0).sum())
    return Problem(
        source=Source(**_cloud(source_fit)),
        target=Target(**_cloud(target_fit), total_variance=total_variance),
        dim=source_points.shape[1],
        version=1,
        fingerprint=fingerprint(source_points, target_points),
        held_out=(Source(**_cloud(source_rest)), Target(**_cloud(target_rest), total_variance=total_variance)),
    )


def load_points(path: Path) -> Points:
    """The cloud of a file, (n, d) with n >= 4. Raises `InvalidInput`."""
    if path.suffix not in _READERS:
        raise InvalidInput(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(_READERS)}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    try:
        array = _READERS[path.suffix](path)
    except InvalidInput:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as reason:
        raise InvalidInput(f"{path} cannot be read as {path.suffix}: {reason}") from reason
    return as_points(array, name=str(path), min_rows=4)


def fingerprint(*clouds: Points) -> str:
    """SHA-256 of the shapes and all entries of some clouds."""
    content = hashlib.sha256()
    for points in clouds:
        content.update(repr(points.shape).encode())
        content.update(np.ascontiguousarray(points, dtype="<f8").tobytes())
    return content.hexdigest()


def _split(points: Points, held_out: float, rng: np.random.Generator) -> tuple[Points, Points]:
    rest = min(max(round(len(points) * held_out), 2), len(points) - 2)
    order = rng.permutation(len(points))
    return points[order[rest:]], points[order[:rest]]


def _cloud(points: Points) -> dict[str, Any]:
    """What a `Source` or `Target` needs to draw from a cloud without replacement."""
    size, dim = points.shape
    return {"dim": dim, "size": size, "sampler": lambda n, rng: points[rng.choice(size, n, replace=False)]}


def _read_npy(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path) -> Any:
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:
        names = list(stored)
        key = names[0] if len(names) == 1 else "points"
        if key not in names:
            raise InvalidInput(f"{path} holds the arrays {', '.join(names) or '(none)'}; call the cloud 'points'.")
        return stored[key]


def _read_csv(path: Path) -> Any:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        first = next(csv.reader(lines), [])
    return pd.read_csv(path, header=None if all(map(_is_number, first)) else 0, encoding="utf-8-sig").to_numpy()


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")  # an empty cell is a missing number, not a name
    except ValueError:
        return False
    return True


def _read_parquet(path: Path) -> Any:
    return pd.read_parquet(path).to_numpy()


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
