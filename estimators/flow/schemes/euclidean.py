"""The baseline: plain descent in theta on the same objective, from the same start, with the same potentials."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveFloat, PositiveInt

from mongebench.core.estimator import Range
from mongebench.estimators.flow.machinery.descent import SCHEDULES, Descent, Schedule
from mongebench.estimators.flow.machinery.objective import Batch
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Family, Potential
from mongebench.estimators.flow.schemes.base import START_SHARE, DivergenceName, Dtype, Flow, Share
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting

OPTIMISERS = {"adam": optax.adam, "sgd": optax.sgd}


class Euclidean(Flow):
    """Plain gradient descent in theta, by SGD or Adam, on the objective of the flows: only the geometry differs.

    It follows no flow, and its trace has no flow time. Adam matters: on the published mixture SGD ends no better than
    an affine map does.

    Parameters
    ----------
    family, units, depth, share, divergence, epsilon, batch_size, dtype
        As in `Flow`.
    optimiser
        "adam" or "sgd".
    learning_rate
        Of the optimiser, in units of theta; the first one, where it decays.
    schedule
        "cosine": the rate falls to zero over all gradient steps; or "constant", as published. At a constant rate the
        map ends in the noise of single batches, which the flows average away; a comparison of what can be reached is
        fair with the decay only.
    held_out
        Share of a fixed sample that no gradient step sees: the map is the one, of all outer steps, whose objective is
        lowest there. Fresh draws hold nothing out.
    steps
        Outer steps, after each of which the trace is called.
    inner_steps
        Gradient steps, each on a fresh batch, in one outer step.
    """

    timed: ClassVar[bool] = False
    tunable: ClassVar[dict[str, Any]] = {
        "units": [16, 32, 64, 128],
        "learning_rate": Range(1e-3, 1e-1),
        "inner_steps": [10, 20, 50, 100],
        "share": [0.01, 0.3, 0.9],
    }

    def __init__(
        self,
        family: Family = "ridge",
        units: PositiveInt = 64,
        depth: PositiveInt = 2,
        share: Share = START_SHARE,
        optimiser: Literal["adam", "sgd"] = "adam",
        learning_rate: PositiveFloat = 1e-2,
        schedule: Schedule = "cosine",
        steps: PositiveInt = 60,
        inner_steps: PositiveInt = 50,
        held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        divergence: DivergenceName = "kl",
        epsilon: PositiveFloat = 0.05,
        batch_size: PositiveInt = 256,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.share = share
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.steps = steps
        self.inner_steps = inner_steps
        self.held_out = held_out
        self.divergence = divergence
        self.epsilon = epsilon
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows and the optimiser's."""
        return (*super().modules, "optax")

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        subproblem = Subproblem(setting.divergence, linear=False)

        def scheme(potential: Potential) -> Scheme:
            return self._scheme(potential, subproblem)

        yield Phase(self.steps, self.inner_steps, lambda setting, _: setting.start, scheme)

    def _scheme(self, potential: Potential, subproblem: Subproblem) -> Scheme:
        rate = SCHEDULES[self.schedule](self.learning_rate, self.steps * self.inner_steps)
        optimiser = OPTIMISERS[self.optimiser](rate)
        method = Descent(potential, subproblem, optimiser)

        def step(carry: tuple[jax.Array, Any], batches: Batch) -> tuple[Any, Report]:
            theta, state = carry
            # An infinite tau: no distance to the last map is kept.
            descended = method.run(theta, state, batches, jnp.asarray(jnp.inf, theta.dtype))
            report = Report(descended.objective, jnp.asarray(jnp.nan, theta.dtype), jnp.asarray(self.inner_steps), {})
            return (descended.theta, descended.state), report

        return Scheme(lambda theta: (theta, optimiser.init(theta)), step, lambda carry: carry[0])


def of_family(init: Callable[..., None], family: Family) -> Callable[..., None]:
    """An `__init__` with a first parameter `family`, with that family for good: all other parameters are as they were.

    It says so in its signature, of which scikit-learn and the checks of parameters make use.
    """

    @functools.wraps(init)
    def fixed(self: Any, *positional: Any, **named: Any) -> None:
        init(self, family, *positional, **named)

    signature = inspect.signature(init)
    others = [parameter for name, parameter in signature.parameters.items() if name != "family"]
    fixed.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return fixed


class GradICNN(Euclidean):
    """Plain descent on an input-convex network: the baseline that the constrained flows are published against.

    `Euclidean` with `family="icnn"`, registered under a name of its own so that it stands beside plain descent on
    ridges with its own defaults.

    Parameters
    ----------
    units, depth, share, optimiser, learning_rate, schedule, steps, inner_steps, held_out
        As in `Euclidean`.
    divergence, epsilon, batch_size, dtype
        As in `Flow`.

    References
    ----------
    Amos, Xu and Kolter 2017, Input convex neural networks; Dumont, Lacombe and Vialard 2026 (arXiv 2603.25182).
    """

    __init__ = of_family(Euclidean.__init__, "icnn")
