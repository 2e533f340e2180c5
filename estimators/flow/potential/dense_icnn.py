"""Input-convex networks whose layers see squares of linear forms, too: with smooth units, and with units that kink."""

from __future__ import annotations

import abc
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.bent import Bent, hyperplanes
from mongebench.estimators.flow.potential.icnn import gram
from mongebench.estimators.flow.potential.quadratic import Quadratic

CURVE = 0.5
"""Norm of a row of A_k at the start, in the root mean square."""


class DenseNetwork(Bent):
    """As `ICNN`, with z_k = unit(P_k z_{k-1} + (A_k x)^2 + W_k x + c_k), squares entry by entry.

    A unit is then curved by itself, and not by its bend alone (the networks of Korotin et al. 2021, Wasserstein-2
    generative networks).

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

    @staticmethod
    @abc.abstractmethod
    def unit(argument: jax.Array) -> jax.Array:
        """A convex and increasing function, entry by entry."""

    @staticmethod
    @abc.abstractmethod
    def level(argument: jax.Array) -> jax.Array:
        """Its derivative."""

    @staticmethod
    @abc.abstractmethod
    def relative_bend(level: jax.Array) -> jax.Array:
        """Its second derivative over the first, where that is `level`."""

    @classmethod
    def through(cls, x: jax.Array, units: int, depth: int, rng: np.random.Generator) -> Self:
        """Every layer with hyperplanes through points of the sample x (n, d), beside the identity."""
        dim = x.shape[1]
        layers = [hyperplanes(x, units, rng) for _ in range(depth)]
        return cls(
            Quadratic.identity_like(x),
            jnp.ones(units, x.dtype),
            [jnp.asarray(CURVE * dim**-0.5 * rng.standard_normal((units, dim)), x.dtype) for _ in layers],
            [normals for normals, _ in layers],
            [offsets for _, offsets in layers],
            [jnp.asarray(rng.uniform(0, units**-0.5, (units, units)), x.dtype) for _ in layers[1:]],
        )

    def units(self, x: jax.Array) -> jax.Array:
        """The last layer, (d,) -> (width,)."""
        return self.unit(self._arguments(x)[-1])

    def map(self, x: jax.Array) -> jax.Array:
        """Grad q(x) + sum_k D_k^T e_k, D_k = W_k + 2 diag(A_k x) A_k and e_k as in `ICNN`, (d,) -> (d,)."""
        total = self.quadratic.map(x)
        for slope, curve, normals in zip(self._slopes(self._levels(x)), self.curves, self.normals, strict=True):
            total += slope @ normals + 2 * (slope * (x @ curve.T)) @ curve
        return total

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of D^2 q + sum_k G_k^T diag(e_k r_k) G_k + 2 A_k^T diag(e_k) A_k, (d,) -> (d (d + 1) / 2,).

        G_k and s_k as in `ICNN`, r_k = `relative_bend` of s_k; the last term is the curvature of the squares.
        """
        levels = self._levels(x)
        total = jnp.zeros((self.dim, self.dim), x.dtype)
        inner = jnp.zeros((self.dim, 0), x.dtype)
        for k, (slope, level) in enumerate(zip(self._slopes(levels), levels, strict=True)):
            direct = (self.normals[k] + 2 * (self.curves[k] @ x)[:, None] * self.curves[k]).T
            inner = direct if k == 0 else (inner * levels[k - 1]) @ (self.passes[k - 1] ** 2).T + direct
            total += gram(inner, slope * self.relative_bend(level)) + 2 * gram(self.curves[k].T, slope)
        return self.quadratic.lower_jacobian(x) + total[np.tril_indices(self.dim)]

    def _arguments(self, x: jax.Array) -> list[jax.Array]:
        """Of the units in each layer, (d,) -> (width,) each.

        The point stands on the left of every product: of many points it is then one product of two matrices without a
        transpose, which is two to three times as fast on a CPU.
        """
        forms = [
            (x @ curve.T) ** 2 + x @ normals.T + offsets
            for curve, normals, offsets in zip(self.curves, self.normals, self.offsets, strict=True)
        ]
        arguments = [forms[0]]
        for root, form in zip(self.passes, forms[1:], strict=True):
            arguments.append(self.unit(arguments[-1]) @ (root**2).T + form)
        return arguments

    def _levels(self, x: jax.Array) -> list[jax.Array]:
        """s_k = unit' of the arguments of each layer, (d,) -> (width,) each."""
        return [self.level(argument) for argument in self._arguments(x)]

    def _slopes(self, levels: list[jax.Array]) -> list[jax.Array]:
        """e_k, from the last layer to the first, (width,) each."""
        slopes = [self.roots**2 * levels[-1]]
        for root, level in zip(reversed(self.passes), reversed(levels[:-1]), strict=True):
            slopes.insert(0, (slopes[0] @ root**2) * level)
        return slopes


class DenseICNN(DenseNetwork):
    """Of softplus: smooth."""

    @staticmethod
    def unit(argument: jax.Array) -> jax.Array:
        """Softplus."""
        return jax.nn.softplus(argument)

    @staticmethod
    def level(argument: jax.Array) -> jax.Array:
        """Its derivative, the sigmoid s."""
        return jax.nn.sigmoid(argument)

    @staticmethod
    def relative_bend(level: jax.Array) -> jax.Array:
        """1 - s, as softplus'' = s (1 - s)."""
        return 1 - level


class KinkedICNN(DenseNetwork):
    """Of celu, e^t - 1 for t < 0 and t beyond: D^2 phi jumps, as that of the networks of Korotin et al. does.

    Not for flows: log det D^2 phi, and with it their objective, has derivatives by theta that live on the jumps alone,
    and that points drawn at random never see. The semi-dual asks for grad phi only, which is Lipschitz.
    """

    @staticmethod
    def unit(argument: jax.Array) -> jax.Array:
        """Celu."""
        return jax.nn.celu(argument)

    @staticmethod
    def level(argument: jax.Array) -> jax.Array:
        """Its derivative, e^min(t, 0)."""
        return jnp.exp(jnp.minimum(argument, 0))

    @staticmethod
    def relative_bend(level: jax.Array) -> jax.Array:
        """1 below zero, 0 above."""
        return (level < 1).astype(level.dtype)
