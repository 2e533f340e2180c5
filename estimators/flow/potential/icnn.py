"""Input-convex networks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.base import squares
from mongebench.estimators.flow.potential.bent import Bent, hyperplanes
from mongebench.estimators.flow.potential.quadratic import Quadratic


class ICNN(Bent):
    """An input-convex network beside a quadratic: phi(x) = q(x) + sum_j a_j z_j(x), a_j >= 0, z the last layer.

    z_1 = softplus(W_1 x + c_1), z_k = softplus(P_k z_{k-1} + W_k x + c_k), P_k >= 0 entry by entry: convex functions,
    because softplus is convex and increasing (Amos, Xu, Kolter 2017, Input convex neural networks).

    Attributes
    ----------
    quadratic, roots
        As in `Bent`.
    normals, offsets
        W_k, (width, d), and c_k, (width,), of each layer.
    passes
        Square roots of the entries of P_k, (width, width), from the second layer on.
    """

    quadratic: Quadratic
    roots: jax.Array
    normals: list[jax.Array]
    offsets: list[jax.Array]
    passes: list[jax.Array]

    @classmethod
    def through(cls, x: jax.Array, units: int, depth: int, rng: np.random.Generator) -> ICNN:
        """Every layer with hyperplanes through points of the sample x (n, d), beside the identity."""
        layers = [hyperplanes(x, units, rng) for _ in range(depth)]
        return cls(
            Quadratic.identity_like(x),
            jnp.ones(units, x.dtype),
            [normals for normals, _ in layers],
            [offsets for _, offsets in layers],
            [jnp.asarray(rng.uniform(0, units**-0.5, (units, units)), x.dtype) for _ in layers[1:]],
        )

    def units(self, x: jax.Array) -> jax.Array:
        """The last layer, (d,) -> (width,)."""
        z = jax.nn.softplus(self.normals[0] @ x + self.offsets[0])
        for root, normals, offsets in zip(self.passes, self.normals[1:], self.offsets[1:], strict=True):
            z = jax.nn.softplus(root**2 @ z + normals @ x + offsets)
        return z

    def map(self, x: jax.Array) -> jax.Array:
        """Grad q(x) + sum_k W_k^T e_k, e_k the derivative of phi by the arguments of layer k, (d,) -> (d,)."""
        levels = self._levels(x)
        return self.quadratic.map(x) + sum(
            slope @ normals for slope, normals in zip(self._slopes(levels), self.normals, strict=True)
        )

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of D^2 q + sum_k G_k^T diag(e_k (1 - s_k)) G_k, (d,) -> (d (d + 1) / 2,).

        G_k (width, d) is the derivative of the arguments of layer k by x, and s_k = softplus' of them: the second
        derivative of softplus is s (1 - s), and e_k has the factor s_k already.
        """
        levels = self._levels(x)
        bends = [slope * (1 - level) for slope, level in zip(self._slopes(levels), levels, strict=True)]
        total = self.quadratic.lower_jacobian(x) + bends[0] @ squares(self.normals[0])
        inner = self.normals[0].T  # G_k^T: for many points P_k stays one matrix, on the side where products are fast
        for root, normals, level, bend in zip(self.passes, self.normals[1:], levels, bends[1:], strict=False):
            inner = (inner * level) @ (root**2).T + normals.T
            total += gram(inner, bend)[np.tril_indices(self.dim)]
        return total

    def _levels(self, x: jax.Array) -> list[jax.Array]:
        """s_k = softplus' of the arguments of each layer, (d,) -> (width,) each."""
        arguments = [self.normals[0] @ x + self.offsets[0]]
        for root, normals, offsets in zip(self.passes, self.normals[1:], self.offsets[1:], strict=True):
            arguments.append(root**2 @ jax.nn.softplus(arguments[-1]) + normals @ x + offsets)
        return [jax.nn.sigmoid(argument) for argument in arguments]

    def _slopes(self, levels: list[jax.Array]) -> list[jax.Array]:
        """e_k, from the last layer to the first, (width,) each."""
        slopes = [self.roots**2 * levels[-1]]
        for root, level in zip(reversed(self.passes), reversed(levels[:-1]), strict=True):
            slopes.insert(0, (slopes[0] @ root**2) * level)
        return slopes


@jax.custom_jvp
def gram(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """R diag(w) R^T, (d, k), (k,) -> (d, d), symmetric, and with a derivative that makes use of it."""
    product: jax.Array = (rows * weights) @ rows.T
    return product


@gram.defjvp
def _gram_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
    (rows, weights), (moved, weighted) = primals, tangents
    half = (moved * weights) @ rows.T
    return gram(rows, weights), half + half.T + gram(rows, weighted)
