"""Point clouds from files: every format, the split, and errors that say what to do."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mongebench as mb
from mongebench import experiments
from mongebench.datasets.files import fingerprint, load_points
from mongebench.run import experiment
from mongebench.run.measurement import measure_together
from mongebench.run.planned import Conditions, planned
from mongebench.run.record import Cell, Spec

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


def rows(points: np.ndarray) -> set[tuple[float, ...]]:
    return set(map(tuple, points.tolist()))


@pytest.mark.parametrize("held_out", [0.1, 0.3, 0.5, 0.9])
def test_equal_rows_are_on_one_side_of_every_split(tmp_path: Path, held_out: float) -> None:
    rng = np.random.default_rng(1)
    cloud = np.repeat(POINTS, rng.integers(1, 6, size=20), axis=0)
    cloud[np.all(cloud == cloud[0], axis=1), 0] = 0.0
    cloud[0, 0] = -0.0  # equal, though not in its bytes
    save(tmp_path, "a.npy", rng.permutation(cloud))
    p = mb.problem("files", base=tmp_path, source="a.npy", target="a.npy", held_out=held_out)
    wanted = round(held_out * len(cloud))
    for k in range(20):
        split = p.replicate(k)
        assert split.held_out is not None
        for fit, rest in ((split.source, split.held_out[0]), (split.target, split.held_out[1])):
            assert fit.size == len(cloud) - wanted  # one budget is served by every split
            assert fit.size is not None
            assert rest.size is not None
            # Groups of five or fewer leave at most four places empty.
            assert wanted - 4 <= rest.size <= wanted
            assert not rows(fit.sample(fit.size)) & rows(rest.sample(rest.size))


def test_few_different_rows_are_split_or_refused(tmp_path: Path) -> None:
    def build(*counts: int) -> mb.Problem:
        save(tmp_path, "a.npy", np.repeat(POINTS[: len(counts)], counts, axis=0))
        return mb.problem("files", base=tmp_path, source="a.npy", target="a.npy", held_out=0.5)

    for k in range(10):
        for counts in ((1, 3, 3), (2, 2), (1, 1, 8), (4, 4)):
            held_out = build(*counts).replicate(k).held_out
            assert held_out is not None
            assert held_out[0].size in range(2, round(sum(counts) / 2) + 1)
    for few in ((6,), (1, 5)):
        with pytest.raises(mb.InvalidInput, match=f"only {len(few)} different rows in 6"):
            build(*few)


def test_each_fit_seed_of_a_run_meets_another_split(tmp_path: Path) -> None:
    """Or fits of all points would be one fit under several seeds."""
    save(tmp_path, "a.npy"), save(tmp_path, "b.npy", POINTS[:12] + 1)
    p = mb.problem("files", base=tmp_path, source="a.npy", target="b.npy", held_out=0.4)
    clouds = [rows(p.replicate(k).source.sample(12)) for k in range(8)]
    assert len(set(map(frozenset, clouds))) == 8
    assert clouds[0] == rows(p.source.sample(12))
    # Each point is held out in about as many splits as any other: binomial(200, 0.4), within five deviations.
    held = Counter(row for k in range(200) for row in rows(POINTS) - rows(p.replicate(k).source.sample(12)))
    assert all(abs(held[row] - 80) < 5 * np.sqrt(200 * 0.4 * 0.6) for row in rows(POINTS))
    records = [mb.run_cell(p, mb.estimator("mean_shift"), n_source=12, n_target=7, seed=k) for k in range(4)]
    assert len({record.metrics["energy_distance"].value for record in records}) == 4
    for record in records:
        split = p.replicate(record.cell.seed)
        fitted = mb.fit(split, mb.estimator("mean_shift"), n_source=12, n_target=7, seed=record.cell.seed)
        assert mb.evaluate(fitted.transform, split)["energy_distance"] == record.metrics["energy_distance"]
        assert record.manifest.problem_digest == p.digest


def test_seeds_that_are_fitted_together_have_their_own_splits(tmp_path: Path) -> None:
    save(tmp_path, "a.npy"), save(tmp_path, "b.npy", POINTS[:12] + 1)
    p = mb.problem("files", base=tmp_path, source="a.npy", target="b.npy")

    class Together(mb.MapEstimator):
        needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

        def fit(self, source, target, *, seed=0, trace=None):
            self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
            return self

        def transform(self, X):
            return X + self.shift_

        @staticmethod
        def fit_together(estimators, sources, targets, *, seeds, traces):
            for one, source, target in zip(estimators, sources, targets, strict=True):
                one.fit(source, target)
            return [None] * len(estimators)

    cells = [
        Cell(estimator=Spec(name="together"), problem=Spec(name="files"), n_source=10, n_target=6, seed=seed)
        for seed in range(3)
    ]
    known = [planned(cell, p, Together(), Conditions()) for cell in cells]
    together = [record for record, _ in measure_together(known, p, Together(), Conditions())]
    alone = [mb.run_cell(p, Together(), n_source=10, n_target=6, seed=seed) for seed in range(3)]
    values = [record.metrics["energy_distance"].value for record in together]
    assert values == [record.metrics["energy_distance"].value for record in alone]
    assert len(set(values)) == 3


def test_parameters_reach_the_reader(tmp_path: Path) -> None:
    frame = pd.DataFrame(POINTS)
    frame.to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    with pytest.raises(mb.InvalidInput, match="header = true"):
        mb.problem("files", base=tmp_path, source="a.csv", target="a.csv")
    p = mb.problem("files", base=tmp_path, source="a.csv", target="a.csv", header=True)
    assert p.source.size == p.held_out[0].size == 10
    (tmp_path / "e.toml").write_text(
        'name = "e"\n[[estimators]]\nname = "identity"\n[[problems]]\nname = "files"\nsource = "a.csv"\n'
        'target = "a.csv"\nheader = true\nindex = false\nseparator = ";"\ndecimal = ","\ncolumns = [["2", "0"]]\n'
    )
    (cell,) = experiment.read(str(tmp_path / "e.toml")).cells()
    assert mb.problem("files", base=tmp_path, **cell.problem.parameters).dim == 2
    for wrong in ({"header": "yes"}, {"index": 1}, {"separator": "ab"}, {"decimal": "·"}, {"columns": "height"}):
        with pytest.raises(mb.InvalidParameter, match=next(iter(wrong))):
            mb.problem("files", base=tmp_path, source="a.csv", target="a.csv", **wrong)


def test_clouds_are_matched_by_name(tmp_path: Path) -> None:
    people = pd.DataFrame(POINTS[:, :2], columns=["height", "weight"])
    people.to_csv(tmp_path / "a.csv", index=False)
    (people + np.array([5.0, 2.0]))[["weight", "height"]].to_csv(tmp_path / "b.csv", index=False)
    p = mb.problem("files", base=tmp_path, source="a.csv", target="b.csv")
    np.testing.assert_allclose(p.target.sample(10).mean(axis=0), people.mean() + np.array([5.0, 2.0]), atol=2.0)
    people.rename(columns={"weight": "age"}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(mb.InvalidInput, match="columns = 'position'"):
        mb.problem("files", base=tmp_path, source="a.csv", target="b.csv")


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
