"""The contract's one boundary: whatever comes in, authors see views and float64, users get their own kind back."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import mongebench as mb
from mongebench.core.estimator import check_support, keep_going
from mongebench.core.oracle import Oracle, SourceView, TargetView

SAMPLES = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})


class Shift(mb.MapEstimator):
    needs = SAMPLES

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def fit(self, source, target, *, seed=0, trace=None):
        assert isinstance(source, SourceView)
        assert isinstance(target, TargetView)
        assert trace is not None
        self.shift_ = self.factor * (np.asarray(target).mean(axis=0) - source.samples.mean(axis=0))
        return self

    def transform(self, X):
        assert isinstance(X, np.ndarray)
        assert X.dtype == np.float64
        return X + self.shift_


class Both(Shift):
    """Inherits and extends: the guard must not trip over itself."""

    def fit(self, source, target, *, seed=0, trace=None, extra=0.0):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = self.shift_ + extra
        return self


def test_anyones_arrays_in_one_line(rng) -> None:
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(30, 3)) + 1
    moved = Shift().fit(x, y).transform(x)
    assert np.allclose(moved.mean(axis=0), y.mean(axis=0))
    assert np.allclose(Shift().fit(x.tolist(), y.astype(np.float32)).transform(x), moved, atol=1e-6)


def test_measures_samplers_and_extra_arguments(rng) -> None:
    x = rng.normal(size=(20, 3))
    assert np.allclose(Both().fit(x, x, extra=2.0).transform(x), x + 2.0)
    with pytest.raises(mb.OracleUnavailable, match="unlimited"):
        Shift().fit(lambda n, generator: generator.normal(size=(n, 3)), x)


def test_the_kind_of_array_comes_back(rng) -> None:
    torch = pytest.importorskip("torch")
    fitted = Shift().fit(np.zeros((2, 2)), np.ones((2, 2)))
    assert fitted.transform(np.zeros((1, 2), np.float32)).dtype == np.float32
    assert fitted.transform([[0, 0]]).tolist() == [[1.0, 1.0]]
    tensor = fitted.transform(torch.zeros(1, 2))
    assert tensor.dtype == torch.float32
    assert fitted.transform(np.empty((0, 2))).shape == (0, 2)


def test_bad_input_is_refused_before_the_author_sees_it() -> None:
    good = np.zeros((4, 2))
    for bad, words in ((np.full((4, 2), np.nan), "NaN"), (np.zeros(4), "reshape"), (np.zeros((0, 2)), "0 rows")):
        with pytest.raises(mb.InvalidInput, match=words):
            Shift().fit(bad, good)
        with pytest.raises(mb.InvalidInput, match=words):
            Shift().fit(good, bad)
    with pytest.raises(mb.InvalidInput, match=r"source has dimension 2, the target 3"):
        Shift().fit(good, np.zeros((4, 3)))
    with pytest.raises(mb.InvalidInput, match=r"3 columns; expected d = 2"):
        Shift().fit(good, good).transform(np.zeros((1, 3)))
    with pytest.raises(NotFittedError):
        Shift().transform(good)


HEIGHTS = pd.DataFrame({"height": [170.0, 180.0, 175.0], "weight": [60.0, 80.0, 70.0]}, index=[7, 1, 3])
SHIFT = {"height": 5.0, "weight": 2.0}


@pytest.mark.parametrize("kind", [pd.DataFrame, lambda frame: pa.Table.from_pandas(frame, preserve_index=False)])
def test_columns_of_frames_are_matched_by_name(kind) -> None:
    target = (HEIGHTS + pd.Series(SHIFT))[["weight", "height"]]
    assert np.allclose(Shift().fit(kind(HEIGHTS), kind(target)).shift_, [5.0, 2.0])
    assert np.allclose(Shift().fit(kind(target), kind(HEIGHTS)).shift_, [-2.0, -5.0])


def test_transform_knows_the_columns_it_was_fitted_to() -> None:
    fitted = Shift().fit(HEIGHTS, (HEIGHTS + pd.Series(SHIFT))[["weight", "height"]])
    swapped = HEIGHTS[["weight", "height"]]
    kept = io.BytesIO()
    mb.save(fitted, kept)
    kept.seek(0)
    for map in (fitted, mb.load(kept, Shift)):
        assert map.feature_names_in_.tolist() == ["height", "weight"]
        assert np.allclose(map.transform(HEIGHTS) - HEIGHTS.to_numpy(), [5.0, 2.0])
        assert np.allclose(map.transform(swapped) - swapped.to_numpy(), [2.0, 5.0])  # in the order of what came in
        assert np.allclose(map.transform(HEIGHTS.to_numpy()) - HEIGHTS.to_numpy(), [5.0, 2.0])
        assert map.transform(swapped[:0]).shape == (0, 2)
        for other in (HEIGHTS.rename(columns={"weight": "age"}), HEIGHTS.assign(age=1.0), HEIGHTS[["height"]]):
            with pytest.raises(mb.InvalidInput, match=r"was fitted to 'height', 'weight'\. .*to_numpy"):
                map.transform(other)
    fitted.fit(HEIGHTS.to_numpy(), HEIGHTS.to_numpy())  # forgets the names
    assert not hasattr(fitted, "feature_names_in_")
    assert np.allclose(fitted.transform(swapped), swapped)


def test_names_are_matched_by_value_or_refused() -> None:
    numbered = HEIGHTS.set_axis([0, 1], axis=1)
    assert np.allclose(Shift().fit(numbered, numbered[[1, 0]] + 1).shift_, 1.0)
    assert not hasattr(Shift().fit(numbered, numbered), "feature_names_in_")
    for one, other in (
        (HEIGHTS, numbered),
        (HEIGHTS, HEIGHTS.rename(columns={"weight": "age"})),
        (HEIGHTS[["height", "height", "weight"]], HEIGHTS[["height", "weight", "height"]]),
    ):
        with pytest.raises(mb.InvalidInput, match=r"The target has the columns .*to_numpy"):
            Shift().fit(one, other)
    # An array names no columns: it is matched by position, as everywhere in scikit-learn.
    fitted = Shift().fit(HEIGHTS.to_numpy(), HEIGHTS + 1)
    assert np.allclose(fitted.shift_, 1.0)


def test_bfloat16_in_is_bfloat16_out() -> None:
    import jax.numpy as jnp
    import torch

    fitted = Shift().fit(np.zeros((2, 2)), np.ones((2, 2)))
    for given in (torch.zeros(1, 2, dtype=torch.bfloat16), jnp.zeros((1, 2), jnp.bfloat16)):
        images = fitted.transform(given)
        assert images.dtype == given.dtype
        assert type(images) is type(given)
        assert images.tolist() == [[1.0, 1.0]]


def test_an_author_may_return_tensors_with_gradients() -> None:
    import torch

    class Net(Shift):
        def transform(self, X):
            return torch.tensor(X, requires_grad=True) + torch.tensor(self.shift_)

    fitted = Net().fit(np.zeros((2, 2)), np.ones((2, 2)))
    assert fitted.transform(np.zeros((1, 2))).tolist() == [[1.0, 1.0]]


def test_scikit_learn_conventions() -> None:
    estimator = Shift(factor=2.0)
    assert estimator.get_params() == {"factor": 2.0}
    assert clone(estimator).get_params() == {"factor": 2.0}
    assert repr(estimator) == "Shift(factor=2.0)"
    assert not vars(clone(estimator.fit(np.zeros((2, 1)), np.ones((2, 1))))).get("shift_")


def test_broken_contracts_are_named() -> None:
    class Overwrites(Shift):
        def fit(self, source, target, *, seed=0, trace=None):
            samples = source.samples
            samples -= 1
            return self

    class WrongShape(Shift):
        def transform(self, X):
            return X.sum(axis=1)

    class Text(Shift):
        def transform(self, X):
            return X.astype(str)

    x = np.zeros((3, 2))
    with pytest.raises(mb.ContractViolation, match=r"Overwrites.fit tried to change its input"):
        Overwrites().fit(x, x)
    with pytest.raises(mb.ContractViolation, match=r"returned shape \(3,\) for 3 points; expected \(3, 2\)"):
        WrongShape().fit(x, x).transform(x)
    with pytest.raises(mb.ContractViolation, match="dtype"):
        Text().fit(x, x).transform(x)
    assert (x == 0).all()


def test_an_abstract_estimator_cannot_be_made() -> None:
    class Half(mb.MapEstimator):
        needs = SAMPLES

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_support_asks_oracles_then_budgets_then_the_estimator() -> None:
    class Density(Shift):
        needs = frozenset({Oracle.SOURCE_DENSITY})

        def supports(self, problem):
            return mb.Support(problem.dim == 1, "one dimension only")

    def info(**changes):
        known = {"dim": 2, "n_source": 5, "n_target": 5, "offers": SAMPLES, "strong_convexity": None}
        return mb.ProblemInfo(**(known | changes))

    assert check_support(Shift(), info()).ok
    assert "source_density" in check_support(Density(), info()).reason
    assert "finite n_target" in check_support(Shift(), info(n_target=None)).reason
    offered = frozenset({Oracle.SOURCE_DENSITY})
    assert check_support(Density(), info(offers=offered)) == mb.Support(False, "one dimension only")
    assert check_support(Density(), info(offers=offered, dim=1)).ok


def test_nobody_watching_goes_on() -> None:
    assert keep_going(lambda x: x, flow_time=1.0, decrement=0.1)


class WithModules(mb.MapEstimator):
    needs = frozenset()

    def __init__(self, names=()):
        self.names = names

    @property
    def modules(self):
        return self.names

    def fit(self, source, target, *, seed=0, trace=None):
        return self

    def transform(self, X):
        return X


@pytest.mark.parametrize(
    ("names", "framework"),
    [((), "numpy"), (("ot",), "numpy"), (("ot", "torch.nn"), "torch"), (("jax", "torch"), "jax")],
)
def test_the_framework_of_an_estimator_is_read_off_its_modules(names, framework) -> None:
    assert WithModules(names).device_framework == framework
    assert WithModules(names).versioned_libraries == names
