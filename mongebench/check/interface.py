"""What an estimator looks like from outside: parameters, shapes, types."""

from __future__ import annotations

import importlib.util
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mongebench.check.base import check
from mongebench.check.subject import (
    CheckFailed,
    Subject,
    expect,
)
from mongebench.core.estimator import MapEstimator
from mongebench.core.oracle import Oracle


@check
def declares_its_oracles(subject: Subject) -> None:
    """It derives from `MapEstimator`, and `needs` is a frozenset of `Oracle`.

    Why: the tables are grouped by what estimators may see.

    How to fix: write `needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})` in the class.
    """
    expect(isinstance(subject.estimator, MapEstimator), f"{type(subject.estimator).__name__} is not a MapEstimator.")
    needs = subject.needs
    expect(
        isinstance(needs, frozenset) and all(isinstance(oracle, Oracle) for oracle in needs),
        f"needs is {needs!r}, expected a frozenset of Oracle.",
    )


@check
def says_what_it_is(subject: Subject) -> None:
    """Its class has a docstring whose first line is at most 120 characters long.

    Why: `mongebench list` and `show` print it.

    How to fix: begin the class with one sentence on what the map is.
    """
    first = (type(subject.estimator).__doc__ or "").strip().partition("\n")[0]
    expect(0 < len(first) <= 120, f"The docstring's first line has {len(first)} characters.")


@check
def keeps_its_parameters(subject: Subject) -> None:
    """Every parameter has a default, `__init__` stores them unchanged and does nothing else, `clone` copies them.

    Why: grids, records and repetitions build estimators from their parameters alone.

    How to fix: in `__init__`, write `self.name = name` for each keyword and nothing more; validate and compute in
    `fit`.
    """
    estimator = type(subject.estimator)()
    learnt = [name for name in vars(estimator) if name.endswith("_")]
    expect(not learnt, f"__init__ sets {', '.join(learnt)}, and names ending in _ are for what fit learns.")
    given = subject.estimator.get_params()
    copied = clone(subject.estimator).get_params()
    expect(repr(copied) == repr(given), f"clone turned the parameters {given!r} into {copied!r}.")
    expect(estimator.set_params(**given) is estimator, "set_params does not return self.")


@check
def refuses_before_fit(subject: Subject) -> None:
    """`transform` before `fit` raises `NotFittedError`.

    Why: a map that was never learnt must not be scored.

    How to fix: derive from `MapEstimator` and keep its guard around `transform`.
    """
    try:
        clone(subject.estimator).transform(subject.query)
    except NotFittedError:
        return
    raise CheckFailed("transform gave images before fit.")


@check
def fit_returns_itself(subject: Subject) -> None:
    """`fit` returns the estimator that was fitted.

    Why: `estimator.fit(x, y).transform(x)` is how it is used, and the runner measures the object that it fitted.

    How to fix: end `fit` with `return self`.
    """
    source, target, _ = subject.views()
    estimator = clone(subject.estimator)
    expect(estimator.fit(source, target) is estimator, "fit returned something else than self.")


@check
def keeps_shapes(subject: Subject) -> None:
    """Images have the shape of their points, (n, d) -> (n, d), for n = 0, n = 1 and many.

    Why: metrics, traces and figures map whatever number of points they need.

    How to fix: compute row by row without squeezing axes, and let an empty array pass.
    """
    for n in (0, 1, len(subject.query)):
        shape = np.shape(subject.fitted.transform(subject.query[:n]))
        expect(shape == (n, subject.problem.dim), f"{n} points gave images of shape {shape}.")


@check
def keeps_float_types(subject: Subject) -> None:
    """Images have the floating type of the points: float32 gives float32, whole numbers and lists give float64.

    Why: the caller's arrays decide the precision of what follows.

    How to fix: keep the guard of `MapEstimator` around `transform`, which gives back the kind of array that came in.
    """
    whole = np.ones((3, subject.problem.dim), dtype=np.int64)
    single = subject.fitted.transform(subject.query.astype(np.float32))
    for images, wanted in (
        (single, np.float32),
        (subject.fitted.transform(whole), np.float64),
        (subject.fitted.transform(subject.query.tolist()), np.float64),
    ):
        expect(getattr(images, "dtype", None) == wanted, f"Images have dtype {getattr(images, 'dtype', None)}.")
    subject.expect_same_map(single, subject.images, "In single precision the images are others")


@check
def keeps_torch_and_jax_arrays(subject: Subject) -> None:
    """A torch tensor or a JAX array gives one back, of the same type and on the same device.

    Why: users of these libraries should not convert by hand, nor find their data moved off the GPU.

    How to fix: keep the guard of `MapEstimator` around `transform`, which gives back the kind of array that came in.
    """
    given: list[Any] = []
    if importlib.util.find_spec("torch"):
        import torch

        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        given += [torch.tensor(subject.query, dtype=torch.float32, device=device) for device in devices]
    if importlib.util.find_spec("jax"):
        import jax

        given += [jax.device_put(subject.query.astype(np.float32), device) for device in jax.devices()]
    if not given:
        raise SkipTest("neither torch nor jax is installed")
    for points in given:
        images = subject.fitted.transform(points)
        expect(isinstance(images, type(points)), f"A {type(points).__name__} gave a {type(images).__name__}.")
        before, after = ((array.dtype, array.device) for array in (points, images))
        expect(after == before, f"Points of {before} gave images of {after}.")


@check
def maps_new_points(subject: Subject) -> None:
    """Points that were not in the sample, also far outside it, have finite images.

    Why: a map is more than a matching of two samples, and it is scored on fresh points.

    How to fix: extend the map to all points, by a formula, an interpolation with tails, or the nearest sample.
    """
    far = subject.query.mean(axis=0) + 6 * (subject.query - subject.query.mean(axis=0))
    for points, where in ((subject.query, "of the source"), (far, "at six times the spread of the source")):
        lost = int((~np.isfinite(subject.fitted.transform(points)).all(axis=1)).sum())
        expect(not lost, f"{lost} of {len(points)} new points {where} have images that are NaN or infinite.")


@check
def gives_a_point_one_image(subject: Subject) -> None:
    """The image of a point does not depend on the other points it is asked with.

    Why: otherwise `transform` is not a map, and its error depends on the size of the batch.

    How to fix: use statistics of the sample, stored by `fit`, in place of statistics of the query.
    """
    source, _, _ = subject.views()
    # Its own sample too: what is stored of a sample is not always the map.
    seen = [source.samples] if Oracle.SOURCE_SAMPLES in subject.needs else []
    for points in (subject.query, *seen):
        images = np.asarray(subject.fitted.transform(points))
        two = subject.fitted.transform(points[11:13])
        subject.expect_rounding(two, images[11:13], "Two points alone have other images")
