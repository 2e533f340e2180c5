"""`select`: fit several estimators to two samples of yours, rank them without a truth, refit the best to all points."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mongebench import plugins
from mongebench.core.arrays import Points, as_points, column_names, order_by_name
from mongebench.core.errors import InvalidInput, InvalidParameter, MongebenchError
from mongebench.core.estimator import MapEstimator, ProblemInfo
from mongebench.core.oracle import Oracle
from mongebench.estimators.held_out import Fold, folds_of
from mongebench.selection.scaled import Scale, Scaled, units
from mongebench.selection.scores import Score, score

DEFAULT = ("identity", "mean_shift", "bures", "entropic", "progot", "smoothed_plugin")
"""Estimators that `select` tries unless it is told others: two rows to compare with, and four that take seconds."""
SAMPLES = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES, Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
RESAMPLES = 2000
"""Of the bootstrap over folds and points."""
SEPARATED = 0.95
"""Share of resamples in which the best one must be ahead of another to be called separated from it."""
FEWEST = 4
"""Held-out points a fold and side, at least."""

Progress = Callable[[str], None]


def candidates() -> list[str]:
    """Every registered estimator that learns from samples, and does not refuse a finite number of them."""
    found = []
    data = [ProblemInfo(dim, 100, 100, offers=SAMPLES, strong_convexity=None) for dim in (1, 2)]
    for name, plugin in plugins.available(plugins.ESTIMATORS).items():
        try:
            estimator = plugin.load()()
        except ImportError:
            continue
        if SAMPLES >= estimator.needs > frozenset() and any(estimator.supports(info).ok for info in data):
            found.append(name)
    return found


@dataclass(frozen=True)
class Selection:
    """What `select` found.

    Attributes
    ----------
    best
        The first of the table, fitted once more, to all points if it is one of `any_size` and else to those that were
        used; `best.transform(X)` is the map.
    table
        One row per estimator, the best first: `excess`, how far its semi-dual value is below the best one's, with
        `excess_se`, in percent of the target's variance, on the scale of UVP; `best_share`, the share of resamples in
        which it was first; `separated`, whether the best one is ahead of it in 95 % of them; energy distance, squared
        MMD and their floors, share of pairs whose order is reversed, mean squared displacement; seconds of all its
        fits; and a sentence where it could not be fitted.
    used
        Points of (source, target) that the ranking rests on, folds together.
    fitted
        Points of (source, target) that `best` was fitted to.
    given
        Points of (source, target) that were given.
    """

    best: MapEstimator
    table: pd.DataFrame
    used: tuple[int, int]
    fitted: tuple[int, int]
    given: tuple[int, int]

    def __str__(self) -> str:
        first, *others = self.table["estimator"]
        row = self.table.iloc[0]
        close = self.table.loc[~self.table["separated"].astype(bool) & self.table["reason"].eq(""), "estimator"]
        rivals = [name for name in close if name != first]
        said = f"{first} is best in {row['best_share']:.0%} of the resamples"
        if not others:
            return f"{first} was the only one to choose from."
        if rivals:
            return f"{said}; these points do not separate it from {', '.join(rivals)}."
        return f"{said}, and separated from all others."


def select(
    source: Any,
    target: Any,
    estimators: Sequence[str] | None = None,
    *,
    scale: Scale = "joint",
    folds: int = 5,
    most: int | None = 2000,
    seed: int = 0,
    progress: Progress = lambda sentence: None,
) -> Selection:
    """Choose the best of several estimators for two samples, by a criterion that needs no truth.

    Each estimator is fitted `folds` times, each time without one part of both samples, and judged on that part by the
    semi-dual value of optimal transport (`mongebench.selection.scores`). The best one is fitted once more: to all
    points where its cost is that of reading them (`MapEstimator.any_size`: means and covariances, sorting, networks
    that are trained on batches), else to the `most` that the ranking rests on, as others take time or memory in the
    square of their number.

    Parameters
    ----------
    source, target
        (n, d) and (m, d) samples, arrays or frames; the columns of two frames are matched by name.
    estimators
        Registered names; None for `DEFAULT`.
    scale
        "joint" divides each coordinate by the root of the mean of its variances in both samples, so that none decides
        by its unit; "none" takes the numbers as they are.
    folds
        Parts that are held out in turn, at least 2.
    most
        Points of each sample that the ranking rests on, drawn at random where there are more; None for all.
    seed
        Of the parts, the draws and the fits.
    progress
        Called with a sentence before each fit.

    Raises
    ------
    InvalidInput
        Samples that are not finite (n, d) arrays of one dimension, with too few points for the folds, or with a
        coordinate that is constant or repeated.
    UnknownName
        An estimator that is not registered.
    InvalidParameter
        Fewer than 2 folds, or fewer points than they need; no estimator, one that learns from something other than
        samples, or none that could be fitted.
    """
    names = tuple(dict.fromkeys(DEFAULT if estimators is None else estimators))
    if not names:
        raise InvalidParameter("estimators is empty; name at least one, or leave it out.")
    x, y, columns = _pair(source, target, folds)
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < FEWEST * folds):
        raise InvalidParameter(f"most must be None or a whole number of at least {FEWEST} x folds, got {most!r}.")
    given = (len(x), len(y))
    rng = np.random.default_rng(seed)
    every = (x, y)
    x, y = (points[np.sort(rng.permutation(len(points))[:most])] for points in every)
    scaled = [Scaled(name, scale=scale) for name in names]
    for name in names:
        _check(name)
    # Scores are in scaled coordinates, of one scale for all folds and estimators.
    unit = units(x, y, scale)
    parts = list(folds_of(x / unit, y / unit, folds, np.random.default_rng((seed, 1))))
    rows = [_Row.of(candidate, parts, folds, most, seed, progress) for candidate in scaled]
    table = _table(rows, float((y / unit).var(axis=0).sum()), np.random.default_rng((seed, 2)))
    if table["reason"].ne("").all():
        raise InvalidParameter(f"No estimator could be fitted: {table['estimator'][0]}: {table['reason'][0]}")
    best = next(candidate for candidate in scaled if candidate.estimator == table["estimator"][0])
    to_fit = every if plugins.estimator(best.estimator).any_size else (x, y)
    fitted = (len(to_fit[0]), len(to_fit[1]))
    progress(f"{best.estimator}, once more, on {fitted[0]} and {fitted[1]} points")
    best.fit(*to_fit, seed=seed)
    best.column_names_ = columns
    return Selection(best, table, (len(x), len(y)), fitted, given)


def _pair(source: Any, target: Any, folds: int) -> tuple[Points, Points, tuple[str | int, ...] | None]:
    """Both samples with their columns in one order, and the names of these."""
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise InvalidParameter(f"folds must be a whole number of at least 2, got {folds!r}.")
    fewest = FEWEST * folds
    x, y = (as_points(one, name=name, min_rows=fewest) for one, name in ((source, "source"), (target, "target")))
    names, others = column_names(source), column_names(target)
    if names is not None and others is not None:
        remedy = "Name the columns of both alike, or match them by their position: give X.to_numpy()."
        y = y[:, order_by_name(others, names, name="The target", other="the source", remedy=remedy)]
    if x.shape[1] != y.shape[1]:
        raise InvalidInput(f"The source has d = {x.shape[1]} columns, the target {y.shape[1]}; they must agree.")
    _check_columns(x, y, names or others)
    return x, y, names or others


def _check_columns(x: Points, y: Points, names: tuple[str | int, ...] | None) -> None:
    """Refuse coordinates that say nothing, or the same as another."""

    def called(j: int) -> str:
        return f"{names[j]!r}" if names else f"{j}"

    both = np.concatenate([x, y])
    for j in range(both.shape[1]):
        if (both[:, j] == both[0, j]).all():
            raise InvalidInput(f"Column {called(j)} is constant ({both[0, j]:g}) in both samples: leave it out.")
        for i in range(j):
            if np.array_equal(both[:, i], both[:, j]):
                raise InvalidInput(f"Columns {called(i)} and {called(j)} are equal in both samples: leave one out.")


def _check(name: str) -> None:
    needs = plugins.estimator(name).needs
    if not needs <= SAMPLES:
        lacking = ", ".join(sorted(oracle.replace("_", " ") for oracle in needs - SAMPLES))
        raise InvalidParameter(f"{name} learns from the {lacking}, and two samples do not give that: leave it out.")


@dataclass(frozen=True)
class _Row:
    """One estimator on all folds; no scores where a fit failed."""

    name: str
    scores: list[Score]
    seconds: float
    reason: str

    @classmethod
    def of(
        cls, candidate: Scaled, parts: list[Fold], folds: int, most: int | None, seed: int, progress: Progress
    ) -> _Row:
        scores: list[Score] = []
        seconds, name = 0.0, candidate.estimator
        for number, fold in enumerate(parts):
            progress(f"{name}, fold {number + 1} of {folds}")
            fresh = plugins.estimator(name)
            try:
                for module in fresh.modules:  # an import is no part of a fit's time
                    importlib.import_module(module)
                started = time.perf_counter()
                fresh.fit(fold.x_fit, fold.y_fit, seed=seed)
                seconds += time.perf_counter() - started
                scores.append(score(fresh, fold, most or max(len(fold.x_out), len(fold.y_out)), seed))
            except (MongebenchError, ImportError, MemoryError, ArithmeticError, ValueError) as error:
                return cls(name, [], seconds, f"fold {number + 1}: {type(error).__name__}: {error}")
        return cls(name, scores, seconds, "")


def _table(rows: list[_Row], variance: float, rng: np.random.Generator) -> pd.DataFrame:
    """The rows in order, and how sure that is."""
    fitted = [row for row in rows if not row.reason]
    values = np.array([np.mean([one.semi_dual for one in row.scores]) for row in fitted])
    draws = _resampled(fitted, rng)  # (resamples, estimators)
    first = int(values.argmax()) if len(values) else 0
    found = []
    for k, row in enumerate(fitted):
        behind = 200 * (draws[:, first] - draws[:, k]) / variance
        shown: dict[str, Any] = {
            "estimator": row.name,
            "excess": 200 * (values[first] - values[k]) / variance,
            "excess_se": float(behind.std()),
            "best_share": float((draws.argmax(axis=1) == k).mean()),
            "separated": bool((behind > 0).mean() >= SEPARATED),
        }
        for metric in ("energy_distance", "mmd_squared", "monotonicity_violation"):
            shown[metric] = float(np.mean([one.metrics[metric].value for one in row.scores]))
            shown[f"{metric}_floor"] = float(np.mean([one.metrics[metric].floor for one in row.scores]))
        shown |= {"cost": float(np.mean([one.cost for one in row.scores])), "seconds": row.seconds, "reason": ""}
        found.append(shown)
    found.sort(key=lambda shown: float(shown["excess"]))
    found += [{"estimator": row.name, "seconds": row.seconds, "reason": row.reason} for row in rows if row.reason]
    return pd.DataFrame(found)


def _resampled(rows: list[_Row], rng: np.random.Generator) -> NDArray[np.float64]:
    """Semi-dual values over resampled folds and points, the same for all estimators: (RESAMPLES, estimators)."""
    total = np.zeros((RESAMPLES, len(rows)))
    if not rows:
        return total
    folds = len(rows[0].scores)
    chosen = rng.integers(folds, size=(RESAMPLES, folds))
    counts = np.stack([(chosen == fold).sum(axis=1) for fold in range(folds)], axis=1)  # (RESAMPLES, folds)
    for fold in range(folds):
        for side in ("at_source", "at_target"):
            values = np.stack([getattr(row.scores[fold], side) for row in rows], axis=1)  # (n, estimators)
            weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES) / len(values)
            total += counts[:, [fold]] * (weights @ values) / folds
    return total
