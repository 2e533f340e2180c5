"""The linearly implicit scheme: one Gauss-Newton step on each minimising movement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from mongebench.core.errors import InvalidParameter
from mongebench.core.estimator import Range
from mongebench.estimators.flow.machinery.gauss_newton import DAMPING, GaussNewton, optimality
from mongebench.estimators.flow.machinery.objective import Batch
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Family, Potential
from mongebench.estimators.flow.schemes.base import DivergenceName, Dtype, Flow
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting

WARM_SHARE = 0.5
"""Share of the affine map's curvature that the other units start with."""
AVERAGED = 1 / 3
"""Share of the steps whose parameters are averaged."""
AVERAGING_POWER = 2 / 3
"""Step lengths fall like k^-power while the parameters are averaged (Polyak and Juditsky 1992 ask for 1/2 to 1)."""


class FlowNewton(Flow):
    """Newton's method in function space along the flow: stable at any step, averaged over fresh batches at the end.

    One step from theta solves, on one batch,

        (G / tau + H) dtheta = -grad F,    G = E[J^T J],    H = E[J^T V'' J + J_D^T (DT^{-1} x DT^{-1}) J_D],

    J and J_D the derivatives of T and DT by theta: the natural gradient for tau -> 0, Gauss-Newton on F for large tau.
    Marquardt damping is added, and a step is taken only if F falls and DT stays positive definite on the batch.

    The first `warm_steps` move the quadratic part alone, which is cheap and takes the map from the identity to the
    affine one; the other units then start next to it. In the last third of the steps, if batches are drawn anew, step
    lengths fall and the parameters are averaged, which takes the noise of sampling out.

    Use it to end with an accurate map; to follow the flow itself, take `FlowImplicit` or `FlowNatural`.

    Parameters
    ----------
    family, units, depth, divergence, epsilon, batch_size, dtype
        As in `Flow`.
    tau
        Step in flow time; the default is long, because the aim is the end of the flow.
    steps
        Steps in all.
    warm_steps
        Steps of the quadratic part alone; 0 for none. A quadratic potential has no other part, and needs none.
    curvature_points
        Points of each batch that the matrix is summed over, while F and its gradient are over all of them: fewer make
        room for larger batches, and so for less noise. None for all.
    """

    tunable: ClassVar[dict[str, Any]] = {
        "units": [16, 32, 64, 128],
        "steps": [15, 30, 60],
        "tau": Range(0.3, 1000.0),
    }

    matters_with: ClassVar[dict[str, Any]] = {
        **Flow.matters_with,
        "warm_steps": {"family": ["ridge", "icnn", "dense_icnn", "maxima", "dictionary"]},
    }

    def __init__(
        self,
        family: Family = "ridge",
        units: PositiveInt = 128,
        depth: PositiveInt = 2,
        tau: PositiveFloat = 100.0,
        steps: PositiveInt = 60,
        warm_steps: NonNegativeInt = 6,
        curvature_points: PositiveInt | None = None,
        divergence: DivergenceName = "kl",
        epsilon: PositiveFloat = 0.05,
        batch_size: PositiveInt = 4096,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.tau = tau
        self.steps = steps
        self.warm_steps = warm_steps
        self.curvature_points = curvature_points
        self.divergence = divergence
        self.epsilon = epsilon
        self.batch_size = batch_size
        self.dtype = dtype

    def check_parameters(self) -> None:
        """Some steps are left when the quadratic part has taken its own."""
        if self.family != "quadratic" and self.warm_steps >= self.steps:
            raise InvalidParameter(
                f"warm_steps must be from 0 to steps - 1 = {self.steps - 1}, got {self.warm_steps!r}."
            )

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        subproblem = Subproblem(setting.divergence, linear=False)
        warm_steps = 0 if self.family == "quadratic" else self.warm_steps
        steps = self.steps - warm_steps
        averaged = int(AVERAGED * steps) * setting.resampled

        def phase(steps: int, start: Any, time: float, averaged: int) -> Phase:
            def scheme(potential: Potential) -> Scheme:
                method = GaussNewton(potential, subproblem, curvature_points=self.curvature_points, by_kind=True)
                return newton_scheme(method, self.tau, steps - averaged, start_time=time)

            return Phase(steps, 1, start, scheme)

        if warm_steps:
            yield phase(warm_steps, lambda setting, _: setting.affine, 0.0, 0)
            yield phase(steps, lambda setting, q: setting.enrich(q, WARM_SHARE), warm_steps * self.tau, averaged)
        else:
            yield phase(steps, lambda setting, _: setting.start, 0.0, averaged)


Prepare = Callable[[jax.Array, Batch], jax.Array]
"""(theta, batch) -> theta, (p,): from where a step is taken."""


def newton_scheme(
    method: GaussNewton, tau: float, full: int, *, start_time: float = 0.0, prepare: Prepare | None = None
) -> Scheme:
    """Steps of full length first, `full` of them, each after `prepare`; averaged ones after them."""

    def begin(theta: jax.Array) -> _Carry:
        damping, time = (jnp.asarray(number, theta.dtype) for number in (DAMPING, start_time))
        return _Carry(theta, theta, damping, time, jnp.zeros((), int))

    def step(carry: _Carry, batches: Batch) -> tuple[_Carry, Report]:
        batch = jax.tree.map(lambda leaf: leaf[0], batches)
        late = jnp.maximum(carry.taken + 1 - full, 1).astype(carry.theta.dtype)
        length = late**-AVERAGING_POWER
        theta = carry.theta
        if prepare is not None:
            theta = jax.lax.cond(carry.taken < full, prepare, lambda theta, batch: theta, theta, batch)
        taken = method.step(theta, theta, batch, jnp.asarray(tau, theta.dtype), carry.damping, length)
        average = carry.average + (taken.theta - carry.average) / late
        time = carry.time + tau * length
        diagnostics = {"decrement": optimality(taken.decrement, taken.decrease), "damping": taken.damping}
        carry = _Carry(taken.theta, average, taken.damping, time, carry.taken + 1)
        return carry, Report(taken.objective, time, taken.evaluations, diagnostics)

    return Scheme(begin, step, lambda carry: carry.average)


class _Carry(NamedTuple):
    """What the steps carry."""

    theta: jax.Array
    average: jax.Array
    damping: jax.Array
    time: jax.Array
    taken: jax.Array
