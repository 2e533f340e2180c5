"""Neural rivals against ott called by hand for a few steps; each compiles for tens of seconds, hence most are slow."""

from __future__ import annotations

import contextlib
import io
import itertools

import numpy as np
import pytest

from mongebench.core.errors import InvalidParameter
from mongebench.estimators.neural import ENOT, MongeGap, W2Dual

pytestmark = pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning")  # ott's imports
SMALL = {"steps": 4, "batch_size": 8, "width": 4, "depth": 1}
every_method = pytest.mark.parametrize("method", [W2Dual, ENOT, MongeGap])


@pytest.fixture
def clouds(gaussian_pair):
    return *gaussian_pair(2).samples(40), np.random.default_rng(5).normal(size=(20, 2))


def by_hand(method, x, y, query, seed=3):
    """The map that ott's class ends with on the same batches, through its own `transport` or `apply`."""
    import flax  # noqa: F401
    import jax
    import jax.numpy as jnp
    import optax
    from ott.neural.methods.expectile_neural_dual import ExpectileNeuralDual
    from ott.neural.methods.monge_gap import MongeGapEstimator, monge_gap_from_samples
    from ott.neural.methods.neuraldual import W2NeuralDual
    from ott.neural.networks.icnn import ICNN
    from ott.neural.networks.potentials import MLP, PotentialMLP
    from ott.tools.sinkhorn_divergence import sinkdiv

    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    scale = np.sqrt((x.var(axis=0).mean() + y.var(axis=0).mean()) / 2)

    def batches(points, stream):
        points = points[np.lexsort(points.T)]
        points = ((points - points.mean(axis=0)) / scale).astype(np.float32)
        rng = np.random.default_rng((seed, stream))
        return (points[rng.permutation(len(points))[:8]] for _ in itertools.count())

    loaders = batches(x, 0), batches(y, 1)
    optimisers = {
        W2Dual: [
            optax.adam(lambda step, last=last: 0.05 * (0.505 + 0.495 * jnp.cos(jnp.pi * step / last)), b1=0.5, b2=0.9)
            for last in (4, 16)
        ],
        ENOT: [optax.adam(1e-3, b1=0.9, b2=0.9)] * 2,
        MongeGap: [optax.adam(3e-3)],
    }[method]
    common = {"num_train_iters": 4, "rng": jax.random.key(seed)}
    points = jnp.asarray((query - mean_x) / scale, jnp.float32)
    with contextlib.redirect_stderr(io.StringIO()):
        if method is MongeGap:
            solver = MongeGapEstimator(
                2,
                PotentialMLP([4], is_potential=False),
                *optimisers,
                fitting_loss=lambda mapped, goals: (sinkdiv(mapped, goals, epsilon=0.2)[0], None),
                regularizer=lambda start, end: (monge_gap_from_samples(start, end, epsilon=0.2), None),
                **common,
            )
            state, _ = solver.train_map_estimator(*loaders, *loaders)
            images = state.apply_fn({"params": state.params}, points)
        else:
            kind = W2NeuralDual if method is W2Dual else ExpectileNeuralDual
            if method is W2Dual:
                common |= {"conjugate_solver": None, "amortization_loss": "objective"}
                common |= {"num_inner_iters": 4, "parallel_updates": False}
                # one hidden layer of four: a mean of four with weights log(1 + e^w)
                networks = [
                    ICNN(
                        2,
                        [4],
                        ranks=0,
                        init_fn=lambda key, shape, dtype=jnp.float32: jax.random.normal(key, shape, dtype),
                        act_fn=lambda z: jnp.logaddexp(z, 0.0),
                        pos_weights=True,
                        rectifier_fn=lambda w: jnp.logaddexp(w, 0.0) / 4,
                    )
                ] * 2
            else:
                networks = [MLP([4, 1], act_fn=jax.nn.elu)] * 2
            duals = kind(2, *networks, *optimisers, **common)(*loaders, *loaders)
            # W2NeuralDual's potentials are of half the cost that they name (ott 0.6): `transport` goes half of the way.
            images = points - jax.vmap(jax.grad(duals.f))(points) if method is W2Dual else duals.transport(points)
    return mean_y + scale * np.asarray(images, np.float64)


@pytest.mark.long
@every_method
def test_is_ott_called_by_hand(method, clouds):
    fitted = method(**SMALL).fit(*clouds[:2], seed=3)
    expected = by_hand(method, *clouds)
    # single precision, compiled otherwise; one step of Adam moves a parameter by 1e-3 or more
    np.testing.assert_allclose(fitted.transform(clouds[2]), expected, atol=2e-5)
    start = method(**SMALL).fit(*clouds[:2], seed=3, trace=lambda *_, **__: False)
    assert np.abs(start.transform(clouds[2]) - expected).max() > 1e-4  # it moved


@every_method
def test_a_fit_that_is_told_to_stop_keeps_the_first_map(method, clouds):
    x, y, query = clouds
    seen = []
    fitted = method(**SMALL).fit(x, y, trace=lambda map, **_: seen.append(map(query)))
    assert (len(seen), fitted.n_steps_) == (1, 0)
    np.testing.assert_array_equal(seen[0], fitted.transform(query))
    # the networks begin near the identity in centred coordinates
    assert np.abs(seen[0] - (query - x.mean(axis=0) + y.mean(axis=0))).mean() < 1


@every_method
@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_the_first_map_is_of_the_scale_of_the_source(method, dim, gaussian_pair):
    """Within 1.5 of its norms of the identity, in centred coordinates (6 and more by ott's own convex weights)."""
    x, y = gaussian_pair(dim).samples(200)
    first = method(steps=1).fit(x, y, trace=lambda *_, **__: False)
    moved = first.transform(x) - y.mean(axis=0) - (x - x.mean(axis=0))
    assert (moved**2).sum() < 1.5**2 * ((x - x.mean(axis=0)) ** 2).sum()


@pytest.mark.long
@every_method
def test_learns_between_gaussians(method, gaussian_pair):
    pair = gaussian_pair(2)
    x, y = pair.samples(300)
    shifted = pair.uvp(lambda points: points + y.mean(axis=0) - x.mean(axis=0))
    assert pair.uvp(method(steps=300).fit(x, y).transform) < shifted / 2


@every_method
def test_parameters_out_of_range_are_named(method):
    for parameters in ({"steps": 0}, {"width": 0}, {"learning_rate": 0.0}):
        with pytest.raises(InvalidParameter, match=next(iter(parameters))):
            method(**parameters).fit(np.eye(2), np.eye(2))
    with pytest.raises(InvalidParameter, match="strength"):
        MongeGap(strength=-1.0).fit(np.eye(2), np.eye(2))
