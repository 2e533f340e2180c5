"""Quadratic potentials: the affine maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.base import Free


class Quadratic(Free):
    """phi(x) = |L^T x|^2 / 2 + <b, x>: the affine maps, exact between Gaussians.

    Attributes
    ----------
    lower
        (d (d + 1) / 2,), L row by row. Lower triangular: a full L has rotations that change nothing.
    shift
        b, (d,).
    """

    lower: jax.Array
    shift: jax.Array

    @classmethod
    def identity_like(cls, x: jax.Array) -> Quadratic:
        """The one with T(x) = x, for points of the dimension and type of x (n, d)."""
        dim = x.shape[1]
        return cls(jnp.asarray(np.eye(dim)[np.tril_indices(dim)], x.dtype), jnp.zeros(dim, x.dtype))

    @classmethod
    def start(
        cls,
        quadratic: Quadratic,
        x: jax.Array,
        *,
        units: int,
        depth: int,
        share: float,
        rng: np.random.Generator,
    ) -> Quadratic:
        """`quadratic` itself."""
        del x, units, depth, share, rng
        return quadratic

    @property
    def dim(self) -> int:
        """Dimension d."""
        return len(self.shift)

    @property
    def factor(self) -> jax.Array:
        """L, (d, d)."""
        zeros = jnp.zeros((self.dim, self.dim), self.lower.dtype)
        return zeros.at[np.tril_indices(self.dim)].set(self.lower)

    @property
    def matrix(self) -> jax.Array:
        """DT = L L^T, the same for all x, (d, d)."""
        factor = self.factor
        return factor @ factor.T

    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""
        return jnp.sum((x @ self.factor) ** 2) / 2 + self.shift @ x

    def map(self, x: jax.Array) -> jax.Array:
        """L L^T x + b, (d,) -> (d,)."""
        factor = self.factor
        return factor @ (x @ factor) + self.shift

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of L L^T, (d,) -> (d (d + 1) / 2,)."""
        del x
        return self.matrix[np.tril_indices(self.dim)]

    def nearest(self) -> Quadratic:
        """This one."""
        return self
