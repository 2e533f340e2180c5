"""Column generation: candidates are judged as by finite differences, and replacing idle features moves no map."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mongebench as mb
from mongebench.core.errors import InvalidParameter
from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.objective import Batch, objective
from mongebench.estimators.flow.potential import Dictionary, Quadratic, corners
from mongebench.estimators.flow.schemes.newton import FlowNewton
from mongebench.estimators.flow.schemes.pursuit import FlowPursuit, promised, renew, support

pytestmark = pytest.mark.usefixtures("x64")
UNITS = 6


def standard_normal(y):
    return jnp.sum(y**2, axis=1) / 2


DIVERGENCE = KullbackLeibler(standard_normal, dim=2)


def clusters(n, rng):
    """Two Gaussians, far apart: T* is steep between them."""
    return np.where(rng.random((n, 1)) < 0.5, -2.0, 2.0) * [1, 0.5] + 0.4 * rng.standard_normal((n, 2))


@pytest.fixture
def potential_and_batch(rng):
    x = jnp.asarray(clusters(300, rng))
    start = Dictionary.through(Quadratic.identity_like(x), x, UNITS, rng)
    key = jnp.asarray([1, 2], jnp.uint32)
    return dataclasses.replace(start, weights=jnp.asarray([0.5, 0, 0, 0.2, 0, 0])), Batch(x, jnp.zeros((0, 2)), key)


def test_idle_features_are_replaced_without_a_change_of_the_map(potential_and_batch):
    potential, batch = potential_and_batch
    renewed = jax.jit(renew, static_argnums=(1, 3))(potential, DIVERGENCE, batch, 5)
    images = [np.asarray(jax.vmap(p.map)(batch.x)) for p in (potential, renewed)]
    np.testing.assert_allclose(images[1], images[0], atol=1e-14)
    idle = np.asarray(potential.weights) == 0
    same = (np.asarray(renewed.normals) == np.asarray(potential.normals)).all(axis=(1, 2))
    np.testing.assert_array_equal(same, ~idle)


@pytest.mark.long
def test_promises_are_those_of_finite_differences(potential_and_batch):
    """-g, the slope of D in a candidate's weight with the mean slope of the feature taken from b, and h alike."""
    potential, batch = potential_and_batch
    potential = dataclasses.replace(potential, triangle=0.4 * potential.triangle)  # too flat: more curvature helps
    normals, offsets = corners(batch.x, UNITS, jax.random.key(3))
    gains = np.asarray(promised(potential, normals[None], offsets[None], DIVERGENCE, batch))[0]
    step = 1e-3

    @jax.jit
    def moved(t, normals, offsets):
        alone = dataclasses.replace(
            potential, triangle=0 * potential.triangle, shift=0 * potential.shift, weights=jnp.ones(1),
            normals=normals, offsets=offsets,
        )  # fmt: skip
        shift = potential.shift - t * jnp.mean(jax.vmap(alone.map)(batch.x), axis=0)
        return objective(DIVERGENCE, dataclasses.replace(
            potential, shift=shift, weights=jnp.append(potential.weights, t),
            normals=jnp.concatenate([potential.normals, normals]),
            offsets=jnp.concatenate([potential.offsets, offsets]),
        ), batch)  # fmt: skip

    expected = []
    for j in range(UNITS):
        below, here, above = (float(moved(t, normals[j : j + 1], offsets[j : j + 1])) for t in (-step, 0, step))
        slope, curvature = (above - below) / (2 * step), (above - 2 * here + below) / step**2
        expected.append(max(-slope, 0) ** 2 / (2 * curvature))
    # central differences are off by step^2 times a third derivative, which grows with the sharpness of a feature
    np.testing.assert_allclose(gains, expected, rtol=1e-2, atol=1e-6)
    assert np.count_nonzero(gains) > 0


def test_support_counts_points_on_each_side_and_in_the_bend():
    x = jnp.linspace(-1, 1, 201)[:, None]

    def feature(slopes, crease):  # max of two functions, each written twice, that cross at `crease`
        normals = jnp.asarray([slopes[0], slopes[1], slopes[0], slopes[1]])[:, None]
        return normals, -normals[:, 0] * crease

    sharp, behind, wide = feature((-1e4, 1e4), 0.005), feature((-50.0, 50.0), 1.5), feature((-3.0, 3.0), 0.0)
    normals, offsets = (jnp.stack(parts) for parts in zip(sharp, behind, wide, strict=True))
    found = np.asarray(support(normals, offsets, x))
    between = 1 / (1 + np.exp(6 * np.abs(np.linspace(-1, 1, 201))))  # the smaller of the shares at a crease in 0
    np.testing.assert_allclose(found, [0, 0, between.sum()], atol=1e-9)


def test_nothing_jumps_behind_the_last_point_of_a_fixed_sample():
    """T* is affine, and 200 points show it. Without `support` a feature behind the last one sends fresh points away."""
    rng = np.random.default_rng(0)
    x, fresh = rng.standard_normal((200, 1)), rng.standard_normal((5000, 1))
    flow = FlowPursuit(units=32, candidates=16, steps=12)
    flow.fit(x, mb.Target(potential=standard_normal, dim=1))
    assert np.mean((flow.transform(fresh) - fresh) ** 2) < 0.1  # the affine map of these means: 0.01


@pytest.mark.long
def test_steep_maps_need_features_drawn_anew():
    """T* is known: y -> x is increasing in the first coordinate, and T* is its inverse, steep in the gap of x."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2000, 2))
    x = np.stack([0.3 * y[:, 0] + np.tanh(20 * y[:, 0]), y[:, 1]], axis=1)
    target, shared = mb.Target(potential=standard_normal, dim=2), {"units": 24, "steps": 25, "batch_size": 2000}
    pursuit, fixed = FlowPursuit(candidates=8, **shared), FlowNewton("dictionary", warm_steps=0, **shared)
    errors = [
        100 * np.mean(np.sum((flow.fit(x, target).transform(x) - y) ** 2, axis=1)) / 2 for flow in (pursuit, fixed)
    ]
    # the means of 2000 points of y alone are off by 1 / 2000 of the variance each, their covariance by as much: 0.1 %
    assert errors[0] < 2
    assert errors[0] < 0.7 * errors[1]


def test_candidates_are_counted():
    with pytest.raises(InvalidParameter, match="candidates"):
        FlowPursuit(candidates=0).fit(np.zeros((3, 2)), mb.Target(potential=standard_normal, dim=2))
