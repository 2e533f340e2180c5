"""A certificate must be refused for the right reason: problems broken on purpose."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import mongebench as mb
from mongebench.check.certificate import Check, certify
from mongebench.check.differences import Frame, difference, least_curvature
from mongebench.core.measure import Source, Target, Unknown

N = 1000


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    """The table of planted errors, a script."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "simulations" / "certify.py"
    spec = importlib.util.spec_from_file_location("planted_errors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("family", "error", "checks"),
    [
        ("gaussian", "V x 3, no log Z", {"target_stein", "target_scale", "monge_ampere"}),
        ("gaussian", "V x 3, no log Z, no map", {"target_stein", "target_scale"}),
        ("rings", "V x 1.03, no log Z", {"monge_ampere"}),
        ("product_mixture", "V x 1.03, no log Z, no map", {"target_scale"}),
        ("product_mixture", "source sampler x 1.03", {"source_scale", "pushforward_scale"}),
        ("factors", "source sampler x 1.03, no map", {"source_scale"}),
        ("factors", "source sampler x 1.03, no density", {"pushforward_scale"}),
        ("factors", "target sampler x 1.03, no map", {"target_scale"}),
        ("gaussian", "total variance x 1.1", {"total_variance"}),
        ("rings", "source sampler normal", {"source_shape", "energy_distance"}),
        ("radial", "target sampler normal", {"target_shape"}),
        ("product_mixture", "source sampler, one half 30 % rarer", {"pushforward_mean"}),
        ("gaussian", "score of opposite sign, no density", {"source_stein", "source_scale"}),
        ("gaussian", "lambda x 1.1", {"strong_convexity"}),
        ("product", "lambda + 0.05", {"strong_convexity"}),
        ("gaussian", "map turned by 1 degree", {"jacobian_symmetric"}),
        ("rings", "inverse + 0.0001", {"inverse"}),
    ],
)
def test_planted_errors_are_found(planted: ModuleType, family: str, error: str, checks: set[str]) -> None:
    certificate = planted.found(family, 2, [error], n=N)[error]
    assert checks <= set(certificate.failed), str(certificate)


def test_where_an_error_would_be_none_the_table_says_so(planted: ModuleType) -> None:
    none = ["lambda x 1.1", "source sampler normal"]
    assert planted.found("product", 2, none) == dict.fromkeys(none)


def dented(depth: float, at: float) -> mb.Problem:
    """No measure, but V with V'' = 1 but for a dent of unit width, where it is 1 - depth."""
    from scipy.special import erf

    # V' = y - depth * (integral of exp(-(y - at)^2 / 2)).
    of = mb.problem("gaussian", dim=1, condition=1.0)
    dent = depth * np.sqrt(np.pi / 2)
    gradient = lambda y: y - dent * (1 + erf((y - at) / np.sqrt(2)))  # noqa: E731
    return replace(of, target=replace(of.target, potential=Unknown("V"), gradient=gradient))


def test_a_dent_of_the_curvature_far_from_all_samples() -> None:
    problem = dented(0.2, at=7.0)
    y = problem.target.sample(4000)
    assert y.max() < 6.0
    curvature, rounding = least_curvature(problem.target.gradient, y, Frame.of(y))
    # The inequality is exact; a finite step averages the dent over a hundredth of its width.
    assert curvature + rounding >= 0.8
    assert curvature == pytest.approx(0.8, abs=1e-4)
    assert "strong_convexity" in certify(replace(problem, strong_convexity=0.81), n=N).failed
    assert "strong_convexity" not in certify(replace(problem, strong_convexity=0.8), n=N).failed


def test_a_curvature_that_falls_far_out_where_no_slope_leads() -> None:
    """V'' is 1 up to a distance of twelve deviations, constant there to rounding, and 1/2 beyond."""

    def gradient(y: np.ndarray) -> np.ndarray:
        return y - np.sign(y) * 0.05 * np.logaddexp(0.0, 10 * (np.abs(y) - 12.0))

    y = np.random.default_rng(0).standard_normal((4000, 2))
    curvature, rounding = least_curvature(gradient, y, Frame.of(y))
    assert abs(curvature - 0.5) <= rounding + 1e-9


def test_curvature_of_an_ill_conditioned_potential() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    precisions = np.geomspace(1e-6, 1e6, 6)
    y = rng.standard_normal((500, 6)) / np.sqrt(precisions) @ axes.T
    curvature, rounding = least_curvature(lambda y: (y @ axes * precisions) @ axes.T, y, Frame.of(y))
    assert curvature == pytest.approx(1e-6, rel=1e-3)
    assert abs(curvature - 1e-6) <= rounding


def test_differences_bound_their_own_error() -> None:
    x = np.random.default_rng(0).standard_normal((50, 2)) * [1e3, 1e-3] + [1.0, 5.0]
    frame = Frame.of(x)
    directions = np.tile([[0.6, 0.8]], (50, 1))
    # exp in standard deviations of each coordinate: all derivatives are of the size of the function.
    scale = np.array([1e3, 1e-3])
    numeric, error = difference(lambda x: np.exp((x - [1.0, 5.0]) / scale), x, directions, frame)
    exact = np.exp((x - [1.0, 5.0]) / scale) * (directions @ frame.axes.T) / scale
    assert (np.abs(numeric - exact) <= error).all()
    assert (error < 1e-4 * np.abs(exact).max()).all()


def test_frame_of_few_points() -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)) + 3.0
    frame = Frame.of(x)
    assert frame.narrowest > 0.1
    np.testing.assert_allclose(frame.inverse @ frame.axes, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(frame.centre, x.mean(axis=0))


@pytest.mark.parametrize("factor", [1.0, 1.03])
def test_derivatives_that_are_not_stated_are_taken(factor: float) -> None:
    """A density and a potential alone: scores by differences, and Stein's identities all the same."""
    p = mb.problem("product", dim=2, quadratic=0.5)
    bare = replace(
        p,
        source=replace(p.source, score=Unknown("score")),
        target=replace(
            p.target,
            gradient=Unknown("gradient"),
            potential=lambda y: factor * p.target.potential(y),
            log_normaliser=None,
        ),
        truth=Unknown("exact map"),
        truth_inverse=Unknown("inverse"),
        truth_tier=mb.TruthTier.NONE,
    )
    certificate = certify(bare, n=N)
    assert [check.name for check in certificate.checks] == [
        *(f"{side}_{what}" for side in ("source", "target") for what in ("stein", "scale", "shape")),
        "total_variance",
        "strong_convexity",
    ]
    assert set(certificate.failed) <= {"target_stein", "target_scale", "target_shape"}
    assert ("target_scale" in certificate.failed) == (factor != 1.0)
    # Steeper by 3 % allows no more than 3 % more of lambda.
    assert p.strong_convexity is not None
    stated = replace(bare, strong_convexity=1.04 * p.strong_convexity)
    assert "strong_convexity" in certify(stated, n=N).failed


def isotropic() -> mb.Problem:
    """N(m0, I) -> N(m, I), so that rotations around the means leave both measures as they are."""
    return mb.problem("gaussian", dim=2, condition=1.0)


def turned(problem: mb.Problem, degrees: float) -> mb.Problem:
    """The truth followed by a rotation around the target's mean: the same push-forward, but no gradient."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mean = problem.truth(problem.truth_inverse(np.zeros((1, 2))))  # 0, to be replaced by the fixed point below
    mean = mean - problem.target.gradient(mean)  # V = |y - m|^2 / 2
    return replace(
        problem,
        truth=lambda x: mean + (problem.truth(x) - mean) @ turn,
        truth_inverse=lambda y: problem.truth_inverse(mean + (y - mean) @ turn.T),
    )


def test_a_small_rotation_is_no_gradient() -> None:
    assert certify(turned(isotropic(), 0.0), n=N).ok
    # One degree: far below what samples could tell, and monotone.
    assert certify(turned(isotropic(), 1.0), n=N).failed == ("jacobian_symmetric",)


def test_a_reflection_is_a_gradient_of_no_convex_function() -> None:
    assert certify(turned(isotropic(), 180.0), n=N).failed == ("monotone", "jacobian_positive")


@pytest.mark.parametrize("name", ["gaussian", "product", "product_mixture", "radial", "potential", "mixture", "rings"])
def test_a_scaled_truth(name: str) -> None:
    p = mb.problem(name)
    broken = certify(replace(p, truth=lambda x: 1.2 * p.truth(x), truth_inverse=lambda y: p.truth_inverse(y / 1.2)))
    assert "pushforward_covariance" in broken.failed
    # The samples cannot tell one part in ten thousand; the equation can, but for an uncertain truth.
    slightly = certify(replace(p, truth=lambda x: 1.0001 * p.truth(x)), n=N)
    assert ("monge_ampere" in slightly.failed) == (name != "mixture")


def test_a_shifted_truth() -> None:
    p = mb.problem("product")
    broken = replace(p, truth=lambda x: p.truth(x) + 0.3, truth_inverse=lambda y: p.truth_inverse(y - 0.3))
    failed = certify(broken, n=N).failed
    assert "pushforward_mean" in failed
    assert "pushforward_covariance" not in failed


def test_equal_moments_are_not_equal_laws() -> None:
    p = mb.problem("product_mixture", modes=3, separation=8.0)  # mean 0 and identity covariance on both sides
    failed = certify(replace(p, truth=lambda x: x, truth_inverse=lambda y: y)).failed
    assert failed == ("energy_distance", "monge_ampere")


def test_maps_that_are_no_maps() -> None:
    p = mb.problem("product")
    assert "monge_ampere" in certify(replace(p, truth=np.zeros_like), n=N).failed
    with pytest.raises(mb.InvalidInput, match="NaN"):
        certify(replace(p, truth=lambda x: np.full_like(x, np.nan)), n=N)


def test_derivatives_that_are_no_numbers() -> None:
    p = mb.problem("gaussian", dim=2)
    nowhere = replace(
        p,
        source=replace(p.source, score=lambda x: np.full_like(x, np.nan)),
        target=replace(p.target, gradient=lambda y: np.full_like(y, np.nan)),
    )
    sides = [f"{side}_{what}" for side in ("source", "target") for what in ("stein", "scale", "shape")]
    assert {*sides, "target_gradient", "source_score", "strong_convexity"} <= set(certify(nowhere, n=N).failed)


def test_an_inverse_of_another_map() -> None:
    p = mb.problem("radial")
    assert certify(replace(p, truth_inverse=lambda y: p.truth_inverse(y) + 1e-4), n=N).failed == ("inverse",)


@pytest.mark.parametrize("dim", [2, 32])
def test_too_much_convexity_claimed(dim: int) -> None:
    p = mb.problem("gaussian", dim=dim)
    assert p.strong_convexity is not None
    assert certify(replace(p, strong_convexity=p.strong_convexity * 0.9), n=N).ok  # true, if not the best
    assert certify(replace(p, strong_convexity=p.strong_convexity * 1.01), n=N).failed == ("strong_convexity",)


@pytest.mark.parametrize("dim", [1, 32])
def test_a_wrong_normaliser(dim: int) -> None:
    p = mb.problem("product", dim=dim)
    assert p.target.log_normaliser is not None
    target = replace(p.target, log_normaliser=p.target.log_normaliser + 1e-3)
    assert certify(replace(p, target=target), n=N).failed == ("monge_ampere",)


def test_wrong_derivatives() -> None:
    p = mb.problem("product", dim=3)
    target = replace(p.target, gradient=lambda y: 1.0001 * p.target.gradient(y))
    assert certify(replace(p, target=target), n=N).failed == ("target_gradient",)
    source = replace(p.source, score=lambda x: p.source.score(x) + 1e-4)
    assert certify(replace(p, source=source), n=N).failed == ("source_score",)


def test_a_wrong_total_variance() -> None:
    p = mb.problem("gaussian", dim=8)
    target = replace(p.target, total_variance=1.3 * p.total_variance)
    assert certify(replace(p, target=target), n=N).failed == ("total_variance",)


def test_a_sampler_of_another_law() -> None:
    p = mb.problem("gaussian", dim=2)
    target = replace(p.target, sampler=lambda n, rng: p.target.sampler(n, rng) + 0.5)
    assert "pushforward_mean" in certify(replace(p, target=target), n=N).failed


def test_an_uncertain_truth_is_given_its_uncertainty_and_no_more() -> None:
    p = mb.problem("gaussian", dim=2)
    uncertain = replace(p, truth_tier=mb.TruthTier.CERTIFIED, truth_error=0.01)
    near = replace(uncertain, truth=lambda x: p.truth(x) + 0.005, truth_inverse=lambda y: p.truth_inverse(y - 0.005))
    far = replace(uncertain, truth=lambda x: p.truth(x) + 0.5, truth_inverse=lambda y: p.truth_inverse(y - 0.5))
    assert certify(near, n=N).ok
    assert {"pushforward_mean", "monge_ampere"} <= set(certify(far, n=N).failed)


def test_what_is_not_known_is_not_checked(tmp_path: Path) -> None:
    p = mb.problem("gaussian", dim=2)
    samples = replace(
        p,
        source=Source(dim=2, sampler=p.source.sampler),
        target=Target(dim=2, sampler=p.target.sampler),
        strong_convexity=None,
    )
    names = [check.name for check in certify(samples, n=N).checks]
    assert "monge_ampere" not in names
    assert "jacobian_symmetric" in names
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).standard_normal((400, 2)))
    clouds = mb.problem("files", base=tmp_path, source="cloud.npy", target="cloud.npy")
    with pytest.raises(mb.InvalidInput, match="nothing can be checked"):
        certify(clouds)
    with pytest.raises(mb.InvalidInput, match="n >= 100"):
        certify(p, n=50)


def test_false_alarms_are_as_rare_as_stated() -> None:
    # Eleven statistical checks of probability 1e-6 each: none in six certificates, heavy tails included.
    p = mb.problem("product", dim=2, law="laplace", source_law="gumbel")
    assert all(certify(p, n=200, seed=seed).ok for seed in range(6))


def test_a_check_that_is_not_a_number_is_not_passed() -> None:
    assert not Check("any", float("nan"), 1.0, "").ok
    certificate = certify(mb.problem("gaussian"), n=N)
    assert certificate["monge_ampere"].ok
    assert "monge_ampere" in str(certificate)
    assert "FAILED" not in str(certificate)
