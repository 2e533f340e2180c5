"""Gaussian pairs of a few strong factors and noise: the covariances that portfolios and sensors have."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mongebench.core.problem import Problem, Split
from mongebench.datasets.gaussian import Normal, normal_pair
from mongebench.datasets.linear import unit_vector


def factors(
    dim: PositiveInt = 2,
    *,
    count: PositiveInt = 2,
    strength: PositiveFloat = 3.0,
    noise: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 0.5,
    seed: NonNegativeInt = 0,
) -> Problem:
    """N(m0, S0) -> N(m, S) with covariances of a few random factors plus noise; T* is affine.

    S = (strength / k) L L^T + noise diag(s), with a (d, k) matrix L of standard normal numbers and s uniform in
    [1/2, 3/2]: k eigenvalues of the order of d, and noise of its own in every coordinate. The two covariances are drawn
    independently, and each is scaled to total variance d.

    Parameters
    ----------
    dim
        Dimension d.
    count
        k, the number of factors.
    strength
        Variance that all factors together give to a coordinate, on average, before the scaling.
    noise
        Mean variance of a coordinate's own noise, before the scaling; at least 0.01.
    seed
        Of loadings, noise and the means, which have norm 1.
    """
    rng = np.random.default_rng(seed)

    def side() -> Normal:
        loadings = rng.standard_normal((dim, count))
        covariance = strength / count * loadings @ loadings.T + noise * np.diag(rng.uniform(0.5, 1.5, dim))
        values, axes = np.linalg.eigh(covariance * dim / np.trace(covariance))
        return Normal(unit_vector(dim, rng), axes, values)

    source, target = side(), side()
    return normal_pair(source, target, version=1, split=Split.TUNE)
