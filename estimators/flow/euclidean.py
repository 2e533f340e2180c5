"""The baseline: plain descent in theta on the same objective, from the same start, with the same potentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.base import (
    Dtype,
    Family,
    Flow,
    Setting,
    State,
    check_choice,
    check_counts,
    check_positive,
)
from mongebench.estimators.flow.descent import Descent

OPTIMISERS = {"adam": optax.adam, "sgd": optax.sgd}


class Euclidean(Flow):
    """Plain gradient descent in theta, by SGD or Adam, on the objective of the flows: only the geometry differs.

    It follows no flow, and its trace has no flow time. Adam matters: on the published mixture SGD ends no better than
    an affine map does.

    Parameters
    ----------
    family, units, depth, batch_size, dtype
        As in `Flow`.
    optimiser
        "adam" or "sgd".
    learning_rate
        Of the optimiser, in units of theta.
    steps
        Outer steps, after each of which the trace is called.
    inner_steps
        Gradient steps, each on a fresh batch, in one outer step.
    """

    def __init__(
        self,
        family: Family = "ridge",
        units: int = 64,
        depth: int = 2,
        optimiser: Literal["adam", "sgd"] = "adam",
        learning_rate: float = 1e-2,
        steps: int = 60,
        inner_steps: int = 50,
        batch_size: int = 256,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.steps = steps
        self.inner_steps = inner_steps
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows and the optimiser's."""
        return (*super().modules, "optax")

    def _check(self) -> None:
        super()._check()
        check_choice(self.optimiser, OPTIMISERS, "optimiser")
        check_positive(learning_rate=self.learning_rate)
        check_counts(steps=self.steps, inner_steps=self.inner_steps)

    def _states(self, setting: Setting) -> Iterator[State]:
        theta, unravel = ravel_pytree(setting.start)
        optimiser = OPTIMISERS[self.optimiser](self.learning_rate)
        method = Descent(setting.start, lambda jet, anchor, tau: setting.divergence(jet), setting.divergence, optimiser)
        state, unused = optimiser.init(theta), jnp.ones((), theta.dtype)
        for _ in range(self.steps):
            batches = jnp.stack([setting.draw(self.batch_size) for _ in range(self.inner_steps)])
            theta, state, objective = method.run(theta, state, batches, unused)
            setting.charge(int(np.prod(batches.shape[:2])))
            yield State(unravel(theta), float(objective), None)
