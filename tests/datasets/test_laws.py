"""One-dimensional laws against arbitrary-precision integrals and closed forms."""

from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mongebench.datasets.laws import LAW_NAMES, LogConcave, NormalMixture, Tail, monotone, named_law

DELTA = mp.mpf("0.1")
POTENTIALS: dict[str, Callable[[mp.mpf], mp.mpf]] = {
    "normal": lambda z: z**2 / 2,
    "logistic": lambda z: z + 2 * mp.log1p(mp.exp(-z)),
    "gumbel": lambda z: z + mp.exp(-z),
    "laplace": lambda z: mp.sqrt(DELTA**2 + z**2),
    "generalised_normal_1.5": lambda z: abs(z) ** mp.mpf("1.5"),
    "generalised_normal_4": lambda z: z**4,
}
NORMAL = named_law("normal")
MIXTURE = NormalMixture(np.array([0.2, 0.5, 0.3]), np.array([-4.0, 0.0, 3.0]), np.array([0.5, 1.0, 0.2]))


def log_mass(v: Callable[[mp.mpf], mp.mpf], z: float, sign: int) -> mp.mpf:
    """log of the integral of exp(-v) from z to where exp(-v) has fallen by 40 digits, in the direction of sign."""
    z = mp.mpf(z)
    reach = mp.mpf(2) ** -20
    while v(z + sign * reach) - v(z) < 100:
        reach *= 2
    # Splits around the only places where the potentials are not smooth, or nearly so; tanh-sinh does the rest.
    inner = [sign * mp.mpf(s) for s in (-1, -0.3, -0.1, 0, 0.1, 0.3, 1)]
    splits = [z, *(s for s in inner if 0 < sign * (s - z) < reach), z + sign * reach * mp.mpf("0.25"), z + sign * reach]
    splits = sorted(splits, reverse=sign < 0)
    top = v(z) if sign * z > 0 else mp.mpf(0)
    return mp.log(sign * mp.quad(lambda u: mp.exp(top - v(u)), splits)) - top


def reference(name: str, quadratic: float) -> Callable[[float, bool], mp.mpf]:
    """(z, lower) -> log of the mass on that side of z."""
    if name == "normal":
        scale = mp.sqrt((1 + quadratic) / mp.mpf(2))
        return lambda z, lower: mp.log(mp.erfc((-1 if lower else 1) * scale * mp.mpf(z)) / 2)

    def v(z: mp.mpf) -> mp.mpf:
        return POTENTIALS[name](z) + mp.mpf(quadratic) / 2 * z**2

    total = mp.log(mp.exp(log_mass(v, 0.0, 1)) + mp.exp(log_mass(v, 0.0, -1)))
    return lambda z, lower: log_mass(v, z, -1 if lower else 1) - total


@pytest.mark.parametrize("quadratic", [0.0, 0.5])
@pytest.mark.parametrize("name", LAW_NAMES)
def test_monotone_maps_between_a_law_and_the_normal_law_to_eight_deviations(name: str, quadratic: float) -> None:
    law = named_law(name, quadratic)
    with mp.workdps(40):
        exact = {NORMAL: reference("normal", 0.0), law: reference(name, quadratic)}
        for source, target in ((NORMAL, law), (law, NORMAL)):
            x = source.mean + np.sqrt(source.variance) * np.array([-8.0, -5.5, -2.0, -0.3, 0.0, 0.05, 1.0, 4.0, 8.0])
            t = monotone(source, target, x)
            tail = target.tail(t)
            for point, image, lower in zip(x, t, tail.lower, strict=True):
                # The error of an image is that of its log mass over the slope of the log mass, |d log mass / dt|.
                mass = exact[target](image, lower)
                error = float(exact[source](point, lower) - mass)
                slope = np.exp(-target.potential(image) - target.log_normaliser - float(mass))
                assert abs(error / slope) < 1e-10 * max(1.0, abs(image))


@pytest.mark.parametrize("side", [-1, 1])
def test_tails_of_the_mixture(side: int) -> None:
    z = side * np.array([0.1, 3.0, 8.0, 40.0])
    tail = MIXTURE.tail(z)
    with mp.workdps(40):
        for point, log, lower in zip(z, *tail, strict=True):
            exact = mp.log(
                sum(
                    mp.mpf(w) * mp.ncdf((-1, 1)[int(lower)] * (mp.mpf(point) - mp.mpf(m)) / mp.mpf(s))
                    for w, m, s in zip(MIXTURE.weights, MIXTURE.means, MIXTURE.deviations, strict=True)
                )
            )
            assert log == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize(
    "law",
    [*(named_law(name, q) for name in LAW_NAMES for q in (0.0, 3.0)), MIXTURE],
    ids=lambda law: type(law).__name__,
)
def test_quantiles_invert_tails_and_keep_the_order(law: LogConcave) -> None:
    # Depths from one half to far outside the panels, where only the asymptotic quadrature is left.
    log_mass = -np.concatenate([np.linspace(np.log(2), 50, 200), np.geomspace(51, 1e5, 200)])
    for lower in (True, False):
        z = law.quantile(Tail(log_mass, np.full(len(log_mass), lower)))
        assert (np.diff(z) < 0).all() if lower else (np.diff(z) > 0).all()
        back = law.tail(z)
        # At the median either side may be reported; from there on the same one.
        assert (back.lower[2:] == lower).all()
        np.testing.assert_allclose(back.log_mass[2:], log_mass[2:], rtol=1e-11)


def test_quantiles_in_closed_form() -> None:
    log_mass = -np.geomspace(np.log(2), 1e4, 100)
    below, above = (np.full(100, side) for side in (True, False))
    log_odds = log_mass - np.log(-np.expm1(log_mass))
    np.testing.assert_allclose(named_law("logistic").quantile(Tail(log_mass, below)), log_odds, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(named_law("logistic").quantile(Tail(log_mass, above)), -log_odds, rtol=1e-12, atol=1e-14)
    # F = exp(-exp(-z)), and in the upper tail 1 - F = -expm1(-exp(-z)).
    gumbel = named_law("gumbel")
    np.testing.assert_allclose(gumbel.quantile(Tail(log_mass, below)), -np.log(-log_mass), rtol=1e-12, atol=1e-14)
    upper = -np.log(-np.log1p(-np.exp(log_mass[:60])))
    np.testing.assert_allclose(gumbel.quantile(Tail(log_mass[:60], above[:60])), upper, rtol=1e-12)


def test_moments_and_normalisers_in_closed_form() -> None:
    gamma, kv = scipy.special.gamma, scipy.special.kv
    expected = {
        "logistic": (0.0, np.pi**2 / 3, 0.0),
        "gumbel": (np.euler_gamma, np.pi**2 / 6, 0.0),
        # exp(-sqrt(a^2 + z^2)) is a symmetric hyperbolic law.
        "laplace": (0.0, 0.1 * kv(2, 0.1) / kv(1, 0.1), np.log(0.2 * kv(1, 0.1))),
        "generalised_normal_1.5": (0.0, gamma(2.0) / gamma(2 / 3), np.log(2 * gamma(1 + 2 / 3))),
        "generalised_normal_4": (0.0, gamma(0.75) / gamma(0.25), np.log(2 * gamma(1.25))),
    }
    for name, moments in expected.items():
        law = named_law(name)
        np.testing.assert_allclose((law.mean, law.variance, law.log_normaliser), moments, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("quadratic", [0.0, 0.5])
@pytest.mark.parametrize("name", LAW_NAMES)
def test_strong_convexity_is_the_infimum_of_the_second_derivative(name: str, quadratic: float) -> None:
    law = named_law(name, quadratic)
    z = np.concatenate([-np.geomspace(30, 1e-3, 300), np.geomspace(1e-3, 1e5, 600)])
    curvature = np.diff(law.derivative(z)) / np.diff(z)
    # Differences of v' are off by rounding of v' over the spacing.
    assert curvature.min() > law.strong_convexity - 1e-9
    assert curvature.min() < law.strong_convexity + 1e-2


@pytest.mark.parametrize("name", LAW_NAMES)
def test_draws_follow_the_law(name: str) -> None:
    law = named_law(name, 0.2)
    draws = law.sample((4000,), np.random.default_rng(1))
    tail = law.tail(draws)
    uniform = np.where(tail.lower, np.exp(tail.log_mass), -np.expm1(tail.log_mass))
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-4


def test_draws_of_the_mixture_follow_it() -> None:
    draws = MIXTURE.sample((4000,), np.random.default_rng(1))
    tail = MIXTURE.tail(draws)
    uniform = np.where(tail.lower, np.exp(tail.log_mass), -np.expm1(tail.log_mass))
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-4
    # Standard errors of mean and variance at n = 4000: about 2.4/63 and 7/63.
    assert draws.mean() == pytest.approx(MIXTURE.mean, abs=0.2)
    assert draws.var() == pytest.approx(MIXTURE.variance, abs=0.5)


def test_arrays_of_any_shape_even_empty() -> None:
    law = named_law("logistic")
    z = np.linspace(-3, 3, 12).reshape(3, 4)
    np.testing.assert_allclose(law.quantile(law.tail(z)), z, atol=1e-13)
    assert monotone(NORMAL, law, np.empty((0, 2))).shape == (0, 2)
