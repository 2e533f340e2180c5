"""What is said of a map without a truth, against closed forms: D, KL, the bound, the weights of the push-forward."""

import jax.numpy as jnp
import numpy as np
import pytest

import mongebench as mb

N = 20_000
SHIFT = np.array([0.3, -0.4])  # |SHIFT| = 0.5


def normal(dim: int = 2) -> mb.Source:
    return mb.Source(
        dim=dim,
        sampler=lambda n, rng: rng.standard_normal((n, dim)),
        log_density=lambda x: -(x**2).sum(axis=1) / 2 - dim / 2 * np.log(2 * np.pi),
    )


def half_square(y):
    return (y**2).sum(axis=1) / 2


STANDARD = mb.Target(potential=half_square, log_normaliser=float(np.log(2 * np.pi)), strong_convexity=1.0)


def test_divergence_and_kl_are_those_of_gaussians() -> None:
    # T = A x + b pushes N(0, I) to N(b, A^2): D = (tr A^2 + |b|^2) / 2 - log det A, and D* = d / 2.
    slopes = np.array([1.2, 0.9])
    found = mb.diagnose(lambda x: x * slopes + SHIFT, normal(), STANDARD, n=N)
    divergence = ((slopes**2).sum() + SHIFT @ SHIFT) / 2 - np.log(slopes).sum()
    assert abs(found.divergence - divergence) < 4 * found.divergence_se
    variance = (slopes**4).sum() / 2 + ((slopes * SHIFT) ** 2).sum()
    assert found.divergence_se == pytest.approx(np.sqrt(variance / N), rel=0.05)
    assert abs(found.kl - (divergence - 1)) < 4 * found.kl_se
    assert found.kl_se < found.divergence_se / 2  # the control variate


def test_the_constant_of_the_bound_is_sharp() -> None:
    """A shift of the exact map has D(T) - D* = lambda |shift|^2 / 2: with another constant this would not hold."""
    for strength in (0.25, 1.0, 9.0):
        target = mb.Target(
            potential=lambda y, s=strength: s * half_square(y),
            log_normaliser=float(np.log(2 * np.pi / strength)),
            strong_convexity=strength,
        )
        found = mb.diagnose(lambda x, s=strength: x / np.sqrt(s) + SHIFT / np.sqrt(s), normal(), target, n=N)
        # The bound adds 1.96 standard errors, and has an error of one itself; four of that in all.
        slack = 6 * 2 / strength * found.kl_se
        assert 0.25 / strength - slack / 3 < found.error_bound < 0.25 / strength + slack
        assert slack < 0.02 / strength


@pytest.mark.parametrize("estimator", ["identity", "mean_shift", "bures"])
def test_the_true_error_is_below_the_bound(estimator: str) -> None:
    problem = mb.problem("product", dim=2, law="logistic", seed=2)
    fitted = mb.estimator(estimator).fit(problem.source.sample(400, seed=1), problem.target.sample(400, seed=1))
    found = mb.diagnose(fitted, problem.source, problem.target)
    x = problem.source.sample(4000, seed=5)
    error = ((fitted.transform(x) - problem.truth(x)) ** 2).sum(axis=1).mean()
    if problem.strong_convexity:
        assert error < found.error_bound
    else:
        assert found.error_bound is None
    assert found.kl > 4 * found.kl_se


def test_weights_of_a_shifted_map() -> None:
    """Of N(c, I) as a proposal for N(0, I): E w^2 = exp |c|^2, and no tail; with Z not known KL is still found."""
    found = mb.diagnose(lambda x: x + SHIFT, normal(), STANDARD, n=N)
    # The relative variance of the mean of w^2 is (exp(4 |c|^2) - 1) / n.
    assert found.effective_size / N == pytest.approx(np.exp(-0.25), rel=4 * np.sqrt(np.expm1(1) / N))
    assert found.k_hat < 0.3
    guessed = mb.diagnose(lambda x: x + SHIFT, normal(), mb.Target(potential=half_square, strong_convexity=1.0), n=N)
    assert (found.normaliser, guessed.normaliser) == ("known", "estimated")
    assert guessed.log_normaliser == pytest.approx(np.log(2 * np.pi), abs=4 * np.sqrt(np.expm1(0.25) / N))
    assert abs(guessed.kl - 0.125) < 4 * guessed.kl_se
    assert guessed.error_bound == pytest.approx(0.25, rel=0.1)


def test_a_mode_that_no_image_reaches_is_seen_where_the_normaliser_is_known() -> None:
    def potential(y):  # of N(0, I) / 2 + N((20, 20), I) / 2, whose modes do not meet in float64
        return -jnp.logaddexp(-half_square(y), -half_square(y - 20)) + np.log(4 * np.pi)

    guessed, known = (
        mb.diagnose(lambda x: x, normal(), mb.Target(potential=potential, log_normaliser=log_z))
        for log_z in (None, 0.0)
    )
    assert known.kl == pytest.approx(np.log(2), abs=1e-9)
    assert "KL = 0.6931" in str(known)
    assert "KL >= 0 to rounding: log Z is estimated" in str(guessed)
    assert "is not seen" in str(guessed)


@pytest.mark.parametrize("variance", [0.2, 0.5])
def test_k_hat_is_the_shape_of_a_pareto_tail(variance: float) -> None:
    """Of N(0, s^2 I) in the plane as a proposal for N(0, I): P(w > t) = (t / s^2)^(-1 / k), k = 1 - s^2, exactly."""
    found = mb.diagnose(lambda x: np.sqrt(variance) * x, normal(), STANDARD, n=N)
    tail = 3 * np.sqrt(N)  # weights that the fit sees; its estimate has an error of (1 + k) / tail^(1/2)
    assert found.k_hat == pytest.approx(1 - variance, abs=4 * (2 - variance) / np.sqrt(tail))
    assert ("do not trust" in str(found)) == (variance == 0.2)
    guessed = mb.diagnose(
        lambda x: np.sqrt(variance) * x, normal(), mb.Target(potential=half_square, strong_convexity=1.0), n=N
    )
    assert (guessed.error_bound is None) == (variance == 0.2)


def test_a_flow_tells_its_own_log_det_and_one_point_is_enough() -> None:
    problem = mb.problem("gaussian", dim=3, seed=1)
    flow = mb.estimator("euclidean", family="ridge", units=4, steps=20, batch_size=300)
    flow.fit(problem.source, problem.target)
    target = mb.Target(log_density=lambda y: -problem.target.potential(y[None])[0])
    own, by_name = (mb.diagnose(map, problem.source, target) for map in (flow, flow.transform))
    differences = mb.diagnose(lambda x: flow.transform(x), problem.source, target)
    assert own == by_name
    assert own.divergence == pytest.approx(differences.divergence, abs=1e-6)


def test_what_is_not_known_is_not_said() -> None:
    x = np.random.default_rng(0).standard_normal((500, 2))
    found = mb.diagnose(lambda x: x, x, STANDARD)
    assert (found.n, found.kl, found.error_bound, found.k_hat) == (500, None, None, None)
    assert str(found).startswith("D(T) = ")
    without = mb.diagnose(lambda x: x, normal(), mb.Target(potential=half_square))
    assert without.error_bound is None
    assert without.kl is not None


def test_a_map_that_leaves_the_support_or_folds_is_told() -> None:
    disc = mb.Target(potential=lambda y: jnp.where(y @ y < 4, 0.0, jnp.inf))
    found = mb.diagnose(lambda x: x, normal(), disc)
    assert found.outside / found.n == pytest.approx(np.exp(-2), abs=4 * np.sqrt(np.exp(-2) / found.n))
    assert found.divergence == found.kl == np.inf
    assert np.linalg.norm(found.met) >= 2
    assert f"leaves the target's support at {found.outside} points" in str(found)
    folded = mb.diagnose(lambda x: np.abs(x) * [1, -1], normal(), STANDARD)
    assert folded.folded == pytest.approx(folded.n / 2, abs=4 * np.sqrt(folded.n) / 2)
    assert folded.divergence == np.inf
    assert folded.kl is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": mb.Target(sampler=lambda n, rng: rng.standard_normal((n, 2)))}, "asks V of the target"),
        ({"target": half_square}, "asks V of the target"),
        ({"n": 99}, "n >= 100"),
        ({"n": True}, "n >= 100"),
        ({"map": lambda x: x[:, :1]}, "shape"),
        ({"map": lambda x: np.where(np.arange(200)[:, None] < 7, np.nan, x)}, "7 of its 200 images are not finite"),
        ({"map": "x"}, "a fitted estimator or a function"),
        (
            {"target": mb.Target(potential=lambda y: 4 * half_square(y), strong_convexity=400.0)},
            "its curvature.* is 4,",
        ),
        (
            {"target": mb.Target(potential=lambda y: y[:, 0] ** 2 / 4 + 9 * y[:, 1] ** 2, strong_convexity=0.6)},
            "is 0.5,",
        ),
        ({"source": np.zeros((50, 2))}, "at least 100"),
        ({"target": mb.Target(potential=lambda y: np.ones((3, 3)))}, "one number per point"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, said) -> None:
    given = {"map": lambda x: x, "source": normal(), "target": STANDARD, "n": 200} | change
    with pytest.raises(mb.InvalidInput, match=said):
        mb.diagnose(given["map"], given["source"], given["target"], n=given["n"])
