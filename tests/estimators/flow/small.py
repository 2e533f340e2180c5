"""What the tests of potentials, divergences and Gauss-Newton steps share: small potentials, points, an energy."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.machinery.objective import Batch
from mongebench.estimators.flow.potential import FAMILIES, Quadratic


@functools.cache  # arrays of JAX do not change
def potential_and_points(family, dim=2, n=40, seed=0, share=0.5):
    """In double precision, whichever test asks first."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        x = jnp.asarray(rng.standard_normal((n, dim)))
        potential = FAMILIES[family].start(Quadratic.identity_like(x), x, units=6, depth=2, share=share, rng=rng)
        if family == "dictionary" and share > 0.1:  # its features start idle
            potential = dataclasses.replace(potential, weights=jnp.full(6, 0.5))
    return potential, x


def batch_of(x, seed=0):
    key = np.random.default_rng(seed).integers(1 << 32, size=2, dtype=np.uint32)
    return Batch(x, jnp.zeros((0, x.shape[1])), jnp.asarray(key))


def energy(y):
    return jnp.sum(y**2, axis=1) / 2 + jnp.sum(jnp.cosh(y[:, :1]), axis=1)
