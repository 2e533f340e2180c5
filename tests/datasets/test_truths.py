"""The stored Monge map of the planar mixture: its certificate, recomputed, and its potential."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mongebench.datasets.truths import entropic_grid, make_mixture, spline
from mongebench.datasets.truths.spline import SplinePotential

Array = NDArray[np.float64]

PATH = Path(spline.__file__).with_name("mixture.npz")


@pytest.fixture(scope="module")
def potential() -> SplinePotential:
    return SplinePotential.load(PATH)


@pytest.fixture(scope="module")
def stored() -> dict[str, float]:
    with np.load(PATH, allow_pickle=False) as arrays:
        return {name: float(arrays[name]) for name in arrays.files if arrays[name].ndim == 0}


def source(n: int, seed: int) -> Array:
    return make_mixture.sample_source(n, np.random.default_rng(seed))


def around_the_box(potential: SplinePotential, n: int, seed: int) -> Array:
    """Points of a rectangle twice the size of the box: three in four lie outside."""
    low, high = potential.box
    return np.random.default_rng(seed).uniform(low - (high - low) / 2, high + (high - low) / 2, (n, 2))


def source_density(x: Array) -> Array:
    """Density of mu0 from its definition, by a formula other than the one the certificate used."""
    total = np.zeros(len(x))
    for weight, mean, covariance in zip(
        make_mixture.WEIGHTS, make_mixture.MEANS, make_mixture.COVARIANCES, strict=True
    ):
        whitened = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
        normaliser = 2 * np.pi * np.sqrt(np.linalg.det(covariance))
        total += weight * np.exp(-0.5 * np.sum(whitened**2, axis=0)) / normaliser
    return total


def test_certificate_is_far_below_the_allowed_error(stored: dict[str, float]) -> None:
    assert 0 < stored["uvp_bound"] < 0.05
    # UVP <= 100 * 2 KL / Var(gamma) with Var(gamma) = 2.
    assert stored["uvp_bound"] == pytest.approx(100 * stored["kl"])
    assert stored["uvp_disagreement"] + 4 * stored["uvp_disagreement_standard_error"] < 0.05
    assert stored["min_eigenvalue"] > 0


def test_file_is_small() -> None:
    assert PATH.stat().st_size < 2_000_000


def test_divergence_recomputed_from_the_density(potential: SplinePotential, stored: dict[str, float]) -> None:
    x = source(400_000, 10)
    sign, log_determinant = np.linalg.slogdet(potential.hessian(x))
    assert (sign > 0).all()
    image = potential.gradient(x)
    logs = np.log(source_density(x)) + np.sum(image**2, axis=1) / 2 + np.log(2 * np.pi) - log_determinant
    error = np.hypot(logs.std() / np.sqrt(len(x)), stored["kl_standard_error"])
    assert abs(logs.mean() - stored["kl"]) < 4 * error
    assert error < 1e-5


def test_pushes_the_source_to_the_standard_gaussian(potential: SplinePotential) -> None:
    n = 50_000
    y = potential.gradient(source(n, 11))
    # Standard errors under N(0, I): 1 of y_i, sqrt(2) of y_i^2, 1 of y_1 y_2, over sqrt(n).
    assert np.abs(y.mean(axis=0)).max() < 4 / np.sqrt(n)
    assert np.abs((y**2).mean(axis=0) - 1).max() < 4 * np.sqrt(2 / n)
    assert abs((y[:, 0] * y[:, 1]).mean()) < 4 / np.sqrt(n)
    # |y|^2 / 2 is exponential with mean 1; its empirical distribution function errs by 0.5 / sqrt(n).
    radius = np.sort(np.sum(y**2, axis=1) / 2)
    steps = np.arange(1, n + 1) / n
    assert np.abs(steps + np.expm1(-radius)).max() < 2 / np.sqrt(n)


@pytest.mark.parametrize("where", ["source", "everywhere"])
def test_gradient_is_the_derivative_of_the_value(potential: SplinePotential, where: str) -> None:
    x = source(2_000, 12) if where == "source" else around_the_box(potential, 2_000, 12)
    gradient = potential.gradient(x)
    for axis in (0, 1):
        step = np.zeros(2)
        step[axis] = 1e-5
        difference = (potential.value(x + step) - potential.value(x - step)) / 2e-5
        np.testing.assert_allclose(gradient[:, axis], difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("where", ["source", "everywhere"])
def test_hessian_is_the_derivative_of_the_gradient(potential: SplinePotential, where: str) -> None:
    x = source(2_000, 13) if where == "source" else around_the_box(potential, 2_000, 13)
    hessian = potential.hessian(x)
    for axis in (0, 1):
        step = np.zeros(2)
        step[axis] = 1e-6
        difference = (potential.gradient(x + step) - potential.gradient(x - step)) / 2e-6
        np.testing.assert_allclose(hessian[:, :, axis], difference, atol=2e-6)


def test_hessian_is_symmetric_and_positive(potential: SplinePotential) -> None:
    for x in (source(50_000, 14), around_the_box(potential, 50_000, 14)):
        hessian = potential.hessian(x)
        np.testing.assert_array_equal(hessian, np.swapaxes(hessian, 1, 2))
        assert np.linalg.eigvalsh(hessian).min() > 0


def test_inverse_undoes_the_map_at_source_points(potential: SplinePotential) -> None:
    x = source(5_000, 15)
    np.testing.assert_allclose(potential.inverse(potential.gradient(x)), x, atol=1e-5)


def test_inverse_solves_the_equation_within_five_of_the_origin(potential: SplinePotential) -> None:
    rng = np.random.default_rng(16)
    angle, radius = rng.uniform(0, 2 * np.pi, 3_000), rng.uniform(0, 5, 3_000)
    y = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert np.linalg.norm(potential.gradient(potential.inverse(y)) - y, axis=1).max() <= 1e-10


def test_inverse_says_when_it_has_not_converged(potential: SplinePotential) -> None:
    with pytest.raises(RuntimeError, match="inverse: 1 of 1 rows"):
        potential.inverse(np.array([[1.0, 1.0]]), max_iterations=1)


def test_map_is_monotone_and_continuous_outside_the_box(potential: SplinePotential) -> None:
    first, second = around_the_box(potential, 50_000, 17), around_the_box(potential, 50_000, 18)
    moved = potential.gradient(first) - potential.gradient(second)
    assert np.sum(moved * (first - second), axis=1).min() > 0
    # Across the sides of the box the map does not jump.
    inside = np.clip(first, *potential.box)
    outward = np.sign(first - inside) * 1e-9
    np.testing.assert_allclose(potential.gradient(inside + outward), potential.gradient(inside), atol=1e-7)


def test_inputs_are_not_modified(potential: SplinePotential) -> None:
    x = around_the_box(potential, 100, 19)
    before = x.copy()
    potential.value(x), potential.gradient(x), potential.hessian(x), potential.inverse(x)
    np.testing.assert_array_equal(x, before)


def test_empty_and_misshapen_points(potential: SplinePotential) -> None:
    nothing = np.empty((0, 2))
    assert potential.value(nothing).shape == (0,)
    assert potential.inverse(nothing).shape == (0, 2)
    with pytest.raises(ValueError, match="shape"):
        potential.gradient(np.zeros(2))


def test_constructor_refuses_an_extension_that_is_no_gradient(potential: SplinePotential) -> None:
    bent = potential.coefficients.copy()
    bent[0, 3] += 0.1
    with pytest.raises(ValueError, match="normal slope"):
        SplinePotential(potential.knots_x, potential.knots_y, bent, potential.degree)
    with pytest.raises(ValueError, match="knots ask for"):
        SplinePotential(potential.knots_x, potential.knots_y, bent[1:], potential.degree)


def test_agrees_with_entropic_transport(potential: SplinePotential) -> None:
    """The independent method again, at a temperature eight times higher than the stored comparison used."""
    box = make_mixture.SOURCE_LOWER, make_mixture.SOURCE_UPPER
    density = make_mixture.log_source_density
    found = entropic_grid.entropic_displacements(density, *box, (0.32, 0.16, 0.08, 0.04), 0.4)
    x = source(20_000, 20)
    _, extrapolated = entropic_grid.entropic_map(x, found)
    disagreement, error = make_mixture.compare(potential.gradient(x), extrapolated)
    assert disagreement + 4 * error < 0.05
