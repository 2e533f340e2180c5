"""The published network: input-convex, its non-negative weights clamped, and nothing beside it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.base import Free
from mongebench.estimators.flow.potential.quadratic import Quadratic


class Clamped(Free):
    """phi(x) = <a, softplus(P softplus(W x + c) + U x + e)> + curvature |x|^2 / 2 with P, a >= 0 entry by entry.

    With two layers of 20 in the plane it has the 541 parameters of the published network, but for the constant that
    its last layer adds to phi, which moves no map. P and a are the clamped entries of `passes` and `last`; with
    `squared` they are squares of them instead.

    Attributes
    ----------
    first, first_offset
        W (width, d) and c (width,).
    passes, skip, second_offset
        P (width, width), U (width, d) and e (width,).
    last
        a, (width,).
    curvature
        Of the fixed quadratic part; the published network has none.
    squared
        Whether weights are squares.
    """

    first: jax.Array
    first_offset: jax.Array
    passes: jax.Array
    skip: jax.Array
    second_offset: jax.Array
    last: jax.Array
    curvature: float = eqx.field(static=True, default=0.0)
    squared: bool = eqx.field(static=True, default=False)

    @classmethod
    def random(
        cls, x: jax.Array, width: int, rng: np.random.Generator, *, curvature: float = 0.0, squared: bool = False
    ) -> Clamped:
        """As the published network begins, for points of the dimension and type of x (n, d).

        Free entries are uniform in +- (number of inputs)^-1/2, as torch draws those of a linear layer; clamped ones are
        the positive parts of N(0, 0.1^2).
        """
        dim = x.shape[1]

        def uniform(inputs: int, *shape: int) -> jax.Array:
            return jnp.asarray(rng.uniform(-(inputs**-0.5), inputs**-0.5, shape), x.dtype)

        def positive(*shape: int) -> jax.Array:
            entries = np.maximum(rng.normal(0.0, 0.1, shape), 0.0)
            return jnp.asarray(np.sqrt(entries) if squared else entries, x.dtype)

        return cls(
            first=uniform(dim, width, dim),
            first_offset=uniform(dim, width),
            passes=positive(width, width),
            skip=uniform(dim, width, dim),
            second_offset=uniform(width, width),
            last=positive(width),
            curvature=curvature,
            squared=squared,
        )

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
    ) -> Clamped:
        """A random network, near no quadratic, as published."""
        del quadratic, depth, share
        return cls.random(x, units, rng)

    @property
    def dim(self) -> int:
        """Dimension d."""
        return self.first.shape[1]

    def value(self, x: jax.Array) -> jax.Array:
        """phi(x), (d,) -> ()."""
        passes, last = (self.passes**2, self.last**2) if self.squared else (self.passes, self.last)
        z = jax.nn.softplus(self.first @ x + self.first_offset)
        z = jax.nn.softplus(passes @ z + self.skip @ x + self.second_offset)
        return last @ z + self.curvature / 2 * jnp.sum(x**2)

    def map(self, x: jax.Array) -> jax.Array:
        """T(x), in reverse mode, (d,) -> (d,)."""
        gradient: jax.Array = jax.grad(self.value)(x)
        return gradient

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of DT(x), by automatic derivatives, (d,) -> (d (d + 1) / 2,)."""
        hessian: jax.Array = jax.hessian(self.value)(x)
        return hessian[np.tril_indices(self.dim)]

    def nearest(self) -> Clamped:
        """The nearest network that is convex: negative entries of P and a become 0."""
        if self.squared:
            return self
        clamped: Clamped = eqx.tree_at(
            lambda network: (network.passes, network.last),
            self,
            (jnp.maximum(self.passes, 0), jnp.maximum(self.last, 0)),
        )
        return clamped
