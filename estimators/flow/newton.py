"""The linearly implicit scheme: one Gauss-Newton step on each minimising movement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jax.flatten_util import ravel_pytree

from mongebench.core.errors import InvalidParameter
from mongebench.estimators.flow.base import Dtype, Family, Flow, Setting, State, check_counts, check_positive
from mongebench.estimators.flow.gauss_newton import DAMPING, GaussNewton
from mongebench.estimators.flow.potential import Potential
from mongebench.estimators.flow.subproblem import proximal

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
    family, units, depth, batch_size, dtype
        As in `Flow`.
    tau
        Step in flow time; the default is long, because the aim is the end of the flow.
    steps
        Steps in all.
    warm_steps
        Steps of the quadratic part alone; 0 for none.
    """

    def __init__(
        self,
        family: Family = "ridge",
        units: int = 128,
        depth: int = 2,
        tau: float = 100.0,
        steps: int = 60,
        warm_steps: int = 6,
        batch_size: int = 4096,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.tau = tau
        self.steps = steps
        self.warm_steps = warm_steps
        self.batch_size = batch_size
        self.dtype = dtype

    def _check(self) -> None:
        super()._check()
        check_positive(tau=self.tau)
        check_counts(steps=self.steps)
        if not 0 <= self.warm_steps < self.steps:
            raise InvalidParameter(
                f"warm_steps must be from 0 to steps - 1 = {self.steps - 1}, got {self.warm_steps!r}."
            )

    def _states(self, setting: Setting) -> Iterator[State]:
        time, potential = 0.0, setting.start
        warm_steps = 0 if self.family == "quadratic" else self.warm_steps
        if warm_steps:
            affine: Any = setting.affine  # a Quadratic, whatever step of its phase it comes from
            for state in self._phase(setting, affine, time, warm_steps, averaged=0):
                yield state
                affine = state.potential
            potential, time = setting.enrich(affine, WARM_SHARE), warm_steps * self.tau
        steps = self.steps - warm_steps
        yield from self._phase(setting, potential, time, steps, averaged=int(AVERAGED * steps) * setting.resampled)

    def _phase(self, setting: Setting, potential: Potential, time: float, steps: int, averaged: int) -> Iterator[State]:
        method = GaussNewton(potential, proximal(setting.divergence), setting.divergence)
        theta, unravel = ravel_pytree(potential)
        average, damping = theta, DAMPING
        for k in range(1, steps + 1):
            late = max(k - (steps - averaged), 1)
            length = late**-AVERAGING_POWER
            x = setting.draw(self.batch_size)
            solution = method.minimise(theta, x, self.tau, damping, steps=1, length=length)
            setting.charge(solution.evaluations * len(x))
            theta, damping = solution.theta, solution.damping
            average = average + (theta - average) / late
            time += self.tau * length
            yield State(
                unravel(average), solution.objective, time, {"decrement": solution.optimality, "damping": damping}
            )
