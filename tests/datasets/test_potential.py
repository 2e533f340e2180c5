"""Sources by construction: inversion, score, hardness that does not fade with the dimension."""

import numpy as np
import pytest

import mongebench as mb
from mongebench.core.problem import Problem
from mongebench.datasets.potential import _SmoothMaximum


def bures_uvp(problem: Problem, n: int) -> float:
    """Percent of the target's variance that the best linear map between the two covariances leaves."""
    x = problem.source.sample(n)
    y = problem.truth(x)
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))  # the target is standard normal
    linear = (x - x.mean(axis=0)) @ (axes / np.sqrt(values)) @ axes.T
    return float(100 * ((linear - y) ** 2).sum(axis=1).mean() / problem.total_variance)


@pytest.mark.parametrize("dim", [2, 8, 32])
def test_no_linear_map_will_do_in_any_dimension(dim: int) -> None:
    assert 8 < np.mean([bures_uvp(mb.problem("potential", dim=dim, seed=seed), 4000) for seed in range(3)]) < 45


def test_source_has_several_modes_and_the_target_one() -> None:
    p = mb.problem("potential", dim=1, components=4, sharpness=20.0, seed=2)
    x = np.linspace(-4, 4, 4000)[:, None]
    for log_density, modes in ((p.source.log_density(x), range(2, 5)), (-p.target.potential(x), range(1, 2))):
        assert ((log_density[1:-1] > log_density[:-2]) & (log_density[1:-1] > log_density[2:])).sum() in modes
    # The density integrates to 1; the trapezoidal rule is exact to its kinks, of width 8/4000.
    assert np.trapezoid(np.exp(p.source.log_density(x)), x[:, 0]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("sharpness", [0.01, 4.0, 1000.0])
@pytest.mark.parametrize("dim", [1, 2, 9])
def test_newton_inverts_everywhere(dim: int, sharpness: float) -> None:
    p = mb.problem("potential", dim=dim, sharpness=sharpness)
    y = np.random.default_rng(0).standard_normal((200, dim)) * np.geomspace(1e-3, 1e3, 200)[:, None]
    # Condition number of the Hessian: sharpness times squared distances of sites, over the contraction.
    tolerance = 1e-15 * (1 + sharpness) * 1e3 * (1 + np.abs(y))
    assert (np.abs(p.truth(p.truth_inverse(y)) - y) < tolerance).all()


def test_derivatives_of_the_potential() -> None:
    psi = _SmoothMaximum.random(3, 5, 4.0, np.random.default_rng(1))
    u = np.random.default_rng(2).standard_normal((20, 3))
    h = 1e-5
    for function, derivative in (
        (psi.value, psi.gradient),
        (psi.gradient, psi.hessian),
        (psi.log_determinant, psi.log_determinant_gradient),
    ):
        numeric = np.stack([(function(u + h * e) - function(u - h * e)) / (2 * h) for e in np.eye(3)], axis=-1)
        # Second-order differences: h^2 times third derivatives, of size sharpness^2 * |w|^3 at most here.
        np.testing.assert_allclose(derivative(u), numeric, atol=16 * 100 * h**2 + 1e-10 / h * 1e-4)


def test_density_serves_other_arrays_than_numpy() -> None:
    torch = pytest.importorskip("torch")
    p = mb.problem("potential")
    x = p.source.sample(5)
    given = torch.tensor(np.array(x), dtype=torch.float32)
    assert p.source.log_density(given).dtype == torch.float32
    # Rounding of x to single precision, times a score of up to 100.
    np.testing.assert_allclose(p.source.log_density(given), p.source.log_density(x), atol=1e-4)


def test_two_components_and_blocks_of_one_coordinate() -> None:
    p = mb.problem("potential", dim=3, components=2)
    x = p.source.sample(10)
    np.testing.assert_allclose(p.truth_inverse(p.truth(x)), x, atol=1e-10)


@pytest.mark.parametrize("parameters", [{"components": 1}, {"sharpness": 0.0}, {"target_law": "cauchy"}])
def test_refuses_parameters(parameters: dict[str, object]) -> None:
    with pytest.raises(mb.InvalidParameter, match=next(iter(parameters))):
        mb.problem("potential", **parameters)


@pytest.mark.long
def test_ten_thousand_points_in_256_dimensions() -> None:
    p = mb.problem("potential", dim=256)
    x = p.source.sample(10_000)
    np.testing.assert_allclose(p.truth_inverse(p.truth(x)), x, atol=1e-9)
