"""log det DT in high dimension, by random probes: no d x d matrix is ever formed.

For A = DT(x), symmetric positive definite, and random signs z (d,),

    log det A = E[z^T log(A) z],    d log det A = E[z^T dA u],    u = A^{-1} z

(Hutchinson 1990). Lanczos's iteration on (A, z) gives both: with A V ~ V S, V (d, m) orthonormal and S tridiagonal,
z^T log(A) z ~ |z|^2 (log S)_11 (stochastic Lanczos quadrature; Ubaru, Chen, Saad 2017) and u ~ |z| V S^{-1} e_1. The
second derivative tr(A^{-1} dA A^{-1} dA) is at most tr(dA A^{-2} dA) = E|dA u|^2, with equality where A and dA commute:
a bound that Gauss-Newton can use, because it costs one product dA u and no solution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential import Potential

PROBES = 2
"""Signs at each point: two tell their variance."""
LANCZOS_STEPS = 24
"""m: the error of the quadrature falls like ((sqrt k - 1) / (sqrt k + 1))^(2 m), 1e-13 for condition k = 10."""
BLOCK_POINTS = 256
"""Points worked on at once: bounds the memory of the Lanczos vectors."""


class LogDet(NamedTuple):
    """What the probes say about log det DT on a batch.

    Attributes
    ----------
    mean
        (), mean over points and probes.
    variance
        (), of `mean`, over the draw of the probes alone.
    solutions
        u = DT^{-1} z, (n, PROBES, d).
    """

    mean: jax.Array
    variance: jax.Array
    solutions: jax.Array


def signs(key: jax.Array, x: jax.Array) -> jax.Array:
    """z, (n, PROBES, d) for points x (n, d), from the random bits `key` (2,)."""
    return jax.random.rademacher(jax.random.wrap_key_data(key), (len(x), PROBES, x.shape[1]), x.dtype)


def curve(potential: Potential, x: jax.Array, v: jax.Array) -> jax.Array:
    """DT(x) v, (d,), (d,) -> (d,)."""
    product: jax.Array = jax.jvp(potential.map, (x,), (v,))[1]
    return product


def curves(potential: Potential, x: jax.Array, v: jax.Array) -> jax.Array:
    """DT(x_i) v_ij, (n, d), (n, k, d) -> (n, k, d)."""
    return jax.vmap(jax.vmap(curve, (None, None, 0)), (None, 0, 0))(potential, x, v)


def log_det(potential: Potential, x: jax.Array, z: jax.Array) -> LogDet:
    """Log det DT on the batch x (n, d) with the probes z (n, PROBES, d); NaN where DT is not positive definite."""

    def at_point(point: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, z = point
        return jax.vmap(lambda z: lanczos(lambda v: curve(potential, x, v), z))(z)

    quadratures, solutions = jax.lax.map(at_point, (x, z), batch_size=BLOCK_POINTS)
    variance = jnp.mean(jnp.var(quadratures, axis=1, ddof=1)) / quadratures.size
    return LogDet(jnp.mean(quadratures), variance, solutions)


def lanczos(product: Callable[[jax.Array], jax.Array], z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """z^T log(A) z and A^{-1} z, (d,) -> (), (d,), from min(d, LANCZOS_STEPS) products with A."""
    dim = len(z)
    steps = min(dim, LANCZOS_STEPS)
    length = jnp.linalg.norm(z)
    tiny = float(np.finfo(z.dtype).eps) * length

    def advance(k: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        basis, alpha, beta = state
        w = product(basis[k])
        alpha = alpha.at[k].set(basis[k] @ w)
        for _ in range(2):  # against all earlier vectors, twice: else rounding loses their orthogonality
            w = w - basis.T @ (basis @ w)
        norm = jnp.linalg.norm(w)
        more = norm > tiny  # else an invariant subspace is exhausted, and zero vectors follow
        beta = beta.at[k].set(jnp.where(more, norm, 0))
        basis = basis.at[k + 1].set(jnp.where(more, w / jnp.where(more, norm, 1), 0))
        return basis, alpha, beta

    basis = jnp.zeros((steps + 1, dim), z.dtype).at[0].set(z / length)
    zeros = jnp.zeros(steps, z.dtype)
    basis, alpha, beta = jax.lax.fori_loop(0, steps, advance, (basis, zeros, zeros))
    # Zero vectors get the rows of an identity: decoupled, they stay out of both answers.
    alpha = jnp.where(jnp.linalg.norm(basis[:steps], axis=1) > 0, alpha, 1)
    values, vectors = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))
    first = vectors[0]
    quadrature = length**2 * jnp.sum(first**2 * jnp.log(values))
    return quadrature, length * (vectors @ (first / values)) @ basis[:steps]


def attach(mean: jax.Array, surrogate: jax.Array) -> jax.Array:
    """`mean` with the derivative of `surrogate`: the probes' value and their unbiased derivative in one number."""
    return jax.lax.stop_gradient(mean) + surrogate - jax.lax.stop_gradient(surrogate)
