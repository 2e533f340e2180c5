"""Steps down the semi-dual J(phi) = E phi(X) + E phi*(Y): Adam or Muon, then preconditioned steps that are averaged.

The derivative of J by theta is E[d phi(X)] - E[d phi(x*(Y))] with x* held fixed (Danskin). A step improves the
conjugates of its batch, which it takes from a pool, and then moves theta. All of it is pure, and compiled a block of
steps at a time.

The preconditioned step is Gauss-Newton's on J in function space, (M + damping) dtheta = -dJ with

    M = E[ Jac(x*)^T (D^2 phi(x*))^-1 Jac(x*) ],    Jac = d grad phi / dtheta,

by conjugate gradients on products with M; (D^2 phi)^-1 is what the conjugates carry. The steps have lengths k^-2/3, and
theta is averaged over them, which takes the noise of sampling out (Polyak and Juditsky 1992).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from mongebench.estimators.dual.conjugate import Conjugates, improve
from mongebench.estimators.flow.potential import Potential

Optimiser = Literal["adam", "muon"]
CLIP = 10.0
"""Norm of a gradient beyond which Adam and Muon see it shortened."""
WARM = 0.05
"""Share of the steps over which the rate rises: conjugates fall behind a potential that moves fast from the first."""
LAST = 1e-3
"""The last rate, in units of the highest."""
MEMORY = 0.995
"""Of the mean of theta over Adam's steps, that is the map."""
AVERAGING_POWER = 2 / 3
LONGEST = 0.3
"""The first of the averaged steps, in units of the full one: on one batch that would end in the batch's own noise."""


class State(NamedTuple):
    """What steps carry.

    Attributes
    ----------
    potential
        theta.
    average
        Mean of theta over the last steps: the map.
    memory
        Of the optimiser.
    pool
        Target points with their conjugates.
    """

    potential: Potential
    average: Potential
    memory: Any
    pool: Conjugates


class Seen(NamedTuple):
    """Means over a block of steps: of J on its batches, and of the squared residual of the conjugates."""

    value: jax.Array
    residual: jax.Array


def semidual(potential: Potential, x: jax.Array, points: Conjugates) -> jax.Array:
    """J on source points x (n, d) and target points, whose maximisers are held fixed."""
    fixed = jax.lax.stop_gradient(points.x)
    value = jax.vmap(potential.value)
    return jnp.mean(value(x)) + jnp.mean(jnp.sum(fixed * points.y, axis=1) - value(fixed))


def optimiser(name: Optimiser, rate: float, steps: int) -> optax.GradientTransformation:
    """Adam, or Muon for the matrices and Adam for the rest, at a rate that rises and falls to nothing over `steps`."""
    warm = max(1, int(WARM * steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm, max(steps, warm + 1), LAST * rate)
    base = optax.adam(schedule) if name == "adam" else optax.contrib.muon(schedule)
    return optax.chain(optax.clip_by_global_norm(CLIP), base)


def descend(
    method: optax.GradientTransformation, visits: int, state: State, x: jax.Array, indices: jax.Array
) -> tuple[State, Seen]:
    """Steps of `method` on batches x (steps, n, d) and of the pool's points `indices` (steps, m)."""

    def step(state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, Seen]:
        points, pool, error = _visit(state, batch[1], visits)
        value, gradient = jax.value_and_grad(semidual)(state.potential, batch[0], points)
        update, memory = method.update(gradient, state.memory, state.potential)
        potential = optax.apply_updates(state.potential, update)
        average = jax.tree.map(lambda old, new: MEMORY * old + (1 - MEMORY) * new, state.average, potential)
        return State(potential, average, memory, pool), Seen(value, jnp.mean(error**2))

    return _means(jax.lax.scan(step, state, (x, indices)))


Block = Callable[[State, jax.Array, jax.Array], tuple[State, Seen]]
"""(state, x (steps, n, d), indices (steps, m)) -> state, means over the steps; compiled."""


@functools.lru_cache(maxsize=16)
def descent(name: Optimiser, rate: float, steps: int, visits: int) -> tuple[optax.GradientTransformation, Block]:
    """The optimiser, and a block of its steps; fits with equal settings share what is compiled."""
    method = optimiser(name, rate, steps)
    return method, jax.jit(functools.partial(descend, method, visits))


class Averaging(NamedTuple):
    """Of the preconditioned steps.

    Attributes
    ----------
    damping
        In units of the mean of the diagonal of M.
    iterations
        Of conjugate gradients in a step.
    curvature_points
        Points of a batch that M is summed over.
    """

    damping: float
    iterations: int
    curvature_points: int


def average(settings: Averaging, visits: int, state: State, x: jax.Array, indices: jax.Array) -> tuple[State, Seen]:
    """Preconditioned steps on the same batches; `state.memory` is how many of them were taken."""
    _, unravel = ravel_pytree(state.potential)

    def step(state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, Seen]:
        points, pool, error = _visit(state, batch[1], visits)
        value, gradient = jax.value_and_grad(semidual)(state.potential, batch[0], points)
        count = state.memory + 1
        length = LONGEST * count.astype(value.dtype) ** -AVERAGING_POWER
        theta, slope = ravel_pytree(state.potential)[0], ravel_pytree(gradient)[0]
        part = jax.tree.map(lambda leaf: leaf[: settings.curvature_points], points)
        moved = theta + length * newton_direction(state.potential, slope, part, settings)
        mean = ravel_pytree(state.average)[0]
        mean = jnp.where(count == 1, moved, mean + (moved - mean) / count)
        return State(unravel(moved), unravel(mean), count, pool), Seen(value, jnp.mean(error**2))

    return _means(jax.lax.scan(step, state, (x, indices)))


@functools.lru_cache(maxsize=16)
def averaging(settings: Averaging, visits: int) -> Block:
    """A block of preconditioned steps."""
    return jax.jit(functools.partial(average, settings, visits))


def newton_direction(potential: Potential, slope: jax.Array, points: Conjugates, settings: Averaging) -> jax.Array:
    """-(M + damping)^-1 slope, (p,), by conjugate gradients."""
    theta, unravel = ravel_pytree(potential)

    def images(theta: jax.Array) -> jax.Array:
        moved: jax.Array = jax.vmap(unravel(theta).map)(points.x)
        return moved

    _, push = jax.linearize(images, theta)
    pull = jax.linear_transpose(push, theta)

    def metric(direction: jax.Array) -> jax.Array:
        moved = jnp.einsum("nij,nj->ni", points.inverse, push(direction)) / len(points.x)
        pulled: jax.Array = pull(moved)[0]
        return pulled

    signs = jax.random.rademacher(jax.random.key(0), theta.shape, theta.dtype)
    diagonal = jnp.abs(jnp.mean(signs * metric(signs)))  # unbiased for the mean of the diagonal (Hutchinson)
    damping = settings.damping * diagonal
    conjugate_gradients: Any = jax.scipy.sparse.linalg.cg
    solution: jax.Array = conjugate_gradients(
        lambda direction: metric(direction) + damping * direction, -slope, maxiter=settings.iterations, tol=0.0
    )[0]
    return solution


def _visit(state: State, indices: jax.Array, steps: int) -> tuple[Conjugates, Conjugates, jax.Array]:
    """The pool's points `indices`, improved; the pool with them in it; their residuals."""
    points = jax.tree.map(lambda leaf: leaf[indices], state.pool)
    points, error = improve(state.potential, points, steps)
    return points, jax.tree.map(lambda leaf, new: leaf.at[indices].set(new), state.pool, points), error


def _means(run: tuple[State, Seen]) -> tuple[State, Seen]:
    state, seen = run
    return state, jax.tree.map(jnp.mean, seen)
