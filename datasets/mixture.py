"""The published mixture of four Gaussians -> N(0, I) in the plane: no closed form, but a certified map."""

from __future__ import annotations

import importlib.resources
from typing import Any

import numpy as np

from mongebench.core.device_draws import Generator, traceable
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets.linear import constants
from mongebench.datasets.truths.spline import SplinePotential

WEIGHTS = np.array([0.3, 0.2, 0.3, 0.2])
MEANS = np.array([[-2.0, -2.0], [-1.0, 2.0], [2.0, -3.0], [2.0, 2.0]])
COVARIANCES = np.array(
    [
        [[0.10, 0.06], [0.06, 0.10]],
        [[0.10, 0.01], [0.01, 0.50]],
        [[0.10, 0.03], [0.03, 0.10]],
        [[0.10, 0.0], [0.0, 0.10]],
    ]
)
FACTORS = np.linalg.cholesky(COVARIANCES)
PRECISIONS = np.linalg.inv(COVARIANCES)
LOG_HEIGHTS = np.log(WEIGHTS / (2 * np.pi)) - np.linalg.slogdet(COVARIANCES)[1] / 2


def mixture() -> Problem:
    """Mixture of four well separated Gaussians -> N(0, I) in the plane.

    T* is the gradient of a convex spline, solved for once and stored; its own error (`truth_error`) is the certified
    bound that is stored with it. `mongebench.datasets.truths` says how both were found.

    Reference: Dumont, Lacombe and Vialard 2026 (arXiv 2603.25182), the two-dimensional experiment.
    """
    with importlib.resources.as_file(importlib.resources.files("mongebench.datasets.truths") / "mixture.npz") as path:
        brenier = SplinePotential.load(path)
        with np.load(path, allow_pickle=False) as stored:
            uvp_bound = float(stored["uvp_bound"])
    total_variance = 2.0
    return Problem(
        source=Source(dim=2, sampler=traceable(_sample), log_density=_log_density, score=_score),
        target=Target(
            dim=2,
            sampler=traceable(lambda n, rng: rng.standard_normal((n, 2))),
            potential=lambda y: constants(y)[0].sum(y * y, axis=1) / 2,
            gradient=lambda y: y,
            log_normaliser=float(np.log(2 * np.pi)),
            total_variance=total_variance,
        ),
        dim=2,
        version=1,
        truth=brenier.gradient,
        truth_inverse=brenier.inverse,
        truth_tier=TruthTier.CERTIFIED,
        truth_error=float(np.sqrt(uvp_bound / 100 * total_variance)),
        strong_convexity=1.0,
    )


def _sample(n: int, rng: Generator) -> Any:
    component = rng.choice(len(WEIGHTS), size=n, p=WEIGHTS)
    noise = rng.standard_normal((n, 2, 1))
    _, means, factors = constants(noise, MEANS, FACTORS)
    return means[component] + (factors[component] @ noise)[:, :, 0]


def _log_terms(x: Any) -> tuple[Any, Any, Any]:
    """Namespace, then by component the gradient of its potential (n, 4, 2) and the log of its density (n, 4)."""
    xp, means, precisions, heights = constants(x, MEANS, PRECISIONS, LOG_HEIGHTS)
    centred = x[:, None, :] - means
    slopes = xp.sum(precisions * centred[:, :, None, :], axis=3)
    return xp, slopes, heights - xp.sum(slopes * centred, axis=2) / 2


def _log_density(x: Any) -> Any:
    xp, _, log_terms = _log_terms(x)
    top = xp.max(log_terms, axis=1, keepdims=True)
    return xp.log(xp.sum(xp.exp(log_terms - top), axis=1)) + top[:, 0]


def _score(x: Any) -> Any:
    xp, slopes, log_terms = _log_terms(x)
    shares = xp.exp(log_terms - xp.max(log_terms, axis=1, keepdims=True))
    return -xp.sum(shares[:, :, None] * slopes, axis=1) / xp.sum(shares, axis=1)[:, None]
