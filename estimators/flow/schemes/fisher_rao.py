"""The natural gradient of Fisher and Rao on a residual that vanishes at the truth, after a start by Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mongebench.core.errors import InvalidInput, InvalidParameter, OracleUnavailable
from mongebench.core.estimator import ProblemInfo, Range, Support
from mongebench.core.oracle import Oracle, SourceView, TargetView
from mongebench.estimators.flow.machinery.descent import Descent
from mongebench.estimators.flow.machinery.divergence import EXACT_DIMENSIONS, KullbackLeibler
from mongebench.estimators.flow.machinery.fisher_rao import FisherRao, kl_change
from mongebench.estimators.flow.machinery.objective import Batch
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import FAMILIES, Family, Potential
from mongebench.estimators.flow.schemes.base import Dtype, Flow, Share
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting

DAMPING = 1e-2
"""Of the first step, where nothing is known."""
SURE = 2.0
"""Standard errors by which the KL of a map must be lower on a fresh batch for it to be kept: of many maps, each
compared on one batch, some are lower by luck."""
WARM_BATCHES = 100
"""Gradient steps in one outer step of Adam's."""
WARM_POINTS = 256
"""Points in a batch of Adam's, at most."""


class FlowFisherRao(Flow):
    """Natural gradient steps on m = log mu0 + V(T) - log det DT, which is constant at the exact map alone.

    For a source whose log-density is known: a tier of its own. The other flows' objective E[V(T) - log det DT] needs
    no density, but the noise of its gradient does not vanish at T*; that of a least squares fit of m to a constant
    does, so that whole Gauss-Newton steps on fresh batches end at T*, where the family holds it: to rounding between
    Gaussians. See `mongebench.estimators.flow.machinery.fisher_rao`.

    First, Adam on the other flows' objective takes the map near T*: far from it, the variance of m has valleys of its
    own. Then the mean of the last steps' parameters takes the noise out that is left where the family does not
    hold T*; it is begun anew whenever its KL is larger on a fresh batch than that of the last step alone. The map that
    is kept is such a mean, once its KL on a fresh batch is lower than that of the map kept before, beyond two standard
    errors: where the family is far from T*, that is the map of Adam.

    Parameters
    ----------
    family, units, depth, share, dtype
        As in `Flow`.
    warm_steps
        Outer steps of Adam at the start, a hundred gradient steps each; 0 for none.
    learning_rate
        Of Adam at first; it falls to zero like a cosine over the start.
    steps
        Steps on m.
    batch_size
        Points for one step on m; Adam's batches are of at most 256 of them. With fewer points than parameters a step is
        solved for in the space of samples, else in that of parameters: it is the same step.
    momentum
        Of Kaczmarz type, from 0 (none) to 1 (excluded): steps are damped towards this share of the last one, not
        towards zero.
    held_out
        Share of a fixed sample that no step sees: the map is the one, of all steps, whose objective is lowest there.
        Fresh draws hold nothing out.

    References
    ----------
    Richter, Boustati, Nusken, Ruiz and Akyildiz 2020, VarGrad: a low-variance gradient estimator for variational
    inference, NeurIPS (the variance of m as a divergence). Goldshlager, Abrahamsen and Lin 2024, A Kaczmarz-inspired
    approach to accelerate the optimization of neural network wavefunctions, Journal of Computational Physics 516.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLER, Oracle.SOURCE_DENSITY, Oracle.TARGET_POTENTIAL})
    timed: ClassVar[bool] = False
    divergence = "kl"
    epsilon = 0.0
    matters_with: ClassVar[dict[str, Any]] = {
        name: only for name, only in Flow.matters_with.items() if name != "epsilon"
    }
    tunable: ClassVar[dict[str, Any]] = {
        "units": [16, 32, 64],
        "learning_rate": Range(3e-3, 1e-1),
        "warm_steps": [5, 10, 20, 40],
        "share": [0.01, 0.3, 0.9],
        "momentum": [0.0, 0.9],
    }

    def __init__(
        self,
        family: Family = "ridge",
        units: PositiveInt = 32,
        depth: PositiveInt = 2,
        share: Share = 0.3,
        warm_steps: NonNegativeInt = 20,
        learning_rate: PositiveFloat = 3e-2,
        steps: PositiveInt = 40,
        batch_size: PositiveInt = 2048,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        dtype: Dtype = "float64",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.share = share
        self.warm_steps = warm_steps
        self.learning_rate = learning_rate
        self.steps = steps
        self.batch_size = batch_size
        self.momentum = momentum
        self.held_out = held_out
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows, and of Adam."""
        return (*super().modules, "optax")

    def check_parameters(self) -> None:
        """Parameters may move anywhere."""
        if FAMILIES[self.family].conic:
            raise InvalidParameter(
                f"flow_fisher_rao moves parameters anywhere, and those of family {self.family!r} must stay in a cone: "
                "take flow_newton or flow_pursuit, or another family."
            )

    def supports(self, problem: ProblemInfo) -> Support:
        """Dimensions in which log det DT is computed, and not probed."""
        reason = "" if problem.dim <= EXACT_DIMENSIONS else _too_many(problem.dim)
        return Support(not reason, reason)

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        divergence = setting.divergence
        assert isinstance(divergence, KullbackLeibler)
        if divergence.dim > EXACT_DIMENSIONS:
            raise InvalidInput(_too_many(divergence.dim))
        if self.warm_steps:
            points = min(WARM_POINTS, self.batch_size)
            yield Phase(self.warm_steps, WARM_BATCHES, lambda setting, _: setting.start, self._warm(divergence), points)

        def start(setting: Setting, reached: Potential) -> Potential:
            return reached if self.warm_steps else setting.start

        yield Phase(self.steps, 1, start, lambda potential: self._whole(potential, divergence), density=True)

    def _setting(self, source: SourceView, target: TargetView, seed: int) -> Setting:
        setting = super()._setting(source, target, seed)
        try:
            setting.draw(1, 0, density=True)
        except OracleUnavailable:
            raise InvalidInput(
                "flow_fisher_rao needs the log-density of the source, and this source has none: give mb.Source(sampler="
                "..., log_density=...), or take flow_newton, which needs samples of the source alone."
            ) from None
        return setting

    def _warm(self, divergence: KullbackLeibler) -> Callable[[Potential], Scheme]:
        """Adam on E[V(T) - log det DT]."""
        optimiser = optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.warm_steps * WARM_BATCHES))

        def scheme(potential: Potential) -> Scheme:
            method = Descent(potential, Subproblem(divergence, linear=False), optimiser)

            def step(carry: tuple[jax.Array, Any], batches: Batch) -> tuple[Any, Report]:
                descended = method.run(*carry, batches, jnp.asarray(jnp.inf, carry[0].dtype))
                report = Report(descended.objective, jnp.asarray(jnp.nan), jnp.asarray(WARM_BATCHES), {})
                return (descended.theta, descended.state), report

            return Scheme(lambda theta: (theta, optimiser.init(theta)), step, lambda carry: carry[0])

        return scheme

    def _whole(self, potential: Potential, divergence: KullbackLeibler) -> Scheme:
        """Steps on m."""
        method = FisherRao(potential, divergence, self.momentum)

        def begin(theta: jax.Array) -> _Carry:
            return _Carry(theta, 0 * theta, theta, theta, jnp.ones((), int), jnp.asarray(DAMPING, theta.dtype))

        def step(carry: _Carry, batches: Batch) -> tuple[_Carry, Report]:
            batch = jax.tree.map(lambda leaf: leaf[0], batches)
            assert batch.log_density is not None
            alone, together, least = (
                method.values(theta, batch.x, batch.log_density) for theta in (carry.theta, carry.mean, carry.best)
            )
            gain, error = kl_change(together, least)
            best = jnp.where(gain < -SURE * error, carry.mean, carry.best)
            taken, change = method.step(carry.theta, carry.last, batch.x, batch.log_density, carry.damping)
            meant = jnp.where(kl_change(together, alone)[0] <= 0, carry.meant, 0) + 1
            mean = carry.mean + (taken.theta - carry.mean) / meant
            diagnostics = {
                "residual": jnp.std(least),
                "averaged": meant,
                "moved": taken.moved,
                "damping": taken.damping,
            }
            report = Report(taken.objective, jnp.asarray(jnp.nan), taken.evaluations + 3, diagnostics)
            return _Carry(taken.theta, change, mean, best, meant, taken.damping), report

        return Scheme(begin, step, lambda carry: carry.best)


def _too_many(dim: int) -> str:
    return (
        f"flow_fisher_rao needs log det DT at each point, which is computed up to d = {EXACT_DIMENSIONS} and probed in "
        f"d = {dim}: take flow_newton."
    )


class _Carry(NamedTuple):
    """What the steps on m carry.

    The parameters, their last change, the mean of the last `meant` of them, that mean which was best on a fresh batch.
    """

    theta: jax.Array
    last: jax.Array
    mean: jax.Array
    best: jax.Array
    meant: jax.Array
    damping: jax.Array
