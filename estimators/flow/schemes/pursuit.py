"""Newton steps over the cone of a dictionary whose idle features are drawn anew: column generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from pydantic import PositiveFloat, PositiveInt

from mongebench.estimators.flow.machinery.divergence import Divergence, jet_length
from mongebench.estimators.flow.machinery.gauss_newton import GaussNewton
from mongebench.estimators.flow.machinery.objective import Batch, jets
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Dictionary, Family, Potential, corners
from mongebench.estimators.flow.schemes.base import DivergenceName, Dtype, Flow
from mongebench.estimators.flow.schemes.newton import AVERAGED, newton_scheme
from mongebench.estimators.flow.schemes.scheme import Phase, Scheme, Setting

MOVED = 0.5
"""Share of the candidates that are features at work, moved; the others are drawn from the source."""
LEAST_MOVE, LARGEST_MOVE = 0.01, 0.3
"""Moves of a feature, log-uniform, relative to the differences between its affine functions."""
POINTS = 1024
"""Of a batch, on which candidates are judged."""
LEAST_POINTS = 8.0
"""Of a sample that is not drawn anew, on either side of a bend and inside it. With fewer, log det DT rises at the last
points of the sample at no cost: the map jumps behind them."""


class FlowPursuit(Flow):
    """Newton's method in a cone of maps that grows towards all of K: features that do not help are replaced.

    The maps are those of a `Dictionary`, and steps are Newton's as in `FlowNewton`, each a convex program that leaves
    most features idle, a_j = 0. Before a step every idle feature makes room for the best of `candidates`: the one whose
    weight alone, moved by a Newton step of its own, would decrease D the most. That is column generation, or
    Frank-Wolfe's choice of an atom with all weights corrected after it. Half of the candidates are smooth maxima of
    affine functions with cells around points of the source; half are features at work, moved. The change leaves the
    map as it is: a new feature starts with weight zero.

    In the last third of the steps, if batches are drawn anew, the features stay, step lengths fall, and the parameters
    are averaged. From one fixed sample, features are taken only if eight points of it lie on every side of their
    bend, and in it.

    Use it to end with an accurate map in few dimensions, above all where T* is steep between clusters of the source.
    To follow the flow itself, take `FlowImplicit`.

    Parameters
    ----------
    units
        Features, idle ones included.
    candidates
        For each idle feature and step.
    tau, steps
        As in `FlowNewton`.
    divergence, epsilon, batch_size, dtype
        As in `Flow`.

    References
    ----------
    Bach 2017, Breaking the curse of dimensionality with convex neural networks, JMLR 18: one unit at a time, chosen by
    the conditional gradient. Jaggi 2013, Revisiting Frank-Wolfe, ICML: the fully corrective variant.
    """

    family: Family = "dictionary"
    depth: int = 1

    tunable: ClassVar[dict[str, Any]] = {
        "units": [32, 64, 128],
        "candidates": [8, 16, 32],
        "steps": [15, 30, 60],
    }

    def __init__(
        self,
        units: PositiveInt = 128,
        candidates: PositiveInt = 32,
        tau: PositiveFloat = 100.0,
        steps: PositiveInt = 60,
        divergence: DivergenceName = "kl",
        epsilon: PositiveFloat = 0.05,
        batch_size: PositiveInt = 4096,
        dtype: Dtype = "float64",
    ) -> None:
        self.units = units
        self.candidates = candidates
        self.tau = tau
        self.steps = steps
        self.divergence = divergence
        self.epsilon = epsilon
        self.batch_size = batch_size
        self.dtype = dtype

    def _phases(self, setting: Setting) -> Iterable[Phase]:
        subproblem = Subproblem(setting.divergence, linear=False)
        full = self.steps - int(AVERAGED * self.steps) * setting.resampled

        def scheme(potential: Potential) -> Scheme:
            method = GaussNewton(potential, subproblem, by_kind=True)

            def prepare(theta: jax.Array, batch: Batch) -> jax.Array:
                least = 0.0 if setting.resampled else LEAST_POINTS
                renewed = renew(method.unravel(theta), setting.divergence, batch, self.candidates, least)
                return ravel_pytree(renewed)[0]

            return newton_scheme(method, self.tau, full, prepare=prepare)

        yield Phase(self.steps, 1, lambda setting, _: setting.start, scheme)


def renew(
    potential: Dictionary, divergence: Divergence, batch: Batch, candidates: int, least: float = 0.0
) -> Dictionary:
    """The same map, with the best of so many candidates of `support` `least` in the place of each idle feature."""
    units, x = len(potential.weights), batch.x
    count = candidates * units
    of_choice, of_new, of_moved = jax.random.split(jax.random.wrap_key_data(batch.key), 3)
    idle = potential.weights <= 0
    old = jax.random.bernoulli(of_choice, MOVED, (count,)) & ~jnp.all(idle)
    (old_normals, old_offsets), (new_normals, new_offsets) = (
        moved(potential, count, of_moved),
        corners(x, count, of_new),
    )
    normals = jnp.where(old[:, None, None], old_normals, new_normals).reshape(candidates, *potential.normals.shape)
    offsets = jnp.where(old[:, None], old_offsets, new_offsets).reshape(candidates, *potential.offsets.shape)
    gains = promised(potential, normals, offsets, divergence, batch._replace(x=x[:POINTS]))
    if least:
        gains = jnp.where(jax.lax.map(lambda two: support(two[0], two[1], x), (normals, offsets)) >= least, gains, -1)
    best = jnp.argmax(gains, axis=0)
    rank = jnp.arange(units)
    return dataclasses.replace(
        potential,
        normals=jnp.where(idle[:, None, None], normals[best, rank], potential.normals),
        offsets=jnp.where(idle[:, None], offsets[best, rank], potential.offsets),
    )


def support(normals: jax.Array, offsets: jax.Array, x: jax.Array) -> jax.Array:
    """How many points of x (n, d) lie on the emptiest side of each feature, or in its bend if fewer, (units,).

    Counted by the shares p_k(x) of the affine functions in the smooth maximum, of normals (units, k, d) and offsets
    (units, k): sum p_k on a side, equal functions together, and sum 1 - max p_k in the bend.
    """
    equal = jnp.all(normals[:, :, None] == normals[:, None], axis=3) & (offsets[:, :, None] == offsets[:, None])
    shares = jax.nn.softmax(jnp.einsum("nd,ukd->nuk", x, normals) + offsets, axis=2)
    shares = jnp.einsum("nuk,ukl->nul", shares, equal.astype(x.dtype))  # of the side that k belongs to
    bend = jnp.sum(1 - jnp.max(shares, axis=2), axis=0)
    return jnp.minimum(jnp.min(jnp.sum(shares, axis=0), axis=1), bend)


def moved(potential: Dictionary, count: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normals (count, k, d) and offsets (count, k) of features at work, in other places and of other widths."""
    of_choice, of_size, of_normals, of_offsets, of_widths = jax.random.split(key, 5)
    dtype = potential.weights.dtype
    chosen = jax.random.categorical(of_choice, jnp.where(potential.weights > 0, 0.0, -jnp.inf), shape=(count,))
    normals, offsets = potential.normals[chosen], potential.offsets[chosen]
    size = LARGEST_MOVE * (LEAST_MOVE / LARGEST_MOVE) ** jax.random.uniform(of_size, (count, 1), dtype)
    move = size * jnp.sqrt(jnp.sum(jnp.var(normals, axis=1), axis=1))[:, None]
    width = jnp.exp(size * jax.random.normal(of_widths, (count, 1), dtype))
    normals += move[..., None] * jax.random.normal(of_normals, normals.shape, dtype)
    offsets += move * jax.random.normal(of_offsets, offsets.shape, dtype)
    return width[..., None] * (normals - jnp.mean(normals, axis=1, keepdims=True)), width * offsets


def promised(
    potential: Dictionary, normals: jax.Array, offsets: jax.Array, divergence: Divergence, batch: Batch
) -> jax.Array:
    """The decrease of D that a Newton step in one candidate's weight alone promises, (c, units, k, d) -> (c, units).

    With g and h the first two derivatives of D in the weight, that is max(-g, 0)^2 / (2 h).
    """
    x, dim = batch.x, potential.dim
    here = jets(potential, x, 1)
    slopes: jax.Array = jax.grad(divergence.value)(here[:, : jet_length(dim, divergence.order)], batch.y)
    curvatures = jax.vmap(jax.hessian(divergence.local))(here[:, : jet_length(dim, divergence.local_order)])

    def of_features(features: tuple[jax.Array, jax.Array]) -> jax.Array:
        normals, offsets = features
        along = jax.vmap(dataclasses.replace(potential, normals=normals, offsets=offsets).features)(x)  # (n, r, units)
        along = along.at[:, :dim].add(-jnp.mean(along[:, :dim], axis=0))  # the mean slope is b's
        slope = jnp.einsum("nr,nru->u", slopes, along[:, : slopes.shape[1]])
        part = along[:, : curvatures.shape[1]]
        curvature = jnp.einsum("nru,nru->u", part, curvatures @ part) / len(x)
        gain = jnp.maximum(-slope, 0) ** 2 / (2 * curvature)
        return jnp.where(jnp.isfinite(gain), gain, 0)

    gains: jax.Array = jax.lax.map(of_features, (normals, offsets))
    return gains
