"""What the best map of a flow's family leaves of the error: a floor that is known without any flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares

from mongebench.core.arrays import Points
from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.core.problem import Problem
from mongebench.estimators.flow.potential import FAMILIES, Quadratic
from mongebench.metrics.base import EvaluationPoints, Value, variance_of_mean

if TYPE_CHECKING:
    from mongebench.estimators.flow.schemes.base import Flow

SHARES = (0.5, 0.01)
"""Of the curvature that is bent at the start, by turns: well away from a quadratic, and next to it."""


def family_floor(
    flow: Flow, problem: Problem, *, points: int = 2000, restarts: int = 4, evaluations: int = 100, seed: int = 0
) -> Value:
    """Squared L2(mu0) error of the best map that least squares finds in the family of `flow`, length^2.

    The family is fitted to the exact map itself, T* at draws of mu0, by Gauss-Newton steps in a trust region from
    several starts, and the best fit is measured at as many fresh draws. Maps of a family fill no convex set, so
    that there may be a better one: the value is an upper bound of the floor. Seconds to minutes.

    Parameters
    ----------
    flow
        Whose `family`, `units` and `depth` are meant; it is not fitted.
    problem
        One whose exact map is known.
    points
        Draws of mu0 for the fit, and again for its measurement.
    restarts
        Starts, each with its own random features.
    evaluations
        Most evaluations of the Jacobian from each start.
    seed
        Of draws and starts.

    Raises
    ------
    InvalidInput
        Where the exact map is not known.
    InvalidParameter
        For a family like "dictionary", whose parameters fill a cone that these steps would leave.
    """
    if not problem.truth:
        raise InvalidInput("The floor of a family needs the exact map, which this problem does not know.")
    if FAMILIES[flow.family].conic:
        raise InvalidParameter(
            f"family_floor serves smooth families, and {flow.family!r} is a cone: take another family."
        )
    x = EvaluationPoints.draw(problem, 2 * points, seed).x
    y = problem.truth(x)
    half = len(x) // 2
    with jax.enable_x64(True):
        fits = [
            _fit(flow, x[:half], y[:half], SHARES[k % len(SHARES)], evaluations, np.random.default_rng((seed, k)))
            for k in range(restarts)
        ]
        _, images = min(fits, key=lambda fit: fit[0])
        errors = ((images(x[half:]) - y[half:]) ** 2).sum(axis=1)
    return Value(float(errors.mean()), float(np.sqrt(variance_of_mean(errors))), problem.truth_error**2)


def _fit(
    flow: Flow, x: Points, y: Points, share: float, evaluations: int, rng: np.random.Generator
) -> tuple[float, Callable[[Points], Points]]:
    """(squared error at x, the map): least squares from one start."""
    inside = jnp.asarray(x)
    affine = Quadratic.identity_like(inside)
    start = FAMILIES[flow.family].start(affine, inside, units=flow.units, depth=flow.depth, share=share, rng=rng)
    theta, unravel = ravel_pytree(start)

    @jax.jit
    def images(theta: jax.Array, x: jax.Array) -> jax.Array:
        pushed: jax.Array = jax.vmap(unravel(theta).map)(x)
        return pushed

    @jax.jit
    def slopes(theta: jax.Array, x: jax.Array) -> jax.Array:
        def at(point: jax.Array) -> jax.Array:
            slope: jax.Array = jax.jacrev(lambda theta: unravel(theta).map(point))(theta)
            return slope

        return jax.vmap(at)(x)

    def residuals(theta: Points) -> Points:
        return np.asarray(images(theta, inside) - y).ravel()

    def jacobian(theta: Points) -> Points:
        return np.asarray(slopes(theta, inside)).reshape(-1, len(theta))

    found = least_squares(residuals, np.asarray(theta), jacobian, x_scale="jac", max_nfev=evaluations)
    return 2 * found.cost / len(x), lambda x: np.asarray(images(found.x, jnp.asarray(x)))
