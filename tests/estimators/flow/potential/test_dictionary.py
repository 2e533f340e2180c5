"""The convex cone of a dictionary: its programs against cvxpy, one minimiser for all schemes, the bounds of theory."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring
from jax.flatten_util import ravel_pytree

import mongebench as mb
from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.core.oracle import Meter, SourceView, TargetView
from mongebench.estimators.flow.machinery.cone import Cone
from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.gauss_newton import GaussNewton
from mongebench.estimators.flow.machinery.subproblem import Subproblem
from mongebench.estimators.flow.potential import Dictionary, Quadratic
from mongebench.estimators.flow.schemes.euclidean import Euclidean
from mongebench.estimators.flow.schemes.explicit import FlowExplicit
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.estimators.flow.schemes.natural import FlowNatural
from mongebench.estimators.flow.schemes.newton import FlowNewton
from mongebench.estimators.flow.schemes.together import fit_together

N, UNITS = 60, 12
RNG = np.random.default_rng(0)
X = np.where(RNG.random((N, 1)) < 0.5, -1.5, 1.0) + RNG.standard_normal((N, 2)) * [0.4, 0.7]
PRECISIONS = np.array([2.0, 0.5])
LAMBDA = 0.5
"""V - LAMBDA / 2 |y|^2 is convex, and no larger number would do: softplus is flat far out."""


def potential(y):
    return y**2 @ jnp.asarray(PRECISIONS, y.dtype) / 2 + jax.nn.softplus(3 * y[:, 0])


TARGET = mb.Target(potential=potential, dim=2)


def dictionary(scheme, **parameters):
    return scheme(**{"family": "dictionary", "units": UNITS, "batch_size": N, **parameters})


class Watched(NamedTuple):
    """A fit on one fixed sample, with what its trace saw."""

    estimator: Any
    times: list[float]
    potentials: list[Any]
    diagnostics: list[dict[str, float]]
    compilations: list[int]


def watch(estimator):
    compiled, watched = [], Watched(estimator, [], [], [], [])
    monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )

    def trace(map, *, flow_time, objective, **diagnostics):
        map(X)
        watched.times.append(flow_time)
        watched.potentials.append(estimator.parameters_)
        watched.diagnostics.append(diagnostics)
        watched.compilations.append(len(compiled))
        return True

    estimator.fit(X, TARGET, trace=trace)
    return watched


TAU = 0.5
SCHEMES = {
    FlowImplicit: {"tau": TAU, "steps": 30, "tolerance": 1e-10},
    FlowExplicit: {"tau": 0.02, "steps": 600, "tolerance": 1e-10},
    FlowNewton: {"tau": 1e8, "steps": 12, "warm_steps": 0},
}


@functools.cache
def flow_of(scheme):
    return watch(dictionary(scheme, **SCHEMES[scheme]))


@pytest.fixture(
    params=[FlowImplicit, FlowNewton, pytest.param(FlowExplicit, marks=pytest.mark.slow)],
    ids=lambda scheme: scheme.__name__,
)
def flow(request):
    return flow_of(request.param)


@pytest.fixture(scope="module")
def minimiser():
    """T and F, at the minimum of F over the cone, of cvxpy: features and their Hessians by automatic derivatives."""
    estimator = dictionary(FlowNewton, warm_steps=0)
    estimator.fit(X, TARGET, trace=lambda *_, **__: False)
    start = estimator.parameters_
    with jax.enable_x64(True):
        theta, unravel = ravel_pytree(start)

        def of_weights(derivative):
            columns = jax.jit(jax.vmap(jax.jacfwd(lambda t, x: derivative(unravel(t))(x)), (None, 0)))(theta, X)
            return np.asarray(columns[..., 5 : 5 + UNITS])

        slopes = of_weights(lambda p: jax.grad(p.value))
        bends = of_weights(lambda p: jax.hessian(p.value))
    matrix, shift, weights = cvxpy.Variable((2, 2), PSD=True), cvxpy.Variable(2), cvxpy.Variable(UNITS, nonneg=True)
    images = cvxpy.vstack([matrix @ x + shift + slope @ weights for x, slope in zip(X, slopes, strict=True)])
    energy = cvxpy.sum(cvxpy.square(images) @ PRECISIONS) / 2 + cvxpy.sum(cvxpy.logistic(3 * images[:, 0]))
    volumes = sum(cvxpy.log_det(matrix + sum(weights[j] * bend[..., j] for j in range(UNITS))) for bend in bends)
    program = cvxpy.Problem(cvxpy.Minimize((energy - volumes) / N))
    program.solve(solver="CLARABEL")
    assert program.status == "optimal"
    return images.value, program.value


def test_every_scheme_ends_at_the_minimiser_of_cvxpy(flow, minimiser):
    images, value = minimiser
    # Clarabel's gap is 1e-8, and F is LAMBDA-convex: |T - T_inf|^2 <= 2 (F(T) - F(T_inf)) / LAMBDA.
    assert flow.estimator.objective_ == pytest.approx(value, abs=1e-7)
    assert np.mean(np.sum((flow.estimator.transform(X) - images) ** 2, axis=1)) < 4e-7


def test_flows_start_at_the_identity_and_stay_in_the_cone(flow):
    assert len(flow.potentials) == flow.estimator.steps + 1
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.vmap(flow.potentials[0].map)(X), X)
        jacobians_of = jax.jit(lambda potential: jax.vmap(potential.jacobian)(X))
        for potential in flow.potentials:
            jacobians = np.asarray(jacobians_of(potential))
            np.testing.assert_allclose(jacobians, jacobians.transpose(0, 2, 1), atol=1e-14)
            assert np.linalg.eigvalsh(jacobians).min() > 0
            assert np.linalg.eigvalsh(np.asarray(potential.matrix)).min() >= 0
            assert np.min(potential.weights) >= 0


def test_idle_weights_are_zero(flow):
    assert 0 < np.sum(np.asarray(flow.estimator.parameters_.weights) == 0) < UNITS


def test_features_are_constant_and_nothing_is_compiled_after_the_first_step(flow):
    assert flow.compilations[0] > 0
    assert flow.compilations[1] == flow.compilations[-1]
    first, last = flow.potentials[0], flow.potentials[-1]
    np.testing.assert_array_equal(last.normals, first.normals)
    np.testing.assert_array_equal(last.offsets, first.offsets)


def errors_of(flow, images):
    """|T_t - T_inf|, L2 norms on the sample."""
    with jax.enable_x64(True):
        map_of = jax.jit(lambda potential: jax.vmap(potential.map)(X))
        maps = np.array([map_of(potential) for potential in flow.potentials])
    return np.sqrt(np.mean(np.sum((maps - images) ** 2, axis=2), axis=1))


def test_implicit_steps_contract_as_theory_says(minimiser):
    """The minimising movement of a LAMBDA-convex F from T_k: |T_{k+1} - T_inf| <= |T_k - T_inf| / (1 + LAMBDA tau)."""
    flow = flow_of(FlowImplicit)
    np.testing.assert_allclose(flow.times, TAU * np.arange(31))
    errors = errors_of(flow, minimiser[0])
    seen = np.flatnonzero(errors > 0.01)  # cvxpy's own error is at most sqrt(2e-8 / LAMBDA) = 2e-4
    assert len(seen) > 3
    assert (errors[seen + 1] <= errors[seen] / (1 + LAMBDA * TAU) + 4e-4).all()


@pytest.mark.slow  # six hundred steps
def test_explicit_steps_stay_below_the_bound_of_the_flow(minimiser):
    """|T_t - T_inf|^2 <= e^{-2 LAMBDA t} |T_0 - T_inf|^2, of the flow in the cone; tau is a hundredth of 1 / LAMBDA."""
    flow = flow_of(FlowExplicit)
    errors, times = errors_of(flow, minimiser[0]), np.array(flow.times)
    assert (errors <= np.exp(-LAMBDA * times) * errors[0] + 2e-4).all()


def test_solutions_of_the_subproblem_meet_the_conditions_of_karush_kuhn_and_tucker():
    """The gradient of Phi is (Z, 0, z), with Z >= 0, z >= 0, <A, Z> = 0 and a z = 0."""
    flow = flow_of(FlowImplicit)
    start, end = flow.potentials[:2]
    assert abs(flow.diagnostics[1]["decrement"]) <= 1e-10
    with jax.enable_x64(True):

        def phi(triangle, shift, weights):
            moved = dataclasses.replace(end, triangle=triangle, shift=shift, weights=weights)
            images, before = jax.vmap(moved.map)(X), jax.vmap(start.map)(X)
            volumes = jnp.linalg.slogdet(jax.vmap(moved.jacobian)(X))[1]
            return jnp.mean(potential(images) - volumes + jnp.sum((images - before) ** 2, axis=1) / (2 * TAU))

        at = end.triangle, end.shift, end.weights
        folded, slope, multipliers = (np.asarray(part) for part in jax.jit(jax.grad(phi, (0, 1, 2)))(*at))
        weights, matrix = np.asarray(end.weights), np.asarray(end.matrix)
    # An entry of the triangle off the diagonal stands for two of the matrix.
    multiplier = np.array([[folded[0], folded[1] / 2], [folded[1] / 2, folded[2]]])
    # A decrease of 1e-10, relative to one of order 1, is left; gradients are of the order of its root.
    tolerance = 1e-5
    np.testing.assert_allclose(slope, 0, atol=tolerance)
    assert multipliers.min() > -tolerance
    np.testing.assert_allclose(weights * multipliers, 0, atol=tolerance)
    assert np.linalg.eigvalsh(multiplier).min() > -tolerance
    assert abs(np.sum(matrix * multiplier)) < tolerance
    assert multipliers.max() > 1e-2  # some weights are held at zero


@pytest.mark.parametrize(
    ("dim", "weights", "push"), [pytest.param(1, 8, 0, marks=pytest.mark.slow), (2, 30, -3), (3, 10, 3)]
)
def test_programs_over_the_cone_are_solved_as_by_cvxpy(dim, weights, push):
    """A positive `push` holds A at the boundary of its cone."""
    rng = np.random.default_rng(dim)
    cone = Cone(dim, weights)
    factor = rng.standard_normal((2 * cone.size, cone.size)) / np.sqrt(2 * cone.size)
    linear = rng.standard_normal(cone.size)
    linear[np.diagonal(cone.position)] += push
    theta = cvxpy.Variable(cone.size)
    matrix = cvxpy.reshape(theta[cone.position.ravel()], (dim, dim), order="C")
    program = cvxpy.Problem(
        cvxpy.Minimize(linear @ theta + cvxpy.sum_squares(factor @ theta) / 2),
        [matrix >> 0, theta[cone.first + dim :] >= 0],
    )
    program.solve(solver="CLARABEL")
    with jax.enable_x64(True):
        zero, hessian = jnp.zeros(cone.size), jnp.asarray(factor.T @ factor)
        ours = np.asarray(jax.jit(cone.minimise)(zero, jnp.asarray(linear), hessian))
        matrix = np.asarray(cone.parts(jnp.asarray(ours))[0])
    # H >= 0.05 or so, and Clarabel's gap is 1e-8: |theta - theta*|^2 <= 2 gap / 0.05
    np.testing.assert_allclose(ours, theta.value, atol=1e-3)
    assert linear @ ours + np.sum((factor @ ours) ** 2) / 2 <= program.value + 1e-7
    assert np.linalg.eigvalsh(matrix).min() >= 0
    assert ours[cone.first + dim :].min() == 0


def test_projection_is_the_nearest_point_of_the_cone():
    cone = Cone(2, 3)
    with jax.enable_x64(True):
        theta = jnp.asarray([1.0, 2.0, 1.0, -3.0, 4.0, -1.0, 0.0, 2.0])  # A = [[1, 2], [2, 1]]: eigenvalues 3 and -1
        np.testing.assert_allclose(cone.project(theta), [1.5, 1.5, 1.5, -3, 4, 0, 0, 2], atol=1e-14)


@pytest.mark.long
def test_seeds_fitted_together_keep_their_own_features():
    def views(seed):
        estimator, shared = dictionary(FlowImplicit), {"budget": None, "seed": seed, "meter": Meter()}
        source = mb.Source(sampler=lambda n, rng: X[rng.integers(N, size=n)], dim=2)
        return (
            SourceView(source, declared=estimator.needs, **shared),
            TargetView(TARGET, declared=estimator.needs, **shared),
        )

    together = [dictionary(FlowImplicit, steps=2) for _ in range(2)]
    sources, targets = zip(*(views(seed) for seed in (1, 2)), strict=True)
    assert fit_together(together, sources, targets, seeds=[1, 2], traces=[lambda *_, **__: True] * 2) == [None, None]
    alone = [dictionary(FlowImplicit, steps=2).fit(*views(seed), seed=seed) for seed in (1, 2)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.transform(X), other.transform(X), atol=1e-6)
    assert np.abs(alone[0].transform(X) - alone[1].transform(X)).max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("scheme", [FlowImplicit, FlowNewton])
def test_single_precision_comes_as_near_as_it_can(scheme, minimiser):
    images, _ = minimiser
    parameters = {"tau": 2.0} if scheme is FlowImplicit else {"tau": 1e4, "warm_steps": 2}
    fitted = dictionary(scheme, dtype="float32", steps=12, **parameters).fit(X, TARGET)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(fitted.parameters_)} == {"float32"}
    # F is seen to 1e-6, and is LAMBDA-convex: squared distances of 4e-6 and more cannot be told from none
    assert np.mean(np.sum((fitted.transform(X) - images) ** 2, axis=1)) < 1e-4


@pytest.mark.parametrize("optimiser", ["sgd", pytest.param("adam", marks=pytest.mark.long)])
def test_plain_descent_is_projected(optimiser, minimiser):
    estimator = dictionary(
        Euclidean, optimiser=optimiser, learning_rate=0.02, schedule="constant", held_out=0.0, steps=6, inner_steps=100
    )
    assert all(np.asarray(potential.weights).min() >= 0 for potential in watch(estimator).potentials)
    # constant steps circle the minimum, Adam's at about its learning rate
    assert estimator.objective_ == pytest.approx(minimiser[1], abs=1e-2)


def test_what_cannot_be_done_is_refused_in_a_sentence():
    with pytest.raises(InvalidParameter, match="flow_implicit"):
        dictionary(FlowNatural).fit(X, TARGET)
    x = jnp.zeros((3, 65))
    wide = Dictionary.through(Quadratic.identity_like(x), x, 2, np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="65"):
        GaussNewton(wide, Subproblem(KullbackLeibler(potential, dim=65), linear=False))
