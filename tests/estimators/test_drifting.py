"""Drifting models: their field by the definition, and a law that is right under a map that is not the Monge map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax

import mongebench as mb
from mongebench.core.errors import InvalidParameter
from mongebench.estimators.drifting import Drifting, drift


def by_definition(images, goals, temperature):
    """The double sum over a target sample and another image, term by term."""
    apart, between = cdist(images, goals), cdist(images, images)
    scale = np.concatenate([apart, between], axis=1).mean()
    np.fill_diagonal(between, np.inf)
    logits = -np.concatenate([apart, between], axis=1) / (temperature * scale)
    kernel = np.sqrt(softmax(logits, axis=1) * softmax(logits, axis=0))
    n, m = apart.shape
    return np.array(
        [
            sum(kernel[i, j] * kernel[i, m + k] * (goals[j] - images[k]) for j in range(m) for k in range(n))
            for i in range(n)
        ]
    )


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_the_field_is_attraction_less_repulsion(temperature, rng):
    images, goals = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    tensors = torch.tensor(images), torch.tensor(goals)
    expected = by_definition(images, goals, temperature)
    field = drift(*tensors, temperature, normalised=False).numpy()
    np.testing.assert_allclose(field, expected, rtol=1e-10, atol=1e-14)
    unit = drift(*tensors, temperature).numpy()
    np.testing.assert_allclose(unit, expected / np.sqrt((expected**2).mean()), rtol=1e-10)


def test_a_single_image_stays_where_it_is():
    one = torch.zeros(1, 2, dtype=torch.float64)
    assert not drift(one, one, 0.05).any()
    assert not drift(one, one + 1, 0.05).any()


def test_its_law_is_that_of_the_target_and_its_map_is_not_the_monge_map():
    """n = 500 in two dimensions: closer in law than the Gaussian map, and many times as far from T*."""
    problem = mb.problem("gaussian", dim=2, seed=7)
    x, y = problem.source.sample(500, seed=1), problem.target.sample(500, seed=2)
    values = {
        name: mb.evaluate(map, problem, n=2000, seed=0)
        for name, map in (
            ("drifting", Drifting(steps=500).fit(x, y).transform),
            ("bures", mb.estimator("bures").fit(x, y).transform),
            ("identity", lambda x: x),
        )
    }
    law, error = (
        {name: value[metric].value for name, value in values.items()} for metric in ("energy_distance", "uvp")
    )
    assert law["drifting"] < 0.02 * law["identity"]
    # as good as any map can be told to be from 500 samples: both laws are within sampling error of the target
    assert law["drifting"] < 1.5 * law["bures"]
    assert error["drifting"] > 3 * error["bures"]


def test_seeds_and_single_precision(gaussian_pair):
    x, y = gaussian_pair(2).samples(50)
    maps = [Drifting(steps=30).fit(x, y, seed=seed).transform(x) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.abs(maps[0] - maps[2]).max() > 1e-3
    single = Drifting(steps=30, dtype="float32").fit(x, y, seed=1).transform(x)
    # 30 steps of 3e-3 with rounding of 1e-7 each; equal to rounding it must not be
    assert 0 < np.abs(single - maps[0]).max() < 1e-2


def test_the_trace_sees_twenty_maps_and_ends_the_fit(gaussian_pair):
    x, y = gaussian_pair(2).samples(30)
    seen = []
    fitted = Drifting(steps=100, width=8).fit(x, y, trace=lambda map, **_: seen.append(map(x)) or len(seen) < 3)
    assert (len(seen), fitted.n_steps_) == (3, 15)
    np.testing.assert_allclose(seen[-1], fitted.transform(x))


@pytest.mark.parametrize(
    "parameters", [{"steps": 0}, {"dtype": "half"}, {"learning_rate": 0.0}, {"temperatures": ()}, {"width": 0}]
)
def test_parameters_out_of_range_are_named(parameters):
    with pytest.raises(InvalidParameter, match=next(iter(parameters))):
        Drifting(**parameters).fit(np.eye(2), np.eye(2))
