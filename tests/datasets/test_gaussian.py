"""Gaussian pairs against the closed forms of other authors and the algebra of the map."""

from collections.abc import Callable

import mpmath
import numpy as np
import ot
import pytest
import scipy.stats

import mongebench as mb
from mongebench.datasets.linear import rotation, spectrum, unit_vector


def moments(gradient: Callable[[np.ndarray], np.ndarray], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance read off a quadratic potential's gradient y -> P (y - m)."""
    at_zero = gradient(np.zeros((1, d)))
    precision = gradient(np.eye(d)) - at_zero
    return np.linalg.solve(precision, -at_zero[0]), np.linalg.inv(precision)


@pytest.mark.parametrize("commuting", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 5, 32])
def test_map_is_the_one_of_another_library(dim: int, commuting: bool) -> None:
    p = mb.problem("gaussian", dim=dim, condition=10.0, commuting=commuting, seed=3)
    m0, S0 = moments(lambda x: -p.source.score(x), dim)
    m, S = moments(p.target.gradient, dim)
    A, b = ot.gaussian.bures_wasserstein_mapping(m0, m, S0, S)
    x = p.source.sample(10)
    np.testing.assert_allclose(p.truth(x), x @ A + b, atol=1e-10)
    np.testing.assert_allclose(p.truth_inverse(p.truth(x)), x, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(S0), np.linalg.eigvalsh(S)
    for values in eigenvalues:
        assert values.min() >= 10**-0.5 * (1 - 1e-12)
        assert values.max() <= 10**0.5 * (1 + 1e-12)
        if dim >= 2:
            np.testing.assert_allclose(values[[0, -1]], [10**-0.5, 10**0.5], rtol=1e-10)
    assert p.strong_convexity == pytest.approx(1 / eigenvalues[1].max())
    assert p.total_variance == pytest.approx(np.trace(S))
    np.testing.assert_allclose([np.linalg.norm(m0), np.linalg.norm(m)], 1.0, atol=1e-10)
    assert np.allclose(S0 @ S, S @ S0, atol=1e-10) == (commuting or dim == 1)


def test_densities_are_normal_densities() -> None:
    p = mb.problem("gaussian", dim=3)
    x = p.source.sample(5)
    for log_density, gradient in (
        (p.source.log_density, lambda x: -p.source.score(x)),
        (lambda y: -p.target.potential(y) - p.target.log_normaliser, p.target.gradient),
    ):
        mean, covariance = moments(gradient, 3)
        np.testing.assert_allclose(log_density(x), scipy.stats.multivariate_normal(mean, covariance).logpdf(x))


def exact_image(x: np.ndarray, dim: int, condition: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """T*(x) by the textbook formula in 50 digits, and the deviations of the target along its axes."""
    rng = np.random.default_rng(seed)
    (U0, U), (D0, D) = ([draw(rng) for _ in range(2)] for draw in (
        lambda rng: rotation(dim, rng), lambda rng: spectrum(dim, condition, rng)))  # fmt: skip
    m0, m = unit_vector(dim, rng), unit_vector(dim, rng)
    with mpmath.workdps(50):

        def covariance(axes: np.ndarray, values: np.ndarray) -> mpmath.matrix:
            factor = mpmath.matrix(axes.tolist()) * mpmath.diag([mpmath.sqrt(mpmath.mpf(value)) for value in values])
            return factor * factor.T

        def power(matrix: mpmath.matrix, exponent: float) -> mpmath.matrix:
            values, axes = mpmath.eigsy(matrix)
            return axes * mpmath.diag([value ** mpmath.mpf(exponent) for value in values]) * axes.T

        S0, S = covariance(U0, D0), covariance(U, D)
        root, inverse = power(S0, 0.5), power(S0, -0.5)
        A = inverse * power(root * S * root, 0.5) * inverse
        centred = mpmath.matrix(x.tolist()).T - mpmath.matrix([[value] * len(x) for value in m0])
        image = A * centred + mpmath.matrix([[value] * len(x) for value in m])
        # What is left after T* is subtracted would be rounding of float64: the columns of U are the test's own frame.
        return image, U / np.sqrt(D)


@pytest.mark.parametrize("condition", [4.0, 1e6, 1e10, 1e12])
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_map_is_right_to_the_stated_digits(dim: int, condition: float) -> None:
    p = mb.problem("gaussian", dim=dim, condition=condition, seed=4)
    x = p.source.sample(5)
    image, whitening = exact_image(x, dim, condition, seed=4)
    with mpmath.workdps(50):
        wrong = np.array((mpmath.matrix(p.truth(x).tolist()).T - image).tolist(), dtype=np.float64)
    # In deviations of the target along its axes: rounding of points of size condition^1/4 over the narrowest.
    assert np.abs(whitening.T @ wrong).max() < 1e-14 * np.sqrt(condition)


def test_beyond_float64_it_refuses() -> None:
    with pytest.raises(mb.InvalidParameter, match=r"condition = 1e\+13, expected at most 1e\+12"):
        mb.problem("gaussian", condition=1e13)


def test_factors_are_few_and_the_map_that_of_another_library() -> None:
    dim = 30
    p = mb.problem("factors", dim=dim, count=3, strength=5.0, noise=0.2, seed=2)
    m0, S0 = moments(lambda x: -p.source.score(x), dim)
    m, S = moments(p.target.gradient, dim)
    for covariance in (S0, S):
        assert np.trace(covariance) == pytest.approx(dim)
        values = np.linalg.eigvalsh(covariance)[::-1]
        # Wishart eigenvalues of 30 by 3: within a factor of (1 -+ 10^-1/2)^2 of each other; the noise lies below.
        assert values[2] > 5 * values[3]
        assert values[3] < 2 * 1.5 * 0.2 / 5
    A, b = ot.gaussian.bures_wasserstein_mapping(m0, m, S0, S)
    x = p.source.sample(10)
    np.testing.assert_allclose(p.truth(x), x @ A + b, atol=1e-9)


@pytest.mark.parametrize("parameters", [{"condition": 0.5}, {"condition": np.inf}, {"dim": 0}, {"seed": -1}])
def test_refuses_parameters(parameters: dict[str, float]) -> None:
    with pytest.raises(mb.InvalidParameter, match=next(iter(parameters))):
        mb.problem("gaussian", **parameters)
