"""What explicit and implicit steps share: everything but the subproblem."""

from __future__ import annotations

import abc
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
from mongebench.estimators.flow.divergence import Divergence
from mongebench.estimators.flow.gauss_newton import DAMPING, GaussNewton
from mongebench.estimators.flow.subproblem import Loss

Inner = Literal["newton", "adam"]

HALVINGS = 10
"""Times that a step which does not decrease F is tried again at half its length."""


class Stepwise(Flow):
    """Base of `FlowExplicit` and `FlowImplicit`: outer steps of size tau, each the solution of a subproblem.

    `inner="newton"` solves it by Gauss-Newton steps on one batch, until the decrease that the last one promised is less
    than `tolerance` of the decrease since T_k. The trace carries that ratio as `decrement`, so that an unsolved
    subproblem can be told from a slow flow. A step that does not decrease F on its batch is taken again at half the
    length. `inner="adam"`, as published, is Adam on fresh batches; nothing is known about its optimality.

    Parameters
    ----------
    family, units, depth, batch_size, dtype
        As in `Flow`.
    tau
        Step in flow time.
    steps
        Outer steps.
    inner
        "newton" (Gauss-Newton) or "adam".
    inner_steps
        Most Gauss-Newton steps, or the number of Adam's steps, in one outer step.
    tolerance
        Of the Gauss-Newton iteration.
    learning_rate
        Of Adam, which starts anew at each outer step.
    """

    def __init__(
        self,
        family: Family = "ridge",
        units: int = 64,
        depth: int = 2,
        tau: float = 0.4,
        steps: int = 10,
        inner: Inner = "newton",
        inner_steps: int = 20,
        tolerance: float = 1e-3,
        learning_rate: float = 0.1,
        batch_size: int = 4096,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.tau = tau
        self.steps = steps
        self.inner = inner
        self.inner_steps = inner_steps
        self.tolerance = tolerance
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows, and of Adam."""
        return (*super().modules, "optax")

    @abc.abstractmethod
    def _loss(self, divergence: Divergence) -> Loss:
        """What a step minimises."""

    def _check(self) -> None:
        super()._check()
        check_positive(tau=self.tau, tolerance=self.tolerance, learning_rate=self.learning_rate)
        check_counts(steps=self.steps, inner_steps=self.inner_steps)
        check_choice(self.inner, ("newton", "adam"), "inner solver")

    def _states(self, setting: Setting) -> Iterator[State]:
        return self._by_newton(setting) if self.inner == "newton" else self._by_adam(setting)

    def _by_newton(self, setting: Setting) -> Iterator[State]:
        theta, unravel = ravel_pytree(setting.start)
        method = GaussNewton(setting.start, self._loss(setting.divergence), setting.divergence)
        damping, tau, time = DAMPING, float(self.tau), 0.0
        for _ in range(self.steps):
            x = setting.draw(self.batch_size)
            before = float(method.objective(theta, x))
            tau = min(2 * tau, float(self.tau))
            for _ in range(HALVINGS):
                solution = method.minimise(theta, x, tau, damping, steps=self.inner_steps, tolerance=self.tolerance)
                setting.charge((1 + solution.evaluations) * len(x))
                if solution.objective <= before + ROUNDING * abs(before):
                    theta, damping = solution.theta, solution.damping
                    break
                tau /= 2
            time += tau
            yield State(
                unravel(theta),
                solution.objective,
                time,
                {"decrement": solution.optimality, "inner_steps": solution.iterations, "tau": tau},
            )

    def _by_adam(self, setting: Setting) -> Iterator[State]:
        theta, unravel = ravel_pytree(setting.start)
        optimiser = optax.adam(self.learning_rate)
        method = Descent(setting.start, self._loss(setting.divergence), setting.divergence, optimiser)
        tau = jnp.asarray(self.tau, theta.dtype)
        for k in range(1, self.steps + 1):
            batches = jnp.stack([setting.draw(self.batch_size) for _ in range(self.inner_steps)])
            theta, _, objective = method.run(theta, optimiser.init(theta), batches, tau)
            setting.charge(int(np.prod(batches.shape[:2])))
            yield State(unravel(theta), float(objective), k * self.tau)


ROUNDING = 1e-6
"""Relative increase of F that passes for none: it is a mean in the precision of the fit, and may be converged."""
