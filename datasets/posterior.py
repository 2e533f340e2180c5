"""Posteriors of regressions on scikit-learn's bundled data: targets from practice, by V and by reference draws."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import PositiveFloat
from scipy.optimize import minimize

from mongebench.core.measure import Target
from mongebench.core.problem import Problem
from mongebench.datasets import references
from mongebench.datasets.gaussian import Normal
from mongebench.datasets.linear import Array, constants

Model = Literal["breast_cancer", "wine", "digits", "diabetes_poisson", "diabetes_robust"]
MODELS: tuple[Model, ...] = ("breast_cancer", "wine", "digits", "diabetes_poisson", "diabetes_robust")
VERSION = 1
DIGITS_COMPONENTS = 15
COUNT_UNIT = 25.0
"""Disease progression, 25 to 346, in steps of this is the count that the Poisson regression is of."""
FREEDOM, NOISE = 4.0, 0.7
"""Degrees of freedom and scale of Student's t for the errors of the robust regression, in the response's deviations."""


def posterior(
    model: Model = "wine", *, source: Literal["normal", "laplace"] = "normal", prior: PositiveFloat = 1.0
) -> Problem:
    """N(0, I), or the Laplace approximation, -> the posterior of a regression's coefficients; no exact map.

    V(b) = -log likelihood + |b|^2 / (2 prior^2), of standardised features and an intercept:

    - "breast_cancer" (d = 31), "wine" (cultivar 0 against 1, d = 14) and "digits" (3 against 8, 15 principal
      components, d = 16): logistic regression;
    - "diabetes_poisson" (d = 11): Poisson regression with a logarithmic link, of the progression in steps of 25;
    - "diabetes_robust" (d = 11): linear regression with Student's t for errors (4 degrees of freedom), whose V is not
      convex.

    The first two kinds are log-concave, and lambda = prior^-2. The target's sampler gives reference draws, long chains
    of NUTS (see `mongebench.datasets.references`): every other one to fit from, the rest to evaluate on, 6000 each.

    Parameters
    ----------
    model
        Data and likelihood.
    source
        "normal" is N(0, I); "laplace" is N(mode, H^-1), H the Hessian of V at the mode, so that T* is near the
        identity.
    prior
        Standard deviation of each coefficient. Reference draws come with the package for 1; others are built by
        `mongebench references build`.

    Raises
    ------
    InvalidInput
        There are no reference draws for this prior yet.

    References
    ----------
    Data: UCI repository, and Efron, Hastie, Johnstone, Tibshirani 2004, Least angle regression (diabetes).
    Hoffman and Gelman 2014, The No-U-Turn sampler, JMLR 15.
    """
    regression = Regression.of(model, prior)
    reference = references.load(regression.digest, regression.potential, regression.how)
    start = Normal.standard(regression.dim) if source == "normal" else regression.laplace()
    return references.problem(
        start.as_source(),
        Target(dim=regression.dim, potential=regression.potential, gradient=regression.gradient),
        reference.draws,
        version=VERSION,
        strong_convexity=prior**-2 if regression.log_concave else None,
    )


@dataclass(frozen=True, eq=False)
class Regression:
    """V of one posterior.

    Attributes
    ----------
    model, prior
        As in `posterior`.
    features
        (N, d), standardised, with a column of ones at the end.
    response
        (N,): -1 or 1, a count, or a standardised number.
    """

    model: Model
    prior: float
    features: Array
    response: Array

    @classmethod
    def of(cls, model: Model, prior: float) -> Regression:
        """With the data of a model."""
        return cls(model, prior, *_data(model))

    @property
    def dim(self) -> int:
        """d."""
        return int(self.features.shape[1])

    @property
    def digest(self) -> str:
        """What its reference draws are called by."""
        return references.digest(self.model, {"model": self.model, "prior": self.prior, "version": VERSION})

    @property
    def how(self) -> str:
        """The command that builds them."""
        return f"mongebench references build {self.model} --prior {self.prior:g}"

    @property
    def log_concave(self) -> bool:
        """Whether V is convex."""
        return self.model != "diabetes_robust"

    def potential(self, b: Any) -> Any:
        """V, (n, d) -> (n,), in any array namespace."""
        xp, features, response = constants(b, self.features, self.response)
        losses, _ = self._losses(xp, b @ features.T, response)
        return xp.sum(losses, axis=1) + xp.sum(b * b, axis=1) / (2 * self.prior**2)

    def gradient(self, b: Any) -> Any:
        """grad V, (n, d) -> (n, d), in any array namespace."""
        xp, features, response = constants(b, self.features, self.response)
        _, slopes = self._losses(xp, b @ features.T, response)
        return slopes @ features + b / self.prior**2

    def _losses(self, xp: Any, predicted: Any, response: Any) -> tuple[Any, Any]:
        """Minus log likelihoods of the linear predictors (n, N), and their derivatives in these."""
        if self.model == "diabetes_poisson":
            rates = xp.exp(predicted)
            return rates - response * predicted, rates - response
        if self.model == "diabetes_robust":
            errors = (predicted - response) / NOISE
            width = FREEDOM + errors * errors
            return (FREEDOM + 1) / 2 * xp.log(width), (FREEDOM + 1) * errors / width / NOISE
        margins = response * predicted
        likely = xp.exp(-xp.logaddexp(xp.zeros_like(margins), margins))  # of the other class
        return xp.logaddexp(xp.zeros_like(margins), -margins), -response * likely

    def laplace(self) -> Normal:
        """N(mode, H^-1)."""
        mode = minimize(
            lambda b: float(self.potential(b[None])[0]),
            np.zeros(self.dim),
            jac=lambda b: self.gradient(b[None])[0],
            method="BFGS",
            options={"gtol": 1e-9},
        ).x
        step = 1e-5
        ahead, behind = (self.gradient(mode + sign * step * np.eye(self.dim)) for sign in (1, -1))
        hessian = (ahead - behind) / (2 * step)
        values, axes = np.linalg.eigh((hessian + hessian.T) / 2)
        return Normal(mode, axes, 1 / values)

    def sample(self, seed: int, say: Callable[[str], None]) -> references.Reference:
        """Reference draws. Raises `NotConverged`."""
        start = self.laplace()
        return references.sample(self.potential, start.mean, start.factor, seed=seed, say=say)


@functools.cache
def _data(model: Model) -> tuple[Array, Array]:
    from sklearn import datasets

    if model == "wine":
        x, kind = datasets.load_wine(return_X_y=True)
        x, kind = x[kind < 2], kind[kind < 2]
        response = 2.0 * kind - 1
    elif model == "breast_cancer":
        x, kind = datasets.load_breast_cancer(return_X_y=True)
        response = 2.0 * kind - 1
    elif model == "digits":
        x, kind = datasets.load_digits(return_X_y=True)
        x, kind = x[np.isin(kind, (3, 8))], kind[np.isin(kind, (3, 8))]
        x = _principal(x, DIGITS_COMPONENTS)
        response = np.where(kind == 8, 1.0, -1.0)
    else:
        x, progression = datasets.load_diabetes(return_X_y=True)
        counted = model == "diabetes_poisson"
        response = np.round(progression / COUNT_UNIT) if counted else _standardised(progression)
    features = np.column_stack([_standardised(x), np.ones(len(x))])
    features.flags.writeable = response.flags.writeable = False
    return features, response


def _standardised(x: Array) -> Array:
    standard: Array = (x - x.mean(axis=0)) / x.std(axis=0)
    return standard


def _principal(x: Array, count: int) -> Array:
    """The first principal components of (N, p), each with the sign that makes its largest weight positive."""
    centred = x - x.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :count]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(count)])
    components: Array = centred @ axes
    return components
