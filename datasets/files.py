"""Two point clouds from files: no exact map, but held-out points to compare push-forwards on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, StrictBool

from mongebench.core.arrays import Points
from mongebench.core.csvfile import Layout
from mongebench.core.errors import InvalidInput
from mongebench.core.measure import Source, Target, cloud
from mongebench.core.problem import Parts, Problem
from mongebench.core.tablefile import read_pair, read_table

Auto = Literal["auto"]


def files(
    source: Path,
    target: Path,
    *,
    header: Auto | StrictBool = "auto",
    index: Auto | StrictBool = "auto",
    separator: Annotated[str, Field(pattern=r"^(auto|[^\r\n])$")] = "auto",
    decimal: Literal["auto", ".", ","] = "auto",
    columns: Literal["auto", "name", "position"] | list[str] = "auto",
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Point clouds from .npy, .npz, .csv or .parquet files; one part to fit on, the other to evaluate on.

    The layout of a .csv file is inferred where every line agrees with exactly one, and refused with the parameter that
    decides where it is left open. Equal rows of a cloud are all in the same part. Each fit seed of a run is given
    another split: with a budget of all points its fit would else be the same as every other seed's. As the parts of two
    splits share points, a mean over many seeds is less certain than their spread divided by the root of their number
    says (Nadeau and Bengio 2003).

    Parameters
    ----------
    source, target
        Files of n points in d columns: .npy; .npz with one array or one called `points`; .csv; .parquet.
    header
        Whether the first line of a .csv file names the columns; to be given where the names may be numbers.
    index
        Whether the first column numbers or labels the rows and is not a coordinate. "auto" leaves out one that counts
        the rows and has no name.
    separator
        Of a .csv file, one character; " " stands for any number of blanks.
    decimal
        Sign of the fractions in a .csv file.
    columns
        How the columns of the two files are matched: "auto", by name where both name them and by position where neither
        does; "name"; "position"; or a list of the names to take from both.
    held_out
        Share of each cloud that is kept for evaluation, rounded so that both parts have at least two points.
    seed
        Of the split; together with the fit's seed in a run.

    Raises
    ------
    InvalidInput
        A missing file, an unknown suffix, a layout that the file leaves open, columns that have other names, an array
        that is not a finite (n, d) one with n >= 4, two dimensions, too few different rows.

    References
    ----------
    Nadeau and Bengio 2003, Inference for the generalization error, Machine Learning 52.
    """
    one, other = read_pair(source, target, Layout(header, index, separator, decimal), columns=columns, min_rows=4)
    clouds = [one.points, other.points]
    groups = [_equal_rows(points) for points in clouds]
    total_variance = float(other.points.var(axis=0).sum())

    def parts(replicate: int) -> Parts:
        # A generator a side, so that the split of one cloud does not depend on the size of the other.
        rngs = np.random.default_rng((seed, replicate)).spawn(2)
        (fit_x, rest_x), (fit_y, rest_y) = (
            _split(points, group, held_out, rng, path)
            for points, group, rng, path in zip(clouds, groups, rngs, (source, target), strict=True)
        )
        return Parts(
            Source(**fit_x),
            Target(**fit_y, total_variance=total_variance),
            (Source(**rest_x), Target(**rest_y, total_variance=total_variance)),
        )

    first = parts(0)
    return Problem(
        source=first.source,
        target=first.target,
        held_out=first.held_out,
        parts=parts,
        dim=one.points.shape[1],
        version=2,
        fingerprint=fingerprint(*clouds),
    )


def load_points(path: Path) -> Points:
    """The cloud of a file, (n, d) with n >= 4. Raises `InvalidInput`."""
    return read_table(path, min_rows=4).points


def fingerprint(*clouds: Points) -> str:
    """SHA-256 of the shapes and all entries of some clouds."""
    content = hashlib.sha256()
    for points in clouds:
        content.update(repr(points.shape).encode())
        content.update(np.ascontiguousarray(points, dtype="<f8").tobytes())
    return content.hexdigest()


def _equal_rows(points: Points) -> list[np.ndarray[Any, np.dtype[np.intp]]]:
    """Indices of the rows, those of equal rows together."""
    positive = np.ascontiguousarray(points + 0.0)  # no -0.0: rows are compared by their bytes
    rows = positive.view(np.dtype((np.void, positive.dtype.itemsize * positive.shape[1]))).ravel()
    _, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return np.split(np.argsort(inverse.ravel(), kind="stable"), np.cumsum(counts)[:-1])


def _split(
    points: Points,
    groups: list[np.ndarray[Any, np.dtype[np.intp]]],
    held_out: float,
    rng: np.random.Generator,
    path: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to fit on and what to evaluate on: whole groups, in a random order, as long as they fit into the second.

    Equal rows may leave a few places of the second part empty. The first part's size is stated without the rows that
    these are short of, so that a budget of all of it is one that every split has.
    """
    wanted = min(max(round(len(points) * held_out), 2), len(points) - 2)
    rest: list[int] = []
    order = rng.permutation(len(groups))
    for group in order:
        if len(rest) + len(groups[group]) <= wanted:
            rest += groups[group].tolist()
    if len(rest) < 2:  # one point alone, or none, and the next ones too many: begin with one that is not alone
        rest = next((groups[group].tolist() for group in order if 2 <= len(groups[group]) <= wanted), [])
    if not rest:
        raise InvalidInput(
            f"{path} has only {len(groups)} different rows in {len(points)}, which cannot be split so that 2 to "
            f"{wanted} points are held out and equal rows are together; give more points or a larger held_out."
        )
    chosen = np.zeros(len(points), dtype=bool)
    chosen[rest] = True
    return cloud(points[~chosen], len(points) - wanted), cloud(points[chosen])
