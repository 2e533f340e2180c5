"""Rings: radii by gamma quantiles, a density with holes, and planes that do not touch each other."""

import numpy as np
import pytest
import scipy.stats

import mongebench as mb


@pytest.mark.parametrize("hollow", [3.0, 6.0, 100.0])
@pytest.mark.parametrize(("dim", "size"), [(1, 1), (2, 2)])
def test_radii_are_gamma_quantiles(dim: int, size: int, hollow: float) -> None:
    p = mb.problem("rings", dim=dim, hollow=hollow, condition=1.0)
    x = p.source.sample(200)
    mean = p.truth(np.zeros((1, dim)))
    # |x|^2 has a law Gamma(h m / 2) of mean m, |y - mean|^2 is chi-squared with m degrees of freedom.
    law = scipy.stats.gamma(hollow * size / 2, scale=2 / hollow)
    expected = scipy.stats.chi2(size).isf(law.sf((x**2).sum(axis=1)))
    np.testing.assert_allclose(((p.truth(x) - mean) ** 2).sum(axis=1), expected, rtol=1e-8)


def test_density_integrates_to_one_and_is_empty_in_the_middle() -> None:
    p = mb.problem("rings", dim=2)
    grid = np.linspace(-4, 4, 401)
    x = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    density = np.exp(p.source.log_density(x))
    # The sum over a grid of a smooth density that vanishes at its ends is exact to their size.
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1.0, abs=1e-6)
    assert density[np.linalg.norm(x, axis=1) < 0.1].max() < 1e-6 * density.max()


def test_source_is_isotropic_and_its_planes_are_apart() -> None:
    dim, n = 5, 40_000
    p = mb.problem("rings", dim=dim, condition=9.0, seed=3)
    x = p.source.sample(n)
    np.testing.assert_allclose(np.cov(x.T), np.eye(dim), atol=5 * np.sqrt(2 / n))
    values = np.linalg.eigvalsh(np.cov(p.truth(x).T))
    # Two planes, each with one scale, and a line; ratios of two sample variances, within 5 standard errors.
    for low, high in ((0, 1), (2, 3)):
        assert values[high] / values[low] < 1 + 5 * np.sqrt(4 / n)
    assert p.strong_convexity == pytest.approx(1 / 3.0)


def test_origin() -> None:
    p = mb.problem("rings", dim=3)
    for points in (np.zeros((1, 3)), np.full((1, 3), 1e-200)):
        for values in (p.truth(points), p.truth_inverse(points), p.source.score(points), p.source.log_density(points)):
            assert np.isfinite(values).all()


def test_what_it_does_does_not_fade_with_the_dimension() -> None:
    for dim in (2, 8, 32):
        p = mb.problem("rings", dim=dim)
        x = p.source.sample(8000)
        y = p.truth(x)
        affine = np.c_[x, np.ones(len(x))]
        left = y - affine @ np.linalg.lstsq(affine, y, rcond=None)[0]
        assert 6 < 100 * (left**2).sum() / len(x) / p.total_variance < 9


@pytest.mark.parametrize("parameters", [{"hollow": 2.0}, {"condition": 0.5}, {"dim": 0}])
def test_refuses_parameters(parameters: dict[str, float]) -> None:
    with pytest.raises(mb.InvalidParameter, match=next(iter(parameters))):
        mb.problem("rings", **parameters)
