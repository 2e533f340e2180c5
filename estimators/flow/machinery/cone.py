"""Convex quadratic programs over the parameters of a `Dictionary`: a symmetric A >= 0, a free b, and weights a >= 0.

With theta = (A, b, a), the lower triangle of A row by row, and Z >= 0, z >= 0 the multipliers of A and a,

    min over the cone of  <q, theta> + <theta, H theta> / 2:    H theta + q = (Z, 0, z),    A Z = 0,    a z = 0,

solved by following A Z = mu I, a z = mu to mu -> 0 from inside: a primal-dual interior-point method with Mehrotra's
predictor and corrector (Mehrotra 1992) and, for A, the direction of Helmberg, Rendl, Vanderbei and Wolkowicz (1996),
the `HKM` one. Each iteration factors one matrix of the size of H. Pure: callers jit and vmap it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ITERATIONS = 60
"""Most iterations; ten to thirty are usual."""
TOLERANCE = {"float32": 1e-6, "float64": 1e-11}
"""Duality gap and residual at the end, for a program scaled to a minimum of order one."""
TO_THE_BOUNDARY = 0.99
"""Share of the way to the boundary of the cone that an iteration may go."""


class Multipliers(NamedTuple):
    """Z (d, d), symmetric and positive semi-definite, and z (m,), non-negative."""

    matrix: jax.Array
    weights: jax.Array


class Cone:
    """{(A, b, a): A (d, d) symmetric positive semi-definite, b (d,), a (m,) >= 0}, as vectors (p,).

    Parameters
    ----------
    dim
        d.
    weights
        m.
    """

    def __init__(self, dim: int, weights: int) -> None:
        self.dim = dim
        self.weights = weights
        self.triangle = np.tril_indices(dim)
        self.first = len(self.triangle[0])
        """Entries of A."""
        self.size = self.first + dim + weights
        """p."""
        rows, columns = self.triangle
        self.position = np.zeros((dim, dim), int)
        """Of each entry of A in the vector."""
        self.position[rows, columns] = self.position[columns, rows] = np.arange(self.first)

    def parts(self, theta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A, b and a."""
        return theta[self.position], theta[self.first : self.first + self.dim], theta[self.first + self.dim :]

    def project(self, theta: jax.Array) -> jax.Array:
        """The nearest point, A in the norm of Frobenius."""
        matrix, shift, weights = self.parts(theta)
        values, vectors = jnp.linalg.eigh(matrix)
        matrix = (vectors * jnp.maximum(values, 0)) @ vectors.T
        return jnp.concatenate([matrix[self.triangle], shift, jnp.maximum(weights, 0)])

    def minimise(self, theta: jax.Array, gradient: jax.Array, hessian: jax.Array) -> jax.Array:
        """The s (p,), with theta + s in the cone, that minimises <gradient, s> + <s, hessian s> / 2.

        Idle weights of theta + s are zero. `hessian` (p, p) must be positive definite; theta is in the cone. The
        central path ends with an error that is relative to theta + s, which may be far more than s. So a Newton step
        on the face that it has found follows, if that stays in the cone and gains.
        """
        # Entries of A share one scale, so that it stays a matrix; the minimum without constraints has size one.
        diagonal = jnp.diagonal(hessian)
        scales = 1 / jnp.sqrt(diagonal.at[: self.first].set(jnp.max(diagonal[: self.first])))
        scaled, linear = scales[:, None] * hessian * scales, scales * (gradient - hessian @ theta)
        size = jnp.sqrt(linear @ jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(scaled), True), linear))
        size = jnp.where(size > 0, size, 1)
        end, multipliers = self._central_path(linear / size, scaled)
        active = jnp.append(jnp.ones(self.first + self.dim, bool), self.parts(end)[2] > multipliers.weights)
        to_face = jnp.where(active, 0, -theta)
        face = jnp.where(active[:, None] & active, scaled, jnp.eye(self.size, dtype=scaled.dtype))
        slope = jnp.where(active, scales * (gradient + hessian @ to_face), 0)
        along = scales * jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(face), True), slope)
        steps = jnp.stack([jnp.zeros_like(theta), jnp.where(active, size * scales * end, 0) - theta, to_face - along])
        values = steps @ gradient + jnp.sum((steps @ hessian) * steps, axis=1) / 2
        within = jax.vmap(self.contains)(theta + steps)
        best: jax.Array = steps[jnp.nanargmin(jnp.where(within, values, jnp.inf))]
        return best

    def contains(self, theta: jax.Array) -> jax.Array:
        """Whether theta (p,) is in the cone."""
        matrix, _, weights = self.parts(theta)
        inside: jax.Array = (jnp.linalg.eigvalsh(matrix)[0] >= 0) & jnp.all(weights >= 0)
        return inside

    def _central_path(self, linear: jax.Array, hessian: jax.Array) -> tuple[jax.Array, Multipliers]:
        dtype, tolerance = linear.dtype, TOLERANCE[str(linear.dtype)]
        flat = jax.nn.one_hot(self.position.ravel(), self.first, dtype=dtype)  # triangle -> A
        count = self.dim + self.weights

        def vector(multipliers: Multipliers) -> jax.Array:
            """(Z, 0, z) as a linear form of theta."""
            folded = flat.T @ multipliers.matrix.ravel()
            return jnp.concatenate([folded, jnp.zeros(self.dim, dtype), multipliers.weights])

        def gap(theta: jax.Array, multipliers: Multipliers) -> jax.Array:
            return theta @ vector(multipliers)

        def residual(theta: jax.Array, multipliers: Multipliers) -> jax.Array:
            return hessian @ theta + linear - vector(multipliers)

        def unfinished(state: tuple[jax.Array, Multipliers, jax.Array]) -> jax.Array:
            theta, multipliers, iteration = state
            error = jnp.maximum(gap(theta, multipliers), jnp.max(jnp.abs(residual(theta, multipliers))))
            return (iteration < ITERATIONS) & (error > tolerance)

        def improve(state: tuple[jax.Array, Multipliers, jax.Array]) -> tuple[jax.Array, Multipliers, jax.Array]:
            theta, multipliers, iteration = state
            matrix, _, weights = self.parts(theta)
            factor = jnp.linalg.cholesky(matrix)
            inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(self.dim, dtype=dtype))
            curvature = flat.T @ jnp.kron(inverse, multipliers.matrix) @ flat
            barrier = jnp.diag(vector(Multipliers(jnp.zeros_like(matrix), multipliers.weights / weights)))
            system = (hessian + barrier).at[: self.first, : self.first].add(curvature)
            solver = jnp.linalg.cholesky(system), True
            violation = residual(theta, multipliers)
            mean = gap(theta, multipliers) / count

            def direction(aim: jax.Array, second: Multipliers) -> tuple[jax.Array, Multipliers]:
                """Towards A Z = aim I and a z = aim; `second` is what the linearisation of both leaves out."""
                target = Multipliers(
                    aim * inverse - multipliers.matrix - _symmetric(inverse @ second.matrix),
                    (aim - second.weights) / weights - multipliers.weights,
                )
                change = jax.scipy.linalg.cho_solve(solver, vector(target) - violation)
                turned, _, lifted = self.parts(change)
                return change, Multipliers(
                    target.matrix - _symmetric(inverse @ turned @ multipliers.matrix),
                    target.weights - multipliers.weights / weights * lifted,
                )

            def length(change: jax.Array, dual: Multipliers) -> jax.Array:
                turned, _, lifted = self.parts(change)
                furthest = jnp.minimum(
                    jnp.minimum(_furthest(matrix, turned), _furthest(multipliers.matrix, dual.matrix)),
                    1 / jnp.max(jnp.append(jnp.maximum(-lifted / weights, -dual.weights / multipliers.weights), 0)),
                )
                return jnp.minimum(1.0, TO_THE_BOUNDARY * furthest)

            zero = jnp.zeros((), dtype)
            change, dual = direction(zero, Multipliers(jnp.zeros_like(matrix), jnp.zeros_like(weights)))
            far = length(change, dual)
            ahead = gap(theta + far * change, jax.tree.map(lambda u, v: u + far * v, multipliers, dual)) / count
            turned, _, lifted = self.parts(change)
            second = Multipliers(turned @ dual.matrix, lifted * dual.weights)
            change, dual = direction(mean * (ahead / mean) ** 3, second)
            far = length(change, dual)
            return theta + far * change, jax.tree.map(lambda u, v: u + far * v, multipliers, dual), iteration + 1

        eye, ones = jnp.eye(self.dim, dtype=dtype), jnp.ones(self.weights, dtype)
        inside = jnp.concatenate([eye[self.triangle], jnp.zeros(self.dim, dtype), ones])
        start = inside, Multipliers(eye, ones), jnp.zeros((), int)
        theta, multipliers, _ = jax.lax.while_loop(unfinished, improve, start)
        return theta, multipliers


def _symmetric(matrix: jax.Array) -> jax.Array:
    return (matrix + matrix.T) / 2


def _furthest(matrix: jax.Array, change: jax.Array) -> jax.Array:
    """Largest t with matrix + t change >= 0, for a positive definite matrix."""
    factor = jnp.linalg.cholesky(matrix)
    half = jax.scipy.linalg.solve_triangular(factor, change, lower=True)
    whole = jax.scipy.linalg.solve_triangular(factor, half.T, lower=True)
    return 1 / jnp.maximum(-jnp.linalg.eigvalsh(_symmetric(whole))[0], 0)
