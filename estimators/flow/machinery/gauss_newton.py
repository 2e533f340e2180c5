"""Damped Gauss-Newton steps on the subproblems of the flows.

Every subproblem is  min over theta of  Phi(theta), a function of the jets on a batch (see `subproblem`). With J = d jet
/ d theta and loss'' the Hessian of its local function of one jet, the matrix

    M = E[J^T loss'' J]

leaves out what the curvature of theta -> jet adds to the Hessian, and so is positive semi-definite. Steps solve (M +
damping diag M) dtheta = -grad Phi, by Cholesky factors where M is small, else by conjugate gradients on products M v (a
forward and a reverse derivative each), on random probes of DT in place of jets where d is large. The damping follows
the trust ratio, the actual over the predicted decrease (Marquardt 1963); diag M, levelled (see `LEVELLING`), makes it
blind to the units of the parameters. The family of the potential solves for the step (`damped_step`): where its
parameters must stay in a cone (see `cone`), a step is the minimiser over the cone of the same damped model, and so no
step is promised a decrease at a minimiser over the cone, and only there. Everything here is pure: callers jit it, and
vmap it over seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from mongebench.core.errors import InvalidInput
from mongebench.estimators.flow.machinery import probing
from mongebench.estimators.flow.machinery.divergence import EXACT_DIMENSIONS, jet_length, probed
from mongebench.estimators.flow.machinery.objective import Batch, phi
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Potential

DAMPING = 1e-3
"""Of the first step, where nothing is known."""
DENSE_PARAMETERS = 1000
"""Above this many parameters the factorisation of M costs more than its products do."""
DENSE_ENTRIES = 20_000
"""The same for the entries r p of the Jacobian of one point."""
BLOCK_BYTES = 1 << 24
"""Bytes of the Jacobians in memory at once, while M is summed up."""
BLOCK_POINTS = 256
"""Points that Phi is evaluated on at once: few enough for a cache (d = 32, 8192 points, Phi and its gradient: twice as
fast with ridges, sixty times with affine maps, of which XLA then inverts DT once)."""
SAMPLES_OF_DIAGONAL = 8
"""Random signs behind the estimate of diag M where M itself is not formed."""
CG_TOLERANCE = 1e-8
"""Relative residual at which conjugate gradients stop."""
ATTEMPTS = 12
"""Steps tried, with more damping each time, before theta stays where it is."""
LEVELLING = 0.1
"""Damping takes no entry of diag M for less than this share of the largest: the normals of a unit of small weight have
a small diagonal, and would run away (mixture, 64 ridges, 40 steps: UVP 2.3 % at 0.1 or 1, 3 % at 0.01, 25 % at 0)."""
FLOOR = {"float32": 1e-8, "float64": 1e-11}
"""Least damping: redundant parameters make M singular."""


class Step(NamedTuple):
    """What one step did.

    Attributes
    ----------
    theta
        (p,), the new parameters, or the old ones where no step decreased Phi.
    objective
        D at the new parameters, on the step's own batch.
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
    objective: jax.Array
    damping: jax.Array
    optimality: jax.Array
    iterations: jax.Array
    evaluations: jax.Array


class Model(NamedTuple):
    """Phi(theta + s) ~ value + <gradient, s> + <s, product(s)> / 2, how to solve for s, and how to evaluate Phi.

    `solve` takes a gradient and a damping and returns the minimiser (over the cone, if there is one) of the model with
    that gradient, and damping diag M added to M; `evaluate` takes parameters and returns Phi and D there, with the
    model's own probes.
    """

    value: jax.Array
    gradient: jax.Array
    product: Callable[[jax.Array], jax.Array]
    solve: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class GaussNewton:
    """Steps on one kind of subproblem, for potentials of one structure.

    Parameters
    ----------
    potential
        Any with the structure of those that the steps will move.
    subproblem
        What they minimise.
    cg_steps
        Most products M v for one solution by conjugate gradients.
    curvature_points
        Points of a batch that M is summed over, while Phi and its gradient are over all; None for all. A solution costs
        a hundred passes over them and the gradient one over the batch, but the gradient's noise is what moves theta
        (subsampled Newton: Byrd, Chin, Neveitt and Nocedal 2011).
    by_kind
        Whether diag M is levelled among the parameters of one kind (one leaf of the potential) only. Then no kind is
        held back (network on `potential`, d = 8, 20 steps of `FlowNewton`: UVP 3.7 % in place of 21 %). But where all
        weights are small, as at the identity, all normals run away together (mixture, 16 ridges, 20 steps of
        `FlowExplicit`: 33 % in place of 3 %).
    """

    def __init__(
        self,
        potential: Potential,
        subproblem: Subproblem,
        *,
        cg_steps: int = 40,
        curvature_points: int | None = None,
        by_kind: bool = False,
    ) -> None:
        theta, self.unravel = ravel_pytree(potential)
        self.free = potential.free
        self.subproblem = subproblem
        self.divergence = subproblem.divergence
        self.order = max(self.divergence.order, self.divergence.local_order)
        self.cg_steps = cg_steps
        self.curvature_points = curvature_points
        self.entries = jet_length(potential.dim, self.order) * self.free
        self.floor = FLOOR[str(theta.dtype)]
        sizes = [leaf.size for leaf in jax.tree.leaves(potential)] if by_kind else [len(theta)]
        self.kinds = np.repeat(np.arange(len(sizes)), sizes)[: self.free]
        small = len(theta) <= DENSE_PARAMETERS and self.entries <= DENSE_ENTRIES
        if probed(potential.dim, self.order):
            if potential.conic:
                raise InvalidInput(
                    f"Steps in a cone (family 'dictionary') need the matrix of DT, which is probed in dimension "
                    f"{potential.dim} > {EXACT_DIMENSIONS}: take another family."
                )
            self._whole_model = self._probed_model
        elif potential.conic or small:
            self._whole_model = self._dense_model
        else:
            self._whole_model = self._cg_model

    def minimise(
        self,
        theta: jax.Array,
        batch: Batch,
        tau: jax.Array,
        damping: jax.Array,
        *,
        steps: int,
        tolerance: float = 0.0,
    ) -> Solution:
        """Up to `steps` steps on a batch from theta (p,), the previous map, until the optimality is in `tolerance`."""
        start = theta

        def unfinished(state: tuple[Solution, jax.Array, jax.Array]) -> jax.Array:
            solution, _, accepted = state
            return (solution.iterations < steps) & accepted & (solution.optimality > tolerance)

        def improve(state: tuple[Solution, jax.Array, jax.Array]) -> tuple[Solution, jax.Array, jax.Array]:
            last, decrease, _ = state
            step = self.step(last.theta, start, batch, tau, last.damping)
            decrease = decrease + step.decrease
            solution = Solution(
                step.theta,
                step.objective,
                step.damping,
                optimality(step.decrement, decrease),
                last.iterations + 1,
                last.evaluations + step.evaluations,
            )
            return solution, decrease, step.accepted

        zero, count = jnp.zeros((), theta.dtype), jnp.zeros((), int)
        nothing = Solution(theta, zero, damping, zero + jnp.inf, count, count)
        return jax.lax.while_loop(unfinished, improve, (nothing, zero, jnp.asarray(True)))[0]

    def step(
        self,
        theta: jax.Array,
        start: jax.Array,
        batch: Batch,
        tau: jax.Array,
        damping: jax.Array,
        length: jax.Array | float = 1.0,
    ) -> Step:
        """One step from theta (p,), the previous map at start (p,); `length` scales it, 1 is the full step."""
        model = self.model(theta, start, batch, tau)
        rounding = 10 * float(np.finfo(theta.dtype).eps) * jnp.abs(model.value)

        def attempt(last: Step) -> Step:
            change = length * model.solve(model.gradient, last.damping)
            decrement = -(model.gradient @ change + change @ model.product(change) / 2)
            value, objective = model.evaluate(theta + change)
            decrease = model.value - value
            accepted = jnp.isfinite(objective) & (decrement >= 0) & (decrease >= 1e-3 * decrement - rounding)
            trust = (decrease + rounding) / (decrement + rounding)
            factor = jnp.where(trust > 0.75, 0.25, jnp.where(trust > 0.25, 1.0, 4.0))
            damping = jnp.maximum(last.damping * jnp.where(accepted, factor, 8.0), self.floor)
            return Step(theta + change, objective, decrease, decrement, damping, accepted, last.evaluations + 1)

        def unfinished(last: Step) -> jax.Array:
            return ~last.accepted & (last.evaluations <= ATTEMPTS)

        zero = jnp.zeros((), theta.dtype)
        nothing = Step(theta, zero, zero, zero, damping, jnp.asarray(False), jnp.ones((), int))
        last = jax.lax.while_loop(unfinished, attempt, nothing)
        stay = last._replace(
            theta=theta,
            objective=model.evaluate(theta)[1],
            decrease=zero,
            damping=jnp.ones((), theta.dtype),
        )
        chosen: Step = jax.tree.map(lambda new, old: jnp.where(last.accepted, new, old), last, stay)
        return chosen

    def model(self, theta: jax.Array, start: jax.Array, batch: Batch, tau: jax.Array) -> Model:
        """Of Phi, the previous map at start (p,), around theta (p,)."""
        few = self.curvature_points
        if few is None or few >= len(batch.x):
            return self._whole_model(theta, start, batch, tau)
        evaluate = self._evaluation(start, batch, tau)
        gradient_too = jax.value_and_grad(self._phi, has_aux=True)
        (value, _), gradient = self._mean(lambda block: gradient_too(theta, start, block, tau), batch)
        curved = self._whole_model(theta, start, Batch(batch.x[:few], batch.y[:few], batch.key), tau)
        return curved._replace(value=value, gradient=gradient, evaluate=evaluate)

    def jets(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        """(p,), (n, d) -> (n, r)."""
        return jax.vmap(self._jet, (None, 0))(theta, x)

    def _jet(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        jet: jax.Array = self.unravel(theta).jet(x, self.order)
        return jet

    def _jacobian(self, theta: jax.Array, x: jax.Array) -> jax.Array:
        """(p,), (d,) -> (r, free)."""
        derivative: jax.Array = self.unravel(theta).jet_derivative(x, self.order)
        return derivative

    def _evaluation(
        self, start: jax.Array, batch: Batch, tau: jax.Array
    ) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        return lambda theta: self._mean(lambda block: self._phi(theta, start, block, tau), batch)

    def _phi(self, theta: jax.Array, start: jax.Array, batch: Batch, tau: jax.Array) -> tuple[jax.Array, jax.Array]:
        return phi(self.subproblem, self.unravel(theta), self.unravel(start), batch, tau)

    def _mean(self, function: Callable[[Batch], Any], batch: Batch) -> Any:
        """`function` of the batch, by way of its blocks where it is the mean over the points of something."""
        points = len(batch.x)
        if not self.divergence.pointwise or probed(self.divergence.dim, self.order) or points <= BLOCK_POINTS:
            return function(batch)
        whole = points - points % BLOCK_POINTS

        def add(sums: Any, x: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, function(batch._replace(x=x))), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, batch))
        total, _ = jax.lax.scan(add, zeros, batch.x[:whole].reshape(-1, BLOCK_POINTS, batch.x.shape[1]))
        if whole < points:
            share = (points - whole) / BLOCK_POINTS
            rest = function(batch._replace(x=batch.x[whole:]))
            total = jax.tree.map(lambda sums, leaf: sums + share * leaf, total, rest)
        return jax.tree.map(lambda sums: sums * (BLOCK_POINTS / points), total)

    def _dense_model(self, theta: jax.Array, start: jax.Array, batch: Batch, tau: jax.Array) -> Model:
        """M summed up block by block: the Jacobians of a whole batch would not fit."""
        n, most = len(batch.x), max(1, BLOCK_BYTES // (self.entries * theta.dtype.itemsize))
        held, jets = self.jets(start, batch.x), self.jets(theta, batch.x)
        value, slopes = jax.value_and_grad(self.subproblem.value)(jets, held, tau, batch.y)
        block = -(-n // -(-n // most))  # as even as can be: points that fill the last block are work for nothing
        padding = -n % block
        weights = jnp.concatenate([jnp.full(n, 1 / n, theta.dtype), jnp.zeros(padding, theta.dtype)])
        rows = jnp.arange(n + padding) % n  # points that fill the last block count with weight zero
        whole = (batch.x[rows], held[rows], jets[rows], slopes[rows], weights)
        blocks = tuple(part.reshape(-1, block, *part.shape[1:]) for part in whole)

        def add(sums: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
            points, held, jets, slopes, weights = part
            jacobians = jax.vmap(self._jacobian, (None, 0))(theta, points)  # (block, r, p)
            curvatures = jax.vmap(jax.hessian(self.subproblem.local), (0, 0, None))(jets, held, tau)
            curved = (weights[:, None, None] * curvatures) @ jacobians  # (block, r, r) @ (block, r, p)
            flat = (-1, self.free)
            new = (
                (jnp.sign(weights)[:, None] * slopes).ravel() @ jacobians.reshape(flat),
                jacobians.reshape(flat).T @ curved.reshape(flat),
            )
            return jax.tree.map(jnp.add, sums, new), None

        zeros = jnp.zeros(self.free, theta.dtype), jnp.zeros((self.free, self.free), theta.dtype)
        (gradient, matrix), _ = jax.lax.scan(add, zeros, blocks)
        scales = self._scales(jnp.diagonal(matrix))

        def solve(gradient: jax.Array, damping: jax.Array) -> jax.Array:
            return pad(self.unravel(theta).damped_step(gradient[: self.free], matrix, scales, damping))

        def pad(v: jax.Array) -> jax.Array:
            return jnp.pad(v, (0, len(theta) - self.free))  # constants do not move

        def product(v: jax.Array) -> jax.Array:
            return pad(matrix @ v[: self.free])

        return Model(value, pad(gradient), product, solve, self._evaluation(start, batch, tau))

    def _cg_model(self, theta: jax.Array, start: jax.Array, batch: Batch, tau: jax.Array) -> Model:
        """Products with M only: a forward derivative of the jets, the curvature, a reverse derivative."""
        held = self.jets(start, batch.x)
        jets, forward = jax.linearize(lambda theta: self.jets(theta, batch.x), theta)
        value, slopes = jax.value_and_grad(self.subproblem.value)(jets, held, tau, batch.y)

        def local(jets: jax.Array) -> jax.Array:
            return jnp.mean(jax.vmap(self.subproblem.local, (0, 0, None))(jets, held, tau))

        _, curve = jax.linearize(jax.grad(local), jets)
        evaluate = self._evaluation(start, batch, tau)
        return self._by_products(theta, value, slopes, forward, curve, evaluate)

    def _probed_model(self, theta: jax.Array, start: jax.Array, batch: Batch, tau: jax.Array) -> Model:
        """Features (T, DT u) in place of jets, u = A^{-1} z and A = DT where the divergence is seen: see `probing`."""
        x, linear = batch.x, self.subproblem.linear
        z = probing.signs(batch.key, x)
        previous, here = self.unravel(start), self.unravel(theta)
        solutions = probing.log_det(previous if linear else here, x, z).solutions
        images, held = jax.vmap(here.map)(x), jax.vmap(previous.map)(x)
        n, count = len(x), z.shape[1]

        def features(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
            potential = self.unravel(theta)
            return jax.vmap(potential.map)(x), probing.curves(potential, x, solutions)

        def forces(images: jax.Array) -> jax.Array:
            force: jax.Array = jax.grad(self.divergence.energy)(images, batch.y)
            return force

        force, bend = jax.linearize(forces, held if linear else images)

        def curve(tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            moved, bent = tangents
            if linear:
                return moved / (n * tau), jnp.zeros_like(bent)
            return bend(moved) + moved / (n * tau), bent / (n * count)

        slopes = force + (images - held) / (n * tau), -z / (n * count)
        evaluate = self._evaluation(start, batch, tau)
        _, forward = jax.linearize(features, theta)
        return self._by_products(theta, evaluate(theta)[0], slopes, forward, curve, evaluate)

    def _by_products(
        self,
        theta: jax.Array,
        value: jax.Array,
        slopes: Any,
        forward: Callable[[jax.Array], Any],
        curve: Callable[[Any], Any],
        evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    ) -> Model:
        """The model from the features' derivative J and its transpose: gradient J^T slopes, M v = J^T curve(J v)."""
        backward = jax.linear_transpose(forward, theta)

        def pull(cotangents: Any) -> jax.Array:
            pulled: jax.Array = backward(cotangents)[0]
            return pulled

        gradient = pull(slopes)

        def product(v: jax.Array) -> jax.Array:
            return pull(curve(forward(v)))

        def sample(key: jax.Array) -> jax.Array:
            # E[(J^T S^(1/2) s)^2] = diag(J^T S J) for random signs s, with the diagonal of the curvature for S.
            flat, unflatten = ravel_pytree(slopes)
            first, second = jax.random.rademacher(key, (2, len(flat)), flat.dtype)
            diagonal = jnp.abs(first * ravel_pytree(curve(unflatten(first)))[0])
            return pull(unflatten(second * jnp.sqrt(diagonal))) ** 2

        samples = jax.lax.map(sample, jax.random.split(jax.random.key(0), SAMPLES_OF_DIAGONAL))
        scales = self._scales(jnp.mean(samples, axis=0))

        def solve(gradient: jax.Array, damping: jax.Array) -> jax.Array:
            def damped(v: jax.Array) -> jax.Array:
                return scales * product(scales * v) + damping * v

            # lineax.CG (0.1.1) gives NaN where <v, M v> <= 100 eps p |r|^2: in float32 0.17 |r|^2 for p = 14 000.
            solution: jax.Array
            solution, _ = cg(damped, scales * gradient, tol=CG_TOLERANCE, maxiter=self.cg_steps)  # type: ignore[no-untyped-call]
            return -scales * solution

        return Model(value, gradient, product, solve, evaluate)

    def _scales(self, diagonal: jax.Array) -> jax.Array:
        """1 / sqrt(diag M), bounded by 1 / sqrt(LEVELLING times the largest entry (of the kind))."""
        diagonal = jnp.abs(diagonal)
        largest = jax.ops.segment_max(diagonal, self.kinds, num_segments=int(self.kinds[-1]) + 1)
        tiny = np.finfo(diagonal.dtype).eps * jnp.max(diagonal)  # where a kind has no curvature at all
        return 1 / jnp.sqrt(jnp.maximum(diagonal, jnp.maximum(LEVELLING * largest[self.kinds], tiny)))


def optimality(decrement: jax.Array, decrease: jax.Array) -> jax.Array:
    """Decrease that the model still promised over the decrease made: 0 for a solved subproblem, or for none made."""
    gained = decrease > 0
    return jnp.where(gained, decrement / jnp.where(gained, decrease, 1), 0)
