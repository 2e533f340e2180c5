"""What registered estimators promise beside the named checks, which `tests/check/test_registered.py` runs on them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import mongebench.estimators as package
from mongebench.core.errors import InvalidInput, MongebenchError
from mongebench.core.estimator import MapEstimator, ProblemInfo
from mongebench.core.oracle import Oracle
from mongebench.plugins import ESTIMATORS, available, estimators
from mongebench.plugins import estimator as with_defaults

SAMPLES = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES, Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
"""Of a fixed sample a sampler gives batches."""
NEURAL = ["w2_dual", "w2_dual_published", "enot", "enot_published", "monge_gap"]
"""Each fit compiles for seconds to tens of seconds: slow tests."""
SMALL = {
    "semidual": {"steps": 128, "units": 8, "depth": 2},
    "drifting": {"steps": 200, "width": 16, "batch_size": 64},
    **{name: {"steps": 20, "width": 16, "depth": 1, "batch_size": 32} for name in NEURAL},
    "kernel_sos": {"bandwidth": 2.0, "lambda1": 1e-3, "lambda2": 1e-5, "max_pairs": 100},
}
"""Budgets with which a network is trained in a second, and for kernel_sos the setting that it would choose of
forty-eight; all others are tried with their defaults."""


def estimator(name: str) -> MapEstimator:
    return with_defaults(name, **SMALL.get(name, {}))


FROM_SAMPLES = [name for name in estimators() if estimator(name).needs <= SAMPLES]
LEARNT = [name for name in FROM_SAMPLES if estimator(name).needs]


def marked(names: list[str]) -> list[object]:
    """With a mark where an estimator is slow, or where its library needs a system package (`make extras`)."""
    lacking = pytest.mark.skipif(not importlib.util.find_spec("MultiScaleOT"), reason="no MultiScaleOT: `make extras`")
    marks = {"multiscale": lacking, **dict.fromkeys([*NEURAL, "semidual"], pytest.mark.long)}
    marks |= dict.fromkeys(["sinkhorn_divergence", "progot"], pytest.mark.slow)  # of several solves of `entropic`
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


every_name = pytest.mark.parametrize("name", marked(FROM_SAMPLES))
every_learnt = pytest.mark.parametrize("name", marked(LEARNT))


def dimension(name: str) -> int:
    """2 where the estimator supports it, else 1."""
    info = ProblemInfo(dim=2, n_source=100, n_target=100, offers=SAMPLES, strong_convexity=None)
    return 2 if estimator(name).supports(info).ok else 1


@pytest.fixture(scope="module")
def clouds(gaussian_pair):
    def build(name, n=60, m=None, seed=0):
        return gaussian_pair(dimension(name), seed).samples(n, m)

    return build


@pytest.fixture(scope="module")
def fitted_once(clouds):
    """name -> the estimator fitted to its `clouds` with seed 0, shared by all who only ask it for images."""
    return functools.cache(lambda name: estimator(name).fit(*clouds(name, 60, 45)))


def test_every_estimator_is_registered():
    registered = {plugin.load() for plugin in available(ESTIMATORS).values()}
    defined = {
        value
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for value in vars(importlib.import_module(info.name)).values()
        if inspect.isclass(value)
        and issubclass(value, MapEstimator)
        and not inspect.isabstract(value)
        and value.__module__.startswith(package.__name__)
    }
    assert defined
    assert defined == {cls for cls in registered if cls.__module__.startswith(package.__name__)}


def test_the_callable_package_lists_the_registry():
    assert package() == estimators()
    assert LEARNT


@pytest.mark.parametrize("name", estimators())
def test_summary_is_one_sentence(name):
    assert len(available(ESTIMATORS)[name].summary()) in range(20, 110)


@pytest.mark.parametrize("name", estimators())
def test_parameters_survive_clone_and_set_params(name):
    original = with_defaults(name)
    assert clone(original).get_params() == original.get_params()
    assert original.set_params(**original.get_params()) is original
    assert not [key for key in vars(original) if key.endswith("_")]
    for key, parameter in inspect.signature(type(original)).parameters.items():
        assert getattr(type(original)(), key) is parameter.default  # stored as it was given
        assert getattr(original, key) == parameter.default


@every_name
def test_a_refit_to_read_only_and_strided_arrays_is_the_same_map_to_the_last_bit(name, clouds, fitted_once):
    x, y = clouds(name, 60, 45)
    strided, by_columns = np.repeat(x, 2, axis=1)[:, ::2], np.asfortranarray(y)
    assert not strided.flags.c_contiguous or x.shape[1] == 1
    strided.flags.writeable = by_columns.flags.writeable = False
    again = estimator(name).fit(*clouds(name, 60, 45, seed=8)).fit(strided, by_columns)
    np.testing.assert_array_equal(again.transform(strided), fitted_once(name).transform(x))


BAD = [np.full((5, 2), np.nan), np.full((5, 2), np.inf), np.ones(5), np.ones((0, 2)), np.ones((5, 2), complex)]


@every_learnt
def test_data_that_is_no_cloud_is_refused(name, clouds, fitted_once):
    x, y = clouds(name)
    for bad in BAD:
        with pytest.raises(InvalidInput, match="source"):
            estimator(name).fit(bad, y)
        with pytest.raises(InvalidInput, match="target"):
            estimator(name).fit(x, bad)
        if len(bad):
            with pytest.raises(InvalidInput, match="X"):
                fitted_once(name).transform(bad[:, :1] if bad.ndim == 2 and x.shape[1] == 1 else bad)


@every_learnt
def test_two_dimensions_are_both_named(name, clouds, fitted_once):
    x = clouds(name)[0]
    with pytest.raises(InvalidInput, match=rf"{x.shape[1]}.*{x.shape[1] + 1}"):
        estimator(name).fit(x, np.ones((5, x.shape[1] + 1)))
    with pytest.raises(InvalidInput, match=rf"{x.shape[1] + 1}.*{x.shape[1]}"):
        fitted_once(name).transform(np.ones((5, x.shape[1] + 1)))


@pytest.mark.parametrize("name", estimators())
def test_transform_before_fit_is_an_error(name):
    with pytest.raises(NotFittedError, match="fit"):
        estimator(name).transform(np.ones((3, 2)))


@every_name
@pytest.mark.parametrize(
    "case", ["one point", "one source point", "one target point", "duplicates", "all equal", "constant column"]
)
def test_degenerate_samples_give_a_finite_map_or_a_clear_error(name, case, clouds):
    x, y = clouds(name, 20)
    if case == "one point":
        x, y = x[:1], y[:1]
    elif case == "one source point":
        x = x[:1]
    elif case == "one target point":
        y = y[:1]
    elif case == "duplicates":
        x, y = np.repeat(x[:5], 4, axis=0), np.repeat(y[:10], 2, axis=0)
    elif case == "all equal":
        x, y = np.ones_like(x), np.ones_like(y)
    else:
        x, y = x.copy(), y.copy()
        x[:, -1] = 1.0
    try:
        fitted = estimator(name).fit(x, y)
    except MongebenchError:
        return
    assert np.isfinite(fitted.transform(clouds(name, 30, seed=3)[0])).all()


@every_learnt
def test_one_point_goes_to_one_point(name, clouds):
    x, y = clouds(name, 1)
    np.testing.assert_allclose(estimator(name).fit(x, y).transform(x), y, atol=1e-12)


# What named checks look at too, with narrower bounds or more kinds of input.


@pytest.mark.slow
@every_name
def test_types_and_shapes_come_back(name, clouds, fitted_once):
    import jax
    import torch

    fitted = fitted_once(name)
    fresh = clouds(name, 7, seed=3)[0]
    expected = fitted.transform(fresh)
    assert (expected.shape, expected.dtype) == (fresh.shape, np.float64)
    for given, dtype in [
        (fresh.astype(np.float32), np.float32),
        (torch.tensor(fresh), torch.float64),
        (torch.tensor(fresh, dtype=torch.float32), torch.float32),
        (jax.numpy.asarray(fresh, dtype="float32"), np.float32),
    ]:
        image = fitted.transform(given)
        assert isinstance(image, type(given))
        assert (tuple(image.shape), image.dtype) == (fresh.shape, dtype)
        # the input is rounded to 6e-8; maps that jump (nearest neighbour) do so away from these points
        np.testing.assert_allclose(np.asarray(image), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(fitted.transform(fresh.tolist()), expected)
    assert fitted.transform(np.ones((3, fresh.shape[1]), dtype=np.int64)).dtype == np.float64
    assert fitted.transform(fresh[:0]).shape == (0, fresh.shape[1])


@pytest.mark.slow
@every_name
def test_a_point_has_one_image(name, clouds, fitted_once):
    """Whatever the other rows of the query are."""
    fitted = fitted_once(name)
    fresh = clouds(name, 40, seed=3)[0]
    # BLAS may sum one row in another order than many
    np.testing.assert_allclose(fitted.transform(fresh)[11:12], fitted.transform(fresh[11:12]), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@every_name
def test_the_order_of_the_samples_does_not_matter(name, clouds):
    x, y = clouds(name, 60, 45)
    fresh = clouds(name, 30, seed=3)[0]
    rng = np.random.default_rng(0)
    expected = estimator(name).fit(x, y).transform(fresh)
    permuted = estimator(name).fit(rng.permutation(x), rng.permutation(y)).transform(fresh)
    # sums in another order; an iterative solver may stop one check earlier, which moves entropic maps by up to 5e-4
    np.testing.assert_allclose(permuted, expected, atol=1e-3)


@pytest.mark.slow
@every_name
def test_moving_both_measures_moves_the_map(name, clouds, fitted_once):
    x, y = clouds(name, 60, 45)
    shift = np.full(x.shape[1], 8.0)
    expected = fitted_once(name).transform(x) + shift
    np.testing.assert_allclose(estimator(name).fit(x + shift, y + shift).transform(x + shift), expected, atol=1e-3)


@pytest.mark.slow
@every_learnt
def test_beats_the_identity_on_a_shifted_gaussian(name, gaussian_pair):
    pair = gaussian_pair(dimension(name))
    identity = pair.uvp(lambda x: x)
    assert pair.uvp(estimator(name).fit(*pair.samples(500)).transform) < identity / 2
