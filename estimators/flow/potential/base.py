"""What all potentials have, and symmetric matrices as their lower triangles."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

if TYPE_CHECKING:
    from mongebench.estimators.flow.potential.quadratic import Quadratic


class Potential(eqx.Module):
    """A convex function phi of one point; its leaves are the parameters theta.

    What steps must know of a family is asked here: where its parameters may be, and how its jets depend on them. The
    jet of phi at x is (T(x), lower triangle of DT(x)), (r,) with r = d + d (d + 1) / 2; of order 0 it is T(x) alone.

    Attributes
    ----------
    conic
        Whether the maps fill a convex cone, over which steps are convex programs: velocities jump at its faces, and
        the programs need whole matrices.
    """

    conic: eqx.AbstractClassVar[bool]

    @classmethod
    @abc.abstractmethod
    def start(
        cls,
        quadratic: Quadratic,
        x: jax.Array,
        *,
        units: int,
        depth: int,
        share: float,
        rng: np.random.Generator,
    ) -> Potential:
        """The one of the family that a fit begins with, next to `quadratic`; see `Bent.beside` for x and `share`."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Dimension d."""

    @property
    @abc.abstractmethod
    def free(self) -> int:
        """How many parameters steps may move: the first ones, the others being constants."""

    @abc.abstractmethod
    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""

    @abc.abstractmethod
    def map(self, x: jax.Array) -> jax.Array:
        """T(x) = grad phi(x), (d,) -> (d,)."""

    @abc.abstractmethod
    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of DT(x) row by row, (d,) -> (d (d + 1) / 2,): all that a symmetric matrix has."""

    @abc.abstractmethod
    def jet_derivative(self, x: jax.Array, order: int) -> jax.Array:
        """Of the jet at x by the free parameters, (d,) -> (r, free)."""

    @abc.abstractmethod
    def nearest(self) -> Self:
        """The nearest potential of the family: this one, unless a step has left the family."""

    @abc.abstractmethod
    def damped_step(self, gradient: jax.Array, matrix: jax.Array, scales: jax.Array, damping: jax.Array) -> jax.Array:
        """The s (free,) that minimises <gradient, s> + <s, (matrix + damping diag(scales^-2)) s> / 2 within the family.

        (free,), (free, free), (free,), () -> (free,).
        """

    def jacobian(self, x: jax.Array) -> jax.Array:
        """DT(x) = D^2 phi(x), (d,) -> (d, d), symmetric and positive semi-definite."""
        return symmetric(self.lower_jacobian(x), self.dim)

    def jet(self, x: jax.Array, order: int = 1) -> jax.Array:
        """(T(x), lower triangle of DT(x)), (d,) -> (r,); T(x) alone for order 0."""
        if order == 0:
            return self.map(x)
        return jnp.concatenate([self.map(x), self.lower_jacobian(x)])


class Free(Potential):
    """All parameters are free real numbers, which steps may move anywhere."""

    conic: ClassVar[bool] = False

    @property
    def free(self) -> int:
        """All."""
        return sum(leaf.size for leaf in jax.tree.leaves(self))

    def jet_derivative(self, x: jax.Array, order: int) -> jax.Array:
        """In reverse mode."""
        theta, unravel = ravel_pytree(self)
        derivative: jax.Array = jax.jacrev(lambda theta: unravel(theta).jet(x, order))(theta)
        return derivative

    def damped_step(self, gradient: jax.Array, matrix: jax.Array, scales: jax.Array, damping: jax.Array) -> jax.Array:
        """By Cholesky factors of the scaled matrix."""
        scaled = scales[:, None] * matrix * scales
        factor = jnp.linalg.cholesky(scaled + damping * jnp.eye(len(matrix), dtype=matrix.dtype))
        solution: jax.Array = jax.scipy.linalg.cho_solve((factor, True), scales * gradient)
        return -scales * solution


def squares(normals: jax.Array) -> jax.Array:
    """Lower triangles of w_j w_j^T, (units, d) -> (units, d (d + 1) / 2).

    A weighted sum of them at many points is one product of two matrices, half the size of sums of full squares.
    """
    rows, columns = np.tril_indices(normals.shape[1])
    return normals[:, rows] * normals[:, columns]


def symmetric(lower: jax.Array, dim: int) -> jax.Array:
    """The matrix of a lower triangle, (d (d + 1) / 2,) -> (d, d)."""
    rows, columns = np.tril_indices(dim)
    position = np.zeros((dim, dim), int)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return lower[position]
