"""The divergence and the subproblems as functions of the potential, on one batch.

They see it by its jets or, where d is large, by probes. Both have derivatives in the potential; those of the probes are
unbiased over their draw (see `probing`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mongebench.estimators.flow.machinery import probing
from mongebench.estimators.flow.machinery.divergence import Divergence, probed
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Potential


class Batch(NamedTuple):
    """What one step sees.

    Attributes
    ----------
    x
        Points of the source, (n, d).
    y
        Points of the target, (m, d); m = 0 where the divergence asks for none.
    key
        Random bits for the probes, (2,) of 32 bits.
    log_density
        log mu0 at the points of the source, (n,); None where no step asks for it.
    """

    x: jax.Array
    y: jax.Array
    key: jax.Array
    log_density: jax.Array | None = None


def jets(potential: Potential, x: jax.Array, order: int) -> jax.Array:
    """(n, d) -> (n, r)."""
    return jax.vmap(lambda point: potential.jet(point, order))(x)


def objective(divergence: Divergence, potential: Potential, batch: Batch) -> jax.Array:
    """D on the batch."""
    if not probed(divergence.dim, divergence.order):
        return divergence.value(jets(potential, batch.x, divergence.order), batch.y)
    z = probing.signs(batch.key, batch.x)
    found = probing.log_det(jax.lax.stop_gradient(potential), batch.x, z)
    traces = mean_traces(probing.curves(potential, batch.x, found.solutions), z)
    energy = divergence.energy(jax.vmap(potential.map)(batch.x), batch.y)
    return energy - probing.attach(found.mean, traces)


def probe_error(potential: Potential, batch: Batch) -> jax.Array:
    """Standard error that the draw of the probes leaves in a probed D on the batch."""
    return jnp.sqrt(probing.log_det(potential, batch.x, probing.signs(batch.key, batch.x)).variance)


def phi(
    subproblem: Subproblem, potential: Potential, previous: Potential, batch: Batch, tau: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The subproblem's function from the previous map, and D, on the batch."""
    divergence, x = subproblem.divergence, batch.x
    exact = not probed(divergence.dim, divergence.order)
    order = divergence.order if exact else 0
    here, there = jets(potential, x, order), jets(previous, x, order)
    reached = divergence.value(here, batch.y) if exact else objective(divergence, potential, batch)
    if not subproblem.linear:
        part = reached
    elif exact:
        part = subproblem.part(here, there, batch.y)
    else:
        z = probing.signs(batch.key, x)
        solutions = probing.log_det(previous, x, z).solutions
        traces = mean_traces(probing.curves(potential, x, solutions), z)  # d at the previous map
        slope = jax.jvp(lambda images: divergence.energy(images, batch.y), (there,), (here - there,))[1]
        part = slope - (traces - divergence.dim)
    return part + subproblem.distance(here, there, tau), reached


def mean_traces(bends: jax.Array, z: jax.Array) -> jax.Array:
    """Mean of z^T DT u over points and probes, from DT u (n, k, d) and z (n, k, d)."""
    return jnp.mean(jnp.sum(bends * z, axis=2))
