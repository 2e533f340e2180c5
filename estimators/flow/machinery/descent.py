"""Plain gradient steps on the subproblems, by an optimiser of optax: many small batches in one compiled call.

Where the parameters must stay in a cone, each step ends with the nearest point of it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery.objective import Batch, objective, phi
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Potential

Schedule = Literal["constant", "cosine"]
SCHEDULES = {"constant": lambda rate, steps: rate, "cosine": optax.cosine_decay_schedule}
"""(learning rate, gradient steps in all) -> what optax takes for a learning rate."""


class Descended(NamedTuple):
    """What a run of gradient steps came to.

    Attributes
    ----------
    theta
        (p,).
    state
        Of the optimiser.
    objective
        D on the last batch.
    """

    theta: jax.Array
    state: optax.OptState
    objective: jax.Array


class Descent:
    """Runs of gradient steps on the mean of `subproblem`; pure.

    Parameters
    ----------
    potential
        Any with the structure of those that the steps will move.
    subproblem
        From the map that a run starts from, which is the previous map of each of its steps.
    optimiser
        Of optax.
    """

    def __init__(self, potential: Potential, subproblem: Subproblem, optimiser: optax.GradientTransformation) -> None:
        _, self.unravel = ravel_pytree(potential)
        self.subproblem = subproblem
        self.optimiser = optimiser

    def run(self, start: jax.Array, state: optax.OptState, batches: Batch, tau: jax.Array) -> Descended:
        """One step a batch, from start (p,), on batches with a leading axis."""
        previous = self.unravel(start)

        def value(theta: jax.Array, batch: Batch) -> jax.Array:
            return phi(self.subproblem, self.unravel(theta), previous, batch, tau)[0]

        def step(carry: Any, batch: Batch) -> tuple[Any, None]:
            theta, state = carry
            updates, state = self.optimiser.update(jax.grad(value)(theta, batch), state, theta)
            return (self._back(optax.apply_updates(theta, updates)), state), None

        (theta, state), _ = jax.lax.scan(step, (start, state), batches)
        last = jax.tree.map(lambda leaf: leaf[-1], batches)
        return Descended(theta, state, objective(self.subproblem.divergence, self.unravel(theta), last))

    def _back(self, theta: jax.Array) -> jax.Array:
        return ravel_pytree(self.unravel(theta).nearest())[0]
