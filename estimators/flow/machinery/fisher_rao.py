"""Gauss-Newton steps on a residual that vanishes at the exact map, where the density of the source is known.

By the change of variables

    m(x) = log mu0(x) + V(T(x)) - log det DT(x)

is log (T#mu0 / gamma) at T(x), up to a constant, and so constant for T = T*, and for no other gradient of a convex
function. Its variance under mu0 is the log-variance divergence of the two laws (Richter, Boustati, Nusken, Ruiz and
Akyildiz 2020). With a = d m / d theta, both centred, Gauss-Newton steps

    (E[a a^T] + damping) dtheta = -E[a m]

are the natural gradient of Fisher and Rao at the solution: E[a a^T] is the Fisher matrix of the law T#mu0, and E[a m] =
grad KL wherever m is small. Both sides are means over a batch. As m itself vanishes at T*, so does the noise of E[a m]:
steps on fresh batches end at the exact map, and not in the noise of a batch, if the family holds that map.

Rows a cost one reverse pass of each point. Few of them (n < p) are solved for in the space of samples (n x n), many in
that of parameters (p x p); the step is the same.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.gauss_newton import ATTEMPTS, FLOOR, LEVELLING
from mongebench.estimators.flow.potential import Potential

LONGEST = 0.5
"""Most that one step may move the map, |T_{k+1} - T_k| in L2(mu0), in units of the spread of its images."""
MOST = 30.0
"""Logarithms of weights above this one are cut off: they are those of a map that is lost."""
IDLE = 1e-4
"""Damping takes no kind of parameters for less than this share of the largest entry of the diagonal: a quadratic part
that the network has made idle would else be thrown about (published mixture: no step succeeds)."""
FALLS, RISES, FAILS = 1 / 3, 2.0, 4.0
"""Factors of the damping: of a step that the model foresaw well, of one that it foresaw badly, of one not taken."""


class Rows(NamedTuple):
    """The residual on a batch and its derivative by theta, both centred.

    Attributes
    ----------
    residual
        m less its mean, (n,).
    slopes
        a less its mean, (n, p).
    """

    residual: jax.Array
    slopes: jax.Array


class Taken(NamedTuple):
    """What one step did.

    Attributes
    ----------
    theta
        (p,), the new parameters, or the old ones where no step lowered the variance of m.
    before, after
        Half the variance of m on the step's batch.
    objective
        E[V(T) - log det DT] at the new parameters, on the batch.
    moved
        |T_{k+1} - T_k| in L2(mu0), on the batch.
    damping
        For the next step.
    accepted
        Whether a step was taken.
    evaluations
        How often V was evaluated on the batch.
    """

    theta: jax.Array
    before: jax.Array
    after: jax.Array
    objective: jax.Array
    moved: jax.Array
    damping: jax.Array
    accepted: jax.Array
    evaluations: jax.Array


class FisherRao:
    """Damped steps for potentials of one structure; pure.

    Parameters
    ----------
    potential
        Any with the structure of those that the steps will move.
    divergence
        To the target.
    momentum
        beta in [0, 1): steps minimise |A dtheta + m|^2 / n + damping |dtheta - beta (last dtheta)|^2, Kaczmarz's method
        with momentum (SPRING: Goldshlager, Abrahamsen and Lin 2024). Directions that the damping holds back add up.
    """

    def __init__(self, potential: Potential, divergence: KullbackLeibler, momentum: float) -> None:
        theta, self.unravel = ravel_pytree(potential)
        self.divergence = divergence
        self.momentum = momentum
        self.floor = FLOOR[str(theta.dtype)]
        sizes = [leaf.size for leaf in jax.tree.leaves(potential)]
        self.kinds = np.repeat(np.arange(len(sizes)), sizes)

    def value(self, theta: jax.Array, x: jax.Array, log_density: jax.Array) -> jax.Array:
        """m at one point, (p,), (d,), () -> ()."""
        return log_density + self.divergence.local(self.unravel(theta).jet(x))

    def values(self, theta: jax.Array, x: jax.Array, log_density: jax.Array) -> jax.Array:
        """m, (p,), (n, d), (n,) -> (n,)."""
        return jax.vmap(self.value, (None, 0, 0))(theta, x, log_density)

    def rows(self, theta: jax.Array, x: jax.Array, log_density: jax.Array) -> Rows:
        """Of a batch, (p,), (n, d), (n,)."""
        values, slopes = jax.vmap(jax.value_and_grad(self.value), (None, 0, 0))(theta, x, log_density)
        return Rows(values - jnp.mean(values), slopes - jnp.mean(slopes, axis=0))

    def solve(self, rows: Rows, damping: jax.Array, last: jax.Array, *, by_samples: bool) -> jax.Array:
        """The damped step, (p,), in the space of samples or of parameters; `last` (p,) is the step before it.

        Damping is in units of the diagonal of E[a a^T], levelled among parameters of one kind: see `GaussNewton`.
        """
        scales = self._scales(rows)
        ahead = self.momentum * last
        scaled = rows.slopes * (scales / jnp.sqrt(len(rows.residual)))
        residual = (rows.residual + rows.slopes @ ahead) / jnp.sqrt(len(rows.residual))
        if by_samples:
            weights = _damped(scaled @ scaled.T, damping, residual)
            return ahead - scales * (scaled.T @ weights)
        return ahead - scales * _damped(scaled.T @ scaled, damping, scaled.T @ residual)

    def step(
        self, theta: jax.Array, last: jax.Array, x: jax.Array, log_density: jax.Array, damping: jax.Array
    ) -> tuple[Taken, jax.Array]:
        """One step from theta (p,) after the step `last` (p,) on points x (n, d) of known log-density (n,)."""
        rows = self.rows(theta, x, log_density)
        before = jnp.mean(rows.residual**2) / 2
        rounding = 10 * float(np.finfo(theta.dtype).eps) * before
        here = self._images(theta, x)
        spread = jnp.mean(jnp.sum((here - jnp.mean(here, axis=0)) ** 2, axis=1))
        by_samples = len(x) < len(theta)

        def attempt(state: tuple[Taken, jax.Array]) -> tuple[Taken, jax.Array]:
            before_it, last = state
            change = self.solve(rows, before_it.damping, last, by_samples=by_samples)
            promised = before - jnp.mean((rows.residual + rows.slopes @ change) ** 2) / 2
            reached = self.values(theta + change, x, log_density)
            after = jnp.var(reached) / 2
            square = jnp.mean(jnp.sum((self._images(theta + change, x) - here) ** 2, axis=1))
            trust = (before - after + rounding) / (promised + rounding)
            accepted = (promised >= 0) & (trust > 1e-3) & (square <= LONGEST**2 * spread)  # none if NaN
            factor = jnp.where(trust > 0.75, FALLS, jnp.where(trust > 0.25, 1.0, RISES))
            damping = jnp.maximum(before_it.damping * jnp.where(accepted, factor, FAILS), self.floor)
            taken = Taken(
                theta + change,
                before,
                after,
                jnp.mean(reached - log_density),
                jnp.sqrt(square),
                damping,
                accepted,
                before_it.evaluations + 1,
            )
            return taken, jnp.where(accepted, change, 0 * last)  # what failed may have been the momentum

        def unfinished(state: tuple[Taken, jax.Array]) -> jax.Array:
            return ~state[0].accepted & (state[0].evaluations <= ATTEMPTS)

        zero = jnp.zeros((), theta.dtype)
        nothing = Taken(theta, before, before, zero, zero, damping, jnp.asarray(False), jnp.ones((), int))
        found, change = jax.lax.while_loop(unfinished, attempt, (nothing, last))
        stay = found._replace(
            theta=theta,
            after=before,
            objective=jnp.mean(self.values(theta, x, log_density) - log_density),
            moved=zero,
            damping=jnp.ones((), theta.dtype),
        )
        taken: Taken = jax.tree.map(lambda new, old: jnp.where(found.accepted, new, old), found, stay)
        return taken, change

    def _images(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        images: jax.Array = jax.vmap(self.unravel(theta).map)(x)
        return images

    def _scales(self, rows: Rows) -> jax.Array:
        """One over the root of the levelled diagonal of E[a a^T], (p,)."""
        diagonal = jnp.mean(rows.slopes**2, axis=0)
        largest = jax.ops.segment_max(diagonal, self.kinds, self.kinds[-1] + 1)[self.kinds]
        levelled = jnp.maximum(diagonal, jnp.maximum(LEVELLING * largest, IDLE * jnp.max(diagonal)))
        return jnp.where(levelled > 0, 1 / jnp.sqrt(jnp.where(levelled > 0, levelled, 1)), 0)


def kl_change(new: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
    """KL of a map less that of another one to the same target, and its standard error, (n,), (n,) -> (), ().

    From their m at the same points.

    The mean of new - old, with a control variate: e^{-m} is the density of gamma by that of T#mu0, up to a constant,
    and so has one mean for all maps. With the factor of least variance the noise vanishes as fast as the difference
    where both maps are near T*, and where weights e^{-m} are too uneven to help the factor is near 0.
    """
    change, middle = new - old, jnp.mean(old)
    control = jnp.exp(jnp.minimum(middle - new, MOST)) - jnp.exp(jnp.minimum(middle - old, MOST))
    centred = control - jnp.mean(control)
    square = jnp.mean(centred**2)
    factor = -jnp.mean(change * centred) / jnp.where(square > 0, square, 1)
    each = change + jnp.clip(factor, 0, 1) * control
    return jnp.mean(each), jnp.std(each) / jnp.sqrt(len(each))


def _damped(matrix: jax.Array, damping: jax.Array, right: jax.Array) -> jax.Array:
    """(matrix + damping)^{-1} right, by Cholesky factors."""
    factor = jnp.linalg.cholesky(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype))
    solution: jax.Array = jax.scipy.linalg.cho_solve((factor, True), right)
    return solution
