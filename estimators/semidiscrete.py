"""Semi-discrete transport: from a source that is known, not only sampled, to the target samples."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from scipy.spatial.distance import cdist

from mongebench.core.arrays import Points, blockwise
from mongebench.core.errors import InvalidInput, NotConverged
from mongebench.core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from mongebench.core.oracle import Oracle, SourceView
from mongebench.estimators.discrete import weighted
from mongebench.estimators.interpolation import MAX_DIM, PiecewiseLinear

NEEDS = {
    "newton": frozenset({Oracle.SOURCE_DENSITY, Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES}),
    "sgd": frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLES}),
}
"""What each solver asks for: its tier."""
PIXELS = {2: 256, 3: 24}
"""Pixels along an axis, by dimension."""
FLOORS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
"""Of the density, relative to the largest: not zero, so that no cell is empty that begins on the fringe of the box."""
DRAWS_PER_CELL = 100
"""Draws of the source, for each target sample, from which "sgd" estimates the centroids and masses of the cells."""
MISPLACED = 1.9
"""Largest sum of their mass errors that "sgd" may leave, which stops after its steps without any criterion: at 2 no
mass is in its cell. Between Gaussians the default steps leave 0.55 for 60 samples and 0.25 for 500; one sample 10^4
standard deviations away, 1.97."""
MASS_ERROR = 1e-6
"""Largest error of the mass of a cell that "newton" may leave, in units of the mass it should have."""


class Semidiscrete(MapEstimator):
    """Semi-discrete map: the source cut into the Laguerre cells of the target samples, each of the right mass.

    With weights w such that the cell of each target sample y_j,

        L_j = { x : |x - y_j|^2 - w_j <= |x - y_k|^2 - w_k for all k },

    has the mass 1 / m under mu0, T(x) = y_j on L_j is the Monge map from mu0 to the sample (Aurenhammer, Hoffmann,
    Aronov 1998). No noise of source samples is left in it; that of the target samples is.

    Use "newton" where the density of mu0 is known, in d = 2 and 3. That is a different tier from a map learnt
    from two samples.

    Parameters
    ----------
    solver
        "newton": damped Newton's method on the masses of the cells (Kitagawa, Merigot, Thibert 2019; Levy 2015), by
        pysdot, the extra `semidiscrete` of mongebench. The density is a grid of pixels over the bounding box of a
        source sample, widened by one standard deviation on each side: d = 2 and 3.
        "sgd": averaged stochastic gradient ascent of the semi-dual with decreasing regularisation (Genans,
        Godichon-Baggioni, Vialard, Wintenberger 2025), by POT, from draws of the source alone, in any dimension.
    map
        "centroids": linear on the Delaunay triangulation of the centroids b_j of the cells, T(b_j) = y_j, and a
        translation outside it, d <= 4 (Manole, Balakrishnan, Niles-Weed, Wasserman 2024 smooth the same way);
        "hard": T itself.
    pixels
        Along an axis, for "newton"; None: 256 in d = 2, 24 in d = 3.
    steps, batch_size
        Of "sgd".

    Attributes
    ----------
    weights_
        w (m,), in the coordinates of the data less their means, for `points_` (m, d), the distinct target samples.
    mass_error_
        Sum over the cells of what their masses are off by; of "sgd" estimated from 100 draws per cell, whose own noise
        is 0.08.
    """

    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.UNIT_FREE})
    matters_with: ClassVar[dict[str, Any]] = {
        "pixels": {"solver": ["newton"]},
        "steps": {"solver": ["sgd"]},
        "batch_size": {"solver": ["sgd"]},
    }

    def __init__(
        self,
        solver: Literal["newton", "sgd"] = "newton",
        map: Literal["centroids", "hard"] = "centroids",
        pixels: PositiveInt | None = None,
        steps: PositiveInt = 2000,
        batch_size: PositiveInt = 64,
    ) -> None:
        self.solver = solver
        self.map = map
        self.pixels = pixels
        self.steps = steps
        self.batch_size = batch_size

    @property
    def needs(self) -> frozenset[Oracle]:  # type: ignore[override]
        """Those of the solver."""
        return NEEDS.get(self.solver, NEEDS["newton"])  # `fit` refuses an unknown one

    @property
    def modules(self) -> tuple[str, ...]:
        """That of the solver."""
        return ("ot.semidiscrete",) if self.solver == "sgd" else ("pysdot",)

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether the solver and the map serve this dimension."""
        reason = self._refusal(problem.dim)
        return Support(not reason, reason)

    def _refusal(self, dim: int) -> str:
        if self.solver == "newton" and dim not in PIXELS:
            return f'Power diagrams are computed in d = 2 and 3, not in d = {dim}; solver="sgd" serves any d.'
        if self.map == "centroids" and dim > MAX_DIM:
            return f'Centroids are interpolated in d <= {MAX_DIM}, not in d = {dim}; map="hard" serves any d.'
        return ""

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Find the weights.

        Raises
        ------
        InvalidInput
            A dimension that `supports` refuses.
        NotConverged
            Newton's method left a cell with the wrong mass, or stochastic ascent nearly all mass in wrong cells.
        """
        del seed, trace
        if reason := self._refusal(source.dim):
            raise InvalidInput(reason)
        self.points_, masses = weighted(target.samples, None, "target_weights")
        self.target_mean_ = masses @ self.points_
        y = self.points_ - self.target_mean_
        centroids = self._newton(source, y, masses) if self.solver == "newton" else self._sgd(source, y, masses)
        self.interpolation_ = None
        if self.map == "centroids":
            seen = np.isfinite(centroids).all(axis=1)
            self.interpolation_ = PiecewiseLinear.through(centroids[seen], y[seen])
        return self

    def transform(self, X: Any) -> Any:
        """The map, (n, d) -> (n, d)."""
        x = X - self.source_mean_
        if self.interpolation_ is not None:
            return self.target_mean_ + self.interpolation_(x)
        return self.points_[_cells(x, self.points_ - self.target_mean_, self.weights_)]

    def _newton(self, source: SourceView, y: Points, masses: NDArray[np.float64]) -> Points:
        """Set the weights; the centroids of the cells."""
        from pysdot import OptimalTransport
        from pysdot.domain_types import ScaledImage

        x = source.samples
        self.source_mean_ = x.mean(axis=0)
        widened = x.std(axis=0) + (x.std() or 1.0) * 1e-3  # a source without extent has a box all the same
        low, high = x.min(axis=0) - self.source_mean_ - widened, x.max(axis=0) - self.source_mean_ + widened
        count = self.pixels or PIXELS[source.dim]
        edges = np.linspace(low, high, count + 1)
        centres = (edges[1:] + edges[:-1]) / 2
        grid = np.stack(np.meshgrid(*centres.T, indexing="ij"), axis=-1).reshape(-1, source.dim)
        logs = np.asarray(source.log_density(grid + self.source_mean_), dtype=np.float64)

        def solve(weights: NDArray[np.float64], floor: float) -> tuple[Any, float]:
            density = np.exp(np.maximum(logs - logs.max(), np.log(floor)))
            density /= density.sum() * np.prod((high - low) / count)
            image = density.reshape([count] * source.dim).T  # the last coordinate first
            solver = OptimalTransport(
                positions=y,
                weights=weights,
                domain=ScaledImage(low, high, image),
                masses=masses,
                linear_solver="Scipy",
                obj_max_dw=0,
                obj_max_dm=MASS_ERROR / len(y) / 10,
            )
            solver.max_iter = 200
            solver.adjust_weights()
            return solver, float(np.abs(solver.pd.integrals() / masses - 1).max())

        weights = _beginning(y, low, high)
        solver, error = solve(weights, FLOORS[-1])
        # Where the density is next to nothing, cells can lose their mass on the way: then by way of flatter densities,
        # each from the weights of the one before.
        for floor in FLOORS if not error <= MASS_ERROR else ():
            solver, error = solve(weights, floor)
            if not error <= MASS_ERROR:
                raise NotConverged(
                    f"Newton's method left a cell of {len(y)} with a mass off by {error:.1e} of it; take more pixels "
                    'or fewer target samples, or solver="sgd".'
                )
            weights = np.array(solver.get_weights())
        self.weights_ = np.array(solver.get_weights())
        self.mass_error_ = float(np.abs(solver.pd.integrals() - masses).sum())
        return np.array(solver.get_centroids())

    def _sgd(self, source: SourceView, y: Points, masses: NDArray[np.float64]) -> Points:
        """Set the weights; estimates of the centroids, NaN for cells that no draw fell into."""
        from ot.semidiscrete import solve_semidiscrete

        first = source.batch(max(self.batch_size, 1000))
        self.source_mean_ = first.mean(axis=0)
        # POT's step sizes and regularisation are made for costs of order 1.
        scale = float(np.sqrt(2 * (first.var(axis=0).sum() + y.var(axis=0).sum()))) or 1.0
        scaled = solve_semidiscrete(
            y / scale,
            lambda size: (source.batch(size) - self.source_mean_) / scale,
            a_target=masses,
            max_iter=self.steps,
            batch_size=self.batch_size,
        )
        self.weights_ = scale**2 * np.asarray(scaled)
        draws = source.batch(DRAWS_PER_CELL * len(y)) - self.source_mean_
        cells = _cells(draws, y, self.weights_)
        counts = np.bincount(cells, minlength=len(y)).astype(np.float64)
        self.mass_error_ = float(np.abs(counts / len(draws) - masses).sum())
        if not self.mass_error_ <= MISPLACED:
            raise NotConverged(
                f"Stochastic ascent left cells whose masses are off by {self.mass_error_:.2f} in the sum, after "
                f'{self.steps} steps; take more steps or larger batches, drop far outliers, or take solver="newton".'
            )
        counts[counts == 0] = np.nan
        sums = np.stack([np.bincount(cells, column, len(y)) for column in draws.T], axis=1)
        return np.asarray(sums / counts[:, None])


def _cells(x: Points, y: Points, weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """The index of the Laguerre cell of each x, (n, d) -> (n,)."""
    return blockwise(
        lambda x: (cdist(x, y, "sqeuclidean") - weights).argmin(axis=1),
        x,
        row_bytes=8 * len(y),
        block_bytes=1 << 22,
    )


def _beginning(y: Points, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of which no cell in the box is empty, as Newton's method needs.

    The Voronoi diagram of u = c + y' / s, for y' centred at the middle of its range and c the middle of the box, is the
    power diagram of y with the weights |y|^2 - s |u|^2, and all u are in the box for s large enough.
    """
    middle = (y.min(axis=0) + y.max(axis=0)) / 2
    scale = float(((y.max(axis=0) - y.min(axis=0)) / (0.9 * (high - low))).max()) or 1.0
    inside = (low + high) / 2 + (y - middle) / scale
    beginning: NDArray[np.float64] = (y**2).sum(axis=1) - scale * (inside**2).sum(axis=1)
    return beginning
