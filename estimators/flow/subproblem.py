"""What the schemes minimise at each step: functions of the jet, of the jet at the last map (the anchor), and of tau."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mongebench.estimators.flow.divergence import Divergence, dimension

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(jet (r,), jet of the anchor (r,), tau) -> (): convex in the first argument."""


def proximal(divergence: Divergence) -> Loss:
    """V(T) - log det DT + |T - T_k|^2 / (2 tau): the minimising movement of F from T_k (implicit Euler)."""

    def loss(jet: jax.Array, anchor: jax.Array, tau: jax.Array) -> jax.Array:
        return divergence(jet) + squared_distance(jet, anchor) / (2 * tau)

    return loss


def linearised(divergence: Divergence) -> Loss:
    """|T - T_k|^2 / (2 tau) + <grad V(T_k), T - T_k> - tr(DT_k^{-1} (DT - DT_k)): explicit Euler, in weak form."""

    def loss(jet: jax.Array, anchor: jax.Array, tau: jax.Array) -> jax.Array:
        slope: jax.Array = jax.jvp(divergence, (anchor,), (jet - anchor,))[1]
        return squared_distance(jet, anchor) / (2 * tau) + slope

    return loss


def squared_distance(jet: jax.Array, anchor: jax.Array) -> jax.Array:
    """|T - T_k|^2 at one point."""
    dim = dimension(jet)
    return jnp.sum((jet[:dim] - anchor[:dim]) ** 2)
