"""What every flow does around its scheme: check what was given, start at the identity, trace, stop, map."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mongebench.core.arrays import Points, row_blocks
from mongebench.core.errors import Diverged, InvalidInput, InvalidParameter, one_of
from mongebench.core.estimator import MapEstimator, Trace, keep_going
from mongebench.core.oracle import Oracle, SourceView, TargetView
from mongebench.estimators.flow.divergence import HOW_TO_WRITE_V, Divergence, check_potential, jet, kullback_leibler
from mongebench.estimators.flow.potential import FAMILIES, Potential, Quadratic, build

Family = Literal["quadratic", "ridge", "icnn"]
Dtype = Literal["float32", "float64"]

BLOCK_ROWS = 1024
"""Points mapped at once; the last block is filled up, so that one compilation serves any number of points."""
START_SHARE = 0.01
"""Share of the curvature of |x|^2 / 2 that the units have at the start: T_0 is the identity to about 1e-2."""
BLOW_UP = 1e6
"""A map is lost when E|T|^2 exceeds this many times its value at the start plus one."""


@dataclass(frozen=True)
class State:
    """Where a scheme is after an outer step.

    Attributes
    ----------
    potential
        The potential reached.
    objective
        F on the last batch.
    flow_time
        Sum of the steps tau so far; None for a scheme that follows no flow.
    diagnostics
        What the scheme says about itself, for the trace.
    """

    potential: Potential
    objective: float
    flow_time: float | None
    diagnostics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What a scheme works with.

    Attributes
    ----------
    divergence
        Its mean is F.
    affine
        The quadratic potential with T = id.
    start
        The potential at time 0, of the flow's family, T_0 = id.
    enrich
        (quadratic, share) -> a potential of the flow's family next to it, see `Bent.beside`.
    draw
        n -> a batch of n points of the source (n, d).
    charge
        To be called with the number of points at which compiled code has evaluated V.
    resampled
        False where every batch of the flow's size is the whole fixed sample.
    """

    divergence: Divergence
    affine: Quadratic
    start: Potential
    enrich: Callable[[Quadratic, float], Potential]
    draw: Callable[[int], jax.Array]
    charge: Callable[[int], None]
    resampled: bool


class Flow(MapEstimator):
    """Base of the flows: subclasses store the parameters below, among theirs, and write `_states`.

    Parameters
    ----------
    family
        "ridge", "quadratic" or "icnn": the potentials phi that the flow moves.
    units
        Ridges, or units in each layer of the network.
    depth
        Layers of the network.
    batch_size
        Points of mu0 a step; all of them where there are no more.
    dtype
        "float64" or "float32".

    Attributes
    ----------
    parameters_
        The potential (an equinox module) that `fit` ended with; the last good one when it raised `Diverged`.
    objective_
        F on the last batch.
    n_steps_
        Outer steps taken.
    flow_time_
        Sum of the steps tau; None for a scheme that follows no flow.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_POTENTIAL})
    family: Family
    units: int
    depth: int
    batch_size: int
    dtype: Dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows."""
        return ("jax", "equinox", "lineax")

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Move the identity down F.

        Raises
        ------
        InvalidParameter
            A parameter out of its range.
        InvalidInput
            A potential V that is not written for JAX, of the wrong shape, or not finite where the flow starts.
        Diverged
            With the step: F became NaN or infinite, or the map left all bounds. `parameters_` keeps the last good one.
        """
        trace = trace or keep_going
        self._check()
        with jax.enable_x64(self.dtype == "float64"):
            setting = self._setting(source, target, seed)
            probe = setting.draw(min(self.batch_size, 1000))
            bound = BLOW_UP * (1 + float(jnp.mean(jnp.sum(probe**2, axis=1))))
            self.n_steps_ = 0
            self._keep(State(setting.start, self._start_objective(setting, probe), 0.0))
            go_on = trace(self._map(), flow_time=0.0, objective=self.objective_)
            states = self._states(setting)
            while go_on and (state := next(states, None)) is not None:
                self._judge(state, probe, bound)
                self.n_steps_ += 1
                self._keep(state)
                go_on = trace(self._map(), flow_time=state.flow_time, objective=state.objective, **state.diagnostics)
        return self

    def transform(self, X: Any) -> Any:
        """T(x) = grad phi(x), (n, d) -> (n, d)."""
        return self._map()(X)

    def potential(self, X: Any) -> Any:
        """phi(x), (n, d) -> (n,)."""
        return _in_blocks(_values, self.parameters_, X)

    @abc.abstractmethod
    def _states(self, setting: Setting) -> Iterator[State]:
        """The flow, one state an outer step."""

    def _check(self) -> None:
        """Raise `InvalidParameter` on the parameters that all flows share; subclasses add their own."""
        check_choice(self.family, FAMILIES, "family of potentials")
        check_choice(self.dtype, ("float32", "float64"), "dtype")
        check_counts(units=self.units, depth=self.depth, batch_size=self.batch_size)

    def _setting(self, source: SourceView, target: TargetView, seed: int) -> Setting:
        x = jnp.asarray(source.batch(self.batch_size), self.dtype)
        dim = x.shape[1]
        potential = target.uncounted(Oracle.TARGET_POTENTIAL)
        check_potential(potential, dim, self.dtype)
        affine = Quadratic.identity_like(x)

        def enrich(quadratic: Quadratic, share: float) -> Potential:
            rng = np.random.default_rng(seed)
            return build(self.family, quadratic, x, units=self.units, depth=self.depth, share=share, rng=rng)

        return Setting(
            divergence=kullback_leibler(potential),
            affine=affine,
            start=enrich(affine, START_SHARE),
            enrich=enrich,
            draw=lambda n: jnp.asarray(source.batch(n), self.dtype),
            charge=lambda points: target.meter.charge(Oracle.TARGET_POTENTIAL, points),
            resampled=source.budget is None or self.batch_size < source.budget,
        )

    def _start_objective(self, setting: Setting, x: jax.Array) -> float:
        @jax.jit
        def mean(x: jax.Array) -> jax.Array:
            jets = jax.vmap(jet, (None, 0))(setting.start, x)
            return jnp.mean(jax.vmap(setting.divergence)(jets))

        objective = float(mean(x))
        setting.charge(len(x))
        if not np.isfinite(objective):
            raise InvalidInput(
                f"The mean of the target's potential V over {len(x)} points of the source is {objective}: V must be "
                f"finite and differentiable where the flow starts. {HOW_TO_WRITE_V}"
            )
        return objective

    def _judge(self, state: State, probe: jax.Array, bound: float) -> None:
        step = f"step {self.n_steps_ + 1}"
        if not np.isfinite(state.objective):
            raise Diverged(f"{step}: the objective is {state.objective}; it was {self.objective_:.4g} one step before.")
        spread = float(jnp.mean(jnp.sum(_images(state.potential, probe) ** 2, axis=1)))
        if not spread < bound:
            raise Diverged(
                f"{step}: E|T|^2 is {spread:.3g}, beyond {bound:.3g}, with objective {state.objective:.4g}. "
                "Is exp(-V) integrable, or has V the wrong sign?"
            )

    def _keep(self, state: State) -> None:
        self.parameters_, self.objective_, self.flow_time_ = state.potential, state.objective, state.flow_time

    def _map(self) -> Callable[[Any], Points]:
        potential = self.parameters_
        return lambda x: _in_blocks(_images, potential, np.asarray(x))


@eqx.filter_jit
def _images(potential: Potential, x: jax.Array) -> jax.Array:
    return jax.vmap(potential.map)(x)


@eqx.filter_jit
def _values(potential: Potential, x: jax.Array) -> jax.Array:
    return jax.vmap(potential.value)(x)


def _in_blocks(function: Callable[..., jax.Array], potential: Potential, x: Points) -> Points:
    """`function` of the potential at x (n, d), float64 NumPy in and out, in the precision of the potential."""
    dtype = jax.tree.leaves(potential)[0].dtype
    with jax.enable_x64(dtype == np.float64):
        parts = []
        for rows in row_blocks(len(x), 1, BLOCK_ROWS):
            block = np.asarray(x[rows], dtype)
            filled = np.concatenate([block, np.repeat(block[:1], BLOCK_ROWS - len(block), axis=0)])
            parts.append(np.asarray(function(potential, filled), np.float64)[: len(block)])
    return np.concatenate(parts)


def check_choice(given: object, valid: Any, kind: str) -> None:
    """Raise `InvalidParameter`, with the valid names, unless `given` is one of them."""
    if given not in valid:
        raise InvalidParameter(one_of(str(given), valid, kind))


def check_counts(**counts: int) -> None:
    """Raise `InvalidParameter` unless all are positive whole numbers."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise InvalidParameter(f"{name} must be a positive whole number, got {count!r}.")


def check_positive(**numbers: float) -> None:
    """Raise `InvalidParameter` unless all are positive finite numbers."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float, np.number)) or not 0 < number < np.inf:
            raise InvalidParameter(f"{name} must be a positive finite number, got {number!r}.")
