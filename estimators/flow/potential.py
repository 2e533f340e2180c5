"""Convex potentials whose gradients are the maps of a flow: convex by construction, close to |x|^2 / 2 at the start.

Parameters are free real numbers, so that any optimiser may move them: a positive definite matrix is L L^T, a
non-negative weight is a square. Squares rather than exponentials or softplus, because these have no gradient left
where the weights must start, near zero. Only those of a `Dictionary` must stay in a cone, which makes F convex in them.
Everything here is for one point x (d,); callers `jax.vmap`.
"""

from __future__ import annotations

import abc
import functools
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.cone import Cone

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

    @property
    def cone(self) -> Cone | None:
        """Where the first of the parameters must stay, the others being constants; None where all are free."""
        return None

    @property
    def free(self) -> int:
        """How many parameters are no constants."""
        return self.cone.size if self.cone else sum(leaf.size for leaf in jax.tree.leaves(self))

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
        inner = self.normals[0].T  # G_k^T: for many points P_k stays one matrix, on the side where products are fast
        for root, normals, level, bend in zip(self.passes, self.normals[1:], levels, bends[1:], strict=False):
            inner = (inner * level) @ (root**2).T + normals.T
            total += gram(inner, bend)[np.tril_indices(self.dim)]
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

    triangle: jax.Array
    shift: jax.Array
    weights: jax.Array
    normals: jax.Array
    offsets: jax.Array

    @classmethod
    def through(cls, quadratic: Quadratic, x: jax.Array, units: int, rng: np.random.Generator) -> Dictionary:
        """The map of `quadratic`; features with the affine functions of points of x (n, d), see `corners`."""
        matrix = quadratic.jacobian(x[0])[np.tril_indices(x.shape[1])]
        key = jax.random.key(rng.integers(1 << 32))
        return cls(matrix, quadratic.shift, jnp.zeros(units, x.dtype), *corners(x, units, key))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return len(self.shift)

    @property
    def cone(self) -> Cone:
        """Of (A, b, a)."""
        return Cone(self.dim, len(self.weights))

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

    def jacobian(self, x: jax.Array) -> jax.Array:
        """A + sum_j a_j / h_j cov_{p_j}(w_j), (d,) -> (d, d)."""
        return symmetric(self.lower_jacobian(x), self.dim)

    def features(self, x: jax.Array) -> jax.Array:
        """Jets of all features at x, (d,) -> (r, units): the derivative of the potential's jet by a."""
        # Sums over k as Python writes them: XLA makes slow loops of reductions over an axis that is not the last.
        shares, pairs = self._shares(x), zip(*self._pairs, strict=True)
        slopes = sum(share * normal for share, normal in zip(shares, self._normals, strict=True))
        curved = sum(shares[first] * shares[second] * bend for first, second, bend in pairs)
        return jnp.concatenate([slopes, curved]) * self._scaled(jnp.ones_like(self.weights))

    def derivative(self, x: jax.Array) -> jax.Array:
        """Of the jet by (A, b, a) at x, the same at all of them, (d,) -> (r, p)."""
        triangle, shift = jnp.eye(self.cone.first, dtype=x.dtype), jnp.eye(self.dim, dtype=x.dtype)
        of_slopes = jnp.einsum("ijt,j->it", triangle[self.cone.position], x)
        affine = jnp.block([[of_slopes, shift], [triangle, jnp.zeros((len(triangle), self.dim), x.dtype)]])
        return jnp.concatenate([affine, self.features(x)], axis=1)

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
    if family == "dictionary":
        return Dictionary.through(quadratic, x, units, rng)
    bent = Ridge.through(x, units, rng) if family == "ridge" else ICNN.through(x, depth, units, rng)
    return bent.beside(quadratic, x, share)


FAMILIES = ("quadratic", "ridge", "icnn", "dictionary")
"""What a flow can move."""
