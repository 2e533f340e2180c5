"""Entropic maps: the softmax of the dual potential of entropic optimal transport, plain and debiased.

Both estimators are built from one object, `SoftmaxPotential`: the Brenier potential

    phi(x) = eps log sum_j b_j exp((<x, y_j> + g_j - |y_j|^2 / 2) / eps),       grad phi(x) = sum_j p_j(x) y_j,

that a converged dual potential g of the problem with cost |x - y|^2 / 2 defines at every x. Libraries differ in the
cost: ott's has no 1/2, so that its epsilon is twice ours. `solve` hides that and returns log b + g / eps, which is the
same number everywhere.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from mongebench.core.arrays import Points, row_blocks
from mongebench.core.errors import InvalidParameter, NotConverged
from mongebench.core.estimator import Claim, MapEstimator, Range, Trace
from mongebench.core.oracle import Oracle
from mongebench.estimators.held_out import folds_of, held_out_value
from mongebench.estimators.standard import standardised

EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""What "validated" chooses from, in multiples of the mean cost."""
CANDIDATE_TOLERANCE = 0.01
"""Of the solves that "validated" compares. The semi-dual value is a bound for any potential, so that half-solved ones
are compared fairly: the choice was that of 1e-5 in 12 of 12 cases (n = 500; d = 2, 8, 32; the four families of the
experiment `baselines`, one seed) at a quarter of the CPU seconds."""
ROUNDING = 1e-12
"""Of a marginal error."""
Scale = Literal["mean_cost", "absolute"]
Backend = Literal["ott", "pot_numpy", "pot_torch", "pot_jax"]
BLOCK_BYTES = 1 << 22
"""Bytes of one block of the softmax: large enough for BLAS, small enough for a cache (blocks of 64 MiB took 2.5 x)."""


class Entropic(MapEstimator):
    """Entropic map of Pooladian and Niles-Weed: softmax barycentre of the target under the dual potential.

    With g the optimal dual potential of entropic transport between the samples (cost |x - y|^2 / 2),

        T(x) = sum_j y_j exp((g_j - |x - y_j|^2 / 2) / eps) / sum_j exp((g_j - |x - y_j|^2 / 2) / eps),

    the barycentric projection at the samples and its natural extension elsewhere (Pooladian and Niles-Weed 2021,
    Entropic estimation of optimal transport maps). It is the gradient of a convex potential.

    Use it in low dimension, where eps can be small. A large eps pulls every image to the mean of Y; in d = 16 this bias
    can exceed the error of the identity, and `SinkhornDivergence`, which removes most of it, is the better row.

    Parameters
    ----------
    epsilon
        Strength of the regularisation, > 0, in the unit that `scale` says; or "validated": of six multiples of the mean
        cost, from 0.005 to 0.2, the one whose potential has the largest semi-dual value on held-out samples
        (`mongebench.estimators.held_out`), which never looks at the truth and costs `folds` times six smaller solves,
        to a tolerance of 0.01. Where its own solve, to `tolerance`, does not converge, the next best takes its place.
    scale
        "mean_cost": a multiple of the mean of |x_i - y_j|^2 / 2 over all pairs of samples (no unit), which a shift
        between the two measures enlarges although it leaves the coupling as it is; "absolute": in squared units of the
        data.
    backend
        "ott" (JAX, compiled once for each n, m and d), "pot_numpy", "pot_torch" or "pot_jax" (POT); float64 in all.
    tolerance
        Largest L1 distance between the second marginal of the coupling and the target weights (the first is exact).
        "pot_*" stop at a Euclidean distance of tolerance / sqrt(m), which implies it.
    max_iterations
        Most Sinkhorn iterations of a solve; a candidate of "validated" that needs more is left out.
    folds
        Parts of the samples that "validated" holds out in turn.

    Attributes
    ----------
    epsilon_
        The regularisation in squared units of the data.
    n_iterations_, marginal_error_
        Iterations that were needed, and the L1 distance they left.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset(Claim)

    tunable: ClassVar[dict[str, Any]] = {
        "epsilon": Range(0.005, 0.5),
    }
    matters_with: ClassVar[dict[str, Any]] = {"folds": {"epsilon": ["validated"]}}

    def __init__(
        self,
        epsilon: PositiveFloat | Literal["validated"] = 0.05,
        scale: Scale = "mean_cost",
        backend: Backend = "ott",
        tolerance: PositiveFloat = 1e-5,
        max_iterations: PositiveInt = 10_000,
        folds: Annotated[int, Field(ge=2)] = 3,
    ) -> None:
        self.epsilon = epsilon
        self.scale = scale
        self.backend = backend
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.folds = folds

    def check_parameters(self) -> None:
        """The candidates of "validated" are multiples of the mean cost."""
        if self.epsilon == "validated" and self.scale != "mean_cost":
            raise InvalidParameter(f'epsilon="validated" needs scale="mean_cost", got scale={self.scale!r}.')

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of the backend."""
        return MODULES.get(self.backend, ())

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Choose epsilon where that is "validated", and solve for the dual potential.

        Raises
        ------
        NotConverged
            The tolerance was not reached within `max_iterations`.
        """
        del trace
        x, y = source.samples, target.samples
        candidates = self._validated(x, y, seed) if self.epsilon == "validated" else [self.epsilon]
        for epsilon in candidates:
            try:
                self.cross_ = self._solved(x, y, epsilon, self.tolerance)
                break
            except NotConverged:
                if epsilon == candidates[-1]:
                    raise
        self.epsilon_ = self.cross_.epsilon
        self.n_iterations_, self.marginal_error_ = self.cross_.n_iterations, self.cross_.marginal_error
        return self

    def transform(self, X: Any) -> Any:
        """The entropic map, (n, d) -> (n, d)."""
        return self.cross_.gradient(X)

    def potential(self, X: Any) -> Any:
        """phi(x) = |x|^2 / 2 - f(x), f the dual potential extended to all x, (n, d) -> (n,)."""
        return self.cross_.value(X)

    def _solved(self, x: Points, y: Points, epsilon: Any, tolerance: float) -> SoftmaxPotential:
        absolute = absolute_epsilon(epsilon, self.scale, x, y)
        return solve(x, y, absolute, self.backend, tolerance, self.max_iterations)

    def _validated(self, x: Points, y: Points, seed: int) -> list[float]:
        """EPSILONS, the best on held-out samples first; the default, 0.05, where a fold would have less than two."""
        if min(len(x), len(y)) < 2 * self.folds:
            return [0.05]
        # In units of their own, for which the search of the c-transform is made; but as far apart as they are, which
        # the mean cost counts.
        x, y, source_mean, target_mean, scale = standardised(x, y)
        y = y + (target_mean - source_mean) / scale
        # From the mean outwards, so that the folds depend neither on the order of the samples nor on their coordinates.
        x, y = (points[((points - points.mean(axis=0)) ** 2).sum(axis=1).argsort()] for points in (x, y))
        values = dict.fromkeys(EPSILONS, 0.0)
        for fold in folds_of(x, y, self.folds, np.random.default_rng(seed)):
            for epsilon in EPSILONS:
                try:
                    phi = self._solved(fold.x_fit, fold.y_fit, epsilon, max(self.tolerance, CANDIDATE_TOLERANCE))
                except NotConverged:
                    values[epsilon] = -np.inf
                    continue
                values[epsilon] += held_out_value(DualPotential(phi), fold).mean
        return sorted(EPSILONS, key=values.__getitem__, reverse=True)


class SinkhornDivergence(MapEstimator):
    """Debiased entropic map: x + B_xy(x) - B_xx(x), from the potentials of the Sinkhorn divergence.

    B_xy is the entropic map from source to target and B_xx the one from the source sample to itself, at one epsilon:
    x minus the gradient of the potential of the Sinkhorn divergence (Feydy, Sejourne, Vialard, Amari, Trouve, Peyre
    2019, Interpolating between optimal transport and MMD using Sinkhorn divergences). B_xx shrinks the source as B_xy
    shrinks the target, so most of the bias cancels (Pooladian, Cuturi, Niles-Weed 2022, Debiaser beware).

    Use it where the plain map is biased, as in higher dimensions. It is a gradient, but of a potential that need not
    be convex, and far outside the samples it is only a shift.

    Parameters
    ----------
    epsilon
        As in `Entropic`, but larger: with most of the bias gone, a larger epsilon pays by its smaller variance.
        Between Gaussians 0.1 to 0.3 of the mean cost all do well in d = 2 and in d = 16, and either end wins in
        places; the default is the middle, and not the upper end because Gaussians flatter a large epsilon.
    scale, backend, tolerance, max_iterations
        As in `Entropic`.

    Attributes
    ----------
    epsilon_
        The regularisation in squared units of the data.
    n_iterations_, marginal_error_
        Iterations of both solves together, and the larger of the L1 distances they left.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.ROTATION_EQUIVARIANT, Claim.UNIT_FREE})

    tunable: ClassVar[dict[str, Any]] = {
        "epsilon": Range(0.01, 2.0),
    }

    def __init__(
        self,
        epsilon: PositiveFloat = 0.2,
        scale: Scale = "mean_cost",
        backend: Backend = "ott",
        tolerance: PositiveFloat = 1e-5,
        max_iterations: PositiveInt = 10_000,
    ) -> None:
        self.epsilon = epsilon
        self.scale = scale
        self.backend = backend
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of the backend."""
        return MODULES.get(self.backend, ())

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Solve from the source to the target and from the source to itself; raises as `Entropic.fit`."""
        del seed, trace
        x, y = source.samples, target.samples
        self.epsilon_ = absolute_epsilon(self.epsilon, self.scale, x, y)
        self.cross_, self.self_ = (
            solve(x, to, self.epsilon_, self.backend, self.tolerance, self.max_iterations) for to in (y, x)
        )
        self.n_iterations_ = self.cross_.n_iterations + self.self_.n_iterations
        self.marginal_error_ = max(self.cross_.marginal_error, self.self_.marginal_error)
        return self

    def transform(self, X: Any) -> Any:
        """x + B_xy(x) - B_xx(x), (n, d) -> (n, d)."""
        return X + self.cross_.gradient(X) - self.self_.gradient(X)

    def potential(self, X: Any) -> Any:
        """phi(x) = |x|^2 / 2 - f_xy(x) + f_xx(x), (n, d) -> (n,)."""
        return (X**2).sum(axis=1) / 2 + self.cross_.value(X) - self.self_.value(X)


@dataclass(frozen=True)
class SoftmaxPotential:
    """phi(x) = eps log sum_j exp((<x - x0, y_j> - |y_j|^2 / 2) / eps + l_j) + <x, y0>, and its gradient.

    Attributes
    ----------
    x0, y0
        (d,), the means of both samples, taken out so that data far from the origin cancels nothing.
    y
        (m, d), the target samples less y0.
    log_scaling
        (m,), l = log b + g / eps.
    epsilon
        eps, in squared units of the data.
    n_iterations, marginal_error
        How the solver ended.
    """

    x0: NDArray[np.float64]
    y0: NDArray[np.float64]
    y: Points
    log_scaling: NDArray[np.float64]
    epsilon: float
    n_iterations: int
    marginal_error: float

    def value(self, x: Points) -> NDArray[np.float64]:
        """phi, (n, d) -> (n,)."""
        values = np.empty(len(x))
        for rows, peak, terms in self._blocks(x):
            values[rows] = self.epsilon * (peak + np.log(terms.sum(axis=1)))
        return values + x @ self.y0

    def gradient(self, x: Points) -> Points:
        """Grad phi, the softmax barycentre of the target samples, (n, d) -> (n, d)."""
        images = np.empty_like(x)
        for rows, _, terms in self._blocks(x):
            images[rows] = terms @ self.y / terms.sum(axis=1, keepdims=True)
        return images + self.y0

    def marginal(self, x: Points) -> NDArray[np.float64]:
        """The masses that the images of x (n, d), of equal mass, take from the target samples, (m,)."""
        total = np.zeros(len(self.y))
        for _, _, terms in self._blocks(x):
            total += (terms / terms.sum(axis=1, keepdims=True)).sum(axis=0)
        return total / len(x)

    def _blocks(self, x: Points) -> Iterator[tuple[slice, NDArray[np.float64], Points]]:
        """Rows of x with the largest exponent of each, (k,), and exp(exponent - largest), (k, m)."""
        offsets = self.log_scaling - (self.y**2).sum(axis=1) / (2 * self.epsilon)
        for rows in row_blocks(len(x), 8 * len(self.y), BLOCK_BYTES):
            exponents = ((x[rows] - self.x0) / self.epsilon) @ self.y.T
            exponents += offsets
            peak = exponents.max(axis=1)
            exponents -= peak[:, None]
            yield rows, peak, np.exp(exponents, out=exponents)


@dataclass(frozen=True)
class DualPotential:
    """f(x) = |x|^2 / 2 - phi(x), and its gradient."""

    phi: SoftmaxPotential

    def value(self, x: Points) -> NDArray[np.float64]:
        """f, (n, d) -> (n,)."""
        values: NDArray[np.float64] = (x**2).sum(axis=1) / 2 - self.phi.value(x)
        return values

    def gradient(self, x: Points) -> Points:
        """x - grad phi(x), (n, d) -> (n, d)."""
        return x - self.phi.gradient(x)


def absolute_epsilon(epsilon: float, scale: Scale, x: Points, y: Points) -> float:
    """`epsilon` > 0 in squared units of the data."""
    if scale == "absolute":
        return float(epsilon)
    shift = x.mean(axis=0) - y.mean(axis=0)
    mean_cost = float(x.var(axis=0).sum() + y.var(axis=0).sum() + shift @ shift) / 2
    # All samples in one point: the map is the same at any epsilon.
    return float(epsilon) * mean_cost or float(epsilon)


def solve(
    x: Points, y: Points, epsilon: float, backend: Backend, tolerance: float, max_iterations: int
) -> SoftmaxPotential:
    """Entropic transport between the samples x (n, d) and y (m, d), of equal weights, for the cost |x - y|^2 / 2.

    Raises
    ------
    NotConverged
        The L1 error of the marginal is above `tolerance` after `max_iterations`.
    """
    # Centring changes the cost by a function of x plus one of y, which the dual potentials absorb: same coupling,
    # fewer iterations (20 for 50 on a shifted Gaussian pair, n = 1000, d = 2), no cancellation far from the origin.
    x0, y0 = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x0, y - y0
    log_scaling, n_iterations, marginal_error = SOLVERS[backend](x, y, epsilon, tolerance, max_iterations)
    phi = SoftmaxPotential(x0, y0, y, log_scaling, epsilon, n_iterations, marginal_error)
    # What a library says of itself is not taken for granted: the map that is given away must have that error too.
    marginal_error = max(marginal_error, float(np.abs(phi.marginal(x + x0) - 1 / len(y)).sum()))
    if not marginal_error <= tolerance + ROUNDING:
        raise NotConverged(
            f"Sinkhorn ({backend}) left a marginal error of {marginal_error:.1e} after {n_iterations} iterations, "
            f"above tolerance = {tolerance:g}, at absolute epsilon {epsilon:.3g}; raise epsilon or max_iterations."
        )
    return replace(phi, marginal_error=marginal_error)


Solution = tuple[NDArray[np.float64], int, float]
"""log b + g / eps (m,), iterations, L1 error of the second marginal."""


def _ott(x: Points, y: Points, epsilon: float, tolerance: float, max_iterations: int) -> Solution:
    import jax

    with jax.enable_x64(True):
        log_scaling, n_iterations, error = jax.device_get(
            _compiled_ott()(x, y, 2 * epsilon, tolerance, max_iterations=max_iterations)
        )
    return log_scaling, int(n_iterations), float(error)


@functools.cache
def _compiled_ott() -> Callable[..., Any]:
    import jax

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "JAXopt", DeprecationWarning)  # ott's business, said at every first import
        from ott.geometry.pointcloud import PointCloud
        from ott.solvers import linear

    @functools.partial(jax.jit, static_argnames="max_iterations")
    def run(x: Any, y: Any, ott_epsilon: Any, tolerance: Any, max_iterations: int) -> tuple[Any, Any, Any]:
        output: Any = linear.solve(
            PointCloud(x, y, epsilon=ott_epsilon), threshold=tolerance, max_iterations=max_iterations
        )
        last = output.n_iters // output.inner_iterations - 1
        return output.g / ott_epsilon, output.n_iters, output.errors[last]

    return run


def _pot_numpy(*problem: Any) -> Solution:
    return _pot(np.asarray, *problem)


def _pot_torch(*problem: Any) -> Solution:
    import torch

    return _pot(torch.from_numpy, *problem)


def _pot_jax(*problem: Any) -> Solution:
    import jax

    with jax.enable_x64(True):
        return _pot(jax.numpy.asarray, *problem)


def _pot(
    as_array: Callable[[NDArray[np.float64]], Any],
    x: Points,
    y: Points,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    from ot.bregman import sinkhorn_log
    from scipy.spatial.distance import cdist

    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    coupling, log = sinkhorn_log(
        *map(as_array, (a, b, cdist(x, y, "sqeuclidean") / 2)),
        epsilon,
        numItermax=max_iterations,
        stopThr=tolerance / np.sqrt(len(y)),
        log=True,
        warn=False,  # whether it converged is judged in `solve`
    )
    error = np.abs(np.asarray(coupling).sum(axis=0) - b).sum()
    return np.asarray(log["log_v"]), log["niter"] + 1, float(error)


MODULES = {
    "ott": ("jax", "ott.geometry.pointcloud", "ott.solvers.linear"),
    "pot_numpy": ("ot.bregman",),
    "pot_torch": ("ot.bregman", "torch"),
    "pot_jax": ("ot.bregman", "jax"),
}
"""What each backend imports."""

SOLVERS: dict[str, Callable[..., Solution]] = {
    "ott": _ott,
    "pot_numpy": _pot_numpy,
    "pot_torch": _pot_torch,
    "pot_jax": _pot_jax,
}
