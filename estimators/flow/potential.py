"""Convex potentials whose gradients are the maps of a flow: convex by construction, close to |x|^2 / 2 at the start.

All parameters are free real numbers, so that any optimiser may move them: a positive definite matrix is L L^T, a
non-negative weight is a square. Squares rather than exponentials or softplus, because these have no gradient left
where the weights must start, near zero. Everything here is for one point x (d,); callers `jax.vmap`.
"""

from __future__ import annotations

import abc
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

NORM = 4.0
"""Middle of the norms that hyperplanes start with: 1 / NORM is the width over which a unit bends the map."""
SPREAD = 4.0
"""Norms start log-uniform in [NORM / SPREAD, NORM * SPREAD]: bends of all widths."""


class Potential(eqx.Module):
    """A convex function phi of one point; its leaves are the parameters theta."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Dimension d."""

    @abc.abstractmethod
    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""

    def map(self, x: jax.Array) -> jax.Array:
        """T(x) = grad phi(x), (d,) -> (d,)."""
        gradient: jax.Array = jax.grad(self.value)(x)
        return gradient

    def jacobian(self, x: jax.Array) -> jax.Array:
        """DT(x) = D^2 phi(x), (d,) -> (d, d), symmetric and positive semi-definite."""
        hessian: jax.Array = jax.hessian(self.value)(x)
        return hessian

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of DT(x) row by row, (d,) -> (d (d + 1) / 2,): all that a symmetric matrix has."""
        return self.jacobian(x)[np.tril_indices(self.dim)]


class Quadratic(Potential):
    """phi(x) = |L^T x|^2 / 2 + <b, x>: the affine maps, exact between Gaussians.

    Attributes
    ----------
    lower
        (d (d + 1) / 2,), L row by row. Lower triangular: a full L has rotations that change nothing.
    shift
        b, (d,).
    """

    lower: jax.Array
    shift: jax.Array

    @classmethod
    def identity_like(cls, x: jax.Array) -> Quadratic:
        """The one with T(x) = x, for points of the dimension and type of x (n, d)."""
        dim = x.shape[1]
        return cls(jnp.asarray(np.eye(dim)[np.tril_indices(dim)], x.dtype), jnp.zeros(dim, x.dtype))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return len(self.shift)

    @property
    def factor(self) -> jax.Array:
        """L, (d, d)."""
        zeros = jnp.zeros((self.dim, self.dim), self.lower.dtype)
        return zeros.at[np.tril_indices(self.dim)].set(self.lower)

    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""
        return jnp.sum((x @ self.factor) ** 2) / 2 + self.shift @ x

    def map(self, x: jax.Array) -> jax.Array:
        """L L^T x + b, (d,) -> (d,)."""
        factor = self.factor
        return factor @ (x @ factor) + self.shift

    def jacobian(self, x: jax.Array) -> jax.Array:
        """L L^T, the same for all x, (d,) -> (d, d)."""
        del x
        factor = self.factor
        return factor @ factor.T


class Bent(Potential):
    """phi(x) = q(x) + sum_j a_j z_j(x), a_j >= 0: a quadratic q and convex units z_j that bend it.

    Attributes
    ----------
    quadratic
        q.
    roots
        Square roots of the weights a, (units,).
    """

    quadratic: eqx.AbstractVar[Quadratic]
    roots: eqx.AbstractVar[jax.Array]

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.quadratic.dim

    @abc.abstractmethod
    def units(self, x: jax.Array) -> jax.Array:
        """z(x), (d,) -> (units,)."""

    def bend(self, x: jax.Array) -> jax.Array:
        """sum_j a_j z_j(x), (d,) -> ()."""
        return self.roots**2 @ self.units(x)

    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""
        return self.quadratic.value(x) + self.bend(x)

    def beside(self, quadratic: Quadratic, x: jax.Array, share: float) -> Self:
        """The same units next to `quadratic`, with their weights scaled so as to take over a share of its curvature.

        They take at most `share` of it in any direction, on the average over x (n, d); the new quadratic part is
        `quadratic` less that, so that the map stays where it was on the average.
        """
        mean_slope = jnp.mean(jax.vmap(jax.grad(self.bend))(x), axis=0)
        mean_curvature = jnp.mean(jax.vmap(jax.hessian(self.bend))(x), axis=0)
        matrix = quadratic.jacobian(x[0])
        inverse = jnp.linalg.inv(jnp.linalg.cholesky(matrix))
        scale = share / jnp.linalg.eigvalsh(inverse @ mean_curvature @ inverse.T)[-1]
        lower = jnp.linalg.cholesky(matrix - scale * mean_curvature)[np.tril_indices(len(matrix))]
        shift = quadratic.shift + scale * (mean_curvature @ jnp.mean(x, axis=0) - mean_slope)
        moved: Self = eqx.tree_at(
            lambda bent: (bent.quadratic, bent.roots),
            self,
            (Quadratic(lower, shift), self.roots * jnp.sqrt(scale)),
        )
        return moved


class Ridge(Bent):
    """phi(x) = q(x) + sum_j a_j softplus(<w_j, x> + c_j), a_j >= 0: a sum of smooth bends in one direction each.

    Attributes
    ----------
    quadratic, roots
        As in `Bent`.
    normals, offsets
        w, (units, d), and c, (units,).
    """

    quadratic: Quadratic
    roots: jax.Array
    normals: jax.Array
    offsets: jax.Array

    @classmethod
    def through(cls, x: jax.Array, units: int, rng: np.random.Generator) -> Ridge:
        """Hyperplanes through points of the sample x (n, d), beside the identity; steps of equal height in the map."""
        normals, offsets = hyperplanes(x, units, rng)
        return cls(Quadratic.identity_like(x), 1 / jnp.linalg.norm(normals, axis=1), normals, offsets)

    def units(self, x: jax.Array) -> jax.Array:
        """softplus(<w_j, x> + c_j), (d,) -> (units,)."""
        return jax.nn.softplus(self.normals @ x + self.offsets)

    def map(self, x: jax.Array) -> jax.Array:
        """Grad q(x) + sum_j a_j sigmoid(<w_j, x> + c_j) w_j, (d,) -> (d,)."""
        heights = self.roots**2 * jax.nn.sigmoid(self.normals @ x + self.offsets)
        return self.quadratic.map(x) + heights @ self.normals

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of D^2 q + sum_j a_j sigmoid'(<w_j, x> + c_j) w_j w_j^T, (d,) -> (d (d + 1) / 2,)."""
        level = jax.nn.sigmoid(self.normals @ x + self.offsets)
        bends = self.roots**2 * level * (1 - level)
        return self.quadratic.lower_jacobian(x) + bends @ squares(self.normals)

    def jacobian(self, x: jax.Array) -> jax.Array:
        """D^2 phi, (d,) -> (d, d)."""
        return symmetric(self.lower_jacobian(x), self.dim)


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
    def through(cls, x: jax.Array, depth: int, width: int, rng: np.random.Generator) -> ICNN:
        """Every layer with hyperplanes through points of the sample x (n, d), beside the identity."""
        layers = [hyperplanes(x, width, rng) for _ in range(depth)]
        return cls(
            Quadratic.identity_like(x),
            jnp.ones(width, x.dtype),
            [normals for normals, _ in layers],
            [offsets for _, offsets in layers],
            [jnp.asarray(rng.uniform(0, width**-0.5, (width, width)), x.dtype) for _ in layers[1:]],
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
        inner = self.normals[0]
        for root, normals, level, bend in zip(self.passes, self.normals[1:], levels, bends[1:], strict=False):
            inner = root**2 @ (level[:, None] * inner) + normals  # (W_k)^2 stays one matrix for all points
            total += ((inner.T * bend) @ inner)[np.tril_indices(self.dim)]
        return total

    def jacobian(self, x: jax.Array) -> jax.Array:
        """D^2 phi, (d,) -> (d, d)."""
        return symmetric(self.lower_jacobian(x), self.dim)

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


def squares(normals: jax.Array) -> jax.Array:
    """Lower triangles of w_j w_j^T, (units, d) -> (units, d (d + 1) / 2).

    A weighted sum of them at many points is one product of two matrices, half the size of sums of full squares.
    """
    rows, columns = np.tril_indices(normals.shape[1])
    return normals[:, rows] * normals[:, columns]


def symmetric(lower: jax.Array, dim: int) -> jax.Array:
    """The matrix of a lower triangle, (d (d + 1) / 2,) -> (d, d)."""
    rows, columns = np.tril_indices(dim)
    position = np.zeros((dim, dim), int)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return lower[position]


def hyperplanes(x: jax.Array, units: int, rng: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    """Normals (units, d), of uniform directions, and offsets (units,) of hyperplanes through points of x (n, d)."""
    normals = rng.standard_normal((units, x.shape[1]))
    norms = NORM * SPREAD ** rng.uniform(-1, 1, (units, 1))
    normals *= norms / np.linalg.norm(normals, axis=1, keepdims=True)
    through = np.asarray(x)[rng.integers(len(x), size=units)]
    return jnp.asarray(normals, x.dtype), jnp.asarray(-(normals * through).sum(axis=1), x.dtype)


def build(
    family: str, quadratic: Quadratic, x: jax.Array, *, units: int, depth: int, share: float, rng: np.random.Generator
) -> Potential:
    """A potential of the named family next to `quadratic`; see `Bent.beside` for x and `share`."""
    if family == "quadratic":
        return quadratic
    bent = Ridge.through(x, units, rng) if family == "ridge" else ICNN.through(x, depth, units, rng)
    return bent.beside(quadratic, x, share)


FAMILIES = ("quadratic", "ridge", "icnn")
"""What a flow can move."""
