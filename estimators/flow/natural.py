"""The flow itself: the natural gradient, an ordinary differential equation in theta, with step control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mongebench.core.errors import Diverged
from mongebench.estimators.flow.base import Dtype, Family, Flow, Setting, State, check_counts, check_positive
from mongebench.estimators.flow.gauss_newton import GaussNewton
from mongebench.estimators.flow.subproblem import linearised


class FlowNatural(Flow):
    """Natural gradient flow dtheta/dt = -G^+ grad F, G = E[J^T J]: the limit of the schemes as tau -> 0.

    J = dT_theta / dtheta, so that G measures changes of theta by the L2(mu0) distance between the maps. Each interval
    between two traced times is integrated on one batch by an explicit Runge-Kutta method of order five with step
    control.

    Use it to follow the flow exactly, with few parameters. F is as stiff as an entropy is (its Hessian is of H1 type,
    its metric L2), which costs an explicit integrator many steps: to arrive, take `FlowNewton`.

    Parameters
    ----------
    family, units, depth, batch_size, dtype
        As in `Flow`.
    final_time
        Flow time at the end.
    steps
        Intervals, of equal length, after each of which the batch is drawn anew.
    tolerance
        Relative and absolute error in theta that a step of the integrator may make.
    damping
        Added to G in units of its diagonal, because redundant parameters make G singular.
    """

    def __init__(
        self,
        family: Family = "ridge",
        units: int = 16,
        depth: int = 2,
        final_time: float = 4.0,
        steps: int = 10,
        tolerance: float = 1e-3,
        damping: float = 1e-4,
        batch_size: int = 2048,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.final_time = final_time
        self.steps = steps
        self.tolerance = tolerance
        self.damping = damping
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows and the integrator."""
        return (*super().modules, "diffrax")

    def _check(self) -> None:
        super()._check()
        check_positive(final_time=self.final_time, tolerance=self.tolerance, damping=self.damping)
        check_counts(steps=self.steps)

    def _states(self, setting: Setting) -> Iterator[State]:
        theta, unravel = ravel_pytree(setting.start)
        method = GaussNewton(setting.start, linearised(setting.divergence), setting.divergence)
        damping, interval = jnp.asarray(self.damping, theta.dtype), self.final_time / self.steps

        def velocity(time: Any, theta: jax.Array, x: jax.Array) -> jax.Array:
            del time
            # At its own anchor the linearised divergence has the gradient of F, and G for its Gauss-Newton matrix.
            jets = method.jets(theta, x)
            return method.model(theta, x, jets, jnp.ones((), theta.dtype)).solve(damping)

        @jax.jit
        def advance(theta: jax.Array, x: jax.Array, first: jax.Array) -> tuple[jax.Array, ...]:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),
                diffrax.Tsit5(),
                t0=0.0,
                t1=interval,
                dt0=first,
                y0=theta,
                args=x,
                stepsize_controller=diffrax.PIDController(rtol=self.tolerance, atol=self.tolerance),
                saveat=diffrax.SaveAt(t1=True, controller_state=False),
                max_steps=MOST_STEPS,
                throw=False,
            )
            assert solution.ys is not None
            end = solution.ys[0]
            taken = solution.stats["num_steps"]
            return end, method.objective(end, x), taken, solution.result == diffrax.RESULTS.successful

        first = jnp.asarray(interval / 10, theta.dtype)
        for k in range(self.steps):
            x = setting.draw(self.batch_size)
            theta, objective, taken, arrived = advance(theta, x, first)
            if not arrived:
                raise Diverged(f"step {k + 1}: the integrator came to no end of the interval in {MOST_STEPS} steps.")
            first = jnp.asarray(interval / max(int(taken), 1), theta.dtype)
            setting.charge(STAGES * int(taken) * len(x))
            yield State(unravel(theta), float(objective), (k + 1) * interval, {"inner_steps": float(taken)})


MOST_STEPS = 1000
"""Steps of the integrator within one interval."""
STAGES = 6
"""Evaluations of the velocity in one step of Tsit5: seven stages, the last of which is the first of the next step."""
