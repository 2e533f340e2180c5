"""Each scheme against the closed-form Gaussian flow, which scipy's ODE solver follows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_sylvester

import mongebench as mb
from mongebench.estimators.flow.schemes.euclidean import Euclidean
from mongebench.estimators.flow.schemes.explicit import FlowExplicit
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.estimators.flow.schemes.natural import FlowNatural
from mongebench.estimators.flow.schemes.newton import FlowNewton

SPECTRA = [*(pytest.param(*case, marks=pytest.mark.slow) for case in ((1.0, True), (10.0, False))), (100.0, False)]


@pytest.mark.parametrize(("condition", "commuting"), SPECTRA)
def test_natural_flow_is_the_closed_form(gaussian_flow, condition, commuting):
    flow = gaussian_flow(2, condition, commuting)
    fitted = FlowNatural("quadratic", final_time=0.5, steps=2, tolerance=1e-7, damping=1e-10).fit(flow.x, flow.target)
    # a tolerance of 1e-7 a step of the integrator, some tens of steps
    assert flow.error(fitted.transform(flow.x), flow.map_at(0.5, flow.x)) < 1e-5


@pytest.mark.parametrize("damping", [0.03, pytest.param(0.1, marks=pytest.mark.long)])
def test_damping_does_not_slow_the_natural_flow_down(gaussian_flow, damping):
    """Flow time is that of the flow: one damped solve would be behind by damping / (1 + damping) of it."""
    flow = gaussian_flow(2, 10.0, n=400)
    fitted = FlowNatural("quadratic", final_time=1.0, steps=2, tolerance=1e-6, damping=damping)
    images = fitted.fit(flow.x, flow.target).transform(flow.x)
    behind = flow.error(flow.map_at(1 / (1 + damping), flow.x), flow.map_at(1.0, flow.x))
    assert flow.error(images, flow.map_at(1.0, flow.x)) < 0.02 * behind
    ratio = flow.error(images, flow.exact_map(flow.x)) / flow.error(flow.map_at(1.0, flow.x), flow.exact_map(flow.x))
    # the rate of the squared error is that of the closed form to one part in a thousand
    assert 2 * np.log(ratio) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("scheme", [FlowImplicit, pytest.param(FlowExplicit, marks=pytest.mark.long)])
@pytest.mark.parametrize(("condition", "commuting"), [(10.0, False), pytest.param(100.0, True, marks=pytest.mark.long)])
def test_error_of_euler_schemes_falls_with_slope_one(gaussian_flow, scheme, condition, commuting):
    flow = gaussian_flow(2, condition, commuting)
    exact = flow.map_at(0.4, flow.x)
    errors = []
    for steps in (16, 32):
        fitted = scheme("quadratic", tau=0.4 / steps, steps=steps, inner_steps=10, tolerance=1e-10)
        errors.append(flow.error(fitted.fit(flow.x, flow.target).transform(flow.x), exact))
        assert fitted.flow_time_ == pytest.approx(0.4)
    # error = C tau + O(tau^2)
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.25
    assert errors[1] < 0.025


@pytest.mark.parametrize("dim", [8, *(pytest.param(dim, marks=pytest.mark.slow) for dim in (1, 2))])
def test_newton_ends_at_the_exact_gaussian_map(gaussian_flow, dim):
    flow = gaussian_flow(dim)
    fitted = FlowNewton("quadratic", tau=1e4, steps=12).fit(flow.x, flow.target)
    # UVP = 100 error^2 percent
    assert 100 * flow.error(fitted.transform(flow.x), flow.exact_map(flow.x)) ** 2 < 1e-6


@pytest.mark.long
def test_newton_ends_at_the_exact_gaussian_map_in_64_dimensions(gaussian_flow):
    flow = gaussian_flow(64, n=1000)
    fitted = FlowNewton("quadratic", tau=1e4, steps=20).fit(flow.x, flow.target)
    assert 100 * flow.error(fitted.transform(flow.x), flow.exact_map(flow.x)) ** 2 < 1e-6


@pytest.mark.slow  # the decaying rate, below, ends as near
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_plain_descent_ends_near_the_exact_map(gaussian_flow, optimiser):
    flow = gaussian_flow(2, n=400)
    fitted = Euclidean("quadratic", optimiser=optimiser, learning_rate=0.02, steps=10, inner_steps=100)
    fitted.fit(flow.x, flow.target)
    assert flow.error(fitted.transform(flow.x), flow.exact_map(flow.x)) < 0.1
    assert fitted.flow_time_ is None


def test_a_decaying_rate_ends_descent_at_rest(gaussian_flow):
    flow = gaussian_flow(2, n=400)
    last_moves = {}
    for schedule in ("constant", "cosine"):
        maps = []

        def trace(map, maps=maps, **_):
            maps.append(map(flow.x))
            return True

        # batches of a tenth of the sample: at a constant rate every one of them moves the map
        descent = Euclidean(
            "quadratic", learning_rate=0.02, schedule=schedule, steps=10, inner_steps=100, held_out=0.0, batch_size=40
        )
        descent.fit(flow.x, flow.target, trace=trace)
        last_moves[schedule] = flow.error(maps[-1], maps[-2])
        assert flow.error(maps[-1], flow.exact_map(flow.x)) < 0.1
    # the rate over the last tenth of a half cosine is below sin(pi / 20)^2 = 0.024 of the first
    assert last_moves["cosine"] < 0.3 * last_moves["constant"]


@pytest.mark.parametrize("scheme", [FlowImplicit, pytest.param(FlowExplicit, marks=pytest.mark.long)])
def test_adam_and_gauss_newton_solve_the_same_subproblem(gaussian_flow, scheme):
    flow = gaussian_flow(2)
    step = {"tau": 0.1, "steps": 1, "learning_rate": 0.005}
    by_newton, by_adam = (
        scheme("quadratic", inner=inner, inner_steps=inner_steps, **step).fit(flow.x, flow.target).transform(flow.x)
        for inner, inner_steps in (("newton", 20), ("adam", 400))
    )
    # Adam circles the minimiser: each of five parameters, times |x| of about 3, is off by about the learning rate
    assert flow.error(by_adam, by_newton) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [FlowImplicit, FlowExplicit])
def test_a_decaying_rate_ends_each_subproblem_at_rest(gaussian_flow, scheme):
    flow = gaussian_flow(2, n=400)
    step = {"tau": 0.1, "steps": 2}
    exact = scheme("quadratic", inner_steps=20, **step).fit(flow.x, flow.target).transform(flow.x)
    by_adam = {"inner": "adam", "inner_steps": 300, "learning_rate": 0.05, "batch_size": 40, **step}
    errors = {
        schedule: flow.error(
            scheme("quadratic", schedule=schedule, **by_adam).fit(flow.x, flow.target).transform(flow.x), exact
        )
        for schedule in ("constant", "cosine")
    }
    # batches of a tenth of the sample: at a constant rate each moves every parameter by up to 0.05
    assert errors["cosine"] < 0.5 * errors["constant"]


def test_explicit_steps_too_long_are_halved(gaussian_flow):
    """The stability limit of explicit Euler is 2 / lambda_max, here 0.2 for the shift alone."""
    flow = gaussian_flow(2, 100.0)
    taken = []

    def trace(map, *, flow_time, objective, tau=2.0, **_):
        taken.append((objective, tau))
        return True

    FlowExplicit("quadratic", tau=2.0, steps=6).fit(flow.x, flow.target, trace=trace)
    objectives, steps = np.array(taken).T
    assert (np.diff(objectives) <= 1e-6 * np.abs(objectives[:-1])).all()
    assert steps[1:].max() < 2


def test_inner_optimality_is_reported(gaussian_flow):
    flow = gaussian_flow(2)
    seen = []

    def trace(map, *, flow_time, decrement=0.0, **_):
        seen.append(decrement)
        return True

    FlowImplicit("quadratic", tau=0.4, steps=3, inner_steps=20, tolerance=1e-6).fit(flow.x, flow.target, trace=trace)
    assert max(seen) <= 1e-6
    FlowImplicit("quadratic", tau=0.4, steps=1, inner_steps=1, tolerance=1e-6).fit(flow.x, flow.target, trace=trace)
    assert seen[-1] > 0.1


@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_explicit_step_in_weak_form_is_the_regression_on_the_exact_velocity(gaussian_flow, dim):
    """The sample's Gaussian has the score -(A S0 A)^{-1} (y - b): the weak form must not need it, and agree with it."""
    flow, tau = gaussian_flow(dim), 0.05
    fitted = FlowExplicit("quadratic", tau=tau, steps=1, inner_steps=30, tolerance=1e-14).fit(flow.x, flow.target)
    m0, s0 = flow.x.mean(axis=0), np.cov(flow.x.T, bias=True).reshape(dim, dim)
    score = -(flow.x - m0) @ np.linalg.inv(s0)
    velocity = -(flow.x - flow.mean) @ np.linalg.inv(flow.covariance) - score
    # symmetric least squares of x + tau v: B S0 + S0 B = E[v (x - m0)^T] + its transpose
    moment = velocity.T @ (flow.x - m0) / len(flow.x)
    slope = np.eye(dim) + tau * solve_sylvester(s0, s0, moment + moment.T)
    expected = (flow.x - m0) @ slope + m0 + tau * velocity.mean(axis=0)
    assert flow.error(fitted.transform(flow.x), expected) < 1e-7


QUANTILES = (np.arange(1000) + 0.5) / 1000
LOGISTIC = -np.log(1 / QUANTILES - 1)[:, None]
SOURCE = np.arcsinh(2 * LOGISTIC)


def logistic_target():
    return mb.Target(potential=lambda y: jnp.sum(y + 2 * jnp.logaddexp(0, -y), axis=1), dim=1)


def test_in_one_dimension_the_flow_ends_at_the_sorted_map():
    """Every increasing map is a gradient, so that T* is the map of quantiles."""
    shuffled = np.random.default_rng(0).permutation(SOURCE)
    fitted = FlowNewton("ridge", units=16, steps=30, batch_size=1000).fit(shuffled, logistic_target())
    assert 100 * np.mean((fitted.transform(SOURCE) - LOGISTIC) ** 2) / np.var(LOGISTIC) < 1


def test_in_one_dimension_the_flow_is_the_unconstrained_one():
    """Against the flow of the quantiles X(u): dX/dt = -V'(X) - d/du (1 / (dX/du)), in finite differences."""
    time = 0.4

    def velocity(_, x):
        densities = 1 / (np.diff(x) * len(x))  # 1 / (dX/du), between neighbours; none beyond the ends
        return -np.tanh(x / 2) - len(x) * np.diff(densities, prepend=0, append=0)

    grid = SOURCE[:, 0]
    free = solve_ivp(velocity, (0, time), grid, method="BDF", rtol=1e-5, atol=1e-7).y[:, -1:]
    fitted = FlowImplicit("ridge", units=16, tau=0.02, steps=20, batch_size=1000).fit(SOURCE, logistic_target())
    moved = np.mean((free - SOURCE) ** 2)
    assert moved > 0.01 * np.var(LOGISTIC)
    # implicit Euler is off by less than tau of the way (its bound is first order), sixteen ridges by as much again
    assert np.mean((fitted.transform(SOURCE) - free) ** 2) < (2 * 0.02) ** 2 * moved


@pytest.mark.long
@pytest.mark.parametrize("scheme", [FlowExplicit, FlowImplicit])
def test_ridges_follow_the_flow_from_the_identity(scheme):
    """Where all weights are small no parameters may run away: the bound holds on the mixture, lambda = 1, at t = 2.

    Up to what sixteen ridges cannot hold, of which the end of Newton's steps is a sample.
    """
    problem = mb.problem("mixture")

    def error(estimator):
        fitted = mb.fit(problem, estimator, n_source=None, n_target=1000, seed=0)
        return mb.evaluate(fitted.transform, problem, n=4000, seed=9)["uvp"].value

    start, end = error(mb.estimator("identity")), error(FlowNewton(units=16, batch_size=2048))
    followed = error(scheme(units=16, tau=0.1, steps=20, batch_size=2048))
    assert followed < np.exp(-2 * 2.0) * start + 2 * end


@pytest.mark.long  # three schemes on a network: most of it is compilation
def test_three_schemes_end_near_each_other_on_a_network():
    """Explicit, implicit and natural have one limit; no tolerance is set by hand."""
    problem = mb.problem("mixture")
    x = problem.source.sample(2000, seed=9)
    network = {"family": "icnn", "units": 8, "batch_size": 1024}
    ends = []
    for scheme, length in (
        (FlowExplicit, {"tau": 0.05, "steps": 20}),
        (FlowImplicit, {"tau": 0.05, "steps": 20}),
        (FlowNatural, {"final_time": 1.0, "steps": 10}),
    ):
        fitted = scheme(**network, **length).fit(problem.source, problem.target)
        assert fitted.flow_time_ == pytest.approx(1.0)
        ends.append(np.sqrt(np.mean(np.sum((fitted.transform(x) - problem.truth(x)) ** 2, axis=1))))
    start = np.sqrt(np.mean(np.sum((x - problem.truth(x)) ** 2, axis=1)))
    assert max(ends) < 2 * min(ends)
    assert max(ends) < start / 2
