"""Radial problems: quantiles of gamma laws, the origin, and the linear deformation."""

import numpy as np
import pytest
from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv

import mongebench as mb


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("dim", [1, 2, 8, 256])
def test_radii_are_quantiles_of_gamma_laws(dim: int, power: float) -> None:
    p = mb.problem("radial", dim=dim, power=power)
    # |x|^2/2 is Gamma(d/2) and |y|^power is Gamma(d/power).
    radius = np.sqrt(dim) + np.linspace(-min(4, np.sqrt(dim) * 0.9), 6, 21)
    x = np.zeros((21, dim))
    x[:, -1] = -radius
    below, above = gammainc(dim / 2, radius**2 / 2), gammaincc(dim / 2, radius**2 / 2)
    g = np.where(below < 0.5, gammaincinv(dim / power, below), gammainccinv(dim / power, above)) ** (1 / power)
    y = p.truth(x)
    np.testing.assert_allclose(-y[:, -1], g, rtol=1e-10)
    np.testing.assert_allclose(y[:, :-1], 0.0, atol=1e-12 * g.max())


@pytest.mark.parametrize(
    "parameters", [{}, {"power": 1.0}, {"dim": 256, "condition": 5.0}, {"dim": 1, "quadratic": 2.0}]
)
def test_origin_and_its_neighbourhood(parameters: dict[str, float]) -> None:
    p = mb.problem("radial", **parameters)
    d = p.dim
    x = np.zeros((4, d))
    x[1:, 0] = [1e-300, 1e-150, 1e-8]
    y = p.truth(x)
    assert not y[0].any()
    assert np.isfinite(y).all()
    # Near 0 both radial laws are r^(d-1) up to constants, so that T is linear there.
    np.testing.assert_allclose(y[2] / 1e-150, y[3] / 1e-8, rtol=1e-6)
    back = p.truth_inverse(y)
    np.testing.assert_allclose(back[1:, 0], x[1:, 0], rtol=1e-9)
    assert (np.abs(back[1:, 1:]) < 1e-12 * x[1:, :1]).all()
    assert not back[0].any()
    assert not p.target.gradient(x)[0].any()


def test_strong_convexity() -> None:
    assert mb.problem("radial", power=4.0).strong_convexity == 0.0
    assert mb.problem("radial", power=2.0).strong_convexity == pytest.approx(2.0)
    # M has the eigenvalues 1/2 and 2; V = 3/2 |M^-1 y|^2 + |M^-1 y|^4 is flattest along the second.
    assert mb.problem("radial", power=4.0, quadratic=3.0, condition=4.0).strong_convexity == pytest.approx(3.0 / 4.0)


@pytest.mark.parametrize("dim", [1, 2, 256])
def test_power_two_is_gaussian(dim: int) -> None:
    p = mb.problem("radial", dim=dim, power=2.0, quadratic=1.0)  # exp(-3/2 |y|^2)
    x = p.source.sample(50)
    np.testing.assert_allclose(p.truth(x), x / np.sqrt(3), rtol=1e-9)
    assert p.target.log_normaliser == pytest.approx(dim / 2 * np.log(2 * np.pi / 3), rel=1e-12)
    assert p.total_variance == pytest.approx(dim / 3, rel=1e-12)


def test_refuses_a_power_below_one() -> None:
    with pytest.raises(mb.InvalidParameter, match="power"):
        mb.problem("radial", power=0.5)
