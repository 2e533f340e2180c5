"""The array boundary: what it refuses, what it keeps, what it never does."""

import numpy as np
import pytest

from mongebench.core.arrays import as_points, like, row_blocks
from mongebench.core.errors import InvalidInput


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
    import jax.numpy as jnp
    import torch

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


def test_row_blocks_cover_every_row_once() -> None:
    blocks = row_blocks(10, row_bytes=8, block_bytes=24)
    assert [(block.start, block.stop) for block in blocks] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert row_blocks(0, 8) == []
    assert len(row_blocks(3, row_bytes=1 << 40)) == 3
