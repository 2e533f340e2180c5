"""Fitted estimators on disk: what comes back is what was saved, and a file from elsewhere runs nothing."""

import contextlib
import inspect
import json
import math
import os
import pickle
import sys
import tracemalloc
import zipfile
from dataclasses import dataclass, make_dataclass

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import mongebench as mb
from mongebench import plugins
from mongebench.saved import HEADER

X, Y = np.random.default_rng(0).normal(size=(2, 30, 2))


@dataclass(frozen=True)
class Part:
    """Of a state."""

    points: np.ndarray
    rest: object = None


class Keeps(mb.MapEstimator):
    """Learns what it is given."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLES})

    def __init__(self, learns=None):
        self.learns = learns

    def fit(self, source, target, *, seed=0, trace=None):
        self.learnt_ = self.learns
        return self

    def transform(self, X):
        return X


def kept(value):
    """What a state comes back as; as a parameter, it would stand in the header a second time."""
    fitted = Keeps().fit(X, Y)
    fitted.learnt_ = value
    return fitted


def round_trip(path, value):
    mb.save(kept(value), path)
    return mb.load(path, Keeps).learnt_


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -0.1,
        1e-320,
        math.inf,
        "a 'text'\n\0",
        [1, [2.5]],
        (1, (2, None)),
        {"a": 1, 2: {}, (3, "b"): [()]},
    ],
    ids=repr,
)
def test_plain_values_come_back(tmp_path, value) -> None:
    back = round_trip(tmp_path / "kept", value)
    assert back == value
    assert repr(back) == repr(value)  # (1,) is not [1], 1 is not 1.0
    assert math.isnan(round_trip(tmp_path / "kept", math.nan))


@pytest.mark.parametrize(
    "array",
    [X, X.T, X[::2], X.astype(np.float32), np.arange(3), np.zeros((0, 2)), np.array(2.0), X > 0, np.array(["a", "bc"])],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back(tmp_path, array) -> None:
    back = round_trip(tmp_path / "kept", {"in": [Part(array)]})["in"][0]
    assert type(back) is Part
    assert (back.points.dtype, back.points.shape) == (array.dtype, array.shape)
    assert np.array_equal(back.points, array)
    scalar = round_trip(tmp_path / "kept", np.float32(0.1))
    assert (type(scalar), scalar) == (np.float32, np.float32(0.1))


def test_arrays_of_other_libraries_come_back(tmp_path) -> None:
    import jax
    import torch

    with jax.enable_x64(True):
        double = jax.numpy.asarray(X)
    for array in (double, jax.numpy.asarray(X, dtype="float32"), torch.tensor(X), torch.tensor(X).float()):
        back = round_trip(tmp_path / "kept", Part(array)).points
        assert isinstance(back, torch.Tensor if isinstance(array, torch.Tensor) else jax.Array)
        assert back.dtype == array.dtype
        assert np.array_equal(np.asarray(back), np.asarray(array))


class Other:
    """No dataclass."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([None]), "learnt_ of Keeps has entries of type object"),
        ([len], r"learnt_ of Keeps is a builtins\.builtin_function"),
        (Part(X, Other()), r"learnt_\.rest of Keeps is a .*Other, which cannot be saved without pickle"),
        ({"a": {1}}, r"learnt_\['a'\] of Keeps is a builtins\.set"),
        (pytest, "write `fitted_state` and `restore`"),
    ],
    ids=["objects", "function", "object", "set", "module"],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, value, words) -> None:
    with pytest.raises(mb.NotSavable, match=words):
        mb.save(kept(value), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_registered_estimator_is_loaded_by_its_file_alone(tmp_path) -> None:
    fitted = mb.estimator("bures", regularisation=1e-3).fit(X, Y)
    mb.save(fitted, str(tmp_path / "map"))
    loaded = mb.load(tmp_path / "map")
    assert repr(loaded) == repr(fitted)
    assert np.array_equal(loaded.transform(Y), fitted.transform(Y))
    with np.load(tmp_path / "map", allow_pickle=False) as archive:
        header = json.loads(str(archive[HEADER]))
    assert header["estimator"] == "mongebench.estimators.gaussian:Bures"
    assert {"mongebench", "numpy"} <= header["versions"].keys()


def test_an_unfitted_estimator_is_not_saved(tmp_path) -> None:
    with pytest.raises(NotFittedError, match="Bures is not fitted"):
        mb.save(mb.estimator("bures"), tmp_path / "map")


def test_a_class_that_is_not_registered_is_given(tmp_path) -> None:
    mb.save(kept(Part(X)), tmp_path / "kept")
    with pytest.raises(mb.InvalidInput, match=r"Keeps, which is not registered: import the class"):
        mb.load(tmp_path / "kept")
    with pytest.raises(mb.InvalidInput, match=r"holds a fitted .*:Keeps; the class Part was given"):
        mb.load(tmp_path / "kept", Part)


def rewritten(path, change, **arrays):
    """The file of a fitted `bures` with another header, or other arrays."""
    mb.save(mb.estimator("bures").fit(X, Y), path)
    with np.load(path) as archive:
        content = dict(archive)
    header = json.loads(str(content[HEADER]))
    change(header)
    with open(path, "wb") as file:
        np.savez(file, **(content | {HEADER: np.array(json.dumps(header))} | arrays))
    return path


def state(name, value):
    return lambda header: header["state"].update({name: value})


PART = {"object": "mongebench.plugins:Plugin", "fields": {"name": "x"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: header.update(format="mongebench estimator 9"), "format of its header is unknown"),
        (lambda header: header.update(more=1), "more of its header is unknown"),
        (lambda header: header.pop("state"), "state of its header is unknown"),
        (lambda header: header.update(estimator="os:system"), "os:system, which is not registered"),
        (lambda header: header["parameters"].update(nothing=1), "does not fit Bures: .*nothing"),
        (state("slope_", {"numpy": "array99"}), "does not fit Bures: the array array99 is missing"),
        (state("slope_", {"python": "1"}), "not something that mongebench.save writes"),
        (state("slope_", {"dict": [[[], 1]]}), "does not fit Bures"),
        (state("slope_", PART), r"no dataclass mongebench\.plugins:Plugin with the fields name"),
        (state("slope_", PART | {"object": "mongebench.plugins:Path"}), "no dataclass"),
        (state("slope_", PART | {"object": "mongebench.saved:dataclasses.Field"}), "no dataclass"),
        (state("slope_", PART | {"object": "subprocess:Popen"}), "no dataclass subprocess:Popen"),
        (state("transform", 1), "transform is not the name of anything that `fit` learns"),
        (state("__class__", 1), "__class__ is not the name"),
    ],
)
def test_tampered_headers_are_one_sentence(tmp_path, change, words) -> None:
    with pytest.raises(mb.InvalidInput, match=words):
        mb.load(rewritten(tmp_path / "map", change))


def test_classes_are_found_after_they_have_moved(tmp_path) -> None:
    fitted = mb.estimator("euclidean", units=2, steps=1, inner_steps=1, batch_size=len(X))
    fitted.fit(X, mb.Target(potential=lambda y: (y**2).sum(axis=1) / 2, dim=X.shape[1]))
    mb.save(fitted, tmp_path / "map")
    with np.load(tmp_path / "map") as archive:
        content = dict(archive)
    header = str(content[HEADER])
    moved = {
        "flow.schemes.euclidean:Euclidean": "flow.euclidean:Euclidean",
        "flow.potential.ridge:Ridge": "flow.potential:Ridge",
    }
    for now, before in moved.items():
        assert now in header
        header = header.replace(now, before)
    content[HEADER] = np.array(header)
    with open(tmp_path / "older", "wb") as file:
        np.savez(file, **content)
    assert np.array_equal(mb.load(tmp_path / "older").transform(X), fitted.transform(X))


def test_a_foreign_dataclass_is_not_found_through_a_module_that_imports_it(tmp_path, monkeypatch) -> None:
    foreign = make_dataclass("Outside", ["name"], namespace={"__module__": "elsewhere"})
    monkeypatch.setattr(plugins, "Outside", foreign, raising=False)
    outside = {"object": "mongebench.plugins:Outside", "fields": {"name": "x"}}
    with pytest.raises(mb.InvalidInput, match=r"no dataclass mongebench\.plugins:Outside"):
        mb.load(rewritten(tmp_path / "map", state("slope_", outside)))


def test_nothing_is_imported_on_the_word_of_a_file(tmp_path) -> None:
    for change in (
        state("slope_", PART | {"object": "mongebench.report.asv.dashboard:Dashboard"}),
        lambda header: header.update(estimator="antigravity:Bures"),
    ):
        before = set(sys.modules)
        with pytest.raises(mb.InvalidInput):
            mb.load(rewritten(tmp_path / "map", change))
        assert not {"antigravity", "mongebench.report.asv.dashboard"} & (set(sys.modules) - before)


class Armed:
    """Its pickle makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_are_not_opened(tmp_path) -> None:
    armed, trace = Armed(tmp_path / "opened"), tmp_path / "opened"
    bare = tmp_path / "bare"
    bare.write_bytes(pickle.dumps(armed))
    inside = rewritten(tmp_path / "inside", lambda header: None, more=np.array([armed], dtype=object))
    for path in (bare, inside):
        with pytest.raises(mb.InvalidInput, match=r"not a file that mongebench\.save wrote"):
            mb.load(path)
    assert not trace.exists()
    pickle.loads(bare.read_bytes())
    assert trace.exists()  # it was armed


def test_files_that_are_none_are_one_sentence(tmp_path) -> None:
    with pytest.raises(mb.InvalidInput, match="There is no file"):
        mb.load(tmp_path / "nowhere.npz")
    mb.save(mb.estimator("bures").fit(X, Y), whole := tmp_path / "whole.npz")
    np.save(tmp_path / "array.npy", X)
    np.savez(tmp_path / "arrays.npz", X)
    (tmp_path / "empty.npz").touch()
    (tmp_path / "half.npz").write_bytes(whole.read_bytes()[:-100])
    for name in ("array.npy", "arrays.npz", "empty.npz", "half.npz"):
        with pytest.raises(mb.InvalidInput, match=rf"{name} is not a file that mongebench\.save wrote"):
            mb.load(tmp_path / name)
    with pytest.raises(mb.InvalidInput, match="is not a file that mongebench"):
        mb.load(tmp_path)


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for part in content:
                    file.write(part)
    return path


def npy_header(shape, dtype="<f8"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_a_file_that_unpacks_to_more_than_the_bound_is_not_unpacked(tmp_path) -> None:
    size, zeros = 64 << 20, bytes(1 << 20)
    path = zipped(tmp_path / "bomb", {"x.npy": [npy_header((size // 8,)), *[zeros] * (size >> 20)]})
    assert path.stat().st_size < size / 500
    with pytest.raises(mb.InvalidInput, match="max_bytes"):
        mb.load(path, max_bytes=32 << 20)  # what is imported at the first call is not counted
    tracemalloc.start()
    with pytest.raises(mb.InvalidInput, match=r"more than 33554432.*raise max_bytes"):
        mb.load(path, max_bytes=32 << 20)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert inspect.signature(mb.load).parameters["max_bytes"].default == 1 << 30


def test_the_bound_is_the_readers(tmp_path) -> None:
    path = tmp_path / "map"
    mb.save(mb.estimator("bures").fit(X, Y), path)
    with pytest.raises(mb.InvalidInput, match="more than 100"):
        mb.load(path, max_bytes=100)
    for bound in (1 << 20, None):
        assert np.array_equal(mb.load(path, max_bytes=bound).transform(X), mb.load(path).transform(X))


@pytest.mark.parametrize(
    ("shape", "dtype", "content"),
    [
        ((10**18,), "<f8", b"12345678"),
        ((10**9, 10**9), "<f8", b""),
        ((1,), "<U1000000000", b"1234"),
        ((10**18,), "<U0", b""),
        ((-1,), "<f8", b""),
        ((2,), "<f8", b"12345678"),
        ((1,), "|O", b"12345678"),
    ],
)
def test_a_shape_that_is_not_what_the_file_holds_is_refused_unread(tmp_path, shape, dtype, content) -> None:
    path = zipped(tmp_path / "claims", {"x.npy": [npy_header(shape, dtype), content]})
    tracemalloc.start()
    with pytest.raises(mb.InvalidInput, match=r"not a file that mongebench\.save wrote"):
        mb.load(path, max_bytes=None)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_flipped_bits_anywhere_are_one_sentence_or_nothing(tmp_path, rng) -> None:
    path = tmp_path / "map"
    mb.save(mb.estimator("bures").fit(X, Y), path)
    whole = path.read_bytes()
    for place in rng.integers(len(whole), size=300):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with contextlib.suppress(mb.InvalidInput):
            mb.load(path)


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(mb.InvalidInput, match="not a regular file"):
        mb.load(tmp_path / "pipe")
