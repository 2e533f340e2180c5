"""Target points that keep their conjugates between visits, some of which are replaced by fresh draws now and then."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mongebench.core.arrays import Points, row_blocks
from mongebench.estimators.dual.conjugate import Conjugates, solved
from mongebench.estimators.flow.potential import Potential

BYTES = 1 << 28
"""That the conjugates of a pool may take."""
ROWS = 1024
"""Points that are solved for together."""
VISITS = 16
"""Of a fresh draw, before another takes its place."""
NEAR = 4096
"""Points of the pool among which a fresh draw looks for its nearest one, to begin at."""

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}
"""Of the residual of points that are solved for, by the precision."""


@eqx.filter_jit
def _solved(potential: Potential, points: Conjugates) -> tuple[Conjugates, jax.Array]:
    return solved(potential, points, TOLERANCES[points.y.dtype.name])


def most_points(dim: int, itemsize: int) -> int:
    """That fit into `BYTES`: a point takes d^2 + 2 d numbers."""
    return max(ROWS, BYTES // (itemsize * (dim * dim + 2 * dim)))


def conjugates(potential: Potential, y: Points, known: jax.Array | Conjugates) -> tuple[Conjugates, jax.Array]:
    """Of points y (n, d), and their residuals, (n,).

    From those of the quadratic of inverse Hessian `known`, (d, d), or from those of the nearest points known.
    """
    begin = nearest if isinstance(known, Conjugates) else Conjugates.beginning
    y = np.asarray(y, jax.tree.leaves(known)[0].dtype)
    found = []
    for rows in row_blocks(len(y), 1, ROWS):
        block = y[rows]
        filled = np.concatenate([block, np.repeat(block[:1], ROWS - len(block), axis=0)]) if len(y) > ROWS else block
        result = _solved(potential, begin(jnp.asarray(filled), known))
        size = len(block)
        found.append(jax.tree.map(lambda leaf, size=size: leaf[:size], result))
    whole: tuple[Conjugates, jax.Array] = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
    return whole


@jax.jit
def nearest(y: jax.Array, known: Conjugates) -> Conjugates:
    """Points y (n, d) where the nearest points known would have them, to first order."""
    products = y @ known.y.T
    near = jax.tree.map(lambda leaf: leaf[jnp.argmin(jnp.sum(known.y**2, axis=1) / 2 - products, axis=1)], known)
    return Conjugates(y, near.x + jnp.einsum("nij,nj->ni", near.inverse, y - near.y), near.inverse)


def again(potential: Potential, points: Conjugates) -> tuple[Conjugates, jax.Array]:
    """Those points under another potential, from where they are, and their residuals."""
    result: tuple[Conjugates, jax.Array] = _solved(potential, points)
    return result


def refreshed(pool: Conjugates, new: Conjugates, turn: int) -> Conjugates:
    """The pool with its `turn`-th part, of the size of `new`, replaced."""
    size = len(new.y)
    first = (turn * size) % (len(pool.y) - size + 1)
    place = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
    replaced: Conjugates = jax.tree.map(place, pool, new)
    return replaced


def orders(size: int, steps: int, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which points each step visits, (steps, batch): all in a random order, then all in another."""
    each = size // batch
    rounds = [rng.permutation(size)[: each * batch].reshape(each, batch) for _ in range(-(-steps // each))]
    return np.concatenate(rounds)[:steps]
