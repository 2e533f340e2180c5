"""Input-convex networks whose layers see squares of linear forms, too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.bent import Bent, hyperplanes
from mongebench.estimators.flow.potential.icnn import gram
from mongebench.estimators.flow.potential.quadratic import Quadratic


class DenseICNN(Bent):
    """As `ICNN`, with z_k = softplus(P_k z_{k-1} + (A_k x)^2 + W_k x + c_k), squares entry by entry.

    A unit is then curved by itself, and not by its bend alone: the networks of Korotin et al. 2021.

    Attributes
    ----------
    quadratic, roots
        As in `Bent`.
    curves
        A_k, (width, d), of each layer.
    normals, offsets, passes
        As in `ICNN`.
    """

    quadratic: Quadratic
    roots: jax.Array
    curves: list[jax.Array]
    normals: list[jax.Array]
    offsets: list[jax.Array]
    passes: list[jax.Array]

    @classmethod
    def through(cls, x: jax.Array, units: int, depth: int, rng: np.random.Generator) -> DenseICNN:
        """Every layer with hyperplanes through points of the sample x (n, d), beside the identity."""
        layers = [hyperplanes(x, units, rng) for _ in range(depth)]
        curves = [rng.standard_normal((units, x.shape[1])) * CURVE * x.shape[1] ** -0.5 for _ in range(depth)]
        return cls(
            Quadratic.identity_like(x),
            jnp.ones(units, x.dtype),
            [jnp.asarray(curve, x.dtype) for curve in curves],
            [normals * NORMAL for normals, _ in layers],
            [offsets * NORMAL for _, offsets in layers],
            [jnp.asarray(rng.uniform(0, units**-0.5, (units, units)), x.dtype) for _ in layers[1:]],
        )

    def units(self, x: jax.Array) -> jax.Array:
        """The last layer, (d,) -> (width,)."""
        z = jax.nn.softplus(self._form(0, x))
        for k, root in enumerate(self.passes, start=1):
            z = jax.nn.softplus(root**2 @ z + self._form(k, x))
        return z

    def map(self, x: jax.Array) -> jax.Array:
        """Grad q(x) + sum_k G_k^T e_k, (d,) -> (d,)."""
        levels = self._levels(x)
        slopes = self._slopes(levels)
        total = self.quadratic.map(x)
        for k, slope in enumerate(slopes):
            total += slope @ self.normals[k] + 2 * (slope * (self.curves[k] @ x)) @ self.curves[k]
        return total

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        levels = self._levels(x)
        slopes = self._slopes(levels)
        total = jnp.zeros((self.dim, self.dim), x.dtype)
        inner = None
        for k, (slope, level) in enumerate(zip(slopes, levels, strict=True)):
            direct = (self.normals[k] + 2 * (self.curves[k] @ x)[:, None] * self.curves[k]).T
            inner = direct if inner is None else (inner * levels[k - 1]) @ (self.passes[k - 1] ** 2).T + direct
            total += gram(inner, slope * (1 - level)) + 2 * (self.curves[k].T * slope) @ self.curves[k]
        return self.quadratic.lower_jacobian(x) + total[np.tril_indices(self.dim)]

    def _form(self, k, x):
        return (self.curves[k] @ x) ** 2 + self.normals[k] @ x + self.offsets[k]

    def _levels(self, x: jax.Array) -> list[jax.Array]:
        z = self._form(0, x)
        levels = [jax.nn.sigmoid(z)]
        for k, root in enumerate(self.passes, start=1):
            z = root**2 @ jax.nn.softplus(z) + self._form(k, x)
            levels.append(jax.nn.sigmoid(z))
        return levels

    def _slopes(self, levels: list[jax.Array]) -> list[jax.Array]:
        slopes = [self.roots**2 * levels[-1]]
        for root, level in zip(reversed(self.passes), reversed(levels[:-1]), strict=True):
            slopes.insert(0, (slopes[0] @ root**2) * level)
        return slopes


CURVE = 0.5
NORMAL = 1.0
