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
from mongebench.estimators.flow import sampled
from mongebench.estimators.flow.base import NEEDS
from mongebench.estimators.flow.explicit import FlowExplicit
from mongebench.estimators.flow.implicit import FlowImplicit
from mongebench.estimators.flow.natural import FlowNatural
from mongebench.estimators.flow.newton import FlowNewton

pytestmark = pytest.mark.usefixtures("x64")
DIM = 2
RNG = np.random.default_rng(0)
TARGET = jnp.asarray(RNG.standard_normal((40, DIM)) + 1)
IMAGES = jnp.asarray(0.7 * RNG.standard_normal((30, DIM)))


def standard_normal(y):
    return jnp.sum(y**2, axis=1) / 2


DIVERGENCES = {
    "kl_score": sampled.kl_score(standard_normal, 0.5, DIM),
    "kl_two_scores": sampled.kl_two_scores(TARGET, 0.5),
    "sinkhorn_divergence": sampled.sinkhorn_divergence(TARGET, 0.5),
    "energy_distance": sampled.energy_distance(TARGET),
}
every_divergence = pytest.mark.parametrize("name", list(DIVERGENCES))


@pytest.fixture
def exact(monkeypatch):
    """Sinkhorn's iteration to rounding: the derivative is then that of the value."""
    monkeypatch.setattr(sampled, "TOLERANCE", 1e-13)


@every_divergence
def test_forces_are_derivatives(name, exact):
    # eps is a constant of the batch for the derivative, and so it must be for the differences
    divergence = DIVERGENCES[name]
    eps = float(sampled.scale_of(IMAGES))

    def value(images):
        if name == "kl_score":
            energy = jnp.mean(standard_normal(images))
            return energy + sampled.negative_entropy(images, jnp.asarray(0.5 * eps))
        return divergence.value(images, TARGET)

    force = jax.jit(jax.grad(lambda images: divergence.value(images, TARGET)))(IMAGES)
    direction = jnp.asarray(np.random.default_rng(1).standard_normal(IMAGES.shape))
    h, value = 1e-5, jax.jit(value)
    difference = (value(IMAGES + h * direction) - value(IMAGES - h * direction)) / (2 * h)
    assert jnp.sum(force * direction) == pytest.approx(float(difference), rel=1e-6)


def test_entropic_transport_is_that_of_pot(exact):
    eps = 0.4
    cost = np.asarray(ot.dist(IMAGES, TARGET)) / 2
    plan = ot.sinkhorn(np.full(30, 1 / 30), np.full(40, 1 / 40), cost, eps, stopThr=1e-13)
    # <c, pi> + eps KL(pi | a b), the primal value
    expected = np.sum(plan * cost) + eps * np.sum(plan * np.log(plan * 30 * 40))
    assert float(sampled.transport(IMAGES, TARGET, jnp.asarray(eps))) == pytest.approx(expected, rel=1e-9)


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


def test_median_by_bisection_is_the_median():
    squares = np.sum((np.asarray(IMAGES)[:, None] - np.asarray(IMAGES)) ** 2, axis=2)
    assert float(sampled.scale_of(IMAGES)) == pytest.approx(np.median(squares), rel=2e-2)


def test_energy_distance_is_the_metric_of_the_suite():
    from mongebench.metrics import evaluate

    cloud = np.asarray(TARGET)
    problem = mb.Problem(
        source=mb.Source(dim=DIM, sampler=lambda n, rng: np.asarray(IMAGES)[:n], size=30),
        target=mb.Target(dim=DIM, sampler=lambda n, rng: cloud[:n], size=40),
        dim=DIM,
        version=1,
    )
    expected = evaluate(lambda x: x, problem, n=40)["energy_distance"].value
    assert float(DIVERGENCES["energy_distance"].value(IMAGES, TARGET)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["sinkhorn_divergence", "energy_distance", "kl_two_scores"])
def test_equal_samples_are_a_minimum(name, exact):
    divergence = DIVERGENCES[name]
    value, force = jax.jit(jax.value_and_grad(lambda images: divergence.value(images, TARGET)))(TARGET)
    if name != "energy_distance":  # its U-statistic of one sample with itself is below zero
        assert float(value) == pytest.approx(0, abs=1e-10)
    assert float(divergence.value(IMAGES, TARGET)) > float(value)
    assert np.linalg.norm(force) < 1e-8 if name != "energy_distance" else True


@pytest.mark.parametrize("name", list(NEEDS))
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
    FlowImplicit: {"tau": 0.5, "steps": 8, "inner_steps": 4},
    FlowExplicit: {"tau": 0.3, "steps": 12, "inner_steps": 2},
    FlowNewton: {"steps": 10},
    FlowNatural: {"final_time": 3.0, "steps": 3, "tolerance": 1e-2},
}


@pytest.mark.parametrize(
    "scheme", [FlowImplicit, *(pytest.param(s, marks=pytest.mark.slow) for s in list(SCHEMES)[1:])]
)
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_flows_of_every_divergence_come_near_the_gaussian_map(gaussian_flow, scheme, name):
    flow = gaussian_flow(2, n=300)
    rng = np.random.default_rng(3)
    y = rng.multivariate_normal(flow.mean, flow.covariance, 300)
    target = flow.target if name == "kl_score" else y
    fitted = scheme("quadratic", divergence=name, batch_size=300, **SCHEMES[scheme]).fit(flow.x, target)
    start = flow.error(flow.x, flow.exact_map(flow.x))
    # the mean of 300 points alone is off by sqrt(tr S / 300 / tr S) = 0.06, and energy distance flows slowly
    allowed = 0.5 * start if name == "energy_distance" else 0.25
    assert flow.error(fitted.transform(flow.x), flow.exact_map(flow.x)) < allowed < start
