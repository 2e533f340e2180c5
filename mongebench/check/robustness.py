"""That nothing around it breaks: time, memory, output, global randomness, degenerate and bad input."""

from __future__ import annotations

import functools
import io
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from mongebench.check.base import check
from mongebench.check.subject import (
    CheckFailed,
    N,
    Subject,
    expect,
    gaussian,
)
from mongebench.core.errors import MongebenchError
from mongebench.core.oracle import Oracle

MANY = 4000
"""Points mapped at once."""
MEMORY_LIMIT = 1 << 26
"""Bytes that mapping `MANY` points may take: half of a matrix of all pairs."""


@check
def ends_in_time(subject: Subject) -> None:
    """A fit on a few points that is told to stop at its first trace ends within the time limit, in CPU seconds.

    Why: a cell that cannot be stopped is killed, and its record says `timeout` in place of an error.

    How to fix: call `trace` at each outer step, and make the steps short.
    """
    began = time.process_time()
    subject.fit(trace=lambda *_, **__: False)
    spent = time.process_time() - began
    expect(
        spent <= subject.time_limit, f"It took {spent:.3g} CPU seconds of {subject.time_limit:g}, though told to stop."
    )


@check
def leaves_global_randomness_alone(subject: Subject) -> None:
    """The global random states of NumPy, Python and torch stay as they are.

    Why: one estimator must not change the draws of another, nor those of its user.

    How to fix: use generators of your own, made from `seed`; with torch, `torch.Generator().manual_seed(seed)`.
    """
    before = _random_states()
    subject.fit(seed=5).transform(subject.query)
    changed = [name for name, state in _random_states().items() if before.get(name, state) != state]
    expect(not changed, f"It changed the global random state of {', '.join(changed)}.")


@check
def says_nothing(subject: Subject) -> None:
    """Nothing is printed to standard output.

    Why: a thousand cells print a thousand times, and output is no place for results.

    How to fix: remove the print, use `logging` or `warnings`, or set the solver's verbose option to false.
    """
    with _standard_output() as said:
        subject.fit().transform(subject.query)
    expect(not said, f"It printed {''.join(said)[:80]!r}.")


@check
def survives_one_point(subject: Subject) -> None:
    """One point per side gives a finite map, or one of mongebench's errors.

    Why: n = 1 is where divisions by a variance of zero show.

    How to fix: treat variance zero, or raise `InvalidInput` with the number of points that you need.
    """
    if not subject.supported(subject.problem.dim, 1).ok:
        raise SkipTest(f"it refuses n = 1: {subject.supported(subject.problem.dim, 1).reason}")
    try:
        images = subject.fit(n=1).transform(subject.query)
    except MongebenchError:
        return
    expect(np.isfinite(images).all(), "Fitted on one point, it returns NaN or infinite images.")


@check
def works_in_one_dimension(subject: Subject) -> None:
    """In d = 1 it gives images of shape (n, 1), unless `supports` refuses.

    Why: d = 1 is where the truth is simplest and where axes of length one get lost.

    How to fix: keep points as (n, 1), or refuse d = 1 in `supports`.
    """
    refusal = subject.supported(1)
    if not refusal.ok:
        raise SkipTest(f"it refuses d = 1: {refusal.reason}")
    line = gaussian(1)
    images = subject.fit(line).transform(line.source.sample(40, seed=99))
    expect(np.shape(images) == (40, 1) and np.isfinite(images).all(), f"In d = 1 images have shape {np.shape(images)}.")


@check
def maps_many_points_in_little_memory(subject: Subject) -> None:
    """Mapping 4000 points after a fit on 60 allocates at most 64 MiB in Python and NumPy.

    Why: maps are scored on ten thousand points and used on more; memory may grow like n, never like n^2.

    How to fix: compare points with the sample in blocks, and never with each other; see
    `mongebench.core.arrays.row_blocks`.
    """
    many = subject.problem.source.sample(MANY, seed=98)
    subject.images  # noqa: B018  fitted, and first calls made, before memory is watched
    tracemalloc.start()
    try:
        subject.fitted.transform(many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    expect(peak <= MEMORY_LIMIT, f"It allocated {peak / 2**20:.0f} MiB for {MANY} points.")


@check
def refuses_nan(subject: Subject) -> None:
    """NaN in the samples or in the points to map raises `InvalidInput`.

    Why: a NaN that passes becomes a number somewhere, or a map that is NaN everywhere.

    How to fix: keep the guards of `MapEstimator` around `fit` and `transform`.
    """
    bad = subject.query.copy()
    bad[3, 0] = np.nan
    learns_from = {
        "source": bool(subject.needs & {Oracle.SOURCE_SAMPLES, Oracle.SOURCE_SAMPLER}),
        "target": bool(subject.needs & {Oracle.TARGET_SAMPLES, Oracle.TARGET_SAMPLER}),
    }
    measures = {"source": subject.problem.source, "target": subject.problem.target}
    sound = {name: measures[name].sample(N) if learns_from[name] else measures[name] for name in measures}
    for name in [name for name in measures if learns_from[name]]:
        sides = sound | {name: bad}
        _expect_refused(functools.partial(clone(subject.estimator).fit, *sides.values()), f"the {name}")
    _expect_refused(functools.partial(subject.fitted.transform, bad), "the points to map")


def _expect_refused(call: Callable[[], Any], where: str) -> None:
    try:
        call()
    except ValueError:
        return
    raise CheckFailed(f"NaN in {where} raised no error.")


def _random_states() -> dict[str, str]:
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    states = {
        # Normals come in pairs: the second of one is a part of the state as well.
        "NumPy": f"{numpy['state']['key'].tolist()} {numpy['state']['pos']} {numpy['has_gauss']} {numpy['gauss']}",
        "Python": repr(random.getstate()),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = repr(torch.get_rng_state().tolist())
    return states


@contextmanager
def _standard_output() -> Iterator[list[str]]:
    """What is written to standard output inside, by Python or below it; complete after the block."""
    said: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as below, redirect_stdout(io.StringIO()) as python:
        os.dup2(below.fileno(), 1)
        try:
            yield said
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            below.seek(0)
            said += [text for text in (python.getvalue(), below.read().decode(errors="replace")) if text]
