"""The second, independent computation of a planar map onto N(0, I): debiased entropic transport between grids.

With B_xy and B_xx the barycentric projections of the plans mu0 -> gamma and mu0 -> mu0 at temperature epsilon,
T_eps(x) = x + B_xy(x) - B_xx(x), in the log domain. The kernel exp(x . y / epsilon) is separable, so every log-sum-exp
runs over one axis at a time. The error of T_eps is of second order in epsilon and is reduced by one Richardson step
over two temperatures.

References: Cuturi (2013), Sinkhorn distances; Feydy et al. (2019), Interpolating between optimal transport and MMD
using Sinkhorn divergences; Pooladian, Cuturi and Niles-Weed (2022), Debiaser beware; Walker and Ni (2011), Anderson
acceleration.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

Array = NDArray[np.float64]
Grid = tuple[Array, Array]  # the coordinates of a tensor grid along its two axes

TARGET_HALF_WIDTH = 5.5  # leaves out a mass of 8e-8
TEMPERATURES = (0.32, 0.16, 0.08, 0.04, 0.02, 0.01, 0.005)
SPACING = 0.25  # grid spacing in units of sqrt(epsilon): well below the width of the conditional plans
MARGINAL_ERROR = 3e-7  # total variation at which the iteration stops


def axis_log_sum_exp(
    log_weights: Array, y: Array, x: Array, epsilon: float, payloads: tuple[Array, ...] = ()
) -> tuple[Array, list[Array]]:
    """log sum_y exp(log_weights[y, :] + x y / epsilon) for all x, and the means of the payloads.

    Shapes: log_weights and payloads (n_y, m), y (n_y,), x (n_x,); results (n_x, m).  For all x in a block
    around a centre c the sum is the matrix product of exp((x - c) y / epsilon) with exp(log_weights + c y /
    epsilon) / max, so that only the second factor costs exponentials.  Blocks are short enough that exp
    neither overflows nor loses a term that matters.
    """
    reach = 500.0 * epsilon / float(np.max(np.abs(y)))
    total = np.empty((len(x), log_weights.shape[1]))
    means = [np.empty_like(total) for _ in payloads]
    begin = 0
    while begin < len(x):
        end = int(np.searchsorted(x, x[begin] + reach, side="right"))
        centre = (x[begin] + x[end - 1]) / 2
        scaled = log_weights + (centre * y / epsilon)[:, None]
        peak = scaled.max(axis=0)
        np.exp(scaled - peak, out=scaled)
        kernel = np.exp((x[begin:end, None] - centre) * y / epsilon)
        sums = kernel @ scaled
        for mean, payload in zip(means, payloads, strict=True):
            mean[begin:end] = (kernel @ (scaled * payload)) / sums
        total[begin:end] = peak + np.log(sums)
        begin = end
    return total, means


def soft_conjugate(potential: Array, log_masses: Array, source: Grid, at: Grid, epsilon: float) -> Array:
    """epsilon log sum_y m(y) exp((x . y - potential(y)) / epsilon), x on the grid `at`, y on `source`."""
    log_weights = log_masses - potential / epsilon
    inner, _ = axis_log_sum_exp(log_weights, source[0], at[0], epsilon)
    outer, _ = axis_log_sum_exp(np.ascontiguousarray(inner.T), source[1], at[1], epsilon)
    return epsilon * np.ascontiguousarray(outer.T)


def barycentres(potential: Array, log_masses: Array, source: Grid, at: Grid, epsilon: float) -> Array:
    """The mean of y under the weights of `soft_conjugate`, i.e. its gradient in x: (2, n_1, n_2)."""
    log_weights = log_masses - potential / epsilon
    first = np.broadcast_to(source[0][:, None], log_weights.shape)
    inner, (mean_first,) = axis_log_sum_exp(log_weights, source[0], at[0], epsilon, (first,))
    inner = np.ascontiguousarray(inner.T)
    second = np.broadcast_to(source[1][:, None], inner.shape)
    _, (mean_second, mean) = axis_log_sum_exp(inner, source[1], at[1], epsilon, (second, mean_first.T))
    return np.stack([mean.T, mean_second.T])


def marginal_error(change: Array, log_masses: Array, epsilon: float) -> float:
    """Sum of |mass of the plan's marginal - mass| when a half-step moves the potential by `change`."""
    return float(np.sum(np.exp(log_masses) * np.abs(np.expm1(np.minimum(change / epsilon, 5.0)))))


def sinkhorn(psi: Array, x: Grid, y: Grid, log_mu: Array, log_gamma: Array, epsilon: float, memory: int = 8) -> Array:
    """Target potential psi(y) of the entropic plan: Sinkhorn's fixed-point map with Anderson acceleration.

    The slow modes, the exchange of mass between the cells of the target that belong to different components,
    decay at a rate proportional to epsilon per plain step; the acceleration removes them.
    """
    root = np.exp(log_gamma / 2)
    residuals: list[Array] = []
    images: list[Array] = []
    for iteration in range(1000):
        phi = soft_conjugate(psi, log_gamma, y, x, epsilon)
        image = soft_conjugate(phi, log_mu, x, y, epsilon)
        if marginal_error(image - psi, log_gamma, epsilon) < MARGINAL_ERROR:
            print(f"  epsilon {epsilon:g}: {iteration} steps on {log_mu.shape} x {log_gamma.shape}", flush=True)
            return image
        residuals, images = (
            [*residuals[1 - memory :], ((image - psi) * root).ravel()],
            [*images[1 - memory :], image],
        )
        psi = images[-1]
        if len(residuals) > 1:
            differences = np.array([residual - residuals[-1] for residual in residuals[:-1]])
            normal = differences @ differences.T
            normal += 1e-12 * np.trace(normal) * np.eye(len(normal))
            mixing = np.linalg.solve(normal, -differences @ residuals[-1])
            for factor, earlier in zip(mixing, images[:-1], strict=True):
                psi = psi + factor * (earlier - images[-1])
        psi = psi - np.sum(psi * root**2) / np.sum(root**2)  # a constant is free: keep it near zero
    raise RuntimeError("Sinkhorn's iteration did not converge")


def self_transport(phi: Array, x: Grid, log_mu: Array, epsilon: float) -> Array:
    """Potential of the entropic plan from mu0 to itself, by the averaged symmetric iteration."""
    for _ in range(1000):
        image = soft_conjugate(phi, log_mu, x, x, epsilon)
        error = marginal_error(image - phi, log_mu, epsilon)
        phi = (phi + image) / 2
        if error < MARGINAL_ERROR:
            return phi
    raise RuntimeError("the symmetric iteration did not converge")


def make_grid(lower: Array, upper: Array, spacing: float) -> Grid:
    """Uniform tensor grid of at most this spacing that contains both corners."""
    first, second = (
        np.linspace(low, high, int(np.ceil((high - low) / spacing)) + 1) for low, high in zip(lower, upper, strict=True)
    )
    return first, second


def half_square(grid: Grid) -> Array:
    """|y|^2 / 2 on a grid."""
    return (grid[0][:, None] ** 2 + grid[1][None, :] ** 2) / 2


def cell_area(grid: Grid) -> float:
    """Area of one cell of a uniform grid."""
    return float((grid[0][1] - grid[0][0]) * (grid[1][1] - grid[1][0]))


def entropic_displacements(
    log_density: Callable[[Array, Array], Array],
    lower: Array,
    upper: Array,
    temperatures: tuple[float, ...] = TEMPERATURES,
    relative_spacing: float = SPACING,
) -> list[tuple[float, Grid, Array]]:
    """(epsilon, source grid, T_eps(x) - x as (2, n_1, n_2)) for the last two temperatures.

    The source has its logarithmic density at points (x, y), and its grid the corners `lower` and `upper`, (2,). Each
    temperature starts from the potentials of the one before; grid spacing: relative_spacing sqrt(epsilon).
    """
    corner = np.full(2, TARGET_HALF_WIDTH)
    previous: tuple[Grid, Grid] | None = None
    psi = phi = np.empty(0)
    found = []
    for epsilon in temperatures:
        spacing = min(0.08, relative_spacing * np.sqrt(epsilon))
        x, y = make_grid(lower, upper, spacing), make_grid(-corner, corner, spacing)
        log_mu = log_density(x[0][:, None], x[1][None, :]) + np.log(cell_area(x))
        log_gamma = -half_square(y) + np.log(cell_area(y) / (2 * np.pi))
        if previous is None:
            psi, phi = half_square(y), half_square(x)
        else:
            phi = RectBivariateSpline(*previous[0], phi)(*x)
            psi = RectBivariateSpline(*previous[1], psi)(*y)
        psi = sinkhorn(psi, x, y, log_mu, log_gamma, epsilon)
        phi = self_transport(phi, x, log_mu, epsilon)
        previous = x, y
        if epsilon in temperatures[-2:]:
            across = barycentres(psi, log_gamma, y, x, epsilon)
            within = barycentres(phi, log_mu, x, x, epsilon)
            found.append((epsilon, x, across - within))
    return found


def entropic_map(points: Array, found: list[tuple[float, Grid, Array]]) -> tuple[Array, Array]:
    """T_eps of the last temperature and its Richardson extrapolation at points (n, 2): two (n, 2)."""
    displacements = [
        np.stack([RectBivariateSpline(*grid, part).ev(points[:, 0], points[:, 1]) for part in field], axis=1)
        for _, grid, field in found
    ]
    ratio = (found[0][0] / found[1][0]) ** 2
    return points + displacements[1], points + (ratio * displacements[1] - displacements[0]) / (ratio - 1)
