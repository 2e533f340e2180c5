"""What ridges, networks and smooth maxima have in common: a quadratic, and units that bend it."""

from __future__ import annotations

import abc
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.base import Free, symmetric
from mongebench.estimators.flow.potential.quadratic import Quadratic

NORM = 4.0
"""Middle of the norms that hyperplanes start with: 1 / NORM is the width over which a unit bends the map."""
SPREAD = 4.0
"""Norms start log-uniform in [NORM / SPREAD, NORM * SPREAD]: bends of all widths."""


class Bent(Free):
    """phi(x) = q(x) + sum_j a_j z_j(x), a_j >= 0: a quadratic q and convex units z_j that bend it.

    Attributes
    ----------
    quadratic
        q.
    roots
        Square roots of the weights a, (units,).
    """

    quadratic: eqx.AbstractVar[Quadratic]
    roots: eqx.AbstractVar[jax.Array]

    @classmethod
    @abc.abstractmethod
    def through(cls, x: jax.Array, units: int, depth: int, rng: np.random.Generator) -> Self:
        """Units that bend the map between the points of a sample x (n, d), beside the identity."""

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
    ) -> Self:
        """Units through points of x, with `share` of the curvature of `quadratic`."""
        return cls.through(x, units, depth, rng).beside(quadratic, x, share)

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.quadratic.dim

    @abc.abstractmethod
    def units(self, x: jax.Array) -> jax.Array:
        """z(x), (d,) -> (units,)."""

    def bend(self, x: jax.Array) -> jax.Array:
        """sum_j a_j z_j(x), (d,) -> ()."""
        return self.roots**2 @ self.units(x)

    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""
        return self.quadratic.value(x) + self.bend(x)

    def nearest(self) -> Self:
        """This one."""
        return self

    def beside(self, quadratic: Quadratic, x: jax.Array, share: float) -> Self:
        """The same units next to `quadratic`, with their weights scaled so as to take over a share of its curvature.

        They take at most `share` of it in any direction, on the average over x (n, d); the new quadratic part is
        `quadratic` less that, so that the map stays where it was on the average.
        """
        mean_slope = jnp.mean(jax.vmap(jax.grad(self.bend))(x), axis=0)
        mean_jacobian = symmetric(jnp.mean(jax.vmap(self.lower_jacobian)(x), axis=0), self.dim)
        mean_curvature = mean_jacobian - self.quadratic.matrix
        matrix = quadratic.matrix
        inverse = jnp.linalg.inv(jnp.linalg.cholesky(matrix))
        scale = share / jnp.linalg.eigvalsh(inverse @ mean_curvature @ inverse.T)[-1]
        lower = jnp.linalg.cholesky(matrix - scale * mean_curvature)[np.tril_indices(len(matrix))]
        shift = quadratic.shift + scale * (mean_curvature @ jnp.mean(x, axis=0) - mean_slope)
        moved: Self = eqx.tree_at(
            lambda bent: (bent.quadratic, bent.roots),
            self,
            (Quadratic(lower, shift), self.roots * jnp.sqrt(scale)),
        )
        return moved


def hyperplanes(x: jax.Array, units: int, rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    """Normals (units, d), of uniform directions, and offsets (units,) of hyperplanes through points of x (n, d)."""
    normals = rng.standard_normal((units, x.shape[1]))
    norms = NORM * SPREAD ** rng.uniform(-1, 1, (units, 1))
    normals *= norms / np.linalg.norm(normals, axis=1, keepdims=True)
    through = np.asarray(x)[rng.integers(len(x), size=units)]
    return jnp.asarray(normals, x.dtype), jnp.asarray(-(normals * through).sum(axis=1), x.dtype)
