"""The flow itself: the natural gradient, an ordinary differential equation in theta, with step control."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from pydantic import PositiveFloat, PositiveInt

from mongebench.core.errors import InvalidParameter
from mongebench.core.estimator import Range
from mongebench.estimators.flow.machinery.gauss_newton import GaussNewton
from mongebench.estimators.flow.machinery.objective import Batch, objective
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import FAMILIES, Family, Potential
from mongebench.estimators.flow.schemes.base import DivergenceName, Dtype, Flow
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting


class FlowNatural(Flow):
    """Natural gradient flow dtheta/dt = -G^+ grad F, G = E[J^T J]: the limit of the schemes as tau -> 0.

    J = dT_theta / dtheta, so that G measures changes of theta by the L2(mu0) distance between the maps. Each interval
    between two traced times is integrated on one batch by an explicit Runge-Kutta method of order five, whose steps are
    controlled by the error of the map in L2(mu0): redundant parameters, which that does not see, cost no steps.

    Use it to follow the flow exactly, with few parameters, none of them redundant: through ridges or networks the
    damped G holds units of little weight back, and the map is not the limit of the schemes (CORRECTIONS.md). F is as
    stiff as an entropy is (its Hessian is of H1 type, its metric L2), which costs an explicit integrator many steps: to
    arrive, take `FlowNewton`.

    Parameters
    ----------
    family, units, depth, divergence, epsilon, batch_size, dtype
        As in `Flow`.
    final_time
        Flow time at the end.
    steps
        Intervals, of equal length, after each of which the batch is drawn anew.
    tolerance
        Error of the map in L2(mu0) that a step of the integrator may make, in units of the spread of its images.
    damping
        Added to G in units of its diagonal, because redundant parameters make G singular. The damped system is solved
        again for what it left (iterated Tikhonov), so that a direction of eigenvalue s, in the same units, moves at
        1 - (damping / (s + damping))^4 of its pace, and flow time is that of the flow. At one solve it would run
        behind by damping / (1 + damping).
    """

    tunable: ClassVar[dict[str, Any]] = {
        "family": ["ridge", "quadratic"],
        "units": [8, 16, 32],
        "final_time": Range(1.0, 8.0),
        "damping": Range(0.001, 0.3),
        "tolerance": [0.001, 0.0001],
    }

    def __init__(
        self,
        family: Family = "ridge",
        units: PositiveInt = 16,
        depth: PositiveInt = 2,
        final_time: PositiveFloat = 4.0,
        steps: PositiveInt = 10,
        tolerance: PositiveFloat = 1e-3,
        damping: PositiveFloat = 0.1,
        divergence: DivergenceName = "kl",
        epsilon: PositiveFloat = 0.05,
        batch_size: PositiveInt = 4096,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.final_time = final_time
        self.steps = steps
        self.tolerance = tolerance
        self.damping = damping
        self.divergence = divergence
        self.epsilon = epsilon
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows and the integrator."""
        return (*super().modules, "diffrax")

    def check_parameters(self) -> None:
        """The velocity is smooth."""
        if FAMILIES[self.family].conic:
            raise InvalidParameter(
                f"flow_natural integrates a smooth velocity, and that of family {self.family!r} jumps at the faces of "
                "its cone: take flow_implicit or flow_explicit with a small tau, or another family."
            )

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        subproblem = Subproblem(setting.divergence, linear=True)
        yield Phase(self.steps, 1, lambda setting, _: setting.start, lambda p: self._scheme(p, subproblem))

    def _scheme(self, potential: Potential, subproblem: Subproblem) -> Scheme:
        method = GaussNewton(potential, subproblem)
        interval = self.final_time / self.steps

        def images(theta: jax.Array, batch: Batch) -> jax.Array:
            found: jax.Array = jax.vmap(method.unravel(theta).map)(batch.x)
            return found

        def velocity(time: Any, state: tuple[jax.Array, jax.Array], batch: Batch) -> tuple[jax.Array, jax.Array]:
            del time
            theta, _ = state
            # At the previous map the linearised divergence has the gradient of D, and G for its Gauss-Newton matrix.
            model = method.model(theta, theta, batch, jnp.ones((), theta.dtype))
            damping = jnp.asarray(self.damping, theta.dtype)

            def refined(_: int, change: jax.Array) -> jax.Array:
                correction: jax.Array = model.solve(model.gradient + model.product(change), damping)
                return change + correction

            # Damped once, a direction of eigenvalue s in scaled G moves at s / (s + damping) of its pace, and the flow
            # would be late by as much.
            change: jax.Array = jax.lax.fori_loop(0, REFINEMENTS, refined, jnp.zeros_like(theta))
            return change, jax.jvp(lambda theta: images(theta, batch), (theta,), (change,))[1]

        def map_error(error: tuple[jax.Array, jax.Array]) -> jax.Array:
            """In L2(mu0): the images are integrated beside theta, so that the integrator knows theirs."""
            return jnp.sqrt(jnp.mean(jnp.sum(error[1] ** 2, axis=1)))

        def begin(theta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            return theta, jnp.asarray(interval / 10, theta.dtype), jnp.zeros((), theta.dtype)

        def step(carry: tuple[jax.Array, jax.Array, jax.Array], batches: Batch) -> tuple[Any, Report]:
            theta, first, time = carry
            batch = jax.tree.map(lambda leaf: leaf[0], batches)
            here = images(theta, batch)
            spread = jnp.sqrt(jnp.mean(jnp.sum((here - jnp.mean(here, axis=0)) ** 2, axis=1)))
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),
                diffrax.Tsit5(),
                t0=0.0,
                t1=interval,
                dt0=first,
                y0=(theta, here),
                args=batch,
                stepsize_controller=diffrax.PIDController(rtol=0.0, atol=self.tolerance * spread, norm=map_error),
                saveat=diffrax.SaveAt(t1=True, controller_state=False),
                max_steps=MOST_STEPS,
                throw=False,
            )
            assert solution.ys is not None
            theta, taken, time = solution.ys[0][0], solution.stats["num_steps"], time + interval
            report = Report(
                objective(subproblem.divergence, method.unravel(theta), batch),
                time,
                STAGES * taken,
                {"inner_steps": taken},
                solution.result != diffrax.RESULTS.successful,
            )
            return (theta, (interval / jnp.maximum(taken, 1)).astype(theta.dtype), time), report

        failure = f"the integrator came to no end of the interval in {MOST_STEPS} steps."
        return Scheme(begin, step, lambda carry: carry[0], failure)


REFINEMENTS = 4
"""Solves of the damped system for one velocity."""
MOST_STEPS = 1000
"""Steps of the integrator within one interval."""
STAGES = 6
"""Evaluations of the velocity in one step of Tsit5: seven stages, the last of which is the first of the next step."""
