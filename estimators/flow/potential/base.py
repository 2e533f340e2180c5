"""What all potentials have, and symmetric matrices as their lower triangles."""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import numpy as np

from mongebench.estimators.flow.machinery.cone import Cone


class Potential(eqx.Module):
    """A convex function phi of one point; its leaves are the parameters theta."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Dimension d."""

    @property
    def cone(self) -> Cone | None:
        """Where the first of the parameters must stay, the others being constants; None where all are free."""
        return None

    @property
    def free(self) -> int:
        """How many parameters are no constants."""
        return self.cone.size if self.cone else sum(leaf.size for leaf in jax.tree.leaves(self))

    @abc.abstractmethod
    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""

    def map(self, x: jax.Array) -> jax.Array:
        """T(x) = grad phi(x), (d,) -> (d,)."""
        gradient: jax.Array = jax.grad(self.value)(x)
        return gradient

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of DT(x) row by row, (d,) -> (d (d + 1) / 2,): all that a symmetric matrix has."""
        hessian: jax.Array = jax.hessian(self.value)(x)
        return hessian[np.tril_indices(self.dim)]

    def jacobian(self, x: jax.Array) -> jax.Array:
        """DT(x) = D^2 phi(x), (d,) -> (d, d), symmetric and positive semi-definite."""
        return symmetric(self.lower_jacobian(x), self.dim)


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
