"""Divergences that are known through samples: of the moving law alone (V known), or of both laws (V unknown).

All are functions of the pushed batch Y = T(X), n points, and of a batch Z of the target, m points, both with equal
weights and the cost c(x, y) = |x - y|^2 / 2. Entropic transport enters through its dual value

    OT_eps(Y, Z) = max over f, g of  mean f + mean g - eps mean exp((f_i + g_j - c_ij) / eps) + eps,

whose derivative in the points is that of c at fixed optimal f and g (envelope theorem). The self-transport of Y has
f = g, and -(2 / eps) grad f estimates the score of the law of Y (the published choice, eps = 0.05 times the median
squared distance). So -OT_eps(Y, Y) / eps has the estimated score as its force: it stands for the negative entropy.

The iterations are our own. `ott.tools.sinkhorn_divergence` agrees with them to the tolerance, and can be differentiated
twice and vectorised as steps here need it; but it gains nothing on these batches, takes longer to compile, and a second
package to import (value and gradient of the Sinkhorn divergence of 256 points in the plane: 48 CPU ms where ours take
64, compiled in 2.8 s where ours take 2.2; of 512 points in d = 8: 104 where ours take 64, 3.2 s where ours take 1.8).

References: Dumont, Lacombe and Vialard 2026 (arXiv 2603.25182); Feydy et al. 2019, Interpolating between optimal
transport and MMD using Sinkhorn divergences; Mordant 2024, The entropic optimal (self-)transport problem (arXiv
2412.12007); Szekely and Rizzo 2013, Energy statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from mongebench.core.oracle import Oracle, TargetView
from mongebench.estimators.flow.machinery.divergence import (
    KNOWN_TARGET,
    SAMPLED_TARGET,
    Divergence,
    known_potential,
    log_det,
    probed,
    unpack,
)

TOLERANCE = 1e-3
"""Relative error of the marginals at which Sinkhorn's iteration stops: far below the noise of a batch."""
MOST_ITERATIONS = 2000
"""Of Sinkhorn's iteration."""
BISECTIONS = 24
"""Of the search for a median: its error is a 10^-7 of the largest value."""


class Sampled(Divergence):
    """A divergence of the images alone: its derivative needs no DT."""

    pointwise: ClassVar[bool] = False
    order: ClassVar[int] = 0

    def value(self, jets: jax.Array, y: jax.Array) -> jax.Array:
        """The energy of the images."""
        return self.energy(jets[:, : self.dim], y)


class KLScore(Sampled):
    """E[V(T)] - OT_eps(Y, Y) / eps: KL with the score of the moving law estimated from the batch, as published.

    Needs V and samples of mu0. From few points the estimated score is too flat, and the flow ends too narrow.

    Parameters
    ----------
    potential
        V, (n, d) -> (n,).
    epsilon
        Relative to the median squared distance between images.
    dim
        Dimension d.
    """

    needs: ClassVar[frozenset[Oracle]] = KNOWN_TARGET

    def __init__(self, potential: Callable[[Any], Any], epsilon: float, dim: int) -> None:
        super().__init__(dim)
        self.potential = potential
        self.epsilon = epsilon

    @classmethod
    def to(cls, target: TargetView, dim: int, *, epsilon: float, batch_size: int, dtype: str) -> KLScore:
        """By the target's V."""
        del batch_size
        return cls(known_potential(target, dim, dtype), epsilon, dim)

    @property
    def local_order(self) -> int:
        """That of `entropy`."""
        return entropy_order(self.dim)

    def energy(self, images: jax.Array, y: jax.Array) -> jax.Array:
        """All of D."""
        del y
        return jnp.mean(self.potential(images)) + negative_entropy(images, self.epsilon * scale_of(images))

    def local(self, jet: jax.Array) -> jax.Array:
        """As of KL."""
        energy: jax.Array = self.potential(jet[None, : self.dim])[0]
        return energy + entropy(jet, self.dim)


class TwoSamples(Sampled):
    """A divergence that is known through samples of both laws.

    Parameters
    ----------
    target
        Points of the target, (m, d), that tell its scale.
    epsilon
        Relative to the median squared distance between points of the target.
    """

    needs: ClassVar[frozenset[Oracle]] = SAMPLED_TARGET

    def __init__(self, target: jax.Array, epsilon: float) -> None:
        super().__init__(target.shape[1])
        self.spread = _spread(target)
        self.epsilon = epsilon

    @classmethod
    def to(cls, target: TargetView, dim: int, *, epsilon: float, batch_size: int, dtype: str) -> Self:
        """By a batch of the target."""
        del dim
        return cls(jnp.asarray(target.batch(batch_size), dtype), epsilon)


class KLTwoScores(TwoSamples):
    """(2 / eps) E[f_Z(Y) - f_Y(Y)]: KL with both scores estimated, f_Z and f_Y the two self-transport potentials.

    One eps, of the target's scale, serves both, so that their blurs cancel at T*. From few points the flow ends too
    narrow (300 points in the plane: 76 % of the variance at epsilon 0.05, 91 % at 0.2, where `SinkhornDivergence` keeps
    98 %). Parameters: see `TwoSamples`.
    """

    @property
    def local_order(self) -> int:
        """That of `entropy`."""
        return entropy_order(self.dim)

    def energy(self, images: jax.Array, y: jax.Array) -> jax.Array:
        """All of D."""
        eps = self.epsilon * scale_of(y)
        f = self_potential(half_squared_distances(y, y), eps)
        attraction = 2 / eps * jnp.mean(soft_minimum(f, half_squared_distances(images, y), eps))
        return attraction + negative_entropy(images, eps)

    def local(self, jet: jax.Array) -> jax.Array:
        """As of KL to a Gaussian of the target's scale."""
        return jnp.sum(jet[: self.dim] ** 2) / (2 * self.spread) + entropy(jet, self.dim)


class SinkhornDivergence(TwoSamples):
    """OT_eps(Y, Z) - OT_eps(Y, Y) / 2 - OT_eps(Z, Z) / 2. Parameters: see `TwoSamples`."""

    @property
    def local_order(self) -> int:
        """Images alone."""
        return 0

    def energy(self, images: jax.Array, y: jax.Array) -> jax.Array:
        """All of D."""
        eps = self.epsilon * scale_of(y)
        within = transport_to_itself(images, eps) + transport_to_itself(y, eps)
        return transport(images, y, eps) - within / 2

    def local(self, jet: jax.Array) -> jax.Array:
        """Near the target D is about half the squared distance of transport, whose curvature is 1."""
        return jnp.sum(jet[: self.dim] ** 2) / 2


class EnergyDistance(TwoSamples):
    """2 E|Y - Z| - E|Y - Y'| - E|Z - Z'|, distinct points only. Of `TwoSamples`, `epsilon` does nothing."""

    @property
    def local_order(self) -> int:
        """Images alone."""
        return 0

    def energy(self, images: jax.Array, y: jax.Array) -> jax.Array:
        """All of D."""
        return 2 * jnp.mean(_distances(images, y)) - _mean_between(images) - _mean_between(y)

    def local(self, jet: jax.Array) -> jax.Array:
        """|y - z| bends like |y|^2 / (2 |y - z|) across its direction."""
        return jnp.sum(jet[: self.dim] ** 2) / jnp.sqrt(self.dim * self.spread)


def entropy_order(dim: int) -> int:
    """Of the jets that `entropy` needs: none where they would be too long."""
    return int(not probed(dim, 1))


def entropy(jet: jax.Array, dim: int) -> jax.Array:
    """-log det DT: the curvature of the negative entropy is known, however its slope is estimated."""
    return -log_det(unpack(jet)[1]) if entropy_order(dim) else jnp.zeros((), jet.dtype)


def half_squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x_i - y_j|^2 / 2, (n, d), (m, d) -> (n, m); not negative."""
    middle = jax.lax.stop_gradient(jnp.mean(y, axis=0))  # far from the origin the squares would cancel
    x, y = x - middle, y - middle
    products = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1) - 2 * x @ y.T
    return jnp.maximum(products, 0) / 2


def scale_of(x: jax.Array) -> jax.Array:
    """Median squared distance between the points x (n, d), as a constant."""
    squares = 2 * half_squared_distances(jax.lax.stop_gradient(x), jax.lax.stop_gradient(x))

    # Bisection: a sort of all n^2 distances would cost more than the transport does.
    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.mean(squares <= middle) >= 0.5
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    _, high = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros((), x.dtype), jnp.max(squares)))
    return jnp.asarray(high)


def soft_minimum(f: jax.Array, cost: jax.Array, eps: jax.Array) -> jax.Array:
    """-eps log mean_j exp((f_j - cost_ij) / eps), (m,), (n, m) -> (n,)."""
    return -eps * (jax.nn.logsumexp((f - cost) / eps, axis=1) - jnp.log(len(f)))


def self_potential(cost: jax.Array, eps: jax.Array) -> jax.Array:
    """f of a batch's transport to itself, (n, n) -> (n,), as a constant.

    The fixed point of the soft minimum, by its average with the identity: a handful of iterations (Feydy 2019).
    """
    cost, eps = jax.lax.stop_gradient((cost, eps))

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, change, iteration = state
        return (change > TOLERANCE) & (iteration < MOST_ITERATIONS)

    def improve(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        f, _, iteration = state
        new = soft_minimum(f, cost, eps)
        return (f + new) / 2, jnp.max(jnp.abs(new - f)) / eps, iteration + 1

    zeros = jnp.zeros(len(cost), cost.dtype)
    f, _, _ = jax.lax.while_loop(unfinished, improve, (zeros, jnp.asarray(jnp.inf, cost.dtype), jnp.asarray(0)))
    return f


def transport_to_itself(x: jax.Array, eps: jax.Array) -> jax.Array:
    """OT_eps(X, X), differentiable in the points x (n, d)."""
    cost = half_squared_distances(x, x)
    f = self_potential(cost, eps)
    return _dual_value(f, f, cost, eps)


def negative_entropy(x: jax.Array, eps: jax.Array) -> jax.Array:
    """-OT_eps(X, X) / eps: its force on x_i is the estimated score -(2 / eps) (x_i - sum_j pi_ij x_j)."""
    return -transport_to_itself(x, eps) / eps


def transport(x: jax.Array, y: jax.Array, eps: jax.Array) -> jax.Array:
    """OT_eps(X, Y), differentiable in the points x (n, d) and y (m, d)."""
    cost = half_squared_distances(x, y)
    fixed = jax.lax.stop_gradient(cost)

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, change, iteration = state
        return (change > TOLERANCE) & (iteration < MOST_ITERATIONS)

    def improve(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        f, _, iteration = state
        g = soft_minimum(f, fixed.T, eps)
        new = soft_minimum(g, fixed, eps)
        return new, jnp.max(jnp.abs(new - f)) / eps, iteration + 1

    zeros = jnp.zeros(len(x), x.dtype)
    f, _, _ = jax.lax.while_loop(unfinished, improve, (zeros, jnp.asarray(jnp.inf, x.dtype), jnp.asarray(0)))
    return _dual_value(f, soft_minimum(f, fixed.T, eps), cost, eps)


def _dual_value(f: jax.Array, g: jax.Array, cost: jax.Array, eps: jax.Array) -> jax.Array:
    f, g = jax.lax.stop_gradient((f, g))
    return jnp.mean(f) + jnp.mean(g) - eps * jnp.mean(jnp.exp((f[:, None] + g - cost) / eps)) + eps


def _distances(x: jax.Array, y: jax.Array) -> jax.Array:
    squares = 2 * half_squared_distances(x, y)
    apart = squares > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)  # no NaN in the derivative at 0


def _mean_between(x: jax.Array) -> jax.Array:
    """Mean distance between distinct points of x (n, d)."""
    n = len(x)
    others = 1 - jnp.eye(n, dtype=x.dtype)
    return jnp.sum(_distances(x, x) * others) / max(n * (n - 1), 1)


def _spread(target: jax.Array) -> jax.Array:
    """Variance of the target's coordinates on the average."""
    return jnp.mean(jnp.var(target, axis=0))
