"""The loop around a scheme: copies of one flow fitted together, each traced, stopped and kept on its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mongebench.core.errors import Diverged, InvalidInput
from mongebench.core.estimator import Trace, refuse_invalid
from mongebench.core.oracle import SourceView, TargetView
from mongebench.estimators.flow.machinery.compiled import Compiled
from mongebench.estimators.flow.machinery.divergence import HOW_TO_WRITE_V, probed
from mongebench.estimators.flow.machinery.evaluation import images
from mongebench.estimators.flow.machinery.objective import Batch, objective, probe_error
from mongebench.estimators.flow.potential import Potential
from mongebench.estimators.flow.schemes.scheme import Phase, Report, Scheme, Setting

if TYPE_CHECKING:
    from mongebench.estimators.flow.schemes.base import Flow

BLOW_UP = 1e6
"""A map is lost when E|T|^2 exceeds this many times its value at the start plus one."""


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
    refuse_invalid(first)
    with jax.enable_x64(first.dtype == "float64"):
        fits = [
            _Fit(flow, trace, flow._setting(source, target, seed))
            for flow, source, target, seed, trace in zip(estimators, sources, targets, seeds, traces, strict=True)
        ]
        setting = fits[0].setting
        value_of = Compiled(functools.partial(objective, setting.divergence))
        for fit in fits:
            fit.value_of = value_of
            batch = jax.tree.map(lambda leaf: leaf[0], fit.setting.draw(1, 0))
            fit.start(batch, float(value_of(fit.setting.start, batch)))
        for phase in first._phases(setting):
            _run(phase, [fit for fit in fits if fit.going])
    return [fit.error for fit in fits]


@dataclass
class _Fit:
    """One of the fits that go on together."""

    flow: Flow
    trace: Trace
    setting: Setting
    error: Exception | None = None
    going: bool = True
    value_of: Compiled = field(init=False)
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
                    f"be finite and differentiable where the flow starts."
                    f"{_border(setting, setting.start, batch) or f' {HOW_TO_WRITE_V}'}"
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
        reason = failure if report.failed else self._flaw(potential, value, batch)
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
        value = float(self.value_of(potential, held_out))
        improves = value < self.best
        self.best = value if improves else self.best
        return improves

    def _flaw(self, potential: Potential, value: float, batch: Batch) -> str:
        if not np.isfinite(value):
            before = f"the objective is {value}; it was {self.flow.objective_:.4g} one step before."
            return before + _border(self.setting, potential, batch)
        spread = float(jnp.mean(jnp.sum(images(potential, self.probe) ** 2, axis=1)))
        if spread < self.bound:
            return ""
        return (
            f"E|T|^2 is {spread:.3g}, beyond {self.bound:.3g}, with objective {value:.4g}. "
            "Is exp(-V) integrable, or has V the wrong sign?"
        )

    def _fail(self, error: Exception) -> None:
        self.error, self.going = error, False


def _border(setting: Setting, potential: Potential, batch: Batch) -> str:
    """Where a map leaves the set on which V is finite: a sentence, empty where it does not or V is not known."""
    of_target = getattr(setting.divergence, "potential", None)
    if of_target is None:
        return ""
    x, y = np.asarray(batch.x), np.asarray(images(potential, batch.x))
    out = np.flatnonzero(np.isfinite(y).all(axis=1) & ~np.isfinite(np.asarray(of_target(jnp.asarray(y)))))
    if not len(out):
        return ""
    there, here = (np.array2string(point, precision=4, separator=", ", threshold=8) for point in (y[out[0]], x[out[0]]))
    return (
        f" V is not finite at {len(out)} of {len(y)} images, such as T(x) = {there} for x = {here}: the flow met the "
        "border of the target's support. Begin well inside of it (move or shrink the source), take smaller steps, or "
        "write V in coordinates without a border, such as log y for y > 0."
    )


def _run(phase: Phase, fits: Sequence[_Fit]) -> None:
    if not fits:
        return
    starts = [phase.start(fit.setting, fit.flow.parameters_) for fit in fits]
    scheme = phase.scheme(starts[0])
    _, unravel = ravel_pytree(starts[0])
    carries = [scheme.begin(ravel_pytree(start)[0]) for start in starts]
    alone = len(fits) == 1
    advance = _compiled(scheme, alone)
    stack: Callable[[Any], Any]
    pick: Callable[[Any, int], Any]
    stack, pick = (lambda trees: trees[0], lambda tree, _: tree) if alone else (_stacked, _picked)
    carry = stack(carries)
    for _ in range(phase.steps):
        batches = [
            fit.setting.draw(phase.batches, fit.flow.n_steps_ + 1, points=phase.points, density=phase.density)
            for fit in fits
        ]
        carry, reports = advance(carry, stack(batches))
        thetas, reports = scheme.parameters(carry), jax.device_get(reports)
        for index, fit in enumerate(fits):
            if fit.going:
                last = jax.tree.map(lambda leaf: leaf[-1], batches[index])
                fit.advance(unravel(pick(thetas, index)), pick(reports, index), last, scheme.failure)
        if not any(fit.going for fit in fits):
            return


def _compiled(scheme: Scheme, alone: bool) -> Callable[..., Any]:
    """One outer step, of one fit or of several; nothing in it goes through the host."""
    return Compiled(scheme.step if alone else jax.vmap(scheme.step))


@jax.jit  # one compilation for a whole tree; NumPy would fetch its leaves from the device
def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _picked(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


_probe_error = eqx.filter_jit(probe_error)
