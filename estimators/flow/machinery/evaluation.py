"""A potential and its map at any number of points, compiled once for all numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mongebench.core.arrays import Points, padded_blocks
from mongebench.estimators.flow.potential import Potential
from mongebench.estimators.inverse import preimages


@eqx.filter_jit
def images(potential: Potential, x: jax.Array) -> jax.Array:
    """T(x), (n, d) -> (n, d)."""
    return jax.vmap(potential.map)(x)


@eqx.filter_jit
def values(potential: Potential, x: jax.Array) -> jax.Array:
    """phi(x), (n, d) -> (n,)."""
    return jax.vmap(potential.value)(x)


@eqx.filter_jit
def jacobians(potential: Potential, x: jax.Array) -> jax.Array:
    """DT(x), (n, d) -> (n, d, d)."""
    return jax.vmap(potential.jacobian)(x)


@eqx.filter_jit
def log_dets(potential: Potential, x: jax.Array) -> jax.Array:
    """log det DT(x), (n, d) -> (n,)."""
    logarithms: jax.Array = jnp.linalg.slogdet(jax.vmap(potential.jacobian)(x))[1]
    return logarithms


def in_blocks(function: Callable[..., jax.Array], potential: Potential, x: Points) -> Points:
    """`function` of the potential at x (n, d), float64 NumPy in and out, in the precision of the potential."""
    dtype = jax.tree.leaves(potential)[0].dtype
    with jax.enable_x64(dtype == np.float64):
        return padded_blocks(lambda block: function(potential, block), np.asarray(x, dtype)).astype(np.float64)


@dataclass(frozen=True)
class GradientMap:
    """T = grad phi of one potential, in float64 NumPy."""

    potential: Potential

    def __call__(self, x: Any) -> Points:
        """(n, d) -> (n, d)."""
        return in_blocks(images, self.potential, np.asarray(x))

    def log_det(self, x: Any) -> Points:
        """log det DT(x), (n, d) -> (n,)."""
        return in_blocks(log_dets, self.potential, np.asarray(x))

    def inverse(self, y: Points, x: Points) -> Points:
        """The points with the images y, beginning at x, both (n, d) -> (n, d); raises what `preimages` raises.

        In float64 whatever T was learnt in: its own rounding would end the steps early.
        """
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), self.potential)
        return preimages(lambda x: in_blocks(images, exact, x), lambda x: in_blocks(jacobians, exact, x), y=y, x=x)
