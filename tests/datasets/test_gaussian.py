"""Gaussian pairs against the closed forms of other authors and the algebra of the map."""

from collections.abc import Callable

import numpy as np
import ot
import pytest
import scipy.stats

import mongebench as mb


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


@pytest.mark.parametrize("parameters", [{"condition": 0.5}, {"condition": np.inf}, {"dim": 0}, {"seed": -1}])
def test_refuses_parameters(parameters: dict[str, float]) -> None:
    with pytest.raises(mb.InvalidParameter, match=next(iter(parameters))):
        mb.problem("gaussian", **parameters)
