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
FEWEST = 64
"""Points that anything is compiled for."""
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


def _begun(y: jax.Array, known: jax.Array | Conjugates) -> Conjugates:
    return nearest(y, known) if isinstance(known, Conjugates) else Conjugates.beginning(y, known)


@jax.jit
def nearest(y: jax.Array, known: Conjugates) -> Conjugates:
    """Points y (n, d) where the nearest points known would have them, to first order."""
    products = y @ known.y.T
    near = jax.tree.map(lambda leaf: leaf[jnp.argmin(jnp.sum(known.y**2, axis=1) / 2 - products, axis=1)], known)
    return Conjugates(y, near.x + jnp.einsum("nij,nj->ni", near.inverse, y - near.y), near.inverse)


def conjugates(
    potential: Potential, y: Points | jax.Array, known: jax.Array | Conjugates
) -> tuple[Conjugates, jax.Array]:
    """Of points y (n, d), and their residuals, (n,).

    From those of the quadratic of inverse Hessian `known`, (d, d), or from those of the nearest points known.
    """
    y = y.astype(jax.tree.leaves(known)[0].dtype)
    blocks = [_begun(jnp.asarray(y[rows]), known) for rows in row_blocks(len(y), 1, ROWS)]
    return _joined([_solved_padded(potential, block) for block in blocks])


def again(potential: Potential, points: Conjugates) -> tuple[Conjugates, jax.Array]:
    """Those points under another potential, from where they are, and their residuals."""
    blocks = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], points) for rows in row_blocks(len(points.y), 1, ROWS)]
    return _joined([_solved_padded(potential, block) for block in blocks])


def padded(points: Conjugates) -> Conjugates:
    """With the last point repeated up to a power of two: what is compiled for it serves many sizes of a sample."""
    n = len(points.y)
    more = max(FEWEST, 1 << (n - 1).bit_length()) - n
    if not more:
        return points

    def longer(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(np.concatenate([leaf, np.repeat(leaf[-1:], more, axis=0)]))

    full: Conjugates = jax.tree.map(longer, points)
    return full


def power_of_two_below(n: int) -> int:
    """The largest that is no more than n >= 1."""
    return 1 << (n.bit_length() - 1)


def _solved_padded(potential: Potential, points: Conjugates) -> tuple[Conjugates, jax.Array]:
    result: tuple[Conjugates, jax.Array] = jax.tree.map(
        lambda leaf: leaf[: len(points.y)], _solved(potential, padded(points))
    )
    return result


def _joined(found: list[tuple[Conjugates, jax.Array]]) -> tuple[Conjugates, jax.Array]:
    if len(found) == 1:
        return found[0]
    whole: tuple[Conjugates, jax.Array] = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
    return whole


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
