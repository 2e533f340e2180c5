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

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mongebench.core.errors import InvalidInput
from mongebench.estimators.flow.potential import Potential, symmetric


@dataclass(frozen=True)
class Divergence:
    """D on a batch, and the curvature that Gauss-Newton steps take it to have.

    Attributes
    ----------
    value
        (jets (n, r), target's points (m, d)) -> (): D up to a constant. Its derivative in a jet, times n, is the force
        on that point.
    local
        jet (r,) -> (): a convex function of one jet whose Hessian stands for that of D.
    dim
        Dimension d.
    order
        Of the jets that `value` needs, 0 or 1.
    local_order
        Of the jets that `local` needs.
    potential
        V, (n, d) -> (n,), where `value` is the mean of V(T) - log det DT; None for other divergences.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    local: Callable[[jax.Array], jax.Array]
    dim: int
    order: int
    local_order: int
    potential: Callable[[Any], Any] | None = None


EXACT_DIMENSIONS = 64
"""Above this dimension log det DT is not computed but probed."""


def probed(dim: int, order: int) -> bool:
    """Whether the derivatives of T are probed (see `probing`), where jets of that order are asked for."""
    return order > 0 and dim > EXACT_DIMENSIONS


def jet(potential: Potential, x: jax.Array, order: int = 1) -> jax.Array:
    """(T(x), lower triangle of DT(x)), (d,) -> (r,); T(x) alone for order 0."""
    if order == 0:
        return potential.map(x)
    return jnp.concatenate([potential.map(x), potential.lower_jacobian(x)])


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


def kullback_leibler(potential: Callable[[Any], Any], dim: int) -> Divergence:
    """E[V(T) - log det DT], in weak form; NaN where DT is not positive definite."""

    def local(jet: jax.Array) -> jax.Array:
        image, derivative = unpack(jet)
        energy: jax.Array = potential(image[None])[0]
        return energy - log_det(derivative)

    def value(jets: jax.Array, y: jax.Array) -> jax.Array:
        del y
        return jnp.mean(jax.vmap(local)(jets))

    return Divergence(value, local, dim, order=1, local_order=1, potential=potential)


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
    "V = lambda y: jax.numpy.sum(y**2, axis=1) / 2 for the standard normal."
)


def check_potential(potential: Callable[[Any], Any], dim: int, dtype: str) -> None:
    """Refuse a V that JAX cannot trace and differentiate, or that does not map (n, d) to (n,).

    Raises
    ------
    InvalidInput
        With a sentence that says how to write V.
    OracleUnavailable
        The target has no V at all.
    """
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
            f"expected one number a point, (3,). {HOW_TO_WRITE_V}"
        )
