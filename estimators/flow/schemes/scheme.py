"""What a scheme is to the fit around it: pure outer steps, in phases, with a report of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from mongebench.estimators.flow.machinery.divergence import Divergence
from mongebench.estimators.flow.machinery.objective import Batch
from mongebench.estimators.flow.potential import Potential, Quadratic


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
    points
        In a batch; None for the flow's batch size.
    density
        Whether batches know log mu0 at their points.
    """

    steps: int
    batches: int
    start: Callable[[Setting, Potential], Potential]
    scheme: Callable[[Potential], Scheme]
    points: int | None = None
    density: bool = False


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
        (count, k, points=None, density=False) -> the k-th step's batches, see `Phase`.
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
    draw: Callable[..., Batch]
    charge: Callable[[int], None]
    resampled: bool
    held_out: Batch | None = None
