"""Products: closed forms, condition numbers and strong convexity."""

import numpy as np
import pytest
from scipy.special import log_ndtr

import mongebench as mb
from mongebench.datasets.laws import LAW_NAMES, NormalMixture
from mongebench.datasets.product import RotatedProduct


def test_normal_to_logistic_in_closed_form() -> None:
    p = mb.problem("product", dim=1, law="logistic", rotate=False, seed=4)
    x = np.linspace(-8, 8, 33)[:, None]
    standard = (log_ndtr(x) - log_ndtr(-x)) * np.sqrt(3) / np.pi  # log odds: quantiles of variance 1
    mean, scale = p.truth(np.zeros((1, 1)))[0, 0], np.sqrt(p.total_variance)
    np.testing.assert_allclose(p.truth(x), mean + scale * standard, rtol=1e-12)


@pytest.mark.parametrize("law", [*LAW_NAMES, "mixed"])
def test_covariance_of_the_target_has_the_condition_number(law: str) -> None:
    p = mb.problem("product", dim=8, law=law, condition=9.0, rotate=False, seed=1)
    # Without a rotation the coordinates are independent, and each is a function of one source coordinate.
    n = 20_000
    variances = p.target.sample(n).var(axis=0)
    # Relative standard error of a variance: sqrt((kurtosis - 1) / n), kurtosis at most 6 here; five of them.
    assert np.sort(variances)[[0, -1]] == pytest.approx([1 / 3, 3], rel=5 * np.sqrt(5 / n))
    assert p.total_variance == pytest.approx(variances.sum(), rel=5 * np.sqrt(5 / n))


@pytest.mark.parametrize("source_law", LAW_NAMES)
def test_source_has_mean_zero_and_identity_covariance(source_law: str) -> None:
    n = 20_000
    x = mb.problem("product", dim=3, source_law=source_law).source.sample(n)
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(np.cov(x.T), np.eye(3), atol=5 * np.sqrt(5 / n))


def test_quadratic_gives_strong_convexity() -> None:
    assert mb.problem("product", law="logistic").strong_convexity == 0.0
    p = mb.problem("product", law="normal", condition=4.0)
    assert p.strong_convexity == pytest.approx(0.5)  # 1 / largest variance
    assert mb.problem("product", law="logistic", quadratic=1.0).strong_convexity > 0.0


def test_rotation_is_the_only_effect_of_rotate() -> None:
    straight, rotated = (mb.problem("product", dim=4, rotate=rotate) for rotate in (False, True))
    y = straight.target.sample(1000)
    assert not np.allclose(y, rotated.target.sample(1000))
    # A map that acts coordinate by coordinate has a diagonal Jacobian; here only the straight one does.
    x = np.zeros((5, 4))
    x[1:] += np.eye(4)
    for p, diagonal in ((straight, True), (rotated, False)):
        moved = p.truth(x)[1:] - p.truth(x)[:1]
        assert np.allclose(moved, np.diag(np.diag(moved)), atol=1e-12) == diagonal


def test_one_mode_is_an_affine_problem() -> None:
    p = mb.problem("product_mixture", dim=3, modes=1)
    x = p.source.sample(20)
    np.testing.assert_allclose(p.truth(x), x, atol=1e-12)  # N(0, I) -> N(0, I)


def test_separation_makes_modes() -> None:
    p = mb.problem("product_mixture", dim=1, modes=3, separation=8.0, seed=2)
    z = np.linspace(-3, 3, 2000)[:, None]
    density = p.source.log_density(z)
    peaks = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
    assert peaks.sum() == 3


def test_laws_of_equal_kind_need_not_be_neighbours() -> None:
    first, second = (NormalMixture(np.ones(1), np.array([m]), np.ones(1)) for m in (0.0, 5.0))
    mixed = RotatedProduct([first, second, first], np.eye(3), np.zeros(3), np.ones(3))
    y = np.array([[0.0, 5.0, 0.0], [1.0, 5.0, 0.0]])
    np.testing.assert_allclose(mixed.potential(y), 1.5 * np.log(2 * np.pi) + np.array([0.0, 0.5]))
    np.testing.assert_allclose(mixed.gradient(y), [[0, 0, 0], [1, 0, 0]], atol=1e-15)


def test_refuses_an_unknown_law() -> None:
    with pytest.raises(mb.InvalidParameter, match="logistic"):
        mb.problem("product", law="cauchy")
