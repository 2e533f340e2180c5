"""Images: real data whose Monge map is known because it is a symmetric blur, and two palettes of which no map is."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from mongebench.core.arrays import Points
from mongebench.core.measure import Source, Target, cloud
from mongebench.core.problem import Parts, Problem, TruthTier
from mongebench.datasets.linear import Array

Photograph = Literal["china.jpg", "flower.jpg"]
PATCH = 4
"""Pixels of a patch's side, d = 16."""
PATCHES = 8000
PIXELS = 20_000
"""Of each photograph, drawn at random, in the problem `colour`."""


def blurred(
    images: Literal["digits", "patches"] = "digits",
    *,
    width: Annotated[float, Field(gt=0, le=2)] = 0.7,
    seed: NonNegativeInt = 0,
) -> Problem:
    """Images -> blurred images, T*(x) = B x with a symmetric positive definite filter B: real data with an exact map.

    B = K kron K, K = exp(-width^2 L / 2) the heat kernel of the path of pixels (L its graph Laplacian, whose border
    reflects): a blur of standard deviation `width` pixels that keeps the mean brightness.

    Why B is the Monge map: it is the gradient of phi(x) = x^T B x / 2, which is convex because B is symmetric and
    positive semidefinite. So for images x_1 .. x_k, however chosen, sum <x_i, B x_i> >= sum <x_i, B x_(i+1)>: the
    coupling of an image with its blur is cyclically monotone, hence optimal for |x - y|^2 (Knott and Smith 1984;
    Villani 2009, theorem 5.10). No other plan is: the support of an optimal one lies in the graph of the gradient of
    phi, which is that of B, as phi is differentiable everywhere. Neither needs a density, so that a finite set of
    images will do.

    One half of the images is the source, and other images, blurred, are the target, so that no pairs are given away;
    half of both is held out. Each fit seed of a run has another split.

    Parameters
    ----------
    images
        "digits": the 1797 images of scikit-learn's digits, 8 by 8 pixels of 0 to 16, d = 64. "patches": 8000 grey
        patches of 4 by 4 pixels of 0 to 1, from its two photographs, d = 16.
    width
        Of the blur, in pixels.
    seed
        Of the split; together with the fit's seed in a run.

    References
    ----------
    Knott and Smith 1984, On the optimal mapping of distributions.
    """
    pool = _digits() if images == "digits" else _patches()
    side = int(np.sqrt(pool.shape[1]))
    blur, sharpen = (np.kron(one, one) for one in (_heat_kernel(side, width), _heat_kernel(side, width, inverse=True)))
    total_variance = float(np.trace(blur @ np.cov(pool.T) @ blur))

    def parts(replicate: int) -> Parts:
        order = np.random.default_rng((seed, replicate)).permutation(len(pool))
        fit_x, rest_x, fit_y, rest_y = np.array_split(pool[order], 4)
        return _parts((fit_x, fit_y @ blur), (rest_x, rest_y @ blur), total_variance)

    first = parts(0)
    return Problem(
        source=first.source,
        target=first.target,
        held_out=first.held_out,
        parts=parts,
        dim=pool.shape[1],
        version=1,
        truth=lambda x: x @ blur,
        truth_inverse=lambda y: y @ sharpen,
        truth_tier=TruthTier.CLOSED_FORM,
    )


def colour(source: Photograph = "china.jpg", target: Photograph = "flower.jpg", *, seed: NonNegativeInt = 0) -> Problem:
    """Colours of one photograph -> colours of another, d = 3 (red, green, blue of 0 to 1); no exact map.

    20 000 pixels of each of scikit-learn's two bundled photographs; half of them are held out. A map of colours
    recolours the photograph, pixel by pixel: figures and report show it. Each fit seed of a run has another split.

    Parameters
    ----------
    source, target
        The photographs, "china.jpg" or "flower.jpg".
    seed
        Of the pixels; together with the fit's seed in a run.

    References
    ----------
    Ferradans, Papadakis, Peyre, Aujol 2014, Regularized discrete optimal transport. Photographs: scikit-learn.
    """
    clouds = [photograph(name).reshape(-1, 3) for name in (source, target)]
    total_variance = float(clouds[1].var(axis=0).sum())

    def parts(replicate: int) -> Parts:
        chosen = [
            cloud[rng.permutation(len(cloud))[:PIXELS]]
            for cloud, rng in zip(clouds, np.random.default_rng((seed, replicate)).spawn(2), strict=True)
        ]
        (fit_x, rest_x), (fit_y, rest_y) = (np.array_split(points, 2) for points in chosen)
        return _parts((fit_x, fit_y), (rest_x, rest_y), total_variance)

    first = parts(0)
    return Problem(
        source=first.source,
        target=first.target,
        held_out=first.held_out,
        parts=parts,
        pictures=(photograph(source), photograph(target)),
        dim=3,
        version=1,
    )


@functools.cache
def photograph(name: Photograph) -> Array:
    """One of scikit-learn's photographs, (height, width, 3) in [0, 1], read-only."""
    from sklearn.datasets import load_sample_image

    picture: Array = load_sample_image(name).astype(np.float64) / 255
    picture.flags.writeable = False
    return picture


def _parts(to_fit: tuple[Points, Points], held_out: tuple[Points, Points], total_variance: float) -> Parts:
    def sides(x: Points, y: Points) -> tuple[Source, Target]:
        return (
            Source(**cloud(x)),
            Target(**cloud(y), total_variance=total_variance),
        )

    source, target = sides(*to_fit)
    return Parts(source, target, sides(*held_out))


def _heat_kernel(pixels: int, width: float, *, inverse: bool = False) -> Array:
    """exp(-width^2 L / 2) on a path, or its inverse."""
    laplacian = 2 * np.eye(pixels) - np.eye(pixels, k=1) - np.eye(pixels, k=-1)
    laplacian[0, 0] = laplacian[-1, -1] = 1
    values, axes = np.linalg.eigh(laplacian)
    kernel: Array = (axes * np.exp((width**2 if inverse else -(width**2)) * values / 2)) @ axes.T
    return kernel


@functools.cache
def _digits() -> Points:
    from sklearn.datasets import load_digits

    images: Points = load_digits().data
    return images


@functools.cache
def _patches() -> Points:
    """Grey patches from both photographs, at places drawn once for all."""
    rng = np.random.default_rng(0)
    found = []
    for name in ("china.jpg", "flower.jpg"):
        grey = photograph(name).mean(axis=2)
        windows = np.lib.stride_tricks.sliding_window_view(grey, (PATCH, PATCH))
        rows, columns = (rng.integers(windows.shape[axis], size=PATCHES // 2) for axis in (0, 1))
        found.append(windows[rows, columns].reshape(-1, PATCH * PATCH))
    return np.concatenate(found)
