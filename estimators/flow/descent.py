"""Plain gradient steps in theta by an optimiser of optax, on fresh batches: the published way, and the baseline."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.divergence import Divergence, jet
from mongebench.estimators.flow.potential import Potential
from mongebench.estimators.flow.subproblem import Loss


class Descent:
    """Runs of gradient steps on the mean of `loss`, compiled once for a potential and a number of batches.

    Parameters
    ----------
    potential
        Any with the structure of those that the steps will move.
    loss
        See `Loss`; its anchor is the map that a run starts from.
    divergence
        Its mean F over the last batch is reported after each run.
    optimiser
        Of optax.
    """

    def __init__(
        self, potential: Potential, loss: Loss, divergence: Divergence, optimiser: optax.GradientTransformation
    ) -> None:
        _, self.unravel = ravel_pytree(potential)
        self.loss = loss
        self.divergence = divergence
        self.optimiser = optimiser
        self.run = jax.jit(self._run)

    def _run(
        self, start: jax.Array, state: optax.OptState, batches: jax.Array, tau: jax.Array
    ) -> tuple[jax.Array, optax.OptState, jax.Array]:
        """One step a batch, from start (p,) on batches (k, n, d) -> parameters, the optimiser's state, F."""

        def jets(theta: jax.Array, x: jax.Array) -> jax.Array:
            return jax.vmap(jet, (None, 0))(self.unravel(theta), x)

        def mean_loss(theta: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.mean(jax.vmap(self.loss, (0, 0, None))(jets(theta, x), jets(start, x), tau))

        def step(carry: Any, x: jax.Array) -> tuple[Any, None]:
            theta, state = carry
            updates, state = self.optimiser.update(jax.grad(mean_loss)(theta, x), state, theta)
            return (optax.apply_updates(theta, updates), state), None

        (theta, state), _ = jax.lax.scan(step, (start, state), batches)
        return theta, state, jnp.mean(jax.vmap(self.divergence)(jets(theta, batches[-1])))
