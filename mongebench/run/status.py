"""How a fit ended, as a status of its record: what was raised, what a map does, why a cell need not be tried."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
from sklearn.base import clone

from mongebench.core.errors import Diverged, MongebenchError
from mongebench.core.estimator import MapEstimator
from mongebench.core.problem import Problem
from mongebench.core.session import support
from mongebench.metrics import Evaluation, NonFiniteMap, Value
from mongebench.run.record import Cell, Status

DIVERGED_RATIO = 1e4
"""A map whose mean squared distance to the target's mean exceeds this many target variances has diverged."""


def refusal(cell: Cell, problem: Problem, estimator: MapEstimator) -> tuple[Status, str] | None:
    """Why a cell need not be tried, if so: the estimator does not support it, or cannot even be asked or cloned."""
    try:
        answer = support(problem, estimator, cell.n_source, cell.n_target)
        clone(estimator)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # somebody else's code: whatever it raises is this cell's status, sys.exit too
        return status_of(error)
    return None if answer.ok else (Status.UNSUPPORTED, answer.reason)


def judged(evaluation: Evaluation, metrics: dict[str, Value]) -> tuple[Status, str]:
    """The status of a map that was measured, and why."""
    problem = evaluation.points.problem
    spread = float(np.mean(np.sum((evaluation.pushed - evaluation.points.y.mean(axis=0)) ** 2, axis=1)))
    if spread > DIVERGED_RATIO * problem.total_variance:
        variance = problem.total_variance
        return Status.DIVERGED, f"mean squared distance to the target's mean {spread:.3g}, its variance {variance:.3g}"
    name = "uvp" if "uvp" in metrics else "energy_distance"
    found = metrics.get(name)
    if found is not None and found.value <= found.floor:
        return Status.AT_FLOOR, f"{name} {found.value:.3g} is not above its floor {found.floor:.3g}"
    return Status.OK, ""


def status_of(error: BaseException) -> tuple[Status, str]:
    """The status that an error earns its cell, and why."""
    try:
        text = str(error)
    except Exception:  # somebody else's class
        text = ""
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, NonFiniteMap):
        return Status.NONFINITE, text
    if isinstance(error, Diverged):
        return Status.DIVERGED, text
    if isinstance(error, ImportError):
        return Status.MISSING_DEPENDENCY, missing(error)
    if isinstance(error, MemoryError) or _is_device_memory_error(message):
        return Status.OUT_OF_MEMORY, message
    if isinstance(error, MongebenchError):
        return Status.ERROR, message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Status.ERROR, message + place


def missing(error: ImportError) -> str:
    """Which package is missing, and what to do."""
    return f"{error}; pip install {(error.name or 'the package').partition('.')[0]}"


def _is_device_memory_error(message: str) -> bool:
    # jax raises XlaRuntimeError, torch RuntimeError or OutOfMemoryError: only the text is common.
    return any(words in message for words in ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory"))
