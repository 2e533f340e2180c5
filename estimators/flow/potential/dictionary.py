"""Weighted sums of given features: a convex cone of maps."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery.cone import Cone
from mongebench.estimators.flow.potential.base import Potential
from mongebench.estimators.flow.potential.bent import SPREAD
from mongebench.estimators.flow.potential.quadratic import Quadratic


class Dictionary(Potential):
    """phi(x) = <x, A x> / 2 + <b, x> + sum_j a_j s_j(x), A >= 0 and a_j >= 0, with given convex features s_j.

    T and DT are linear in (A, b, a), which fill a closed convex cone: a cone of maps inside K, on which F is convex,
    so that every step is a convex program with one solution T, and all that holds of the flow in K holds in this cone.
    The features are smooth maxima of affine functions, s_j(x) = log sum_k exp(<w_jk, x> + c_jk) / h_j, h_j the root of
    the mean of |w_jk - w_jl|^2 over k and l. Of two functions that is, up to an affine one, a bend as in `Ridge`, all
    along a hyperplane; of more a corner, where several regions meet.

    Attributes
    ----------
    triangle
        (d (d + 1) / 2,), the lower triangle of A row by row.
    shift
        b, (d,).
    weights
        a, (units,).
    normals, offsets
        w, (units, k, d), and c, (units, k): constants, which no derivative reaches.
    """

    conic: ClassVar[bool] = True
    triangle: jax.Array
    shift: jax.Array
    weights: jax.Array
    normals: jax.Array
    offsets: jax.Array

    @classmethod
    def through(cls, quadratic: Quadratic, x: jax.Array, units: int, rng: np.random.Generator) -> Dictionary:
        """The map of `quadratic`; features with the affine functions of points of x (n, d), see `corners`."""
        matrix = quadratic.matrix[np.tril_indices(x.shape[1])]
        key = jax.random.key(rng.integers(1 << 32))
        return cls(matrix, quadratic.shift, jnp.zeros(units, x.dtype), *corners(x, units, key))

    @classmethod
    def start(
        cls,
        quadratic: Quadratic,
        x: jax.Array,
        *,
        units: int,
        depth: int,
        share: float,
        rng: np.random.Generator,
    ) -> Dictionary:
        """The map of `quadratic`, with all features idle."""
        del depth, share
        return cls.through(quadratic, x, units, rng)

    @property
    def dim(self) -> int:
        """Dimension d."""
        return len(self.shift)

    @property
    def cone(self) -> Cone:
        """Of (A, b, a)."""
        return Cone(self.dim, len(self.weights))

    @property
    def free(self) -> int:
        """Of (A, b, a)."""
        return self.cone.size

    @property
    def matrix(self) -> jax.Array:
        """A, (d, d)."""
        return self.triangle[self.cone.position]

    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""
        features = jax.nn.logsumexp(self._affine(x), axis=0) @ self._scaled(self.weights)
        return x @ self.matrix @ x / 2 + self.shift @ x + features

    def map(self, x: jax.Array) -> jax.Array:
        """A x + b + sum_j a_j / h_j sum_k p_jk w_jk, p_j the softmax of the affine functions, (d,) -> (d,)."""
        slopes = jnp.einsum("ku,kdu->d", self._shares(x), self._normals * self._scaled(self.weights))
        return self.matrix @ x + self.shift + slopes

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of A + sum_j a_j / h_j cov_{p_j}(w_j), (d,) -> (d (d + 1) / 2,).

        The covariance is sum_{k < l} p_jk p_jl (w_jk - w_jl) (w_jk - w_jl)^T: for many points a product of two
        matrices, and a sum of positive terms.
        """
        shares, (first, second, bends) = self._shares(x), self._pairs
        both = shares[first] * shares[second]
        return self.triangle + jnp.einsum("ku,kru->r", both, bends * self._scaled(self.weights))

    def features(self, x: jax.Array) -> jax.Array:
        """Jets of all features at x, (d,) -> (r, units): the derivative of the potential's jet by a."""
        # Sums over k as Python writes them: XLA makes slow loops of reductions over an axis that is not the last.
        shares, pairs = self._shares(x), zip(*self._pairs, strict=True)
        slopes = sum(share * normal for share, normal in zip(shares, self._normals, strict=True))
        curved = sum(shares[first] * shares[second] * bend for first, second, bend in pairs)
        return jnp.concatenate([slopes, curved]) * self._scaled(jnp.ones_like(self.weights))

    def jet_derivative(self, x: jax.Array, order: int) -> jax.Array:
        """Of the jet by (A, b, a) at x, the same at all of them, (d,) -> (r, p)."""
        triangle, shift = jnp.eye(self.cone.first, dtype=x.dtype), jnp.eye(self.dim, dtype=x.dtype)
        of_slopes = jnp.einsum("ijt,j->it", triangle[self.cone.position], x)
        affine = jnp.block([[of_slopes, shift], [triangle, jnp.zeros((len(triangle), self.dim), x.dtype)]])
        derivative = jnp.concatenate([affine, self.features(x)], axis=1)
        return derivative if order else derivative[: self.dim]

    def nearest(self) -> Dictionary:
        """The one of the nearest (A, b, a) in the cone."""
        cone = self.cone
        projected = cone.project(self._in_cone())
        triangle, shift, weights = jnp.split(projected, [cone.first, cone.first + cone.dim])
        return dataclasses.replace(self, triangle=triangle, shift=shift, weights=weights)

    def damped_step(self, gradient: jax.Array, matrix: jax.Array, scales: jax.Array, damping: jax.Array) -> jax.Array:
        """By a convex program over the cone."""
        return self.cone.minimise(self._in_cone(), gradient, matrix + damping * jnp.diag(scales**-2))

    def _in_cone(self) -> jax.Array:
        """(A, b, a), (p,)."""
        return ravel_pytree(self)[0][: self.free]

    def _scaled(self, weights: jax.Array) -> jax.Array:
        """a / h, (units,)."""
        spread = jnp.sum(jnp.var(jax.lax.stop_gradient(self.normals), axis=1), axis=1)
        return weights / jnp.sqrt(2 * spread)

    @property
    def _normals(self) -> jax.Array:
        """w, (k, d, units): units last, for fast loops over them."""
        return jnp.transpose(jax.lax.stop_gradient(self.normals), (1, 2, 0))

    @property
    def _pairs(self) -> tuple[Any, Any, jax.Array]:
        """All pairs k < l, (pairs,) each, and the lower triangles of (w_k - w_l) (w_k - w_l)^T, (pairs, r, units)."""
        first, second = np.triu_indices(self.normals.shape[1], 1)
        differences = self._normals[first] - self._normals[second]
        rows, columns = np.tril_indices(self.dim)
        return first, second, differences[:, rows] * differences[:, columns]

    def _affine(self, x: jax.Array) -> jax.Array:
        """The affine functions at x, (k, units)."""
        return jnp.sum(self._normals * x[:, None], axis=1) + jax.lax.stop_gradient(self.offsets).T

    def _shares(self, x: jax.Array) -> jax.Array:
        """p, the softmax of the affine functions of each feature, (k, units)."""
        return jax.nn.softmax(self._affine(x), axis=0)


CORNER_NORM = 8.0
"""As `NORM`, for the typical difference between two affine functions of a feature."""
PIECES = 4
"""Affine functions in one feature of a dictionary, some of them equal."""
JITTER = 0.1
"""By how much centres of features are moved, relative to the spread of the sample."""


@functools.partial(jax.jit, static_argnums=1)
def corners(x: jax.Array, units: int, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normals (units, k, d) and offsets (units, k) of affine functions whose maxima have creases between points of x.

    A feature has the power diagram of 2 to k centres, max_k <x, x_k> - |x_k|^2 / 2 + an offset (without offsets that is
    Voronoi's), each in its own cell: points drawn from x (n, d), moved a little, for points of x may coincide. A
    factor, log-uniform, gives it the width over which it bends.
    """
    # All draws in single precision: a fit has the same features in both.
    single = jnp.float32
    of_points, of_moves, of_numbers, of_shifts, of_widths = jax.random.split(key, 5)
    drawn = x[jax.random.randint(of_points, (units, PIECES), 0, len(x), jnp.int32)]
    spread = jnp.std(x)
    drawn += JITTER * jnp.where(spread > 0, spread, 1) * jax.random.normal(of_moves, drawn.shape, single)
    repeated = jnp.arange(PIECES) % jax.random.randint(of_numbers, (units, 1), 2, PIECES + 1, jnp.int32)
    centres = jnp.take_along_axis(drawn, repeated[..., None], axis=1)
    shifts = jnp.take_along_axis(jax.random.uniform(of_shifts, (units, PIECES), single, -1, 1), repeated, axis=1)
    squares = jnp.sum((centres[:, :, None] - centres[:, None]) ** 2, axis=3)
    nearest = jnp.min(jnp.where(squares > 0, squares, jnp.inf), axis=(1, 2))[:, None]
    offsets = shifts * nearest / 4 - jnp.sum(centres**2, axis=2) / 2
    norms = CORNER_NORM * SPREAD ** jax.random.uniform(of_widths, (units, 1), single, -1, 1)
    sharpness = norms / jnp.sqrt(jnp.mean(squares, axis=(1, 2)))[:, None]
    normals = centres - jnp.mean(centres, axis=1, keepdims=True)  # less an affine function, which b has
    return jnp.asarray(sharpness[..., None] * normals, x.dtype), jnp.asarray(sharpness * offsets, x.dtype)
