"""The published algorithm against a second implementation of it in torch, gradient step by gradient step."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import mongebench as mb
from mongebench.core.errors import InvalidParameter
from mongebench.estimators.flow.potential.clamped import Clamped
from mongebench.estimators.flow.schemes.published import Published

BATCH = 40


def score_of(y):
    """-(2 / eps) grad f of the entropic transport of a batch to itself, by a plain loop to convergence."""
    squares = ((y[:, None] - y) ** 2).sum(axis=2)
    cost, eps, f = squares / 2, 0.05 * np.median(squares), np.zeros(len(y))
    for _ in range(3000):
        f = (f - eps * (logsumexp((f - cost) / eps, axis=1) - np.log(len(y)))) / 2
    plan = np.exp((f - cost) / eps)
    plan /= plan.sum(axis=1, keepdims=True)
    return -2 / eps * (y - plan @ y)


class Network(torch.nn.Module):
    """The map of the published network, its clamped entries clamped in the forward pass."""

    def __init__(self, begin: Clamped) -> None:
        super().__init__()
        self.names = ("first", "first_offset", "passes", "skip", "second_offset", "last")
        for name in self.names:
            setattr(self, name, torch.nn.Parameter(torch.tensor(np.asarray(getattr(begin, name)))))

    def forward(self, x):
        x = torch.tensor(x, requires_grad=True)
        self.passes.data.clamp_(0)
        self.last.data.clamp_(0)
        z = torch.nn.functional.softplus(x @ self.first.T + self.first_offset)
        z = torch.nn.functional.softplus(z @ self.passes.T + x @ self.skip.T + self.second_offset)
        return torch.autograd.grad((z @ self.last).sum(), x, create_graph=True)[0]


def by_torch(begin, batches, scheme, optimiser, rate, tau):
    """One outer step."""
    network, before = Network(begin), Network(begin)
    made = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser](network.parameters(), lr=rate)
    for x in batches:
        made.zero_grad()
        moved = network(x)
        if scheme == "explicit":  # T_0 is the identity
            wanted = x + tau * (-x - score_of(x))
            ((moved - torch.tensor(wanted)) ** 2).mean().backward()
        else:
            y = moved.detach().numpy()
            loss = (moved * torch.tensor(y + score_of(y))).sum()
            if scheme == "implicit":
                loss = loss + ((moved - before(x).detach()) ** 2).sum(dim=1).mean() / (2 * tau)
            loss.backward()
        made.step()
    network(batches[-1])  # clamps
    return network


class Recorded:
    """A sampler that remembers what it gave."""

    def __init__(self):
        self.problem, self.given = mb.problem("mixture"), []

    def __call__(self, n, rng):
        points = self.problem.source.sampler(n, rng)
        self.given.append(points)
        return points


def V(y):
    return (y * y).sum(axis=1) / 2


@pytest.mark.parametrize(
    ("scheme", "optimiser", "rate"),
    [
        ("explicit", "adam", 0.1),
        ("implicit", "adam", 0.1),
        ("descent", "sgd", 1e-3),
        pytest.param("descent", "adam", 0.05, marks=pytest.mark.slow),
    ],
)
def test_one_outer_step_is_that_of_torch(scheme, optimiser, rate):
    sampler = Recorded()
    estimator = Published(scheme, optimiser, rate, steps=1, inner_steps=4, units=6, batch_size=BATCH, dtype="float64")
    with jax.enable_x64(True):
        start = Clamped.random(np.zeros((1, 2)), 6, np.random.default_rng(3))
    estimator.fit(mb.Source(dim=2, sampler=sampler), mb.Target(dim=2, potential=V), seed=3)
    batches = sampler.given[-1].reshape(4, BATCH, 2)
    wanted = by_torch(start, batches, scheme, optimiser, rate, tau=0.4)
    x = mb.problem("mixture").source.sample(50, seed=1)
    expected = wanted(x).detach().numpy()
    moved = np.linalg.norm(expected - Network(start)(x).detach().numpy())
    # The self-transport is solved to a thousandth of epsilon here, and its median found by bisection.
    assert np.linalg.norm(estimator.transform(x) - expected) < 0.01 * moved


def test_the_network_begins_as_published():
    network = Clamped.random(np.zeros((1, 2), np.float32), 20, np.random.default_rng(0))
    assert sum(np.size(leaf) for leaf in network.__dict__.values() if np.ndim(leaf)) == 541 - 1
    assert np.min(network.passes) == 0 == np.min(network.last)
    # Half of N(0, 0.1^2) is negative: 0.5 +- 4 (0.25 / 400)^1/2.
    assert abs(np.mean(np.asarray(network.passes) == 0) - 0.5) < 0.1
    assert np.abs(network.first).max() <= 2**-0.5
    assert np.abs(network.second_offset).max() <= 20**-0.5


def test_all_methods_of_a_seed_begin_with_one_network_and_differ_between_seeds():
    x = mb.problem("mixture").source.sample(20, seed=1)
    first = {}
    for scheme in ("implicit", "descent"):
        for seed in (0, 1):
            maps = []

            def trace(map, *, flow_time=None, maps=maps, **diagnostics):
                maps.append(map(x))
                return False

            estimator = Published(scheme, steps=1, inner_steps=1, units=5, batch_size=20)
            mb.fit(mb.problem("mixture"), estimator, n_source=None, n_target=None, seed=seed, trace=trace)
            first[scheme, seed] = maps[0]
    np.testing.assert_array_equal(first["implicit", 0], first["descent", 0])
    assert np.abs(first["implicit", 0] - first["implicit", 1]).max() > 1e-3


def test_the_map_stays_the_gradient_of_a_convex_function():
    p = mb.problem("mixture")
    for weights in ("clamped", "squares"):
        estimator = Published("implicit", steps=2, inner_steps=10, units=8, batch_size=50, weights=weights)
        fitted = mb.fit(p, estimator, n_source=None, n_target=None, seed=0)
        x = p.source.sample(400, seed=1)
        y, other = fitted.transform(x), np.roll(x, 1, axis=0)
        assert ((x - other) * (y - np.roll(y, 1, axis=0))).sum(axis=1).min() > -1e-5
        assert fitted.flow_time_ == pytest.approx(0.8)


def test_a_mean_keeps_the_implicit_step_near_and_a_sum_does_not():
    """With the mean, tau bounds the step: |T_1 - T_0|^2 <= 2 tau (F(T_0) - inf F). A sum over n points is tau n."""
    p, moved = mb.problem("mixture"), {}
    x = p.source.sample(500, seed=1)
    for reduction in ("sum", "mean"):
        maps = []

        def trace(map, *, flow_time=None, maps=maps, **diagnostics):
            maps.append(map(x))
            return True

        estimator = Published("implicit", tau=0.01, steps=1, inner_steps=60, reduction=reduction)
        mb.fit(p, estimator, n_source=None, n_target=None, seed=0, trace=trace)
        moved[reduction] = np.mean(np.sum((maps[1] - maps[0]) ** 2, axis=1))
    assert moved["mean"] < 0.1 * moved["sum"]


@pytest.mark.parametrize("wrong", [{"scheme": "upwind"}, {"reduction": "max"}, {"begin": "x"}, {"weights": "free"}])
def test_other_words_are_refused_with_the_valid_ones(wrong):
    with pytest.raises(InvalidParameter, match=f"{next(iter(wrong))} must be '"):
        mb.fit(mb.problem("mixture"), Published(**wrong), n_source=None, n_target=None)
