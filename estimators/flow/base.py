"""What every flow does around its scheme: check what was given, start at the identity, trace, stop, map."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mongebench.core.arrays import Points, row_blocks
from mongebench.core.errors import Diverged, InvalidInput, InvalidParameter
from mongebench.core.estimator import Claim, MapEstimator, Trace, keep_going
from mongebench.core.oracle import Oracle, SourceView, TargetView, View
from mongebench.estimators.flow import sampled
from mongebench.estimators.flow.checks import check_choice, check_counts, check_points, check_positive
from mongebench.estimators.flow.divergence import (
    HOW_TO_WRITE_V,
    Divergence,
    check_potential,
    kullback_leibler,
    probed,
)
from mongebench.estimators.flow.objective import Batch, objective, probe_error
from mongebench.estimators.flow.potential import FAMILIES, Potential, Quadratic, build

Family = Literal["quadratic", "ridge", "icnn", "maxima", "dictionary"]
DivergenceName = Literal["kl", "kl_score", "kl_two_scores", "sinkhorn_divergence", "energy_distance"]
Dtype = Literal["float32", "float64"]

KNOWN_TARGET = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_POTENTIAL})
SAMPLED_TARGET = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
NEEDS: dict[str, frozenset[Oracle]] = {
    "kl": KNOWN_TARGET,
    "kl_score": KNOWN_TARGET,
    "kl_two_scores": SAMPLED_TARGET,
    "sinkhorn_divergence": SAMPLED_TARGET,
    "energy_distance": SAMPLED_TARGET,
}
"""What each divergence asks for: its tier."""

BLOCK_ROWS = 1024
"""Points mapped at once; the last block is filled up, so that one compilation serves any number of points."""
START_SHARE = 0.01
"""Of a flow that does not say otherwise: T_0 is the identity to about 1e-2."""
BLOW_UP = 1e6
"""A map is lost when E|T|^2 exceeds this many times its value at the start plus one."""


class Report(NamedTuple):
    """What a scheme says of one outer step.

    Attributes
    ----------
    objective
        D on the last batch, ().
    flow_time
        Sum of the steps tau so far, (); NaN for a scheme that follows no flow.
    evaluations
        How many batches V was evaluated on, ().
    diagnostics
        What the scheme says about itself, for the trace.
    failed
        Whether the step could not be taken, ().
    """

    objective: jax.Array
    flow_time: jax.Array
    evaluations: jax.Array
    diagnostics: dict[str, jax.Array]
    failed: jax.Array | bool = False


@dataclass(frozen=True)
class Scheme:
    """Outer steps as pure functions of arrays: compiled once, and vectorised over seeds.

    Attributes
    ----------
    begin
        theta (p,) -> what the steps carry.
    step
        (carry, batches with a leading axis) -> (carry, `Report`).
    parameters
        carry -> theta (p,).
    failure
        A sentence for `Report.failed`.
    """

    begin: Callable[[jax.Array], Any]
    step: Callable[[Any, Batch], tuple[Any, Report]]
    parameters: Callable[[Any], jax.Array]
    failure: str = ""


@dataclass(frozen=True)
class Phase:
    """Outer steps of one kind.

    Attributes
    ----------
    steps
        How many.
    batches
        Each step is given.
    start
        (setting, potential reached) -> the potential that the phase moves.
    scheme
        Makes the scheme for potentials of the structure of the given one.
    """

    steps: int
    batches: int
    start: Callable[[Setting, Potential], Potential]
    scheme: Callable[[Potential], Scheme]


@dataclass(frozen=True)
class Setting:
    """What one fit works with.

    Attributes
    ----------
    divergence
        What the flow moves down.
    affine
        The quadratic potential with T = id.
    start
        The potential at time 0, of the flow's family, T_0 = id.
    enrich
        (quadratic, share) -> a potential of the flow's family next to it, see `Bent.beside`.
    draw
        (count, k) -> the k-th step's batches.
    charge
        To be called with the number of points at which compiled code has evaluated V.
    resampled
        False where every batch is the whole fixed sample.
    held_out
        What no step sees, to stop by; None where nothing is held out.
    """

    divergence: Divergence
    affine: Quadratic
    start: Potential
    enrich: Callable[[Quadratic, float], Potential]
    draw: Callable[[int, int], Batch]
    charge: Callable[[int], None]
    resampled: bool
    held_out: Batch | None = None


class Flow(MapEstimator):
    """Base of the flows: subclasses store the parameters below, among theirs, and write `_phases`.

    Parameters
    ----------
    divergence
        What the flow moves down, and with it the tier. With V known: "kl", in weak form (see `divergence`), or
        "kl_score", with the score of the moving law estimated from each batch, as published. From samples of both
        sides: "kl_two_scores", "sinkhorn_divergence", "energy_distance" (see `sampled`).
    epsilon
        Entropic regularisation of the sampled divergences, relative to the median squared distance between points.
    family
        "ridge", "quadratic", "icnn", "maxima" or "dictionary": the potentials phi that the flow moves. Maxima are the
        family for clusters in many dimensions; in the plane a network is ahead of them. The maps of a dictionary fill a
        convex cone, and explicit and implicit steps and Newton's are convex programs over it; plain descent projects
        onto it, and `FlowNatural` refuses it. The programs have a dense matrix: a family for few dimensions.
    units
        Ridges, units in each layer of the network, maxima, or features of the dictionary.
    depth
        Layers of the network.
    share
        Of the curvature of |x|^2 / 2 that ridges, network or maxima have at the start, strictly between 0 and 1; a
        quadratic has the rest. With a small share T_0 is the identity everywhere, with a large one on the average only.
        In many dimensions few units may ever grow out of a small one (128 maxima on `potential`, d = 64, 800 steps of
        Adam: UVP 2.7 % from a share of 0.9, 7.4 % from 0.01).
    batch_size
        Points a step, of mu0 and, where it is sampled, of the target; all of them where there are no more.
    dtype
        "float64" or "float32".

    Attributes
    ----------
    parameters_
        The potential (an equinox module) that `fit` ended with; the last good one when it raised `Diverged`.
    objective_
        D on the last batch.
    n_steps_
        Outer steps taken.
    flow_time_
        Sum of the steps tau; None for a scheme that follows no flow.
    """

    claims = frozenset({Claim.GRADIENT_OF_CONVEX})
    timed: ClassVar[bool] = True
    """Whether the scheme follows a flow."""
    divergence: DivergenceName
    epsilon: float
    family: Family
    units: int
    depth: int
    share: float = START_SHARE
    held_out: float = 0.0
    batch_size: int
    dtype: Dtype

    @property
    def needs(self) -> frozenset[Oracle]:  # type: ignore[override]
        """Those of the divergence."""
        return NEEDS.get(self.divergence, KNOWN_TARGET)  # `fit` refuses an unknown one

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows."""
        return ("jax", "equinox")

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Move the identity down the divergence.

        Raises
        ------
        InvalidParameter
            A parameter out of its range.
        InvalidInput
            A potential V that is not written for JAX, of the wrong shape, or not finite where the flow starts; fewer
            points of mu0 than determine the potential.
        Diverged
            With the step: D became NaN or infinite, or the map left all bounds. `parameters_` keeps the last good one.
        """
        (error,) = fit_together([self], [source], [target], seeds=[seed], traces=[trace or keep_going])
        if error is not None:
            raise error
        return self

    def transform(self, X: Any) -> Any:
        """T(x) = grad phi(x), (n, d) -> (n, d)."""
        return self._map()(X)

    def potential(self, X: Any) -> Any:
        """phi(x), (n, d) -> (n,)."""
        return _in_blocks(_values, self.parameters_, X)

    @abc.abstractmethod
    def _phases(self, setting: Setting) -> Iterable[Phase]:
        """The flow."""

    def _check(self) -> None:
        """Raise `InvalidParameter` on the parameters that all flows share; subclasses add their own."""
        check_choice(self.divergence, NEEDS, "divergence")
        check_choice(self.family, FAMILIES, "family of potentials")
        check_choice(self.dtype, ("float32", "float64"), "dtype")
        check_counts(units=self.units, depth=self.depth, batch_size=self.batch_size)
        check_positive(epsilon=self.epsilon, share=self.share)
        if not 0 <= self.held_out < 1:
            raise InvalidParameter(f"held_out must be at least 0 and less than 1, got {self.held_out!r}.")
        if self.share >= 1:
            raise InvalidParameter(f"share must be less than 1, got {self.share!r}.")

    def _setting(self, source: SourceView, target: TargetView, seed: int) -> Setting:
        samples_target = Oracle.TARGET_SAMPLER in self.needs
        views = [source, target] if samples_target else [source]
        sides = [_Side.of(view, self.held_out, (seed, stream)) for stream, view in enumerate(views)]
        x = jnp.asarray(sides[0].batches(1, self.batch_size)[0], self.dtype)
        dim = x.shape[1]
        affine = Quadratic.identity_like(x)

        def enrich(quadratic: Quadratic, share: float) -> Potential:
            rng = np.random.default_rng(seed)
            return build(self.family, quadratic, x, units=self.units, depth=self.depth, share=share, rng=rng)

        def draw(count: int, step: int) -> Batch:
            points = [np.asarray(side.batches(count, self.batch_size), self.dtype) for side in sides]
            images = points[1] if samples_target else np.zeros((count, 0, dim), self.dtype)
            bits = np.random.default_rng((seed, step)).integers(1 << 32, size=(count, 2), dtype=np.uint32)
            return Batch(jnp.asarray(points[0]), jnp.asarray(images), jnp.asarray(bits))

        def unseen() -> Batch | None:
            if not all(len(side.held_out) for side in sides):
                return None
            points = [jnp.asarray(side.held_out, self.dtype) for side in sides]
            return Batch(points[0], points[1] if samples_target else jnp.zeros((0, dim), self.dtype), draw(1, 0).key[0])

        start = enrich(affine, self.share)
        held_out = unseen()
        if held_out is None:  # what stops by held-out points may have more parameters than its points determine
            check_points(sides[0].size, dim, start.free)
        return Setting(
            divergence=self._divergence(target, dim),
            affine=affine,
            start=start,
            enrich=enrich,
            draw=draw,
            charge=lambda points: None if samples_target else target.meter.charge(Oracle.TARGET_POTENTIAL, points),
            resampled=any(side.size is None or self.batch_size < side.size for side in sides),
            held_out=held_out,
        )

    def _divergence(self, target: TargetView, dim: int) -> Divergence:
        if Oracle.TARGET_POTENTIAL in self.needs:
            potential = target.uncounted(Oracle.TARGET_POTENTIAL)
            check_potential(potential, dim, self.dtype)
            if self.divergence == "kl":
                return kullback_leibler(potential, dim)
            return sampled.kl_score(potential, self.epsilon, dim)
        y = jnp.asarray(target.batch(self.batch_size), self.dtype)
        if self.divergence == "energy_distance":
            return sampled.energy_distance(y)
        of_samples = sampled.kl_two_scores if self.divergence == "kl_two_scores" else sampled.sinkhorn_divergence
        return of_samples(y, self.epsilon)

    def _keep(self, potential: Potential, objective: float, flow_time: float | None) -> None:
        self.parameters_, self.objective_, self.flow_time_ = potential, objective, flow_time

    def _map(self) -> _Map:
        return _Map(self.parameters_)


@dataclass(frozen=True)
class _Map:
    """T = grad phi of one potential, in float64 NumPy."""

    potential: Potential

    def __call__(self, x: Any) -> Points:
        """(n, d) -> (n, d)."""
        return _in_blocks(_images, self.potential, np.asarray(x))

    def log_det(self, x: Any) -> Points:
        """log det DT(x), (n, d) -> (n,)."""
        return _in_blocks(_log_dets, self.potential, np.asarray(x))


@dataclass(frozen=True)
class _Side:
    """One measure's draws: what steps see, and what is held out of them.

    Attributes
    ----------
    batches
        (count, n) -> (count, at most n, d).
    size
        Points that steps see; None for fresh draws.
    held_out
        (m, d); none of fresh draws.
    """

    batches: Callable[[int, int], Points]
    size: int | None
    held_out: Points

    @classmethod
    def of(cls, view: View, share: float, seed: tuple[int, int]) -> _Side:
        """A view's draws with `share` of a fixed sample held out; all of the rest is seen. Each side has a seed."""
        if not share or view.budget is None:
            return cls(view.batches, view.budget, np.empty((0, 0)))
        rng = np.random.default_rng(seed)
        pool = rng.permutation(view.batch(view.budget))
        held_out, seen = np.split(pool, [round(share * len(pool))])

        def batches(count: int, n: int) -> Points:
            if n >= len(seen):
                return np.broadcast_to(seen, (count, *seen.shape))
            return np.stack([seen[rng.permutation(len(seen))[:n]] for _ in range(count)])

        return cls(batches, len(seen), held_out)


@dataclass
class _Fit:
    """One of the fits that go on together."""

    flow: Flow
    trace: Trace
    setting: Setting
    error: Exception | None = None
    going: bool = True
    probe: jax.Array = field(init=False)
    bound: float = field(init=False)
    best: float = np.inf

    def start(self, batch: Batch, value: float) -> None:
        flow, setting = self.flow, self.setting
        self.probe = jnp.asarray(batch.x[:1000])
        self.bound = BLOW_UP * (1 + float(jnp.mean(jnp.sum(self.probe**2, axis=1))))
        setting.charge(len(batch.x))
        flow.n_steps_, flow.n_features_in_ = 0, batch.x.shape[1]
        if not np.isfinite(value):
            self._fail(
                InvalidInput(
                    f"The divergence {flow.divergence!r} over {len(batch.x)} points of the source is {value}: V must "
                    f"be finite and differentiable where the flow starts. {HOW_TO_WRITE_V}"
                )
            )
            return
        flow._keep(setting.start, value, 0.0 if flow.timed else None)
        self._improves(setting.start)
        self.going = self.trace(flow._map(), flow_time=flow.flow_time_, objective=value)

    def advance(self, potential: Potential, report: Report, batch: Batch, failure: str) -> None:
        """Keep what one outer step came to, or say why it cannot be kept."""
        flow, value = self.flow, float(report.objective)
        self.setting.charge(int(report.evaluations) * len(batch.x))
        reason = failure if report.failed else self._flaw(potential, value)
        if reason:
            self._fail(Diverged(f"step {flow.n_steps_ + 1}: {reason}"))
            return
        flow.n_steps_ += 1
        if self._improves(potential):
            flow._keep(potential, value, float(report.flow_time) if flow.timed else None)
        diagnostics = {name: float(number) for name, number in report.diagnostics.items()}
        if probed(flow.n_features_in_, self.setting.divergence.order):
            diagnostics["objective_error"] = float(_probe_error(potential, batch))
        self.going = self.trace(flow._map(), flow_time=flow.flow_time_, objective=value, **diagnostics)

    def _improves(self, potential: Potential) -> bool:
        """Whether D is lower on what was held out than it ever was; true where nothing is held out."""
        held_out = self.setting.held_out
        if held_out is None:
            return True
        self.setting.charge(len(held_out.x))
        value = float(_held_out(self.setting.divergence, potential, held_out))
        improves = value < self.best
        self.best = value if improves else self.best
        return improves

    def _flaw(self, potential: Potential, value: float) -> str:
        if not np.isfinite(value):
            return f"the objective is {value}; it was {self.flow.objective_:.4g} one step before."
        spread = float(jnp.mean(jnp.sum(_images(potential, self.probe) ** 2, axis=1)))
        if spread < self.bound:
            return ""
        return (
            f"E|T|^2 is {spread:.3g}, beyond {self.bound:.3g}, with objective {value:.4g}. "
            "Is exp(-V) integrable, or has V the wrong sign?"
        )

    def _fail(self, error: Exception) -> None:
        self.error, self.going = error, False


def fit_together(
    estimators: Sequence[Flow],
    sources: Sequence[SourceView],
    targets: Sequence[TargetView],
    *,
    seeds: Sequence[int],
    traces: Sequence[Trace],
) -> list[Exception | None]:
    """Fit copies of one flow to one problem with different seeds, in calls that are compiled once for all of them.

    Parameters
    ----------
    estimators
        Of one class and with equal parameters; each is fitted as its own `fit` would, up to rounding.
    sources, targets
        A view each, of the same measures and budgets.
    seeds, traces
        As in `Flow.fit`, one each.

    Returns
    -------
    The error that ended each fit, None for one that came to its end: one diverging fit does not stop the others.

    Raises
    ------
    InvalidParameter, InvalidInput
        As `Flow.fit`, before anything is fitted.
    """
    first = estimators[0]
    first._check()
    with jax.enable_x64(first.dtype == "float64"):
        fits = [
            _Fit(flow, trace, flow._setting(source, target, seed))
            for flow, source, target, seed, trace in zip(estimators, sources, targets, seeds, traces, strict=True)
        ]
        setting = fits[0].setting
        value_of = eqx.filter_jit(lambda potential, batch: objective(setting.divergence, potential, batch))
        for fit in fits:
            batch = jax.tree.map(lambda leaf: leaf[0], fit.setting.draw(1, 0))
            fit.start(batch, float(value_of(fit.setting.start, batch)))
        for phase in first._phases(setting):
            _run(phase, [fit for fit in fits if fit.going])
    return [fit.error for fit in fits]


Flow.fit_together = staticmethod(fit_together)


def _run(phase: Phase, fits: Sequence[_Fit]) -> None:
    if not fits:
        return
    starts = [phase.start(fit.setting, fit.flow.parameters_) for fit in fits]
    scheme = phase.scheme(starts[0])
    _, unravel = ravel_pytree(starts[0])
    carries = [scheme.begin(ravel_pytree(start)[0]) for start in starts]
    alone = len(fits) == 1
    advance = jax.jit(scheme.step if alone else jax.vmap(scheme.step))
    stack, pick = (lambda trees: trees[0], lambda tree, _: tree) if alone else (_stacked, _picked)
    carry = stack(carries)
    for _ in range(phase.steps):
        batches = [fit.setting.draw(phase.batches, fit.flow.n_steps_ + 1) for fit in fits]
        carry, reports = advance(carry, stack(batches))
        thetas, reports = scheme.parameters(carry), jax.device_get(reports)
        for index, fit in enumerate(fits):
            if fit.going:
                last = jax.tree.map(lambda leaf: leaf[-1], batches[index])
                fit.advance(unravel(pick(thetas, index)), pick(reports, index), last, scheme.failure)
        if not any(fit.going for fit in fits):
            return


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _picked(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


_probe_error = eqx.filter_jit(probe_error)
_held_out = eqx.filter_jit(objective)


@eqx.filter_jit
def _images(potential: Potential, x: jax.Array) -> jax.Array:
    return jax.vmap(potential.map)(x)


@eqx.filter_jit
def _log_dets(potential: Potential, x: jax.Array) -> jax.Array:
    logarithms: jax.Array = jnp.linalg.slogdet(jax.vmap(potential.jacobian)(x))[1]
    return logarithms


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
