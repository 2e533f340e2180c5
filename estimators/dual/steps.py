"""Steps of Adam or Muon down the semi-dual J(phi) = E phi(X) + E phi*(Y).

The derivative of J by theta is E[d phi(X)] - E[d phi(x*(Y))] with x* held fixed (Danskin). A step improves the
conjugates of its batch, which it takes from a pool, and then moves theta. All of it is pure, and compiled a block of
steps at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
LAG = 0.1
"""Root mean square residual of a batch's conjugates, in units of the clouds, from which on a step is shortened by the
square of the excess. Where conjugates fall behind, J is too low, and a step along its gradient leaves them further
behind: without this `potential` in d = 8 diverges within 150 steps."""
MEMORY = 0.995
"""Of the mean of theta over Adam's steps, that is the map."""


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
        residual = jnp.mean(error**2)
        update, memory = method.update(gradient, state.memory, state.potential)
        shorter = jnp.minimum(1, LAG**2 / residual)
        potential = optax.apply_updates(state.potential, jax.tree.map(lambda leaf: shorter * leaf, update))
        average = jax.tree.map(lambda old, new: MEMORY * old + (1 - MEMORY) * new, state.average, potential)
        return State(potential, average, memory, pool), Seen(value, residual)

    return _means(jax.lax.scan(step, state, (x, indices)))


Block = Callable[[State, jax.Array, jax.Array], tuple[State, Seen]]
"""(state, x (steps, n, d), indices (steps, m)) -> state, means over the steps; compiled."""


@functools.lru_cache(maxsize=16)
def descent(name: Optimiser, rate: float, steps: int, visits: int) -> tuple[optax.GradientTransformation, Block]:
    """The optimiser, and a block of its steps; fits with equal settings share what is compiled."""
    method = optimiser(name, rate, steps)
    return method, jax.jit(functools.partial(descend, method, visits))


def _visit(state: State, indices: jax.Array, steps: int) -> tuple[Conjugates, Conjugates, jax.Array]:
    """The pool's points `indices`, improved; the pool with them in it; their residuals."""
    points = jax.tree.map(lambda leaf: leaf[indices], state.pool)
    points, error = improve(state.potential, points, steps)
    return points, jax.tree.map(lambda leaf, new: leaf.at[indices].set(new), state.pool, points), error


def _means(run: tuple[State, Seen]) -> tuple[State, Seen]:
    state, seen = run
    return state, jax.tree.map(jnp.mean, seen)
