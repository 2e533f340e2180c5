"""Steps down the semi-dual J(phi) = E phi(X) + E phi*(Y): Adam or Muon, then Gauss-Newton steps that are averaged.

The derivative of J by theta is E[d phi(X)] - E[d phi(x*(Y))] with x* held fixed (Danskin). A step improves the
conjugates of its batch, which it takes from a pool, and then moves theta. All of it is pure, and compiled a block of
steps at a time.

A Gauss-Newton step is dtheta = -(M + damping)^-1 dJ with

    M = E[ Jac(x*)^T (D^2 phi(x*))^-1 Jac(x*) ],    Jac = d grad phi / dtheta,

by conjugate gradients on products with M, begun at the last step's solution; (D^2 phi)^-1 is what the conjugates carry.
M is the second derivative of J at the minimum, so that dtheta^T M dtheta is the squared distance over which the map
moves, weighted by (D^2 phi)^-1. It is cut there, because a direction that no point of the batch sees has no curvature
in M. Such steps end in the noise of batches; the mean of theta over them has less of it (Polyak and Juditsky 1992), and
is the map.
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
VECTORS = 0.2
"""Rate of Adam for vectors beside Muon for matrices, in units of Muon's, whose steps are longer than they look: an
orthogonal matrix of size n has entries of n^-1/2."""
MEMORY = 0.995
"""Of the mean of theta over Adam's steps, that is the map."""
LONGEST = 0.2
"""The first Gauss-Newton steps, in units of the full one: that would end in the batch's own noise."""
REACH = 0.014
"""The farthest that a Gauss-Newton step moves the map: root mean square of a coordinate, for data of unit variance."""
CARRIED = 0.9
"""Of the last step's solution, with which conjugate gradients begin: batches differ by their noise."""


class State(NamedTuple):
    """What steps carry.

    Attributes
    ----------
    potential
        theta.
    average
        Mean of theta over the last steps: the map.
    memory
        Of the optimiser; `Carried` in Gauss-Newton steps.
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
    """Adam, or Muon for the matrices and Adam for the rest, at a rate that rises and falls to nothing over `steps`.

    Of Muon's rate Adam gets the share `VECTORS`.
    """
    warm = max(1, int(WARM * steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm, max(steps, warm + 1), LAST * rate)
    if name == "adam":
        base = optax.adam(schedule)
    else:
        base = optax.contrib.muon(schedule, adam_learning_rate=lambda step: VECTORS * schedule(step))
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
    """Of the Gauss-Newton steps.

    Attributes
    ----------
    damping
        In units of the mean of the diagonal of M.
    iterations
        Of conjugate gradients in a step.
    """

    damping: float
    iterations: int


class Carried(NamedTuple):
    """From one Gauss-Newton step to the next: how many were taken, the last solution, (p,), and their length."""

    count: jax.Array
    direction: jax.Array
    length: jax.Array

    @classmethod
    def beginning(cls, potential: Potential, length: float) -> Carried:
        """Of no step."""
        theta = ravel_pytree(potential)[0]
        return cls(jnp.asarray(0), jnp.zeros_like(theta), jnp.asarray(length, theta.dtype))


def average(settings: Averaging, visits: int, state: State, x: jax.Array, indices: jax.Array) -> tuple[State, Seen]:
    """Gauss-Newton steps on the same batches, M on half of each. The mean weighs step k by k."""
    _, unravel = ravel_pytree(state.potential)

    def step(state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, Seen]:
        points, pool, error = _visit(state, batch[1], visits)
        value, gradient = jax.value_and_grad(semidual)(state.potential, batch[0], points)
        half = jax.tree.map(lambda leaf: leaf[: -(-len(leaf) // 2)], points)
        slope, begun = ravel_pytree(gradient)[0], CARRIED * state.memory.direction
        direction, distance = newton_direction(state.potential, slope, half, begun, settings)
        count = state.memory.count + 1
        length = state.memory.length
        reach = REACH * points.y.shape[1] ** 0.5
        theta = ravel_pytree(state.potential)[0] + jnp.minimum(length, reach / distance) * direction
        mean = ravel_pytree(state.average)[0]
        mean += 2 / (count + 1) * (theta - mean)
        return State(unravel(theta), unravel(mean), Carried(count, direction, length), pool), Seen(
            value, jnp.mean(error**2)
        )

    return _means(jax.lax.scan(step, state, (x, indices)))


@functools.lru_cache(maxsize=16)
def averaging(settings: Averaging, visits: int) -> Block:
    """A block of Gauss-Newton steps."""
    return jax.jit(functools.partial(average, settings, visits))


def newton_direction(
    potential: Potential, slope: jax.Array, points: Conjugates, begun: jax.Array, settings: Averaging
) -> tuple[jax.Array, jax.Array]:
    """dtheta = -(M + damping)^-1 slope, (p,), by conjugate gradients from `begun`; and sqrt(dtheta^T M dtheta)."""
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
        lambda direction: metric(direction) + damping * direction, -slope, begun, maxiter=settings.iterations, tol=0.0
    )[0]
    return solution, jnp.sqrt(jnp.maximum(solution @ metric(solution), 0))


def _visit(state: State, indices: jax.Array, steps: int) -> tuple[Conjugates, Conjugates, jax.Array]:
    """The pool's points `indices`, improved; the pool with them in it; their residuals."""
    points = jax.tree.map(lambda leaf: leaf[indices], state.pool)
    points, error = improve(state.potential, points, steps)
    return points, jax.tree.map(lambda leaf, new: leaf.at[indices].set(new), state.pool, points), error


def _means(run: tuple[State, Seen]) -> tuple[State, Seen]:
    state, seen = run
    return state, jax.tree.map(jnp.mean, seen)
