"""The array boundary: what it refuses, what it keeps, what it never does."""

from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from jax.experimental import sparse as jax_sparse

import mongebench as mb
from mongebench.core.arrays import as_points, as_values, blockwise, like, padded_blocks, row_blocks
from mongebench.core.errors import ContractViolation, InvalidInput, UnrealValues
from mongebench.metrics import Evaluation, EvaluationPoints

GOOD = np.array([[1.5, 2.0], [3.0, 4.25]])
DATES = np.array([["2020-01-01", "2020-01-02"], ["2020-01-03", "NaT"]], "M8[D]")
HOLED = np.ma.array(GOOD, mask=[[False, False], [True, False]])
UNREAL = {
    "masked": (HOLED, "masked, the first in row 1; np.ma.compress_rows"),
    "masked rows in a list": (list(HOLED), "masked"),
    "the masked constant": ([[1.0, np.ma.masked]], "masked"),
    "masked ints": (np.ma.masked_equal([[1, 2], [-999, 4]], -999), "masked"),
    "dates": (DATES, "dates"),
    "NaT alone": (np.full((2, 2), np.datetime64("NaT")), "dates"),
    "times": (DATES - DATES[0, 0], "times"),
    "frame with a date": (pd.DataFrame({"a": [1.0, 2.0], "b": pd.to_datetime(["2020-01-01", None])}), "row 0"),
    "frame of dates": (pd.DataFrame({"a": pd.to_datetime(["2020-01-01", None])}), "dates"),
    "None among numbers": ([[1.0, None], [2.0, 3.0]], "None in row 0 is a missing value"),
    "None in an object array": (np.array([[1.0, 2.0], [2.0, None]], object), "None in row 1 is a missing value"),
    "pandas.NA": (pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]}), "row 1"),
    "NaN": ([[1.0, np.nan]], "NaN"),
    "text": ([["a", "b"]], "text"),
    "numbers as text": ([["1", "2"]], "astype"),
    "numbers as text in objects": (np.array([["1", 2.0]], object), "'1' in row 0 is a str"),
    "bytes": (np.array([[b"1"]]), "text"),
    "complex": (GOOD + 0j, "complex"),
    "complex objects": (np.array([[1.0, 2j]], object), "complex"),
    "complex torch": (torch.ones(2, 2, dtype=torch.complex64), "complex"),
    "complex jax": (jnp.ones((2, 2), jnp.complex64), "complex"),
    "sparse matrix": (scipy.sparse.csr_matrix(GOOD), "X.toarray()"),
    "sparse array": (scipy.sparse.coo_array(GOOD), "X.toarray()"),
    "sparse torch": (torch.tensor(GOOD).to_sparse(), "X.to_dense()"),
    "sparse jax": (jax_sparse.BCOO.fromdense(jnp.ones((2, 2))), "X.todense()"),
    "torch without data": (torch.ones(2, 2, device="meta"), "not a real numeric array"),
    "keys": (jax.random.split(jax.random.key(0), 2), "not a real numeric array"),
    "records": (np.zeros(2, [("a", float), ("b", float)]), "dtype"),
    "ragged": ([[1.0, 2.0], [3.0]], "not a real numeric array"),
    "beyond float64": ([[10**400, 1]], "too large"),
    "dictionary": ({"a": 1.0}, "a dict"),
}
REAL = {
    "float32": GOOD.astype(np.float32),
    "float16": GOOD.astype(np.float16),
    "big endian": GOOD.astype(">f8"),
    "list": GOOD.tolist(),
    "nothing masked": np.ma.array(GOOD, mask=False),
    "nothing masked, by entry": np.ma.array(GOOD, mask=np.zeros((2, 2), bool)),
    "Python numbers": np.array([[1.5, 2], [Decimal(3), 4.25]], object),
    "frame": pd.DataFrame(GOOD),
    "frame of several types": pd.DataFrame({"a": [1.5, 3.0], "b": pd.array([2.0, 4.25], dtype="Float64")}),
    "arrow": pa.table({"a": GOOD[:, 0], "b": GOOD[:, 1]}),
    "torch": torch.tensor(GOOD),
    "torch with gradient": torch.tensor(GOOD, requires_grad=True) * 1.0,
    "torch rows with gradient": list(torch.tensor(GOOD, requires_grad=True)),
    "torch bfloat16": torch.tensor(GOOD, dtype=torch.bfloat16),
    "jax": jnp.asarray(GOOD),
    "jax bfloat16": jnp.asarray(GOOD, jnp.bfloat16),
    "NumPy's bfloat16": np.asarray(jnp.asarray(GOOD, jnp.bfloat16)),
}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros(3), "reshape(-1, 1)"),
        (np.zeros((2, 2, 2)), "two axes"),
        (np.zeros((0, 2)), "0 rows"),
        (np.zeros((2, 0)), "0 columns"),
        ([[0.0, np.nan]], "NaN"),
        ([[0.0, 1.0], [np.inf, 0.0]], "row 1"),
        ([["a", "b"]], "not a real numeric array"),
        (np.zeros((2, 2), dtype=complex), "complex"),
        (None, "X"),
        ([[1.0, 2.0], [3.0]], "not a real numeric array"),
    ],
)
def test_refused_with_a_sentence(given, words) -> None:
    with pytest.raises(InvalidInput) as caught:
        as_points(given)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", UNREAL)
def test_both_sides_refuse_what_is_missing_or_unreal(kind) -> None:
    given, words = UNREAL[kind]
    with pytest.raises(InvalidInput) as caught:
        as_points(given)
    assert words in str(caught.value)
    if kind == "NaN":  # a diverged map has a status of its own, and is let through here
        assert np.isnan(as_values(given, "The map")).any()
        return
    with pytest.raises(UnrealValues, match=r"The map returned no real numbers \("):
        as_values(given, "The map")
    assert issubclass(UnrealValues, ContractViolation)


@pytest.mark.parametrize("kind", REAL)
def test_both_sides_accept_what_is_real(kind) -> None:
    given = REAL[kind]
    for values in (as_points(given), as_values(given, "The map")):
        assert values.dtype == np.float64
        assert np.array_equal(values, GOOD)


@pytest.mark.parametrize("kind", REAL)
def test_what_a_map_may_return_is_measured(kind) -> None:
    given = REAL[kind]
    clouds = mb.Problem(source=_cloud(mb.Source), target=_cloud(mb.Target), dim=2, version=1)
    assert np.array_equal(Evaluation.of(lambda x: given, EvaluationPoints.draw(clouds, 2, seed=0)).pushed, GOOD)


@pytest.mark.parametrize("kind", ["complex", "masked", "sparse matrix", "dates", "None among numbers", "text"])
def test_what_no_map_may_return_is_named(kind) -> None:
    given, words = UNREAL[kind]

    class Returns(mb.MapEstimator):
        needs = frozenset()

        def fit(self, source, target, *, seed=0, trace=None):
            return self

        def transform(self, X):
            return given

    clouds = mb.Problem(source=_cloud(mb.Source), target=_cloud(mb.Target), dim=2, version=1)
    for raised in (
        lambda: mb.evaluate(lambda x: given, clouds, n=2),
        lambda: Returns().fit(GOOD, GOOD).transform(GOOD),
    ):
        with pytest.raises(UnrealValues) as caught:
            raised()
        assert words.partition("X.")[2] in str(caught.value)


def _cloud(kind):
    return kind(dim=2, size=2, sampler=lambda n, rng: rng.normal(size=(n, 2)))


def test_a_network_is_a_map() -> None:
    net = torch.nn.Linear(2, 2)
    gaussian = mb.problem("gaussian", dim=2)
    measured = mb.evaluate(lambda x: net(torch.tensor(x, dtype=torch.float32)), gaussian, n=50)
    weight, bias = (parameter.detach().numpy().astype(float) for parameter in net.parameters())
    expected = mb.evaluate(lambda x: x @ weight.T + bias, gaussian, n=50)
    assert measured["l2_error"].value == pytest.approx(expected["l2_error"].value, rel=1e-5)


def test_both_dimensions_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"X has 3 columns; expected d = 2"):
        as_points(np.zeros((1, 3)), dim=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool])
def test_any_real_dtype_becomes_float64(dtype) -> None:
    points = as_points(np.ones((2, 3), dtype=dtype))
    assert points.dtype == np.float64
    assert (points == 1).all()


def test_contiguous_float64_is_not_copied_and_cannot_be_written() -> None:
    original = np.ones((4, 2))
    points = as_points(original)
    assert np.shares_memory(points, original)
    with pytest.raises(ValueError, match="read-only"):
        points += 1
    original += 1  # the caller's own array stays writeable


def test_views_of_every_layout_keep_their_values(rng) -> None:
    base = rng.normal(size=(6, 8))
    frozen = base.copy()
    frozen.flags.writeable = False
    for given in (base[::2, ::-1], base.T, np.asfortranarray(base), frozen):
        assert np.array_equal(as_points(given), given)


def test_like_gives_back_type_dtype_and_device() -> None:
    values = np.ones((2, 2))
    assert like(values, np.zeros(1, np.float32)).dtype == np.float32
    assert like(values, np.zeros(1, np.int64)).dtype == np.float64
    assert isinstance(like(values, [[0.0]]), np.ndarray)
    tensor = like(values, torch.zeros(1, dtype=torch.float32))
    assert tensor.dtype == torch.float32
    assert tensor.device.type == "cpu"
    array = like(values, jnp.zeros(1))
    assert isinstance(array, type(jnp.zeros(1)))
    assert array.dtype == jnp.zeros(1).dtype
    assert like(values, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert like(values, jnp.zeros(1, jnp.bfloat16)).dtype == jnp.bfloat16
    assert like(values, np.zeros(1, jnp.bfloat16)).dtype == jnp.bfloat16
    assert like(values, jnp.zeros(1, int)).dtype == jnp.zeros(1).dtype


def test_row_blocks_cover_every_row_once() -> None:
    blocks = row_blocks(10, row_bytes=8, block_bytes=24)
    assert [(block.start, block.stop) for block in blocks] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert row_blocks(0, 8) == []
    assert len(row_blocks(3, row_bytes=1 << 40)) == 3


def test_blocks_are_put_together_in_order() -> None:
    x, y = np.arange(14.0).reshape(7, 2), np.arange(7.0)
    seen = []

    def function(x, y):
        seen.append(len(x))
        return x.sum(axis=1) * y

    np.testing.assert_array_equal(blockwise(function, x, y, row_bytes=8, block_bytes=24), x.sum(axis=1) * y)
    assert seen == [3, 3, 1]
    assert blockwise(function, x[:0], y[:0], row_bytes=8).shape == (0,)


def test_padded_blocks_have_one_size() -> None:
    x = np.arange(14.0).reshape(7, 2)
    seen = []

    def function(block):
        seen.append(block.shape)
        return block**2

    np.testing.assert_array_equal(padded_blocks(function, x, rows=3), x**2)
    assert seen == [(3, 2)] * 3
