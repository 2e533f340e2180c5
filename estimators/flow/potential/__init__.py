"""Convex potentials whose gradients are the maps of a flow: convex by construction, close to |x|^2 / 2 at the start.

One file a family; `base` and `bent` hold what they share.

Parameters are free real numbers, so that any optimiser may move them: a positive definite matrix is L L^T, a
non-negative weight is a square. Squares rather than exponentials or softplus, because these have no gradient left
where the weights must start, near zero. Only those of a `Dictionary` must stay in a cone, which makes F convex in them.
Everything here is for one point x (d,); callers `jax.vmap`.
"""

from __future__ import annotations

import jax
import numpy as np

from mongebench.estimators.flow.potential.base import Potential, symmetric
from mongebench.estimators.flow.potential.bent import Bent
from mongebench.estimators.flow.potential.dictionary import Dictionary, corners
from mongebench.estimators.flow.potential.icnn import ICNN
from mongebench.estimators.flow.potential.maxima import Maxima
from mongebench.estimators.flow.potential.quadratic import Quadratic
from mongebench.estimators.flow.potential.ridge import Ridge


def build(
    family: str, quadratic: Quadratic, x: jax.Array, *, units: int, depth: int, share: float, rng: np.random.Generator
) -> Potential:
    """A potential of the named family next to `quadratic`; see `Bent.beside` for x and `share`."""
    if family == "quadratic":
        return quadratic
    if family == "dictionary":
        return Dictionary.through(quadratic, x, units, rng)
    bent: Bent
    if family == "ridge":
        bent = Ridge.through(x, units, rng)
    elif family == "icnn":
        bent = ICNN.through(x, depth, units, rng)
    else:
        bent = Maxima.through(x, units, rng)
    return bent.beside(quadratic, x, share)


FAMILIES = ("quadratic", "ridge", "icnn", "maxima", "dictionary")
"""What a flow can move."""

__all__ = [
    "FAMILIES",
    "ICNN",
    "Bent",
    "Dictionary",
    "Maxima",
    "Potential",
    "Quadratic",
    "Ridge",
    "build",
    "corners",
    "symmetric",
]
