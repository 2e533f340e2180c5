"""The published algorithm line by line: what the authors' code of the two-dimensional experiment computes.

The schemes are those of `stepwise` and `euclidean`; what is the authors' own here is the network, where it begins, how
the gradient is scaled, and what is taken for the map before the first step:

- The network is `potential.clamped.Clamped`. All schemes of a seed begin with the same random network.
- Explicit steps regress it on T_k + tau v, v = -grad V(T_k) - (score of the moving law), and T_0 is the identity.
- Implicit steps and plain descent begin with the map of the random network.
- **The gradient of the divergence is a sum over the batch, that of |T - T_k|^2 / (2 tau) a mean.** With a batch of n
  the implicit step is thus one of n tau, 40 in place of 0.4: it hardly keeps near T_k, and is nearly plain descent with
  an optimiser that begins anew every hundred steps. Plain descent by SGD has n times the learning rate that is stated.
- Each inner step draws a fresh batch, and estimates the score from it by the batch's transport to itself at 5 % of the
  median squared distance; each outer step begins a new optimiser.

`reduction`, `begin`, `weights` and `curvature` undo these one by one: the experiment `paper_differences` measures what
each does.

References: Dumont, Lacombe and Vialard 2026 (arXiv 2603.25182); their code: theodumont/monge-constrained-flow on GitHub
(commit c525afb).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from mongebench.core.oracle import SourceView, TargetView
from mongebench.estimators.flow.machinery.objective import Batch, objective, phi
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Family, Potential
from mongebench.estimators.flow.potential.clamped import Clamped
from mongebench.estimators.flow.schemes.base import Dtype, Flow
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting

OPTIMISERS = {"adam": optax.adam, "sgd": optax.sgd}


class Published(Flow):
    """The published schemes as the authors' code has them: network, start, batches, score and scaling of gradients.

    For the reproduction of their figure (`mongebench run paper_fig2`), and for nothing else: `FlowExplicit`,
    `FlowImplicit` and `Euclidean` are the same schemes with our later improvements.

    Parameters
    ----------
    scheme
        "explicit", "implicit" or "descent".
    optimiser, learning_rate
        "adam" or "sgd", and its rate. The published rates are 0.1 for both schemes, by Adam; 0.001 for plain descent
        by SGD, and 0.05 by Adam.
    tau
        Step in flow time.
    steps
        Outer steps; of plain descent, which has none, stretches between two traced maps.
    inner_steps
        Gradient steps, each on a fresh batch, in one outer step.
    units
        Width of the network's two layers.
    reduction
        "sum", as published, or "mean": of the divergence's gradient over the batch.
    begin
        Of the implicit scheme: "network", as published, whose random map is T_0, or "identity", as the explicit one.
    weights
        "clamped", as published, or "squares": how the network's weights are kept non-negative.
    curvature
        Of a fixed quadratic part of phi; 0 as published.
    epsilon, batch_size, dtype
        As in `Flow`; 5 % of the median squared distance, 100 and float32 as published.
    """

    family: Family = "icnn"
    depth = 2
    divergence = "kl_score"

    matters_with: ClassVar[dict[str, Any]] = {
        **Flow.matters_with,
        "tau": {"scheme": ["explicit", "implicit"]},
        "reduction": {"scheme": ["implicit", "descent"]},
        "begin": {"scheme": ["implicit"]},
    }

    def __init__(
        self,
        scheme: Literal["explicit", "implicit", "descent"] = "implicit",
        optimiser: Literal["adam", "sgd"] = "adam",
        learning_rate: PositiveFloat = 0.1,
        tau: PositiveFloat = 0.4,
        steps: PositiveInt = 10,
        inner_steps: PositiveInt = 100,
        units: PositiveInt = 20,
        reduction: Literal["sum", "mean"] = "sum",
        begin: Literal["network", "identity"] = "network",
        weights: Literal["clamped", "squares"] = "clamped",
        curvature: NonNegativeFloat = 0.0,
        epsilon: PositiveFloat = 0.05,
        batch_size: PositiveInt = 100,
        dtype: Dtype = "float32",
    ) -> None:
        self.scheme = scheme
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.tau = tau
        self.steps = steps
        self.inner_steps = inner_steps
        self.units = units
        self.reduction = reduction
        self.begin = begin
        self.weights = weights
        self.curvature = curvature
        self.epsilon = epsilon
        self.batch_size = batch_size
        self.dtype = dtype

    @property
    def timed(self) -> bool:  # type: ignore[override]
        """Plain descent follows no flow."""
        return self.scheme != "descent"

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows and the optimiser's."""
        return (*super().modules, "optax")

    @property
    def _from_identity(self) -> bool:
        return self.scheme == "explicit" or (self.scheme == "implicit" and self.begin == "identity")

    def _setting(self, source: SourceView, target: TargetView, seed: int) -> Setting:
        setting = super()._setting(source, target, seed)
        affine = setting.affine
        network = Clamped.random(
            jnp.zeros((1, affine.dim), affine.shift.dtype),
            self.units,
            np.random.default_rng(seed),
            curvature=self.curvature,
            squared=self.weights == "squares",
        )
        start = affine if self._from_identity else network
        return replace(setting, start=start, enrich=lambda quadratic, share: network)

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        before = 0
        if self._from_identity:
            # The network is no identity: the first step is held to one beside it.
            before = 1
            yield Phase(
                1,
                self.inner_steps,
                lambda setting, reached: setting.enrich(setting.affine, 0.0),
                lambda network: self._scheme(network, setting, before=0, previous=setting.affine),
            )
        if self.steps > before:
            yield Phase(
                self.steps - before,
                self.inner_steps,
                lambda setting, reached: reached,
                lambda network: self._scheme(network, setting, before=before),
            )

    def _scheme(
        self, network: Potential, setting: Setting, *, before: int, previous: Potential | None = None
    ) -> Scheme:
        subproblem = Subproblem(setting.divergence, linear=self.scheme == "explicit")
        optimiser = OPTIMISERS[self.optimiser](self.learning_rate)
        _, unravel = ravel_pytree(network)
        n, dim = self.batch_size, setting.affine.dim
        if self.scheme == "explicit":  # the mean over entries of (T - T_k - tau v)^2, up to a constant
            scale, tau = 2 * self.tau / dim, self.tau
        else:
            scale = float(n) if self.reduction == "sum" else 1.0
            tau = scale * self.tau if self.scheme == "implicit" else np.inf

        def step(carry: _Carry, batches: Batch) -> tuple[_Carry, Report]:
            theta, state, time = carry
            held = unravel(theta) if previous is None else previous
            if self.timed:
                state = optimiser.init(theta)

            def loss(theta: jax.Array, batch: Batch) -> jax.Array:
                return scale * phi(subproblem, unravel(theta), held, batch, jnp.asarray(tau, theta.dtype))[0]

            def descend(carry: tuple[jax.Array, Any], batch: Batch) -> tuple[Any, None]:
                theta, state = carry
                updates, state = optimiser.update(jax.grad(loss)(theta, batch), state, theta)
                moved = unravel(optax.apply_updates(theta, updates)).nearest()
                return (ravel_pytree(moved)[0], state), None

            (theta, state), _ = jax.lax.scan(descend, (theta, state), batches)
            time = time + jnp.asarray(self.tau if self.timed else jnp.nan, theta.dtype)
            last = jax.tree.map(lambda leaf: leaf[-1], batches)
            reached = objective(setting.divergence, unravel(theta), last)
            return _Carry(theta, state, time), Report(reached, time, jnp.asarray(self.inner_steps), {})

        def begin(theta: jax.Array) -> _Carry:
            return _Carry(theta, optimiser.init(theta), jnp.asarray(before * self.tau, theta.dtype))

        return Scheme(begin, step, lambda carry: carry.theta)


class _Carry(NamedTuple):
    """What outer steps hand on."""

    theta: jax.Array
    state: Any
    time: jax.Array
