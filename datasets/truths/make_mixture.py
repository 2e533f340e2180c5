"""Compute, certify and store the Monge map of the published planar mixture of four Gaussians.

What
----
The source mu0 is the mixture held in the constants below, the target is gamma = N(0, I) in the plane, the
cost is |x - y|^2 / 2.  The truth T* = grad phi has no closed form.  This script computes phi as a spline,
bounds its error without reference to any other solver, compares it with a second and independent computation,
and writes `mixture.npz` beside itself.

Run with the package installed (two to five minutes on one core, 0.6 GB of memory):

    python datasets/truths/make_mixture.py

Method 1 (stored)
-----------------
phi is a tensor-product B-spline of degree 5 on a box, the minimiser of the convex function

    F(phi) = E_rho[ |grad phi|^2 / 2 - log det D^2 phi ],       rho = (1 - delta) mu0 + delta uniform(box).

F(phi) plus a constant is KL(grad phi # rho | gamma), so the minimiser over all convex phi is the Brenier
potential from rho to gamma.  The uniform part keeps phi determined and convex where mu0 has no mass; it costs
at most KL(mu0 | rho) <= -log(1 - delta) in the divergence below, and hence 100 delta per cent of UVP.  The
normal slope on each side of the box is held at -s or +s, s = 6: the box is mapped onto [-s, s]^2, outside of
which gamma has mass 4e-9, and the potential extends to a convex C^1 function on the plane (see `spline.py`).

The expectation is Gauss-Legendre quadrature in every knot cell, the minimisation is Newton's method with a
banded Cholesky factorisation and a line search that keeps D^2 phi > 0 at all quadrature points.  Continuation
in delta and in the knot spacing keeps the Newton steps long.

Certificate
-----------
For convex phi and T = grad phi, F under mu0 is 1-convex along the lines (1 - t) T + t T* of gradients of
convex functions and T* is its minimiser, hence

    E_mu0 |T - T*|^2 <= 2 KL(T # mu0 | gamma),
    KL = E_mu0[ log mu0(x) + |T|^2 / 2 + log(2 pi) - log det DT(x) ],
    UVP = 100 E_mu0 |T - T*|^2 / Var(gamma) <= 100 KL,          Var(gamma) = 2.

KL is evaluated by a quadrature finer than, and not aligned with, the one of the minimisation, and by Monte
Carlo with the exact log-density of mu0.  Convexity is checked at all quadrature points, on a grid of the
whole box and at all Monte Carlo points.

Method 2 (independent)
----------------------
Debiased entropic transport between grids, see `entropic_grid.py`.  Nothing of method 1 enters.

References: Brenier (1991), Comm. Pure Appl. Math. 44; de Boor (2001), A Practical Guide to Splines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.linalg import cho_solve_banded, cholesky_banded

from mongebench.datasets.mixture import COVARIANCES, MEANS, WEIGHTS
from mongebench.datasets.truths.entropic_grid import entropic_displacements, entropic_map
from mongebench.datasets.truths.spline import SplinePotential

Array = NDArray[np.float64]

# Method 1.  The box reaches at least 7 standard deviations beyond every mean along both axes.
LOWER, UPPER = np.array([-4.5, -5.5]), np.array([4.5, 7.0])
DEGREE = 5
SLOPE = 6.0
NODES_PER_CELL = 4
# (cells along x_1, cells along x_2), then the exponents e of delta = 10 ** e, first to last in steps of 1/4.
# Below about 10 ** -5.5 the barrier in the empty regions is so weak that D^2 phi loses its sign between the
# nodes, and the blend that restores it costs more than delta does.
LEVELS = (((36, 50), 0.0, -3.0), ((72, 100), -3.0, -4.0), ((144, 200), -4.0, -5.25))

# Method 2.  The grid reaches 5.5 standard deviations beyond every mean.
SOURCE_LOWER, SOURCE_UPPER = np.array([-3.75, -4.75]), np.array([3.75, 6.0])

MONTE_CARLO_SAMPLES = 4_000_000
COMPARISON_SAMPLES = 200_000


def log_source_density(x: Array, y: Array) -> Array:
    """Logarithm of the density of mu0 at the points (x, y), arrays of broadcastable shapes."""
    terms = []
    for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        precision = np.linalg.inv(covariance)
        u, v = x - mean[0], y - mean[1]
        square = precision[0, 0] * u**2 + 2 * precision[0, 1] * u * v + precision[1, 1] * v**2
        terms.append(np.log(weight / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))) - 0.5 * square)
    return np.asarray(np.logaddexp.reduce(np.array(terms), axis=0), dtype=np.float64)


def sample_source(n: int, rng: np.random.Generator) -> Array:
    """Draw n independent points of mu0: (n, 2)."""
    component = rng.choice(len(WEIGHTS), size=n, p=WEIGHTS)
    noise = rng.standard_normal((n, 2))
    factors = np.linalg.cholesky(COVARIANCES)
    points: Array = MEANS[component] + np.einsum("nij,nj->ni", factors[component], noise)
    return points


# ----------------------------------------------------------------------------------------------------
# Method 1: convex spline potential.


@dataclass(frozen=True)
class Axis:
    """Knots of one axis and the B-splines tabulated at the quadrature nodes of this axis.

    `dense` (3, nodes, k): derivatives 0, 1, 2 of all k B-splines at all nodes.  `local` (3, cells, q, degree
    + 1): the same for the B-splines that live in each cell, after the first B-spline has been added to the
    second and the last to the last but one.  That is the basis of the splines with a given slope at both
    ends: the coefficient next to the end is free and the end follows it at a fixed distance.
    """

    knots: Array
    nodes: Array
    weights: Array
    dense: Array
    local: Array

    @property
    def cells(self) -> int:
        """Number of knot intervals."""
        return len(self.knots) - 2 * DEGREE - 1

    @property
    def size(self) -> int:
        """Number of B-splines."""
        return len(self.knots) - DEGREE - 1


def tabulate(knots: Array, nodes: Array) -> Array:
    """Derivatives 0, 1, 2 of all B-splines at the nodes: (3, nodes, k)."""
    basis = BSpline(knots, np.eye(len(knots) - DEGREE - 1), DEGREE)
    return np.stack([basis(nodes, nu=order) for order in range(3)])


def gauss_legendre(lower: float, upper: float, panels: int, order: int) -> tuple[Array, Array]:
    """Nodes and weights of the composite rule on equal panels: two arrays (panels * order,)."""
    points, weights = np.polynomial.legendre.leggauss(order)
    half = (upper - lower) / panels / 2
    centres = lower + half * (2 * np.arange(panels) + 1)
    return (centres[:, None] + half * points).ravel(), np.tile(half * weights, panels)


def make_axis(lower: float, upper: float, cells: int) -> Axis:
    """Uniform clamped knots with NODES_PER_CELL Gauss-Legendre nodes in every cell."""
    breaks = np.linspace(lower, upper, cells + 1)
    knots = np.concatenate([np.full(DEGREE, lower), breaks, np.full(DEGREE, upper)])
    nodes, weights = gauss_legendre(lower, upper, cells, NODES_PER_CELL)
    dense = tabulate(knots, nodes)
    alive = np.arange(len(nodes))[:, None] // NODES_PER_CELL + np.arange(DEGREE + 1)  # those that live in a node's cell
    local = dense[:, np.arange(len(nodes))[:, None], alive].reshape(3, cells, NODES_PER_CELL, DEGREE + 1)
    local[:, 0, :, 1] += local[:, 0, :, 0]
    local[:, 0, :, 0] = 0.0
    local[:, -1, :, -2] += local[:, -1, :, -1]
    local[:, -1, :, -1] = 0.0
    return Axis(knots, nodes, weights, dense, local)


def parabola(axis: Axis) -> Array:
    """Coefficients (k,) of s (x - middle)^2 / (2 half-width), whose slope is -s and +s at the ends.

    The coefficient of x^2 for the i-th B-spline is the mean of t_a t_b over pairs a != b of its inner knots.
    """
    lower, upper = axis.knots[0], axis.knots[-1]
    inner = np.array([axis.knots[i + 1 : i + DEGREE + 1] for i in range(axis.size)]) - (lower + upper) / 2
    products = (inner.sum(axis=1) ** 2 - (inner**2).sum(axis=1)) / (DEGREE * (DEGREE - 1))
    return np.asarray(SLOPE / (upper - lower) * products, dtype=np.float64)


def separable_start(axes: tuple[Axis, Axis]) -> Array:
    """The strictly convex quadratic with the prescribed normal slopes: coefficients (k_1, k_2)."""
    return parabola(axes[0])[:, None] + parabola(axes[1])[None, :]


@dataclass(frozen=True)
class Fields:
    """First and second derivatives of a potential on a tensor grid, five arrays (nodes_1, nodes_2)."""

    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def of(cls, coefficients: Array, table_x: Array, table_y: Array) -> Fields:
        """Evaluate a spline from the tables (3, nodes, k) of its two axes."""
        orders = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
        return cls(*(table_x[a] @ coefficients @ table_y[b].T for a, b in orders))

    def along(self, other: Fields, step: float) -> Fields:
        """The derivatives of this potential plus `step` times the other."""
        return Fields(
            self.x + step * other.x,
            self.y + step * other.y,
            self.xx + step * other.xx,
            self.xy + step * other.xy,
            self.yy + step * other.yy,
        )

    @property
    def determinant(self) -> Array:
        """Det D^2 phi."""
        return self.xx * self.yy - self.xy**2

    @property
    def convex(self) -> bool:
        """Whether D^2 phi is positive definite at every point."""
        return bool(self.xx.min() > 0 and self.determinant.min() > 0)

    @property
    def smallest_eigenvalue(self) -> Array:
        """The smaller eigenvalue of D^2 phi."""
        return (self.xx + self.yy) / 2 - np.hypot((self.xx - self.yy) / 2, self.xy)

    def density(self) -> Array:
        """|grad phi|^2 / 2 - log det D^2 phi; infinite where D^2 phi is not positive definite."""
        determinant = self.determinant
        positive = (self.xx > 0) & (determinant > 0)
        log_determinant = np.log(np.where(positive, determinant, 1.0))
        return np.where(positive, (self.x**2 + self.y**2) / 2 - log_determinant, np.inf)


def fold(gradient: Array) -> Array:
    """Derivative in all coefficients -> in the free ones: the ends join their neighbours (both axes)."""
    folded = gradient.copy()
    for view in (folded, folded.T):
        view[1] += view[0]
        view[-2] += view[-1]
        view[0] = view[-1] = 0.0
    return folded


def unfold(step: Array) -> Array:
    """Step in the free coefficients -> step in all: the ends move with their neighbours (both axes)."""
    unfolded = step.copy()
    for view in (unfolded, unfolded.T):
        view[0], view[-1] = view[1], view[-2]
    return unfolded


def newton_matrix(axes: tuple[Axis, Axis], weights: Array, fields: Fields) -> Array:
    """Hessian of F in the free coefficients, lower banded (bandwidth + 1, k_1 * k_2), x_1 fastest.

    With D^2 phi^-1 = L L^T the quadratic form is the weighted sum over the nodes of
    |grad eta|^2 + |L^T D^2 eta L|_F^2, five squares per node; their rows are formed cell by cell.
    """
    ax, ay = axes
    q, width = NODES_PER_CELL, DEGREE + 1
    determinant = fields.determinant
    l11 = np.sqrt(fields.yy / determinant)
    l21 = -fields.xy / determinant / l11
    l22 = np.sqrt(1.0 / fields.yy)

    def by_cell(field: Array) -> Array:
        """(nodes_1, nodes_2) -> (cells_2, cells_1, q, q, 1, 1): the nodes of each cell, x_1 first."""
        return field.reshape(ax.cells, q, ay.cells, q).transpose(2, 0, 1, 3)[..., None, None]

    root, l11, l21, l22 = (by_cell(field) for field in (np.sqrt(weights), l11, l21, l22))
    band = np.zeros((DEGREE * ax.size + DEGREE + 1, ay.size, ax.size))
    strip = max(1, 2000 // ax.cells)
    for start in range(0, ay.cells, strip):
        part = slice(start, min(start + strip, ay.cells))
        count = part.stop - part.start
        r, m11, m21, m22 = (field[part] for field in (root, l11, l21, l22))
        rows = np.empty((count, ax.cells, 5, q, q, width, width))
        eta = {
            (a, b): ax.local[a][None, :, :, None, None, :] * ay.local[b][part, None, None, :, :, None]
            for a, b in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
        }
        rows[:, :, 0] = r * eta[1, 0]
        rows[:, :, 1] = r * eta[0, 1]
        rows[:, :, 2] = r * (m11**2 * eta[2, 0] + 2 * m11 * m21 * eta[1, 1] + m21**2 * eta[0, 2])
        rows[:, :, 3] = r * (m22**2 * eta[0, 2])
        rows[:, :, 4] = r * (np.sqrt(2) * m22 * (m11 * eta[1, 1] + m21 * eta[0, 2]))
        flat = rows.reshape(count, ax.cells, 5 * q * q, width * width)
        gram = np.ascontiguousarray((flat.transpose(0, 1, 3, 2) @ flat).transpose(2, 3, 0, 1))
        for k in range(width**2):
            row_y, row_x = divmod(k, width)
            for m in range(width**2):
                column_y, column_x = divmod(m, width)
                offset = (column_y - row_y) * ax.size + column_x - row_x
                if offset >= 0:
                    lines = slice(start + row_y, start + row_y + count)
                    band[offset, lines, row_x : row_x + ax.cells] += gram[k, m]
    # The tied end coefficients are no unknowns: an identity row keeps the matrix positive definite.
    band[0, [0, -1], :] = 1.0
    band[0][:, [0, -1]] = 1.0
    return band.reshape(len(band), -1)


def newton_step(axes: tuple[Axis, Axis], weights: Array, fields: Fields) -> tuple[Array, float]:
    """Newton direction (k_1, k_2) of F and its squared decrement (twice the predicted decrease)."""
    ax, ay = axes
    determinant = fields.determinant

    def against(field: Array, a: int, b: int) -> Array:
        product: Array = ax.dense[a].T @ (weights * field) @ ay.dense[b]
        return product

    gradient = fold(
        against(fields.x, 1, 0)
        + against(fields.y, 0, 1)
        - against(fields.yy / determinant, 2, 0)
        + against(2 * fields.xy / determinant, 1, 1)
        - against(fields.xx / determinant, 0, 2)
    )
    band = newton_matrix(axes, weights, fields)
    size = band.shape[1]
    # The weights span many orders of magnitude: scale the diagonal to one before the factorisation.
    scale = 1.0 / np.sqrt(band[0])
    for offset in range(len(band)):
        band[offset, : size - offset] *= scale[: size - offset] * scale[offset:]
    band[0] += 1e-14
    factor = cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
    solution = scale * cho_solve_banded((factor, True), scale * gradient.T.ravel(), check_finite=False)
    direction = -solution.reshape(ay.size, ax.size).T
    return unfold(direction), -float(np.sum(gradient * direction))


def minimise(coefficients: Array, axes: tuple[Axis, Axis], weights: Array, tolerance: float) -> Array:
    """Newton's method for F until the squared decrement is below `tolerance`; the start must be convex."""
    tables = axes[0].dense, axes[1].dense
    fields = Fields.of(coefficients, *tables)
    value = float(np.sum(weights * fields.density()))
    for _ in range(200):
        direction, decrement = newton_step(axes, weights, fields)
        change = Fields.of(direction, *tables)
        step = 1.0
        while True:
            trial = fields.along(change, step)
            if trial.convex:
                trial_value = float(np.sum(weights * trial.density()))
                if trial_value <= value - 1e-4 * step * decrement + 1e-13:
                    break
            step *= 0.7
            if step < 1e-10:
                raise RuntimeError("Newton's method found no admissible step")
        coefficients, fields, value = coefficients + step * direction, trial, trial_value
        if decrement < tolerance:
            return coefficients
    raise RuntimeError("Newton's method did not converge")


def refine(coefficients: Array, old: tuple[Axis, Axis], new: tuple[Axis, Axis]) -> Array:
    """The same spline on finer knots that contain the old ones (exact: interpolation at Greville points)."""
    for coarse, fine in zip(old, new, strict=True):
        greville = np.array([fine.knots[i + 1 : i + DEGREE + 1].mean() for i in range(fine.size)])
        transfer = np.linalg.solve(tabulate(fine.knots, greville)[0], tabulate(coarse.knots, greville)[0])
        coefficients = (transfer @ coefficients).T
    return coefficients


def blend_until(coefficients: Array, start: Array, tables: tuple[Array, Array], floor: float) -> Array:
    """(1 - t) phi + t phi_0, with the smallest listed t that lifts all eigenvalues above `floor`."""
    for t in (0.0, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0):
        blended = (1 - t) * coefficients + t * start
        fields = Fields.of(blended, *tables)
        if fields.convex and fields.smallest_eigenvalue.min() > floor:
            print(f"  blended with the quadratic start: t = {t:g}", flush=True)
            return blended
    raise RuntimeError("no convex blend")


def spline_potential() -> SplinePotential:
    """Method 1: minimise F level by level, then make the potential convex on a fine grid of the whole box."""
    began = time.perf_counter()
    axes: tuple[Axis, Axis] | None = None
    coefficients = start = np.empty(0)
    area = float(np.prod(UPPER - LOWER))
    for cells, first, last in LEVELS:
        old, axes = axes, (make_axis(LOWER[0], UPPER[0], cells[0]), make_axis(LOWER[1], UPPER[1], cells[1]))
        start = separable_start(axes)
        coefficients = start if old is None else refine(coefficients, old, axes)
        coefficients = blend_until(coefficients, start, (axes[0].dense, axes[1].dense), 0.0)
        density = np.exp(log_source_density(axes[0].nodes[:, None], axes[1].nodes[None, :]))
        cell_weights = axes[0].weights[:, None] * axes[1].weights[None, :]
        exponents = np.arange(first, last - 1e-9, -0.25)
        for exponent in exponents:
            delta = 10.0**exponent
            weights = cell_weights * ((1 - delta) * density + delta / area)
            tolerance = 1e-8 if cells == LEVELS[-1][0] or exponent == exponents[-1] else 1e-3
            coefficients = minimise(coefficients, axes, weights, tolerance)
            print(f"  cells {cells}, delta {delta:.1e}: {time.perf_counter() - began:.0f} s", flush=True)
    assert axes is not None
    fine = tuple(tabulate(axis.knots, np.linspace(axis.knots[0], axis.knots[-1], 8 * axis.cells + 1)) for axis in axes)
    coefficients = blend_until(coefficients, start, (fine[0], fine[1]), 2e-8)
    return SplinePotential(axes[0].knots, axes[1].knots, coefficients, DEGREE)


def divergence_by_quadrature(potential: SplinePotential) -> tuple[float, float]:
    """KL(T # mu0 | gamma) on panels not aligned with the knots, and the smallest eigenvalue met."""
    x, weights_x = gauss_legendre(LOWER[0], UPPER[0], 211, 6)
    y, weights_y = gauss_legendre(LOWER[1], UPPER[1], 293, 6)
    fields = Fields.of(potential.coefficients, tabulate(potential.knots_x, x), tabulate(potential.knots_y, y))
    log_density = log_source_density(x[:, None], y[None, :])
    integrand = log_density + fields.density() + np.log(2 * np.pi)
    mass = weights_x[:, None] * weights_y[None, :] * np.exp(log_density)
    return float(np.sum(mass * integrand)), float(fields.smallest_eigenvalue.min())


def divergence_by_sampling(potential: SplinePotential, n: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Monte Carlo estimate of the same divergence, its standard error, and the smallest eigenvalue met."""
    logs, smallest = [], np.inf
    for _ in range(0, n, 500_000):
        x = sample_source(500_000, rng)
        gradient, hessian = potential.gradient(x), potential.hessian(x)
        fields = Fields(gradient[:, 0], gradient[:, 1], hessian[:, 0, 0], hessian[:, 0, 1], hessian[:, 1, 1])
        logs.append(log_source_density(x[:, 0], x[:, 1]) + fields.density() + np.log(2 * np.pi))
        smallest = min(smallest, float(fields.smallest_eigenvalue.min()))
    values = np.concatenate(logs)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))), smallest


# ----------------------------------------------------------------------------------------------------


def compare(first: Array, second: Array) -> tuple[float, float]:
    """UVP of two maps (per cent, Var(gamma) = 2) at the same points (n, 2), and its standard error."""
    squares = np.sum((first - second) ** 2, axis=1)
    return 50.0 * float(squares.mean()), 50.0 * float(squares.std(ddof=1) / np.sqrt(len(squares)))


def main() -> None:
    """Run both methods, print the certificate and write mixture.npz."""
    began = time.perf_counter()
    print("method 1: convex spline potential")
    potential = spline_potential()
    kl, smallest_on_box = divergence_by_quadrature(potential)
    sampled, error, smallest = divergence_by_sampling(potential, MONTE_CARLO_SAMPLES, np.random.default_rng(1))
    print(f"  KL by quadrature {kl:.3e}, by Monte Carlo {sampled:.3e} +- {error:.1e}")
    print(f"  UVP bound {100 * kl:.2e} %")
    print(f"  smallest eigenvalue of DT: {smallest:.2e} at source points, {smallest_on_box:.2e} on the box")
    print(f"  {time.perf_counter() - began:.0f} s")

    print("method 2: debiased entropic transport")
    found = entropic_displacements(log_source_density, SOURCE_LOWER, SOURCE_UPPER)
    points = sample_source(COMPARISON_SAMPLES, np.random.default_rng(2))
    mapped = potential.gradient(points)
    plain, extrapolated = entropic_map(points, found)
    disagreement, disagreement_error = compare(mapped, extrapolated)
    distances = np.linalg.norm(mapped - extrapolated, axis=1)
    print("  UVP between the methods: {:.2e} +- {:.1e} % without extrapolation".format(*compare(mapped, plain)))
    print(f"  UVP between the methods: {disagreement:.2e} +- {disagreement_error:.1e} % with it")
    print(f"  |T1 - T2| at quantiles 0.5, 0.99, 0.9999, 1: {np.quantile(distances, [0.5, 0.99, 0.9999, 1.0])}")
    print(f"  {time.perf_counter() - began:.0f} s")

    path = Path(__file__).with_name("mixture.npz")
    np.savez_compressed(
        path,
        knots_x=potential.knots_x,
        knots_y=potential.knots_y,
        coefficients=potential.coefficients,
        degree=np.array(potential.degree),
        kl=np.array(kl),
        kl_standard_error=np.array(error),
        uvp_bound=np.array(100 * kl),
        uvp_disagreement=np.array(disagreement),
        uvp_disagreement_standard_error=np.array(disagreement_error),
        min_eigenvalue=np.array(smallest),
    )
    print(f"wrote {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
