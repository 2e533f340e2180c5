"""The estimator `semidual`: the Monge map as the gradient of the potential that minimises the semi-dual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from mongebench.core.arrays import Points
from mongebench.core.errors import Diverged
from mongebench.core.estimator import Claim, MapEstimator, Range, Trace, keep_going
from mongebench.core.oracle import Oracle
from mongebench.estimators.draws import Side, scaled
from mongebench.estimators.dual import pool as pools
from mongebench.estimators.dual.conjugate import Conjugates
from mongebench.estimators.dual.steps import Optimiser, Seen, State, descent, semidual
from mongebench.estimators.flow.machinery.evaluation import GradientMap, images, in_blocks, values
from mongebench.estimators.flow.potential import FAMILIES as FLOWS
from mongebench.estimators.flow.potential import KinkedICNN, Potential, Quadratic
from mongebench.estimators.gaussian import bures_slope
from mongebench.estimators.standard import standardised

FAMILIES: dict[str, type[Potential]] = {**FLOWS, "kinked_icnn": KinkedICNN}
"""What the semi-dual can be minimised over: the potentials of the flows, and those that a flow cannot move."""

if TYPE_CHECKING:
    Family: TypeAlias = str
else:
    Family = Literal[tuple(FAMILIES)]

BLOCK = 64
"""Steps that are compiled together; the trace is called between blocks."""
FLAT = 1e-3
"""Added to the slope of the Gaussian map that a fit begins with: points on a line have none across it."""
SHARE = 0.5
"""Of the Gaussian map's curvature that the other units begin with."""


class Defaults(NamedTuple):
    """What stands for None."""

    family: str
    units: int
    steps: int
    visits: int


def defaults(dim: int, size: int | None) -> Defaults:
    """By the dimension d and the points that steps see, None for draws without limit.

    Fresh draws: 64 units up to d = 4, 128 beyond, and 8192 steps: 94, 309 and 453 seconds of one CPU thread in d = 2, 8
    and 16. Kinks up to d = 8: beyond, conjugates of kinked networks stay unsolved (pair `korotin`, d = 16: residual
    0.018 after two visits each and 0.005 after four, 5.2e-5 of smooth networks after three). A fixed sample: 64 units
    and 1024 steps, of which the best on what is held out is kept, and no kinks: on 500 points of `ridges` and
    `product_mixture` in d = 4 the smooth family had the lower value.
    """
    if size is not None:
        return Defaults("dense_icnn", 64, 1024, 2)
    if dim <= 8:
        return Defaults("kinked_icnn", 64 if dim <= 4 else 128, 8192, 2)
    return Defaults("dense_icnn", 128, 8192, 3)


class SemiDual(MapEstimator):
    """Semi-dual with exact conjugates: T = grad phi for the network phi that minimises E phi(X) + E phi*(Y).

    The minimum over convex phi is attained where grad phi is the Monge map (Villani 2009, Optimal transport: old and
    new, theorem 5.10), and only draws from both sides are needed. phi*(y) = max_x <x, y> - phi(x) is solved
    for at every point, to a residual that the trace shows; no second network stands in for it. Each target point of a
    pool keeps its maximiser between visits (see `conjugate`). Fresh draws take the place of the pool's oldest points
    after some visits; for a finite sample, the pool is what was not held out, and the map kept is the one with the
    least semi-dual on what was. See `steps` for how theta moves.

    The inverse map comes with it: `inverse_transform` solves grad phi(x) = y.

    Settings were chosen by the semi-dual on the same 2^15 fresh draws a side of the pair `korotin` in d = 2 after 1024
    steps (results/korotin.txt lists them), the optimiser in d = 8; the warm-up and the Newton steps at the worst points
    by whether the conjugates stayed solved on `ridges` in d = 2. None was chosen by a true error. The family
    "kinked_icnn" gained most, and the maps of those pairs have such kinks: for smooth ones "dense_icnn" may be better.

    Parameters
    ----------
    family, units, depth, share
        As of the flows (`Flow`), and the family "kinked_icnn", see `KinkedICNN`; family and units by d and
        budget where None.
    optimiser
        "adam", or "muon" for the matrices of the network and Adam for the rest.
    learning_rate
        The highest.
    steps
        Of the optimiser; by d and budget where None.
    batch_size
        Points of each side a step, or the next power of two below where there are fewer.
    visits
        Quasi-Newton steps at each visit of a target point; by d and budget where None.
    held_out
        Share of a finite sample that no step sees.
    dtype
        "float32" or "float64".

    Attributes
    ----------
    parameters_
        The potential, in centred coordinates of one scale.
    value_
        The semi-dual: on what was held out, or on the last block's batches; in units of the data.
    residual_
        Root mean square of |grad phi(x) - y| over the points of `value_`, in units of the data.
    n_steps_
        Steps taken.

    References
    ----------
    Makkuva, Taghvaei, Oh and Lee 2020, Optimal transport mapping via input convex neural networks; Amos 2023, On
    amortizing convex conjugates for optimal transport; Korotin et al. 2021 (arXiv 2106.01954) for the network.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
    claims = frozenset({Claim.GRADIENT_OF_CONVEX})
    invertible = True
    tunable: ClassVar[dict[str, Any]] = {
        "learning_rate": Range(3e-3, 1e-1),
        "units": [32, 64, 128],
        "steps": [500, 1000, 2000],
    }
    matters_with: ClassVar[dict[str, Any]] = {
        "units": {"family": [None, "ridge", "icnn", "dense_icnn", "kinked_icnn", "maxima"]},
        "depth": {"family": [None, "icnn", "dense_icnn", "kinked_icnn"]},
        "share": {"family": [None, "ridge", "icnn", "dense_icnn", "kinked_icnn", "maxima"]},
    }

    def __init__(
        self,
        family: Family | None = None,
        units: PositiveInt | None = None,
        depth: PositiveInt = 3,
        share: Annotated[float, Field(gt=0, lt=1)] = SHARE,
        optimiser: Optimiser = "muon",
        learning_rate: PositiveFloat = 0.05,
        steps: PositiveInt | None = None,
        batch_size: PositiveInt = 1024,
        visits: PositiveInt | None = None,
        held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        self.family = family
        self.units = units
        self.depth = depth
        self.share = share
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.steps = steps
        self.batch_size = batch_size
        self.visits = visits
        self.held_out = held_out
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """JAX, and what networks and optimisers are of."""
        return ("jax", "equinox", "optax")

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Minimise; the trace is called after each block of steps.

        Raises
        ------
        Diverged
            The semi-dual became NaN or infinite.
        """
        with jax.enable_x64(self.dtype == "float64"):
            _Fit(self, source, target, seed, trace or keep_going).run()
        return self

    def transform(self, X: Any) -> Any:
        """T(x) = grad phi(x), (n, d) -> (n, d)."""
        return self._map(X)

    def potential(self, X: Any) -> Any:
        """phi(x), (n, d) -> (n,)."""
        scaled = (X - self.source_mean_) / self.scale_
        return self.scale_**2 * in_blocks(values, self.parameters_, scaled) + X @ self.target_mean_

    def inverse_transform(self, Y: Any) -> Any:
        """T^-1(y) = grad phi*(y), (n, d) -> (n, d), by Newton steps from the inverse Gaussian map."""
        y = (Y - self.target_mean_) / self.scale_
        return self.source_mean_ + self.scale_ * GradientMap(self.parameters_).inverse(y, x=y @ self.inverse_slope_)

    def _map(self, x: Points) -> Points:
        scaled = (x - self.source_mean_) / self.scale_
        moved: Points = self.target_mean_ + self.scale_ * in_blocks(images, self.parameters_, scaled)
        return moved


class _Fit:
    """One fit: its draws, its blocks of steps, what it keeps."""

    def __init__(self, owner: SemiDual, source: Any, target: Any, seed: int, trace: Trace) -> None:
        self.owner, self.trace = owner, trace
        self.dtype = np.dtype(owner.dtype)
        self.rng = np.random.default_rng(seed)
        self.sides = [
            Side.of_set(view, owner.held_out, (seed, k), on_device=True) for k, view in enumerate((source, target))
        ]
        x, y = (side.beginning() for side in self.sides)
        dim = x.shape[1]
        x, y, owner.source_mean_, owner.target_mean_, owner.scale_ = standardised(x, y)
        self.spread = bool(x.any() or y.any())
        unlimited = all(side.size is None for side in self.sides)
        self.settings = defaults(dim, None if unlimited else min(len(x), len(y)))
        slope = bures_slope(x, y) + FLAT * np.eye(dim)
        owner.inverse_slope_ = np.linalg.inv(slope)
        self.inverse = jnp.asarray(owner.inverse_slope_, self.dtype)
        lower = np.linalg.cholesky(slope)[np.tril_indices(dim)]
        gaussian = Quadratic(jnp.asarray(lower, self.dtype), jnp.zeros(dim, self.dtype))
        self.start = FAMILIES[owner.family or self.settings.family].start(
            gaussian,
            jnp.asarray(x[: 1 << 12], self.dtype),
            units=owner.units or self.settings.units,
            depth=owner.depth,
            share=owner.share,
            rng=self.rng,
        )
        most = pools.power_of_two_below(pools.most_points(dim, self.dtype.itemsize))
        self.pool_size = min(most, BLOCK * owner.batch_size) if self.sides[1].size is None else len(y)
        self.best = np.inf
        self.held_out: tuple[jax.Array, Conjugates] | None = None

    def run(self) -> None:
        """All steps, or as many as the trace wants."""
        owner = self.owner
        owner.n_steps_ = 0
        if not self.spread:
            self._take(identity(self.start.dim), 0.0, 0.0)
            return
        steps = owner.steps or self.settings.steps
        visits = owner.visits or self.settings.visits
        method, block = descent(owner.optimiser, owner.learning_rate, steps, visits)
        pool, _ = pools.conjugates(self.start, self._draw(1, 1, self.pool_size)[0], self.inverse)
        state = State(self.start, self.start, method.init(self.start), pools.padded(pool))
        self._hold_out()
        size, own = (
            owner.batch_size if n is None or n >= owner.batch_size else pools.power_of_two_below(n)
            for n in (self.sides[0].size, self.pool_size)
        )
        each = min(BLOCK, self.pool_size // own) if self.sides[1].size is None else BLOCK
        for turn, first in enumerate(range(0, steps, each)):
            count = min(each, steps - first)
            x = jnp.asarray(self._draw(0, count, size), self.dtype)
            indices = jnp.asarray(pools.orders(self.pool_size, count, own, self.rng))
            state, seen = block(state, x, indices)
            owner.n_steps_ += count
            if not self._keep(state, seen):
                return
            if self.sides[1].size is None:
                fresh = self._draw(1, 1, -(-self.pool_size // pools.VISITS))[0]
                known = jax.tree.map(lambda leaf: leaf[: pools.NEAR], state.pool)
                new, _ = pools.conjugates(state.potential, fresh, known)
                state = state._replace(pool=pools.refreshed(state.pool, new, turn))

    def _keep(self, state: State, seen: Seen) -> bool:
        owner = self.owner
        value, residual = float(seen.value), float(jnp.sqrt(seen.residual))
        if not np.isfinite(value):
            raise Diverged(f"step {owner.n_steps_}: the semi-dual is {value}; lower learning_rate.")
        if self.held_out is not None:
            value, residual = self._held_out_value(state.average)
        if self.held_out is None or value < self.best:
            self.best = value
            self._take(state.average, value, residual)
        return self.trace(owner._map, semidual=value * owner.scale_**2, conjugate_residual=residual * owner.scale_)

    def _take(self, potential: Potential, value: float, residual: float) -> None:
        """The map so far, in float64 whatever it was learnt in."""
        owner = self.owner
        with jax.enable_x64(True):
            owner.parameters_ = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), potential)
        owner.value_, owner.residual_ = value * owner.scale_**2, residual * owner.scale_

    def _hold_out(self) -> None:
        if not all(len(side.held_out) for side in self.sides):
            return
        x, y = (self._scaled(k, side.held_out) for k, side in enumerate(self.sides))
        points, _ = pools.conjugates(self.start, y, self.inverse)
        self.held_out = jnp.asarray(x, self.dtype), points

    def _held_out_value(self, potential: Potential) -> tuple[float, float]:
        assert self.held_out is not None
        x, points = self.held_out
        points, error = pools.again(potential, points)
        value = float(_semidual(potential, x, points) + jnp.mean(error**2))  # unsolved conjugates are too low
        self.held_out = x, points
        return value, float(jnp.sqrt(jnp.mean(error**2)))

    def _draw(self, k: int, count: int, n: int) -> Any:
        """Batches of a side in centred coordinates, (count, at most n, d)."""
        return self._scaled(k, self.sides[k].batches(count, n))

    def _scaled(self, k: int, points: Any) -> Any:
        owner = self.owner
        return scaled(points, owner.target_mean_ if k else owner.source_mean_, owner.scale_, self.dtype)


def identity(dim: int) -> Quadratic:
    """The potential of x -> x, for a point on either side: there is nothing to learn."""
    with jax.enable_x64(True):
        return Quadratic.identity_like(jnp.zeros((1, dim), jnp.float64))


_semidual = eqx.filter_jit(semidual)
