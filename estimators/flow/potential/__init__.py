"""Convex potentials whose gradients are the maps of a flow: convex by construction, close to |x|^2 / 2 at the start.

One file a family; `base` and `bent` hold what they share. A family is in use once it is in `FAMILIES`.

Parameters are free real numbers, so that any optimiser may move them: a positive definite matrix is L L^T, a
non-negative weight is a square. Squares rather than exponentials or softplus, because these have no gradient left
where the weights must start, near zero. Only those of a `Dictionary` must stay in a cone, which makes F convex in them.
Everything here is for one point x (d,); callers `jax.vmap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from mongebench.estimators.flow.potential.base import Free, Potential, symmetric
from mongebench.estimators.flow.potential.bent import Bent
from mongebench.estimators.flow.potential.dense_icnn import DenseICNN, KinkedICNN
from mongebench.estimators.flow.potential.dictionary import Dictionary, corners
from mongebench.estimators.flow.potential.icnn import ICNN
from mongebench.estimators.flow.potential.maxima import Maxima
from mongebench.estimators.flow.potential.quadratic import Quadratic
from mongebench.estimators.flow.potential.ridge import Ridge

FAMILIES: dict[str, type[Potential]] = {
    "quadratic": Quadratic,
    "ridge": Ridge,
    "icnn": ICNN,
    "dense_icnn": DenseICNN,
    "maxima": Maxima,
    "dictionary": Dictionary,
}
"""What a flow can move, by the name that its parameter `family` has."""

if TYPE_CHECKING:
    Family: TypeAlias = str
else:
    Family = Literal[tuple(FAMILIES)]

__all__ = [
    "FAMILIES",
    "ICNN",
    "Bent",
    "DenseICNN",
    "Dictionary",
    "Family",
    "Free",
    "KinkedICNN",
    "Maxima",
    "Potential",
    "Quadratic",
    "Ridge",
    "corners",
    "symmetric",
]
