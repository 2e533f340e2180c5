"""A potential and its map at any number of points, compiled once for all numbers."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np

from mongebench.core.arrays import Points, row_blocks
from mongebench.estimators.flow.potential import Potential

BLOCK_ROWS = 1024
"""Points mapped at once; the last block is filled up, so that one compilation serves any number of points."""


@eqx.filter_jit
def images(potential: Potential, x: jax.Array) -> jax.Array:
    """T(x), (n, d) -> (n, d)."""
    return jax.vmap(potential.map)(x)


@eqx.filter_jit
def values(potential: Potential, x: jax.Array) -> jax.Array:
    """phi(x), (n, d) -> (n,)."""
    return jax.vmap(potential.value)(x)


def in_blocks(function: Callable[..., jax.Array], potential: Potential, x: Points) -> Points:
    """`function` of the potential at x (n, d), float64 NumPy in and out, in the precision of the potential."""
    dtype = jax.tree.leaves(potential)[0].dtype
    with jax.enable_x64(dtype == np.float64):
        parts = []
        for rows in row_blocks(len(x), 1, BLOCK_ROWS):
            block = np.asarray(x[rows], dtype)
            filled = np.concatenate([block, np.repeat(block[:1], BLOCK_ROWS - len(block), axis=0)])
            parts.append(np.asarray(function(potential, filled), np.float64)[: len(block)])
    return np.concatenate(parts)
