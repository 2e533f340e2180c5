"""Divergences known through samples: against finite differences, closed forms, other code, and what they must do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

import mongebench as mb
from mongebench.core.errors import InvalidParameter
from mongebench.core.oracle import Oracle
from mongebench.estimators.flow.machinery import sampled
from mongebench.estimators.flow.schemes.base import DIVERGENCES as REGISTERED
from mongebench.estimators.flow.schemes.explicit import FlowExplicit
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.estimators.flow.schemes.natural import FlowNatural
from mongebench.estimators.flow.schemes.newton import FlowNewton
from mongebench.metrics import evaluate

pytestmark = pytest.mark.usefixtures("x64")
DIM = 2
RNG = np.random.default_rng(0)
TARGET = RNG.standard_normal((40, DIM)) + 1
IMAGES = 0.7 * RNG.standard_normal((30, DIM))


def standard_normal(y):
    return jnp.sum(y**2, axis=1) / 2


DIVERGENCES = {
    "kl_score": lambda target: sampled.KLScore(standard_normal, 0.5, DIM),
    "kl_two_scores": lambda target: sampled.KLTwoScores(target, 0.5),
    "sinkhorn_divergence": lambda target: sampled.SinkhornDivergence(target, 0.5),
    "energy_distance": lambda target: sampled.EnergyDistance(target, 0.5),
}
every_divergence = pytest.mark.parametrize("name", list(DIVERGENCES))


@pytest.fixture
def images():
    """The pushed batch Y, in float64: made where `x64` holds."""
    return jnp.asarray(IMAGES)


@pytest.fixture
def target():
    """The batch Z of the target."""
    return jnp.asarray(TARGET)


@pytest.fixture
def exact(monkeypatch):
    """Sinkhorn's iteration to rounding: the derivative is then that of the value."""
    monkeypatch.setattr(sampled, "TOLERANCE", 1e-13)


@every_divergence
def test_forces_are_derivatives(name, images, target, exact):
    divergence = DIVERGENCES[name](target)
    eps = 0.5 * sampled.scale_of(images)

    def value(images):
        if name == "kl_score":  # eps is a constant of the batch, for the derivative and so for the differences
            return jnp.mean(standard_normal(images)) + sampled.negative_entropy(images, eps)
        return divergence.value(images, target)

    force = jax.jit(jax.grad(lambda images: divergence.value(images, target)))(images)
    direction = jnp.asarray(np.random.default_rng(1).standard_normal(images.shape))
    h, value = 1e-5, jax.jit(value)
    difference = (value(images + h * direction) - value(images - h * direction)) / (2 * h)
    assert float(jnp.sum(force * direction)) == pytest.approx(float(difference), rel=1e-6)


def test_entropic_transport_is_that_of_pot(images, target, exact):
    eps = 0.4
    cost = ot.dist(IMAGES, TARGET) / 2
    plan = ot.sinkhorn(np.full(30, 1 / 30), np.full(40, 1 / 40), cost, eps, stopThr=1e-13)
    # <c, pi> + eps KL(pi | a b), the primal value
    expected = np.sum(plan * cost) + eps * np.sum(plan * np.log(plan * 30 * 40))
    assert float(sampled.transport(images, target, jnp.asarray(eps))) == pytest.approx(expected, rel=1e-9)


def test_estimated_score_is_that_of_a_blurred_normal(exact):
    """For N(0, 1) the self-transport plan is Gaussian: -(2 / eps) grad f = -2 (1 - c) / eps x, c its correlation.

    c solves c = (1 - c^2) / eps: the density of the plan is exp(x y / eps) times functions of x and of y alone.
    """
    eps = 0.3
    n = 4000
    x = jnp.asarray(np.sort(np.random.default_rng(2).standard_normal((n, 1)), axis=0))
    correlation = (-eps + np.sqrt(eps**2 + 4)) / 2
    force = n * jax.jit(jax.grad(lambda x: sampled.negative_entropy(x, jnp.asarray(eps))))(x)
    slope = float(jnp.sum(force * x) / jnp.sum(x**2))
    # the sample's variance is off by sqrt(2 / n), and a slope with it
    assert slope == pytest.approx(-2 * (1 - correlation) / eps, rel=4 * np.sqrt(2 / n))


def test_median_by_bisection_is_the_median(images):
    squares = np.sum((IMAGES[:, None] - IMAGES) ** 2, axis=2)
    assert float(sampled.scale_of(images)) == pytest.approx(np.median(squares), rel=2e-2)


def test_energy_distance_is_the_metric_of_the_suite(images, target):
    problem = mb.Problem(
        source=mb.Source(dim=DIM, sampler=lambda n, rng: IMAGES[:n], size=30),
        target=mb.Target(dim=DIM, sampler=lambda n, rng: TARGET[:n], size=40),
        dim=DIM,
        version=1,
    )
    expected = evaluate(lambda x: x, problem, n=30)["energy_distance"].value
    value = DIVERGENCES["energy_distance"](target).value(images, target[:30])
    assert float(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["sinkhorn_divergence", "kl_two_scores"])
def test_equal_samples_are_a_minimum_of_zero(name, images, target, exact):
    divergence = DIVERGENCES[name](target)
    value, force = jax.jit(jax.value_and_grad(lambda images: divergence.value(images, target)))(target)
    assert float(value) == pytest.approx(0, abs=1e-10)
    assert float(divergence.value(images, target)) > 1e-3
    assert np.linalg.norm(force) < 1e-8


def test_equal_samples_are_nearer_than_others_in_energy_distance(images, target):
    # its U-statistic of one sample with itself is below zero, so that the value alone can be compared
    value = DIVERGENCES["energy_distance"](target).value
    assert float(value(target, target)) < 0 < float(value(images, target))


@pytest.mark.parametrize("name", list(REGISTERED))
def test_the_tier_follows_the_divergence(name):
    needs = FlowExplicit(divergence=name).needs
    assert (Oracle.TARGET_POTENTIAL in needs) == name.startswith(("kl_score",)) or name == "kl"
    assert (Oracle.TARGET_SAMPLER in needs) != (Oracle.TARGET_POTENTIAL in needs)


def test_an_unknown_divergence_is_refused_with_the_valid_ones():
    with pytest.raises(InvalidParameter, match="energy_distance"):
        FlowExplicit(divergence="energy").fit(np.asarray(IMAGES), mb.Target(potential=standard_normal, dim=DIM))
    with pytest.raises(InvalidParameter, match="epsilon"):
        FlowExplicit(divergence="kl_score", epsilon=0.0).fit(np.asarray(IMAGES), mb.Target(potential=standard_normal))


SCHEMES = {
    FlowImplicit: {"tau": 1.0, "steps": 8, "inner_steps": 4},
    FlowExplicit: {"tau": 0.5, "steps": 16, "inner_steps": 2},
    FlowNewton: {"steps": 20},
    FlowNatural: {"final_time": 8.0, "steps": 2, "tolerance": 1e-2},
}


@pytest.mark.parametrize(
    "scheme", [FlowImplicit, *(pytest.param(s, marks=pytest.mark.long) for s in list(SCHEMES)[1:])]
)
@pytest.mark.parametrize(
    "name",
    [
        "sinkhorn_divergence",
        pytest.param("kl_two_scores", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("kl_score", "energy_distance")),
    ],
)
def test_flows_of_every_divergence_end_near_the_gaussian_map(gaussian_flow, scheme, name):
    flow = gaussian_flow(2, n=300)
    y = np.random.default_rng(3).multivariate_normal(flow.mean, flow.covariance, 300)
    target = flow.target if name == "kl_score" else y
    settings = {"divergence": name, "epsilon": 0.2, "batch_size": 300, **SCHEMES[scheme]}
    fitted = scheme("quadratic", **settings).fit(flow.x, target)
    # The mean of 300 points is off by sqrt(1 / 300) = 0.06, their covariance by as much; the blur of an estimated score
    # takes 8 % of the standard deviation.
    assert flow.error(fitted.transform(flow.x), flow.exact_map(flow.x)) < 0.15
