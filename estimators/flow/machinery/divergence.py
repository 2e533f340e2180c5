"""Divergences D(T#mu0 | gamma) on a batch, as functions of the map's jets: what the flows move down.

The **jet** of a potential at x is the vector (T(x), lower triangle of DT(x)), (r,) with r = d + d (d + 1) / 2; of order
0 it is T(x) alone. The default divergence is

    F(T) = KL(T#mu0 | exp(-V)) + const = E[V(T(x)) - log det DT(x)],

the mean over x ~ mu0 of a convex function of the jet (if V is convex). Its derivative in a direction w,

    dF(T)[w] = E[<grad V(T), w> - tr(DT^{-1} Dw)],

the weak form, is the derivative of that function: nothing is integrated by parts, and no density or score of T#mu0
is ever needed. `sampled` has the divergences that are known through samples only.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mongebench.core.errors import InvalidInput
from mongebench.core.oracle import Oracle, TargetView
from mongebench.estimators.flow.potential import symmetric

KNOWN_TARGET = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_POTENTIAL})
SAMPLED_TARGET = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})


class Divergence(abc.ABC):
    """D on a batch, and the curvature that Gauss-Newton steps take it to have.

    D is a function of the images T(x), its `energy`, less E log det DT where its jets are of order 1.

    Parameters
    ----------
    dim
        Dimension d.

    Attributes
    ----------
    needs
        The oracles that it asks for: its tier.
    pointwise
        Whether D is the mean over the points of a batch of a function of each.
    order
        Of the jets that `value` needs, 0 or 1.
    local_order
        Of the jets that `local` needs.
    """

    needs: ClassVar[frozenset[Oracle]]
    pointwise: ClassVar[bool]
    order: ClassVar[int]

    def __init__(self, dim: int) -> None:
        self.dim = dim

    @classmethod
    @abc.abstractmethod
    def to(cls, target: TargetView, dim: int, *, epsilon: float, batch_size: int, dtype: str) -> Divergence:
        """The divergence to a target, seen as `needs` says; the last three parameters are those of `Flow`."""

    @property
    @abc.abstractmethod
    def local_order(self) -> int:
        """Of the jets that `local` needs, 0 or 1."""

    @abc.abstractmethod
    def energy(self, images: jax.Array, y: jax.Array) -> jax.Array:
        """The part that sees images alone, (n, d), target's points (m, d) -> ()."""

    @abc.abstractmethod
    def value(self, jets: jax.Array, y: jax.Array) -> jax.Array:
        """D up to a constant, (n, r), (m, d) -> (). Its derivative in a jet, times n, is the force on that point."""

    @abc.abstractmethod
    def local(self, jet: jax.Array) -> jax.Array:
        """(r,) -> (): a convex function of one jet whose Hessian stands for that of D."""


EXACT_DIMENSIONS = 64
"""Above this dimension log det DT is not computed but probed."""


def probed(dim: int, order: int) -> bool:
    """Whether the derivatives of T are probed (see `probing`), where jets of that order are asked for."""
    return order > 0 and dim > EXACT_DIMENSIONS


def jet_length(dim: int, order: int = 1) -> int:
    """r."""
    return dim + order * dim * (dim + 1) // 2


def dimension(jet: jax.Array) -> int:
    """d of a jet (r,) of order 1."""
    return math.isqrt(9 + 8 * len(jet)) // 2 - 1


def unpack(jet: jax.Array) -> tuple[jax.Array, jax.Array]:
    """T (d,) and the symmetric DT (d, d) of a jet (r,) of order 1."""
    dim = dimension(jet)
    return jet[:dim], symmetric(jet[dim:], dim)


class KullbackLeibler(Divergence):
    """E[V(T) - log det DT], in weak form; NaN where DT is not positive definite.

    Parameters
    ----------
    potential
        V, (n, d) -> (n,).
    dim
        Dimension d.
    """

    needs: ClassVar[frozenset[Oracle]] = KNOWN_TARGET
    pointwise: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def __init__(self, potential: Callable[[Any], Any], dim: int) -> None:
        super().__init__(dim)
        self.potential = potential

    @classmethod
    def to(cls, target: TargetView, dim: int, *, epsilon: float, batch_size: int, dtype: str) -> KullbackLeibler:
        """By the target's V."""
        del epsilon, batch_size
        return cls(known_potential(target, dim, dtype), dim)

    @property
    def local_order(self) -> int:
        """As all of D."""
        return 1

    def energy(self, images: jax.Array, y: jax.Array) -> jax.Array:
        """E V(T)."""
        del y
        return jnp.mean(self.potential(images))

    def value(self, jets: jax.Array, y: jax.Array) -> jax.Array:
        """Point by point."""
        del y
        return jnp.mean(jax.vmap(self.local)(jets))

    def local(self, jet: jax.Array) -> jax.Array:
        """V(T) - log det DT at one point."""
        image, derivative = unpack(jet)
        energy: jax.Array = self.potential(image[None])[0]
        return energy - log_det(derivative)


def log_det(matrix: jax.Array) -> jax.Array:
    """Log of the determinant of a symmetric positive definite matrix, (d, d) -> (); NaN if it is none."""
    return invert(matrix)[1]


SWEPT_DIMENSIONS = 8
"""Above this dimension a matrix is inverted by halves."""


@jax.custom_jvp
def invert(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverse and log of the determinant of a symmetric positive definite matrix, (d, d) -> (d, d), ().

    By halves: with S = D - C A^{-1} C^T,

        [A, C^T; C, D]^{-1} = [A^{-1} + E^T S^{-1} E, -E^T S^{-1}; -S^{-1} E, S^{-1}],    E = C A^{-1},

    down to matrices that are swept (Gauss and Jordan): under `vmap` all of it is products over the whole batch. Sweeps
    alone take twelve times as long at d = 64 and five times at 32 (256 matrices, one core), a call of LAPACK for each
    inverse fourteen and three times; and two such batches at once wait for each other for ever where XLA has more than
    one thread (jaxlib 0.10.2).
    """
    half = len(matrix) // 2
    if len(matrix) <= SWEPT_DIMENSIONS:
        return _sweep(matrix)
    corner, first = invert(matrix[:half, :half])
    slope = matrix[half:, :half] @ corner
    inverse, second = invert(matrix[half:, half:] - slope @ matrix[:half, half:])
    side = inverse @ slope
    both = slope.T @ side
    corner += (both + both.T) / 2  # symmetric to the last bit
    return jnp.block([[corner, -side.T], [-side, inverse]]), first + second


def _sweep(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    def step(k: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        swept, total = state
        pivot = swept[k, k]
        row = swept[k] / pivot
        here = jnp.arange(len(matrix)) == k
        others = swept - pivot * (row[:, None] * row)  # symmetric to the last bit
        swept = jnp.where(here[:, None], row, jnp.where(here, row[:, None], others))
        return swept.at[k, k].set(-1 / pivot), total + jnp.log(pivot)

    swept, total = jax.lax.fori_loop(0, len(matrix), step, (matrix, jnp.zeros((), matrix.dtype)))
    return -swept, total


@invert.defjvp
def _invert_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    # dA^{-1} = -A^{-1} dA A^{-1}, d log det A = tr(A^{-1} dA): nothing is differentiated through halves and sweeps.
    (matrix,), (tangent,) = primals, tangents
    inverse, total = invert(matrix)
    return (inverse, total), (-inverse @ tangent @ inverse, jnp.sum(inverse * tangent))


HOW_TO_WRITE_V = (
    "Write it with jax.numpy, or with xp = array_api_compat.array_namespace(y) to serve NumPy too, for instance "
    "V = lambda y: jax.numpy.sum(y**2, axis=1) / 2 for the standard normal; a function of one point, (d,) -> (), such "
    "as lambda y: y @ y / 2, will do as well."
)


def known_potential(target: TargetView, dim: int, dtype: str) -> Callable[[Any], Any]:
    """The target's V, which compiled code will evaluate: who calls it charges the meter.

    Raises
    ------
    InvalidInput
        Where JAX cannot trace and differentiate it, or it does not map (n, d) to (n,): says how to write V.
    OracleUnavailable
        The target has no V at all.
    """
    potential: Callable[[Any], Any] = target.uncounted(Oracle.TARGET_POTENTIAL)
    points = jnp.zeros((3, dim), dtype)
    try:
        values = jax.eval_shape(potential, points)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInput(
            f"The target's potential V cannot be traced by JAX ({type(error).__name__}: {reason}). {HOW_TO_WRITE_V}"
        ) from error
    if getattr(values, "shape", None) != (3,):
        raise InvalidInput(
            f"The target's potential V maps points of shape (3, {dim}) to {getattr(values, 'shape', type(values))}; "
            f"expected one number per point, (3,). {HOW_TO_WRITE_V}"
        )
    return potential
