"""Damped Gauss-Newton steps on the mean of a convex function of the map's jet.

Every subproblem of the flows is  min over theta of  Phi(theta) = E[loss(jet_theta(x), anchor(x), tau)],  with the jets
of the flow's last map as anchor. With J = d jet / d theta, the matrix

    M = E[J^T loss'' J]

leaves out what the curvature of theta -> jet adds to the Hessian, and so is positive semi-definite if the loss is
convex. Steps solve (M + damping diag M) dtheta = -grad Phi, by Cholesky factors where M is small, else by conjugate
gradients on products M v (a forward and a reverse derivative each). The damping follows the trust ratio, the actual
over the predicted decrease (Marquardt 1963); diag M makes it blind to the units of the parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax.flatten_util import ravel_pytree

from mongebench.estimators.flow.divergence import Divergence, jet, jet_length
from mongebench.estimators.flow.potential import Potential
from mongebench.estimators.flow.subproblem import Loss

DAMPING = 1e-3
"""Of the first step, where nothing is known."""
DENSE_PARAMETERS = 1000
"""Above this many parameters the factorisation of M costs more than its products do."""
DENSE_ENTRIES = 20_000
"""The same for the entries r p of the Jacobian of one point."""
BLOCK_BYTES = 1 << 24
"""Bytes of the Jacobians in memory at once, while M is summed up."""
PROBES = 8
"""Random signs behind the estimate of diag M where M itself is not formed."""
CG_TOLERANCE = 1e-8
"""Relative residual at which conjugate gradients stop."""
ATTEMPTS = 12
"""Steps tried, with more damping each time, before theta stays where it is."""
LEVELLING = 0.1
"""Damping takes no entry of diag M for less than this share of the largest: the normals of a unit of small weight have
a small diagonal, and would run away (mixture, 64 units, 40 steps: UVP 2.3 % at 0.1 or 1, 3 % at 0.01, 25 % at 0)."""
FLOOR = {"float32": 1e-5, "float64": 1e-11}
"""Least damping: redundant parameters make M singular."""


class Step(NamedTuple):
    """What one step did.

    Attributes
    ----------
    theta
        (p,), the new parameters, or the old ones where no step decreased Phi.
    objective
        F at the new parameters, on the step's own batch.
    decrease
        Of Phi.
    decrement
        Decrease of Phi that the quadratic model promised: half the squared Newton decrement.
    damping
        For the next step.
    accepted
        Whether a step was taken.
    evaluations
        How often V was evaluated on the batch.
    """

    theta: jax.Array
    objective: jax.Array
    decrease: jax.Array
    decrement: jax.Array
    damping: jax.Array
    accepted: jax.Array
    evaluations: jax.Array


class Solution(NamedTuple):
    """What the steps on one subproblem came to.

    Attributes
    ----------
    theta, objective, damping
        As in `Step`, after the last one.
    optimality
        Decrease that the last step's model promised, over the decrease of Phi by all steps: 0 for a solved subproblem.
    iterations, evaluations
        Steps taken, and how often V was evaluated on the batch.
    """

    theta: jax.Array
    objective: float
    damping: float
    optimality: float
    iterations: int
    evaluations: int


class Model(NamedTuple):
    """Phi(theta + s) ~ value + <gradient, s> + <s, product(s)> / 2, and how to solve for s.

    `solve` takes a damping and returns the minimiser of the model with damping diag M added to M.
    """

    value: jax.Array
    gradient: jax.Array
    product: Callable[[jax.Array], jax.Array]
    solve: Callable[[jax.Array], jax.Array]


class GaussNewton:
    """Steps on the mean of `loss`, compiled once for a potential and a size of batch.

    Parameters
    ----------
    potential
        Any with the structure of those that the steps will move.
    loss
        See `Loss`.
    divergence
        Its mean F is reported after each step, and must stay finite.
    cg_steps
        Most products M v for one solution by conjugate gradients.
    """

    def __init__(self, potential: Potential, loss: Loss, divergence: Divergence, *, cg_steps: int = 40) -> None:
        theta, self.unravel = ravel_pytree(potential)
        self.loss = loss
        self.divergence = divergence
        self.cg_steps = cg_steps
        self.entries = jet_length(potential.dim) * len(theta)
        self.floor = FLOOR[str(theta.dtype)]
        self.model = (
            self._dense_model if len(theta) <= DENSE_PARAMETERS and self.entries <= DENSE_ENTRIES else self._cg_model
        )
        self.step: Callable[..., Step] = jax.jit(self._step)
        self.jets: Callable[..., jax.Array] = jax.jit(self._jets)
        self.objective: Callable[..., jax.Array] = jax.jit(self._objective)

    def minimise(
        self,
        theta: jax.Array,
        x: jax.Array,
        tau: float,
        damping: float,
        *,
        steps: int,
        tolerance: float = 0.0,
        length: float = 1.0,
    ) -> Solution:
        """Up to `steps` steps on the batch x (n, d), anchored at theta (p,), until the optimality is in `tolerance`."""
        anchors = self.jets(theta, x)
        # Arrays of one type throughout: a Python number would be another type to JAX, and compile everything again.
        tau_, damping_, length_ = (jnp.asarray(number, theta.dtype) for number in (tau, damping, length))
        decrease, evaluations, iteration = 0.0, 0, 0
        while True:
            step = self.step(theta, x, anchors, tau_, damping_, length_)
            theta, damping_ = step.theta, step.damping
            decrease += float(step.decrease)
            evaluations += int(step.evaluations)
            iteration += 1
            optimality = float(step.decrement) / decrease if decrease > 0 else 0.0
            if iteration == steps or not step.accepted or optimality <= tolerance:
                return Solution(theta, float(step.objective), float(damping_), optimality, iteration, evaluations)

    def _jet(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        return jet(self.unravel(theta), x)

    def _jets(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        """(p,), (n, d) -> (n, r)."""
        return jax.vmap(self._jet, (None, 0))(theta, x)

    def _objective(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        """F, (p,), (n, d) -> ()."""
        return jnp.mean(jax.vmap(self.divergence)(self._jets(theta, x)))

    def _step(
        self, theta: jax.Array, x: jax.Array, anchors: jax.Array, tau: jax.Array, damping: jax.Array, length: jax.Array
    ) -> Step:
        """One step from theta (p,) on the batch x (n, d), anchors (n, r); `length` scales it, 1 is the full step."""
        model = self.model(theta, x, anchors, tau)
        rounding = 10 * float(np.finfo(theta.dtype).eps) * jnp.abs(model.value)

        def attempt(damping: jax.Array, evaluations: jax.Array) -> Step:
            change = length * model.solve(damping)
            decrement = -(model.gradient @ change + change @ model.product(change) / 2)
            jets = self._jets(theta + change, x)
            decrease = model.value - jnp.mean(jax.vmap(self.loss, (0, 0, None))(jets, anchors, tau))
            objective = jnp.mean(jax.vmap(self.divergence)(jets))
            accepted = jnp.isfinite(objective) & (decrement >= 0) & (decrease >= 1e-3 * decrement - rounding)
            trust = (decrease + rounding) / (decrement + rounding)
            factor = jnp.where(trust > 0.75, 0.25, jnp.where(trust > 0.25, 1.0, 4.0))
            factor = jnp.where(accepted, factor, 8.0)
            damping = jnp.maximum(damping * factor, self.floor)
            return Step(theta + change, objective, decrease, decrement, damping, accepted, evaluations + 1)

        def unfinished(last: Step) -> jax.Array:
            return ~last.accepted & (last.evaluations <= ATTEMPTS)

        last = jax.lax.while_loop(
            unfinished, lambda failed: attempt(failed.damping, failed.evaluations), attempt(damping, jnp.asarray(1))
        )
        stay = last._replace(
            theta=theta,
            objective=self._objective(theta, x),
            decrease=jnp.zeros_like(last.decrease),
            damping=jnp.asarray(1.0, theta.dtype),
        )
        chosen: Step = jax.tree.map(functools.partial(jnp.where, last.accepted), last, stay)
        return chosen

    def _dense_model(self, theta: jax.Array, x: jax.Array, anchors: jax.Array, tau: jax.Array) -> Model:
        """M summed up block by block: the Jacobians of a whole batch would not fit."""
        n, most = len(x), max(1, BLOCK_BYTES // (self.entries * theta.dtype.itemsize))
        block = -(-n // -(-n // most))  # as even as can be: points that fill the last block are work for nothing
        padding = -n % block
        weights = jnp.concatenate([jnp.full(n, 1 / n, theta.dtype), jnp.zeros(padding, theta.dtype)])
        rows = jnp.arange(n + padding) % n  # points that fill the last block count with weight zero
        blocks = tuple(part.reshape(-1, block, *part.shape[1:]) for part in (x[rows], anchors[rows], weights))

        def add(sums: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
            points, anchors, weights = part
            jacobians = jax.vmap(jax.jacrev(self._jet), (None, 0))(theta, points)  # (block, r, p)
            jets = self._jets(theta, points)
            values, slopes = jax.vmap(jax.value_and_grad(self.loss), (0, 0, None))(jets, anchors, tau)
            curvatures = jax.vmap(jax.hessian(self.loss), (0, 0, None))(jets, anchors, tau)  # (block, r, r)
            curved = (weights[:, None, None] * curvatures) @ jacobians
            flat = (-1, len(theta))
            new = (
                weights @ values,
                (weights[:, None] * slopes).ravel() @ jacobians.reshape(flat),
                jacobians.reshape(flat).T @ curved.reshape(flat),
            )
            return jax.tree.map(jnp.add, sums, new), None

        zeros = jnp.zeros((), theta.dtype), jnp.zeros_like(theta), jnp.zeros((len(theta), len(theta)), theta.dtype)
        (value, gradient, matrix), _ = jax.lax.scan(add, zeros, blocks)
        scales = _scales(jnp.diagonal(matrix))
        scaled = scales[:, None] * matrix * scales

        def solve(damping: jax.Array) -> jax.Array:
            factor = jnp.linalg.cholesky(scaled + damping * jnp.eye(len(theta), dtype=theta.dtype))
            solution: jax.Array = jax.scipy.linalg.cho_solve((factor, True), scales * gradient)
            return -scales * solution

        return Model(value, gradient, lambda v: matrix @ v, solve)

    def _cg_model(self, theta: jax.Array, x: jax.Array, anchors: jax.Array, tau: jax.Array) -> Model:
        """Products with M only: a forward derivative of the jets, the loss's curvature, a reverse derivative."""
        jets, forward = jax.linearize(lambda theta: self._jets(theta, x), theta)
        backward = jax.linear_transpose(forward, theta)

        def losses(jets: jax.Array) -> jax.Array:
            return jnp.mean(jax.vmap(self.loss, (0, 0, None))(jets, anchors, tau))

        value = losses(jets)
        slopes, curve = jax.linearize(jax.grad(losses), jets)

        def pull(cotangents: jax.Array) -> jax.Array:
            pulled: jax.Array = backward(cotangents)[0]
            return pulled

        gradient = pull(slopes)

        def product(v: jax.Array) -> jax.Array:
            return pull(curve(forward(v)))

        def probe(key: jax.Array) -> jax.Array:
            # E[(J^T S^(1/2) s)^2] = diag(J^T S J) for random signs s, with the diagonal of loss'' for S.
            signs, others = jax.random.rademacher(key, (2, *jets.shape), jets.dtype)
            return pull(others * jnp.sqrt(jnp.abs(signs * curve(signs)) / len(x))) ** 2 * len(x)

        diagonal = jnp.mean(jax.lax.map(probe, jax.random.split(jax.random.key(0), PROBES)), axis=0)
        scales = _scales(diagonal)

        def solve(damping: jax.Array) -> jax.Array:
            operator = lineax.FunctionLinearOperator(
                lambda v: scales * product(scales * v) + damping * v,
                jax.eval_shape(lambda: theta),
                lineax.positive_semidefinite_tag,
            )
            solver = lineax.CG(rtol=CG_TOLERANCE, atol=0.0, max_steps=self.cg_steps)
            solution: jax.Array = lineax.linear_solve(operator, scales * gradient, solver, throw=False).value
            return -scales * solution

        return Model(value, gradient, product, solve)


def _scales(diagonal: jax.Array) -> jax.Array:
    """1 / sqrt(diag M), bounded by 1 / sqrt(LEVELLING max diag M)."""
    diagonal = jnp.abs(diagonal)
    return 1 / jnp.sqrt(jnp.maximum(diagonal, LEVELLING * jnp.max(diagonal)))
