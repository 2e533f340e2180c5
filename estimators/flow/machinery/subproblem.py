"""What the schemes minimise at each step: functions of the jets, of those held from the previous map, and of tau."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mongebench.estimators.flow.machinery.divergence import Divergence


@dataclass(frozen=True)
class Subproblem:
    """Phi(T) = D(T) + |T - T_k|^2 / (2 tau), or the same with dD(T_k)[T - T_k] in place of D(T).

    The first is the minimising movement of D from T_k (implicit Euler). The second is explicit Euler: the regression of
    T on T_k + tau v, where with the default divergence dD(T_k)[w] = E[<grad V(T_k), w> - tr(DT_k^{-1} Dw)], and v is
    never formed.

    Attributes
    ----------
    divergence
        D.
    linear
        Whether D enters through its derivative at the previous map alone.
    """

    divergence: Divergence
    linear: bool

    def value(self, jets: jax.Array, held: jax.Array, tau: jax.Array, y: jax.Array) -> jax.Array:
        """Phi on a batch, (n, r), (n, r), (), (m, d) -> ()."""
        return self.part(jets, held, y) + self.distance(jets, held, tau)

    def part(self, jets: jax.Array, held: jax.Array, y: jax.Array) -> jax.Array:
        """Phi without the distance."""
        if not self.linear:
            return self.divergence.value(jets, y)
        slope: jax.Array = jax.jvp(lambda jets: self.divergence.value(jets, y), (held,), (jets - held,))[1]
        return slope

    def distance(self, jets: jax.Array, held: jax.Array, tau: jax.Array) -> jax.Array:
        """E|T - T_k|^2 / (2 tau)."""
        return jnp.mean(self._squared_distance(jets, held)) / (2 * tau)

    def local(self, jet: jax.Array, held: jax.Array, tau: jax.Array) -> jax.Array:
        """(r,), (r,), () -> (): the function of one jet whose Hessian stands for that of Phi."""
        distance = self._squared_distance(jet, held) / (2 * tau)
        return distance if self.linear else self.divergence.local(jet) + distance

    def _squared_distance(self, jets: jax.Array, held: jax.Array) -> jax.Array:
        """|T - T_k|^2 at each point, (..., r) -> (...)."""
        dim = self.divergence.dim
        return jnp.sum((jets[..., :dim] - held[..., :dim]) ** 2, axis=-1)
