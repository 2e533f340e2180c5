"""The published mixture: its density and moments, against scipy; its certified map, against the target."""

import numpy as np
import pytest
import scipy.stats

import mongebench as mb

WEIGHTS = (0.3, 0.2, 0.3, 0.2)
COMPONENTS = [
    scipy.stats.multivariate_normal([-2, -2], [[0.10, 0.06], [0.06, 0.10]]),
    scipy.stats.multivariate_normal([-1, 2], [[0.1, 0.01], [0.01, 0.5]]),
    scipy.stats.multivariate_normal([2, -3], [[0.10, 0.03], [0.03, 0.10]]),
    scipy.stats.multivariate_normal([2, 2], 0.10),
]


def test_density_is_that_of_the_paper() -> None:
    p = mb.problem("mixture")
    x = np.random.default_rng(0).uniform(-4, 4, (200, 2))
    expected = np.log(sum(w * component.pdf(x) for w, component in zip(WEIGHTS, COMPONENTS, strict=True)))
    np.testing.assert_allclose(p.source.log_density(x), expected, rtol=1e-10)


def test_draws_have_the_moments_of_the_density() -> None:
    p = mb.problem("mixture")
    n = 20_000
    x = p.source.sample(n)
    mean = sum(w * c.mean for w, c in zip(WEIGHTS, COMPONENTS, strict=True))
    second = sum(w * (c.cov + np.outer(c.mean, c.mean)) for w, c in zip(WEIGHTS, COMPONENTS, strict=True))
    # Coordinates are bounded by 4 or so: standard errors below 2.5 and 10 over sqrt(n); five of them.
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=5 * 2.5 / np.sqrt(n))
    np.testing.assert_allclose(x.T @ x / n, second, atol=5 * 10 / np.sqrt(n))


def test_truth_error_is_the_stored_bound() -> None:
    p = mb.problem("mixture")
    assert p.truth_tier == mb.TruthTier.CERTIFIED
    assert 0 < 100 * p.truth_error**2 / p.total_variance < 0.1  # percent of unexplained variance


def test_no_parameters() -> None:
    with pytest.raises(mb.InvalidParameter, match="dim"):
        mb.problem("mixture", dim=3)
