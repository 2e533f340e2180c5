"""By how much noise may move the log error of one trace: paths of noise that its own roughness allows.

A trace is one serially dependent series of 5 to 50 points, far too few blocks for a block bootstrap. Resampled
evaluation points show the noise of their draw, which a record carries as a standard error; they do not show that of the
fit, whose batches differ. So the noise of the fit is modelled, and what the series does not tell of the model is
averaged over. About the start, where no batch was drawn yet, the log error relative to the bound is

    y_k = b t_k + c (t_k - t_h)_+ + z_k,    z_k = rho z_{k-1} + u_k,    z_0 = 0,    sd(u_k) = s (e_0 / e_k)^{g/2}

a line with one bend, because a stall or a fast start is no noise, and noise that builds up from step to step: each
batch moves the map by something that the flow then contracts as it contracts the error (rho near 1), or forgets. With
g = 0 the noise is a share of the error, with g = 1 its size stays while the error falls. The bend h, rho and g have the
posterior that a flat prior gives (in artanh rho; restricted likelihood); s follows. Each path draws all four anew, so
that few points make wide bands.

Reference: Harville 1974, "Bayesian inference for variance components using only error contrasts".
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CORRELATIONS = np.tanh(np.linspace(0.0, 3.0, 13))
"""Of successive noise, 0 to 0.995; finer near 1, where the width of a band depends on them."""
GROWTH = (0.0, 1.0)
"""Of the noise of a step relative to the error: none, and that of noise which stays while the error falls."""
BENDS = 12
"""Places at which the line may bend; more points than this are thinned."""
FEWEST = 4
"""Points after the start: a line with a bend takes two, its noise another two."""
ROUNDING = 1e-12
"""Of logarithms of errors."""


@dataclass(frozen=True)
class Draws:
    """What `count` paths of n points are made of: the same for all series of that length.

    Attributes
    ----------
    uniform, chi_squared
        (count,) for the bend, rho and g, and for s; chi-squared with n - 2 degrees of freedom.
    normal, evaluation
        (n, count) standard normal: for u, and for the noise of the evaluation points.
    """

    uniform: Vector
    chi_squared: Vector
    normal: Vector
    evaluation: Vector


@functools.lru_cache(maxsize=16)
def draws(n: int, count: int, seed: int) -> Draws:
    """Drawn once: normal numbers would be most of the time of a verdict."""
    rng = np.random.default_rng(seed)
    uniform, chi_squared = rng.random(count), rng.chisquare(n - 2, count)
    return Draws(uniform, chi_squared, *(rng.standard_normal((count, n)).T.copy() for _ in range(2)))


def noise_paths(time: Vector, y: Vector, log_ratio: Vector, drawn: Draws) -> Vector:
    """(n, count) paths of z.

    Parameters
    ----------
    time
        (n,) since the start, which is not among them, increasing; n >= `FEWEST`.
    y
        (n,) log error relative to the start's and to the bound.
    log_ratio
        (n,) log error relative to the start's.
    drawn
        `draws` of n.
    """
    n = len(time)
    bends = time[np.unique(np.linspace(0, n - 3, min(BENDS, n - 2)).round().astype(int))]
    rho, growth = np.array(CORRELATIONS), np.array(GROWTH)
    weights = np.exp(growth[:, None] / 2 * (log_ratio - log_ratio.mean()))  # (g, n), of determinant 1
    # Points along the last axis: loops over the three columns would be too short for NumPy.
    design = np.stack([np.broadcast_to(time, (len(bends), n)), np.maximum(time - bends[:, None], 0)], axis=1)
    columns = np.concatenate([design, np.broadcast_to(y, (len(bends), 1, n))], axis=1)  # (h, 3, n)
    before = np.pad(columns, ((0, 0), (0, 0), (1, 0)))[..., :-1]
    steps = columns[:, None] - rho[:, None, None] * before[:, None]  # (h, r, 3, n)
    white = np.swapaxes(steps[:, :, None] * weights[:, None], -1, -2)  # (h, r, g, n, 3)
    # |X' R^-1 X| and the residual sum of squares are squares of the diagonal of the triangular factor.
    first, second, root = np.moveaxis(np.abs(np.diagonal(np.linalg.qr(white, mode="r"), axis1=-2, axis2=-1)), -1, 0)
    root = np.maximum(root, ROUNDING)
    # A bend at the end has few points to tell its slope: the prior takes that out, or it would count for the bend.
    told = np.linalg.slogdet(design @ np.swapaxes(design, 1, 2))[1] / 2
    log_density = told[:, None, None] - np.log(first * second) - (n - 2) * np.log(root)
    below = np.exp(log_density - log_density.max()).cumsum()
    chosen = np.unravel_index(below.searchsorted(drawn.uniform * below[-1], side="right"), log_density.shape)
    scale, correlation = root[chosen] / np.sqrt(drawn.chi_squared), rho[chosen[1]]
    paths: Vector = np.take(weights.T.copy(), chosen[2], axis=1)  # (n, count), as all that follows lies in memory
    np.divide(scale, paths, out=paths)
    paths *= drawn.normal
    for k in range(1, n):
        paths[k] += correlation * paths[k - 1]
    return paths
