"""Sums of smooth bends in one direction each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.base import squares
from mongebench.estimators.flow.potential.bent import Bent, hyperplanes
from mongebench.estimators.flow.potential.quadratic import Quadratic


class Ridge(Bent):
    """phi(x) = q(x) + sum_j a_j softplus(<w_j, x> + c_j), a_j >= 0: a sum of smooth bends in one direction each.

    Attributes
    ----------
    quadratic, roots
        As in `Bent`.
    normals, offsets
        w, (units, d), and c, (units,).
    """

    quadratic: Quadratic
    roots: jax.Array
    normals: jax.Array
    offsets: jax.Array

    @classmethod
    def through(cls, x: jax.Array, units: int, depth: int, rng: np.random.Generator) -> Ridge:
        """Hyperplanes through points of the sample x (n, d), beside the identity; steps of equal height in the map."""
        del depth
        normals, offsets = hyperplanes(x, units, rng)
        return cls(Quadratic.identity_like(x), 1 / jnp.linalg.norm(normals, axis=1), normals, offsets)

    def units(self, x: jax.Array) -> jax.Array:
        """softplus(<w_j, x> + c_j), (d,) -> (units,)."""
        return jax.nn.softplus(self.normals @ x + self.offsets)

    def map(self, x: jax.Array) -> jax.Array:
        """Grad q(x) + sum_j a_j sigmoid(<w_j, x> + c_j) w_j, (d,) -> (d,)."""
        heights = self.roots**2 * jax.nn.sigmoid(self.normals @ x + self.offsets)
        return self.quadratic.map(x) + heights @ self.normals

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of D^2 q + sum_j a_j sigmoid'(<w_j, x> + c_j) w_j w_j^T, (d,) -> (d (d + 1) / 2,)."""
        level = jax.nn.sigmoid(self.normals @ x + self.offsets)
        bends = self.roots**2 * level * (1 - level)
        return self.quadratic.lower_jacobian(x) + bends @ squares(self.normals)
