"""Point clouds from files: every format, the split, and errors that say what to do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mongebench as mb
from mongebench import experiments
from mongebench.datasets.files import fingerprint, load_points

POINTS = np.random.default_rng(0).standard_normal((20, 3))


def save(folder: Path, name: str, points: np.ndarray = POINTS) -> Path:
    path = folder / name
    frame = pd.DataFrame(points, columns=[f"column {i}" for i in range(points.shape[1])])
    match path.suffix:
        case ".npy":
            np.save(path, points)
        case ".npz":
            np.savez(path, points=points, other=np.zeros(3)) if "several" in name else np.savez(path, anything=points)
        case ".csv":
            frame.to_csv(path, index=False, header="header" in name)
        case ".parquet":
            frame.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "several.npz", "a.csv", "header.csv", "a.parquet"])
def test_formats(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(load_points(save(tmp_path, name)), POINTS)


def test_parts_are_disjoint_and_complete(tmp_path: Path) -> None:
    save(tmp_path, "a.npy"), save(tmp_path, "b.csv", POINTS[:11] + 1)
    p = mb.problem("files", base=tmp_path, source="a.npy", target="b.csv", held_out=0.3, seed=5)
    assert p.held_out is not None
    for fit, rest, cloud, size in (
        (p.source, p.held_out[0], POINTS, 14),
        (p.target, p.held_out[1], POINTS[:11] + 1, 8),
    ):
        assert fit.size == size
        together = np.concatenate([fit.sample(fit.size), rest.sample(rest.size)])
        np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(cloud, axis=0))
    assert p.dim == 3
    assert not p.truth
    assert p.total_variance == pytest.approx(POINTS[:11].var(axis=0).sum())


def test_split_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, "a.npy"), save(tmp_path, "b.npy"), save(tmp_path, "c.npy", POINTS[:7])

    def build(target: str, seed: int) -> mb.Problem:
        return mb.problem("files", base=tmp_path, source="a.npy", target=target, seed=seed)

    def fitted_on(p: mb.Problem) -> np.ndarray:
        assert p.source.size is not None
        return np.sort(p.source.sample(p.source.size)[:, 0])

    np.testing.assert_array_equal(fitted_on(build("b.npy", 0)), fitted_on(build("c.npy", 0)))
    assert not np.array_equal(fitted_on(build("b.npy", 0)), fitted_on(build("b.npy", 1)))
    assert build("b.npy", 0).digest == build("b.npy", 0).digest != build("b.npy", 1).digest


def test_digest_is_that_of_the_whole_content(tmp_path: Path) -> None:
    digests = set()
    for row in (0, 10, 19):  # wherever the split and the probe happen to look
        changed = POINTS.copy()
        changed[row, 2] += 1e-9
        save(tmp_path, "a.npy", changed)
        digests.add(mb.problem("files", base=tmp_path, source="a.npy", target="a.npy").digest)
    assert len(digests) == 3


@pytest.mark.parametrize("held_out", [0.01, 0.99])
def test_both_parts_keep_two_points(tmp_path: Path, held_out: float) -> None:
    save(tmp_path, "a.npy", POINTS[:4])
    p = mb.problem("files", base=tmp_path, source="a.npy", target="a.npy", held_out=held_out)
    assert p.held_out is not None
    assert (p.source.size, p.held_out[0].size) == (2, 2)


def test_fingerprint_sees_every_entry_and_the_shape() -> None:
    changed = POINTS.copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], 10)
    prints = {
        fingerprint(POINTS),
        fingerprint(changed),
        fingerprint(POINTS.reshape(10, 6)),
        fingerprint(POINTS, POINTS),
    }
    assert len(prints) == 4
    assert fingerprint(np.asfortranarray(POINTS)) == fingerprint(POINTS)


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    bad = POINTS.copy()
    bad[7, 1] = np.nan
    np.save(tmp_path / "flat.npy", POINTS[:, 0])
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=POINTS, b=POINTS)
    (tmp_path / "words.csv").write_text("x,y\n1,2\n3,four\n5,6\n7,8\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3,4,5,6\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "empty.npy").write_text("")
    for name in ("garbage.npz", "garbage.parquet", "garbage.npy"):
        (tmp_path / name).write_text("garbage")
    cases = {
        "missing.npy": "no file .*missing.npy",
        "cloud.mat": r"suffix '.mat'; expected one of .npy, .npz, .csv, .parquet",
        "flat.npy": r"shape \(20,\); expected two axes",
        "objects.npy": "cannot be read",
        "two.npz": "holds the arrays a, b; call the cloud 'points'",
        "words.csv": "not a real numeric array",
        "ragged.csv": "cannot be read",
        "empty.csv": "cannot be read|columns|two axes",
        "empty.npy": "cannot be read",
        "garbage.npz": "cannot be read",
        "garbage.npy": "cannot be read",
        "garbage.parquet": "cannot be read",
        save(tmp_path, "nan.npy", bad).name: "first in row 7",
        save(tmp_path, "few.npy", POINTS[:3]).name: "3 rows; expected at least 4",
    }
    for name, message in cases.items():
        with pytest.raises(mb.InvalidInput, match=message) as caught:
            load_points(tmp_path / name)
        assert name in str(caught.value)


def test_dimensions_must_agree(tmp_path: Path) -> None:
    save(tmp_path, "a.npy"), save(tmp_path, "b.npy", POINTS[:, :2])
    with pytest.raises(mb.InvalidInput, match=r"a\.npy has d = 3 columns, .*b\.npy has d = 2"):
        mb.problem("files", base=tmp_path, source="a.npy", target="b.npy")


@pytest.mark.parametrize("held_out", [0.0, 1.0])
def test_refuses_an_empty_part(tmp_path: Path, held_out: float) -> None:
    save(tmp_path, "a.npy")
    with pytest.raises(mb.InvalidParameter, match="held_out"):
        mb.problem("files", base=tmp_path, source="a.npy", target="a.npy", held_out=held_out)


def test_digits_come_with_the_experiments() -> None:
    folder = Path(next(iter(experiments.__path__))) / "digits"
    p = mb.problem("files", base=folder, source="threes.csv", target="eights.csv")
    assert p.dim == 8
    assert p.held_out is not None
    assert p.source.size is not None
    assert p.held_out[0].size is not None
    assert p.source.size + p.held_out[0].size == 183
    # Principal components of both classes together: centred, uncorrelated.
    both = np.concatenate([load_points(folder / "threes.csv"), load_points(folder / "eights.csv")])
    np.testing.assert_allclose(both.mean(axis=0), 0.0, atol=1e-4)
    covariance = np.cov(both.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
