"""What every flow promises: refusals in sentences, divergence with its step, seeds, one compilation, maps in K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import monitoring

import mongebench as mb
from mongebench.core.errors import Diverged, InvalidInput, InvalidParameter
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView
from mongebench.estimators.flow.schemes.euclidean import Euclidean
from mongebench.estimators.flow.schemes.explicit import FlowExplicit
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.estimators.flow.schemes.natural import FlowNatural
from mongebench.estimators.flow.schemes.newton import FlowNewton
from mongebench.estimators.flow.schemes.pursuit import FlowPursuit

SMALL = {
    FlowNewton: {"steps": 3, "warm_steps": 1},
    FlowPursuit: {"steps": 3, "candidates": 3},
    FlowNatural: {"steps": 2, "final_time": 0.2},
    FlowImplicit: {"steps": 2, "inner_steps": 3},
    FlowExplicit: {"steps": 2, "inner_steps": 3, "tau": 0.05},
    Euclidean: {"steps": 2, "inner_steps": 3, "learning_rate": 1e-3},
}
every_scheme = pytest.mark.parametrize("scheme", list(SMALL))
X = np.random.default_rng(0).standard_normal((60, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]]) + 1


def small(scheme, **parameters):
    return scheme(**{"units": 4, "batch_size": 40, **SMALL[scheme], **parameters})


def standard_normal(y):
    return jnp.sum(y**2, axis=1) / 2


TARGET = mb.Target(potential=standard_normal, dim=2)


@dataclass
class Watched:
    """One fit of a scheme, with all that its trace saw."""

    scheme: type
    fitted: Any
    meter: Meter
    times: list[float | None]
    maps: list[Any]
    compilations: list[int]


def views(scheme):
    """Unlimited draws from the points X."""
    source = mb.Source(sampler=lambda n, rng: X[rng.integers(60, size=n)], dim=2)
    shared = {"declared": scheme().needs, "budget": None, "seed": 1, "meter": Meter()}
    return SourceView(source, **shared), TargetView(TARGET, **shared)


@pytest.fixture(scope="module", params=list(SMALL), ids=lambda scheme: scheme.__name__)
def watched(request):
    scheme, compiled = request.param, []
    monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    source, target = views(scheme)
    watched = Watched(scheme, small(scheme, steps=SMALL[scheme]["steps"] + 3), source.meter, [], [], [])

    def trace(map, *, flow_time, objective, **_):
        assert np.isfinite(objective)
        map(X)
        watched.times.append(flow_time)
        watched.maps.append(map)
        watched.compilations.append(len(compiled))
        return True

    watched.fitted.fit(source, target, seed=1, trace=trace)
    return watched


def test_maps_stay_in_the_cone_from_the_identity_on(watched):
    assert len(watched.maps) == watched.fitted.n_steps_ + 1 == watched.fitted.steps + 1
    assert np.sqrt(np.mean((watched.maps[0](X) - X) ** 2)) < 1e-2
    if watched.scheme is Euclidean:
        assert watched.times[1:] == [None] * watched.fitted.n_steps_
    else:
        assert (np.diff(watched.times) > 0).all()
    h = 1e-5  # central differences err by h^2 T''' / 6, and T''' reaches 10^3
    for map in watched.maps:
        assert map(X).dtype == np.float64
        jacobian = np.stack([(map(X + step) - map(X - step)) / (2 * h) for step in h * np.eye(2)], axis=2)
        np.testing.assert_allclose(jacobian, jacobian.transpose(0, 2, 1), atol=1e-6)
        assert np.linalg.eigvalsh(jacobian).min() > 0


def test_nothing_is_compiled_after_the_first_steps(watched):
    first = watched.fitted.warm_steps + 1 if watched.scheme is FlowNewton else 1
    assert watched.compilations[0] > 0
    assert watched.compilations[-1] == watched.compilations[first]


def test_every_draw_and_evaluation_is_charged(watched):
    outer, batch = watched.fitted.n_steps_, watched.fitted.batch_size
    assert watched.meter.counts[Oracle.SOURCE_SAMPLER] >= outer * batch
    assert watched.meter.counts[Oracle.TARGET_POTENTIAL] >= outer * batch


def test_the_map_is_the_gradient_of_the_potential(watched):
    h = 1e-5
    slope = [(watched.fitted.potential(X + s) - watched.fitted.potential(X - s)) / (2 * h) for s in h * np.eye(2)]
    np.testing.assert_allclose(np.stack(slope, axis=1), watched.fitted.transform(X), atol=1e-6)


def test_the_map_goes_back(watched):
    back = watched.fitted.inverse_transform(watched.fitted.transform(X))
    np.testing.assert_allclose(back, X, atol=1e-9)


def test_equal_seeds_give_equal_maps_and_fits_forget(watched):
    images, objective = watched.fitted.transform(X), watched.fitted.objective_
    again = watched.fitted.fit(*views(watched.scheme), seed=1)
    np.testing.assert_array_equal(again.transform(X), images)
    assert again.objective_ == objective


@pytest.mark.parametrize("scheme", [FlowImplicit, pytest.param(Euclidean, marks=pytest.mark.long)])
def test_single_precision_stays_single_and_nothing_global_changes(scheme):
    fitted = small(scheme, dtype="float32").fit(X, TARGET)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(fitted.parameters_)} == {"float32"}
    assert fitted.transform(X).dtype == np.float64
    assert not jax.config.jax_enable_x64


@pytest.mark.long
def test_networks_flow_too():
    fitted = small(FlowNewton, family="icnn", depth=2, steps=6).fit(X, TARGET)
    start = small(FlowNewton, family="icnn").fit(X, TARGET, trace=lambda *_, **__: False)
    assert fitted.objective_ < start.objective_
    assert start.n_steps_ == 0


@pytest.mark.parametrize(
    ("potential", "sentence"),
    [
        (lambda y: scipy.special.gammaln(np.asarray(y)).sum(axis=1), "array_namespace"),
        (lambda y: y**2, "one number per point"),
        (lambda y: jnp.sum(y**2, axis=1) * jnp.nan, "finite"),
    ],
    ids=["numpy only", "shape", "nan"],
)
def test_potentials_that_cannot_serve_are_refused(potential, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        small(FlowImplicit).fit(X, mb.Target(potential=potential, dim=2))


def test_too_few_points_for_the_width_are_refused_with_how_many_are_needed():
    # 5 parameters of the quadratic part and 4 of each of 40 ridges, two numbers a point
    with pytest.raises(InvalidInput, match=r"60 points .* 165 parameters: at least 83 points"):
        small(FlowImplicit, units=40).fit(X, TARGET)
    with pytest.raises(InvalidInput, match="at least 3 points"):
        FlowNewton("quadratic").fit(X[:2], TARGET)
    with pytest.raises(InvalidInput, match="at least 83 points"):
        small(FlowImplicit, units=40, divergence="energy_distance").fit(X, X)


@pytest.mark.parametrize(
    "estimator",
    [
        FlowNewton("quadratic", tau=4.0, steps=200),
        pytest.param(FlowImplicit("quadratic", tau=4.0, steps=200), marks=pytest.mark.long),
        pytest.param(FlowExplicit("quadratic", tau=1.0, steps=200), marks=pytest.mark.slow),
        pytest.param(FlowNatural("quadratic", final_time=400.0, steps=40), marks=pytest.mark.long),
        pytest.param(Euclidean("quadratic", optimiser="sgd", learning_rate=0.5, steps=100), marks=pytest.mark.slow),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_potential_of_the_wrong_sign_diverges_with_its_step(estimator):
    with pytest.raises(Diverged, match=r"step \d+: "):
        estimator.fit(X, mb.Target(potential=lambda y: -standard_normal(y), dim=2))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(estimator.parameters_))


@every_scheme
@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"dtype": "float16"}, "float32"),
        ({"units": 0}, "units"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"steps": -1}, "steps"),
    ],
)
def test_parameters_out_of_range_are_named(scheme, parameters, names):
    with pytest.raises(InvalidParameter, match=names):
        small(scheme, **parameters).fit(X, TARGET)


@pytest.mark.parametrize("scheme", [scheme for scheme in SMALL if scheme is not FlowPursuit])  # it has one family
def test_unknown_families_are_named(scheme):
    with pytest.raises(InvalidParameter, match="quadratic"):
        small(scheme, family="quadartic").fit(X, TARGET)


def test_schedules_and_points_of_curvature_are_checked():
    with pytest.raises(InvalidParameter, match="cosine"):
        small(Euclidean, schedule="cosin").fit(X, TARGET)
    with pytest.raises(InvalidParameter, match="cosine"):
        small(FlowImplicit, schedule="cosin").fit(X, TARGET)
    with pytest.raises(InvalidParameter, match="curvature_points"):
        small(FlowNewton, curvature_points=0).fit(X, TARGET)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
@pytest.mark.parametrize("scheme", [Euclidean, FlowImplicit, FlowExplicit])
def test_units_start_with_a_share_between_nothing_and_all(scheme, share):
    with pytest.raises(InvalidParameter, match="share must be"):
        small(scheme, share=share).fit(X, TARGET)


def test_flows_start_with_the_share_of_units_that_was_asked_for():
    with jax.enable_x64(True):
        for share in (0.01, 0.5):
            fitted = small(FlowImplicit, share=share).fit(X, TARGET, trace=lambda *_, **__: False)
            own = fitted.parameters_.quadratic.jacobian(X[0])
            # The quadratic keeps the rest of the identity's curvature, least of it where the units bend the most.
            assert np.linalg.eigvalsh(own)[0] == pytest.approx(1 - share, abs=1e-12)


def test_warm_steps_leave_steps_to_the_other_units_where_there_are_any():
    with pytest.raises(InvalidParameter, match="warm_steps must be from 0 to steps - 1 = 2, got 6"):
        FlowNewton("ridge", units=4, steps=3).fit(X, TARGET)
    assert FlowNewton("quadratic", steps=3).fit(X, TARGET).n_steps_ == 3


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", [FlowNewton, FlowPursuit, FlowImplicit, FlowExplicit])
def test_steps_in_flow_time_are_positive(scheme, tau):
    with pytest.raises(InvalidParameter, match="tau"):
        small(scheme, tau=tau).fit(X, TARGET)


def test_the_trace_can_stop_a_fit():
    fitted = small(FlowImplicit).fit(X, TARGET, trace=lambda *_, **__: False)
    assert fitted.n_steps_ == 0
    assert np.sqrt(np.mean((fitted.transform(X) - X) ** 2)) < 1e-2
