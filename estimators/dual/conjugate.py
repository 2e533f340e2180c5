"""Conjugates of a convex potential at many points at once: phi*(y) = max_x <x, y> - phi(x), where grad phi(x) = y.

Each point keeps its maximiser x and an approximate inverse of the Hessian there. While phi is learnt it moves little
from one visit of a point to the next, so that a few quasi-Newton steps (BFGS) are enough, which evaluate the map alone:
a Hessian costs as much as some d maps. The few points of a batch that are left furthest off then get Newton steps.

Reference: Nocedal and Wright 2006, Numerical optimization, chapters 3 and 6.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mongebench.estimators.flow.potential import Potential

HARD = 16
"""One point of so many gets Newton steps in each improvement."""
NEWTON_STEPS = 3
LENGTHS = (1.0, 0.3, 0.1, 0.03, 0.0)
"""Of a Newton step, in units of the full one: that with the smallest residual is taken."""
RIDGE = 1e-6
"""Added to the Hessian of a Newton step, in units of its trace: phi may be flat where no point has been."""
ROUNDS = 16
"""Most improvements, of `FRESH_STEPS` each, that points without a known maximiser get."""
FRESH_STEPS = 8


class Conjugates(NamedTuple):
    """Points y and what is known of their conjugates.

    Attributes
    ----------
    y
        (n, d).
    x
        Where grad phi(x) = y, nearly, (n, d).
    inverse
        Approximate inverses of D^2 phi(x), (n, d, d).
    """

    y: jax.Array
    x: jax.Array
    inverse: jax.Array

    @classmethod
    def beginning(cls, y: jax.Array, inverse: jax.Array) -> Conjugates:
        """Those of the quadratic |L^T x|^2 / 2 with (L L^T)^-1 = `inverse`, (d, d)."""
        return cls(y, y @ inverse, jnp.broadcast_to(inverse, (len(y), *inverse.shape)))


def improve(potential: Potential, points: Conjugates, steps: int) -> tuple[Conjugates, jax.Array]:
    """After `steps` quasi-Newton steps, and Newton's at the worst points: conjugates, and |grad phi(x) - y|, (n,).

    A step is taken where it lowers the residual, and tried at a third of its length elsewhere.
    """
    slope = jax.vmap(potential.map)
    y = points.y

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, inverse, residual, length = state
        moved = x - length[:, None] * _apply(inverse, residual)
        left = slope(moved) - y
        better = _norm(left) < _norm(residual)
        inverse = bfgs(inverse, moved - x, left - residual)
        x = jnp.where(better[:, None], moved, x)
        residual = jnp.where(better[:, None], left, residual)
        return x, inverse, residual, jnp.where(better, jnp.minimum(1, 3 * length), length / 3)

    start = points.x, points.inverse, slope(points.x) - y, jnp.ones(len(y), y.dtype)
    x, inverse, residual, _ = jax.lax.fori_loop(0, steps, step, start)
    error = _norm(residual)
    _, worst = jax.lax.top_k(error, -(-len(y) // HARD))
    hard, hard_error = newton(potential, Conjugates(y[worst], x[worst], inverse[worst]), NEWTON_STEPS)
    improved = Conjugates(y, x.at[worst].set(hard.x), inverse.at[worst].set(hard.inverse))
    return improved, error.at[worst].set(hard_error)


def newton(potential: Potential, points: Conjugates, steps: int) -> tuple[Conjugates, jax.Array]:
    """As `improve`, by Newton steps with a line search for the residual."""
    slope = jax.vmap(potential.map)
    y = points.y
    lengths = jnp.asarray(LENGTHS, y.dtype)
    identity = jnp.eye(y.shape[1], dtype=y.dtype)

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, residual = state[0], state[2]
        hessian = jax.vmap(potential.jacobian)(x)
        ridge = RIDGE * jnp.trace(hessian, axis1=1, axis2=2)
        inverse = jnp.linalg.inv(hessian + ridge[:, None, None] * identity)
        tried = x - lengths[:, None, None] * _apply(inverse, residual)
        left = jax.vmap(slope)(tried) - y
        best = jnp.argmin(jnp.linalg.norm(left, axis=2), axis=0), jnp.arange(len(y))
        return tried[best], inverse, left[best]

    x, inverse, residual = jax.lax.fori_loop(0, steps, step, (points.x, points.inverse, slope(points.x) - y))
    return Conjugates(y, x, inverse), _norm(residual)


def solved(potential: Potential, points: Conjugates, tolerance: float) -> tuple[Conjugates, jax.Array]:
    """As `improve`, for points whose maximiser is not known yet: until the residual's root mean square is small."""

    def unsolved(state: tuple[Conjugates, jax.Array, jax.Array]) -> jax.Array:
        _, error, rounds = state
        return (rounds < ROUNDS) & (jnp.mean(error**2) > tolerance**2)

    def more(state: tuple[Conjugates, jax.Array, jax.Array]) -> tuple[Conjugates, jax.Array, jax.Array]:
        found, error = improve(potential, state[0], FRESH_STEPS)
        return found, error, state[2] + 1

    unknown = jnp.full(len(points.y), jnp.inf, points.y.dtype)
    found, error, _ = jax.lax.while_loop(unsolved, more, (points, unknown, jnp.asarray(0)))
    return found, error


def bfgs(inverse: jax.Array, step: jax.Array, change: jax.Array) -> jax.Array:
    """Inverse Hessians (n, d, d) once the gradient is known to change by `change` (n, d) along `step` (n, d)."""
    curvature = jnp.sum(step * change, axis=1)
    seen = curvature > RIDGE * jnp.sum(change**2, axis=1)
    rho = jnp.where(seen, 1 / jnp.where(seen, curvature, 1), 0)[:, None]
    image = _apply(inverse, change)
    factor = rho * (1 + rho * jnp.sum(change * image, axis=1)[:, None])
    outer = (rho * image)[:, :, None] * step[:, None, :]
    return inverse + (factor * step)[:, :, None] * step[:, None, :] - outer - jnp.swapaxes(outer, 1, 2)


def _apply(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    """(n, d, d), (n, d) -> (n, d)."""
    product: jax.Array = jnp.einsum("nij,nj->ni", matrices, vectors)
    return product


def _norm(vectors: jax.Array) -> jax.Array:
    norms: jax.Array = jnp.linalg.norm(vectors, axis=1)
    return norms
