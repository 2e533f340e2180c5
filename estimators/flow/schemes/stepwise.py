"""What explicit and implicit steps share: everything but the subproblem."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import PositiveFloat, PositiveInt

from mongebench.core.estimator import Range
from mongebench.estimators.flow.machinery.descent import SCHEDULES, Descent, Schedule
from mongebench.estimators.flow.machinery.gauss_newton import DAMPING, GaussNewton, Solution
from mongebench.estimators.flow.machinery.objective import Batch, objective
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Family, Potential
from mongebench.estimators.flow.schemes.base import START_SHARE, DivergenceName, Dtype, Flow, Share
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting

Inner = Literal["newton", "adam"]

HALVINGS = 10
"""Times that a step which does not decrease D is tried again at half its length."""
ROUNDING = 1e-6
"""Relative increase of D that passes for none: it is a mean in the precision of the fit, and may be converged."""


class Stepwise(Flow):
    """Base of `FlowExplicit` and `FlowImplicit`: outer steps of size tau, each the solution of a subproblem.

    `inner="newton"` solves it by Gauss-Newton steps on one batch, until the decrease that the last one promised is less
    than `tolerance` of the decrease since T_k. The trace carries that ratio as `decrement`, so that an unsolved
    subproblem can be told from a slow flow. A step that does not decrease D on its batch is taken again at half the
    length. `inner="adam"`, as published, is Adam on fresh batches; nothing is known about its optimality.

    Parameters
    ----------
    family, units, depth, share, divergence, epsilon, batch_size, dtype
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
        Of Adam, which starts anew at each outer step; the first one, where it decays.
    schedule
        Of Adam: "constant", as published, or "cosine": the rate falls to zero in each outer step, so that the map comes
        to rest at the solution of the subproblem and not in the noise of single batches.
    """

    @property
    @abc.abstractmethod
    def linear(self) -> bool:
        """Whether steps see the divergence through its derivative at T_k alone."""

    tunable: ClassVar[dict[str, Any]] = {
        "units": [16, 32, 64, 128],
        "tau": Range(0.05, 5.0),
        "steps": [5, 10, 20, 40],
        "inner_steps": [5, 10, 20],
    }

    matters_with: ClassVar[dict[str, Any]] = {
        **Flow.matters_with,
        "tolerance": {"inner": ["newton"]},
        "learning_rate": {"inner": ["adam"]},
        "schedule": {"inner": ["adam"]},
    }

    def __init__(
        self,
        family: Family = "ridge",
        units: PositiveInt = 64,
        depth: PositiveInt = 2,
        share: Share = START_SHARE,
        tau: PositiveFloat = 0.4,
        steps: PositiveInt = 10,
        inner: Inner = "newton",
        inner_steps: PositiveInt = 20,
        tolerance: PositiveFloat = 1e-3,
        learning_rate: PositiveFloat = 0.1,
        schedule: Schedule = "constant",
        divergence: DivergenceName = "kl",
        epsilon: PositiveFloat = 0.05,
        batch_size: PositiveInt = 4096,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.share = share
        self.tau = tau
        self.steps = steps
        self.inner = inner
        self.inner_steps = inner_steps
        self.tolerance = tolerance
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.divergence = divergence
        self.epsilon = epsilon
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows, and of Adam."""
        return (*super().modules, "optax")

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        subproblem = Subproblem(setting.divergence, self.linear)
        by_newton = self.inner == "newton"

        def scheme(potential: Potential) -> Scheme:
            return self._by_newton(potential, subproblem) if by_newton else self._by_adam(potential, subproblem)

        yield Phase(self.steps, 1 if by_newton else self.inner_steps, lambda setting, _: setting.start, scheme)

    def _by_newton(self, potential: Potential, subproblem: Subproblem) -> Scheme:
        method = GaussNewton(potential, subproblem)

        def begin(theta: jax.Array) -> _Newton:
            damping, tau, time = (jnp.asarray(number, theta.dtype) for number in (DAMPING, self.tau, 0))
            return _Newton(theta, damping, tau, time)

        def step(carry: _Newton, batches: Batch) -> tuple[_Newton, Report]:
            batch = jax.tree.map(lambda leaf: leaf[0], batches)
            before = objective(subproblem.divergence, method.unravel(carry.theta), batch)

            def solve(tau: jax.Array) -> Solution:
                return method.minimise(
                    carry.theta, batch, tau, carry.damping, steps=self.inner_steps, tolerance=self.tolerance
                )

            def too_long(state: tuple[jax.Array, Solution, jax.Array, jax.Array]) -> jax.Array:
                _, solution, tries, _ = state
                risen = ~(solution.objective <= before + ROUNDING * jnp.abs(before))
                return (tries == 0) | (risen & (tries < HALVINGS))

            def attempt(
                state: tuple[jax.Array, Solution, jax.Array, jax.Array],
            ) -> tuple[jax.Array, Solution, jax.Array, jax.Array]:
                tau, _, tries, evaluations = state
                tau = tau / 2
                solution = solve(tau)
                return tau, solution, tries + 1, evaluations + solution.evaluations

            count = jnp.zeros((), int)
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(solve, carry.tau))
            longest = 2 * jnp.minimum(2 * carry.tau, self.tau)  # halved before it is first tried
            tau, solution, _, evaluations = jax.lax.while_loop(too_long, attempt, (longest, nothing, count, count + 1))
            fallen = solution.objective <= before + ROUNDING * jnp.abs(before)
            theta = jnp.where(fallen, solution.theta, carry.theta)
            damping = jnp.where(fallen, solution.damping, carry.damping)
            time = carry.time + tau
            diagnostics = {
                "decrement": solution.optimality,
                "inner_steps": solution.iterations,
                "tau": tau,
            }
            return _Newton(theta, damping, tau, time), Report(solution.objective, time, evaluations, diagnostics)

        return Scheme(begin, step, lambda carry: carry.theta)

    def _by_adam(self, potential: Potential, subproblem: Subproblem) -> Scheme:
        optimiser = optax.adam(SCHEDULES[self.schedule](self.learning_rate, self.inner_steps))
        method = Descent(potential, subproblem, optimiser)

        def step(carry: tuple[jax.Array, jax.Array], batches: Batch) -> tuple[Any, Report]:
            theta, time = carry
            tau = jnp.asarray(self.tau, theta.dtype)
            descended = method.run(theta, optimiser.init(theta), batches, tau)
            evaluations = jnp.asarray(self.inner_steps)
            return (descended.theta, time + tau), Report(descended.objective, time + tau, evaluations, {})

        return Scheme(lambda theta: (theta, jnp.zeros((), theta.dtype)), step, lambda carry: carry[0])


class _Newton(NamedTuple):
    """What outer steps with Gauss-Newton inside carry."""

    theta: jax.Array
    damping: jax.Array
    tau: jax.Array
    time: jax.Array
