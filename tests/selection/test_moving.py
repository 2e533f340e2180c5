"""Rows of a file after a map: coordinates moved, all else as it was; and the commands `fit` and `apply`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mongebench as mb
from mongebench.cli import app
from mongebench.selection.moving import Rows, moved, read_rows, write_rows


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(4)
    x = pd.DataFrame(rng.normal(size=(60, 2)), columns=["height", "weight"])
    y = pd.DataFrame(rng.normal(size=(50, 2)) * [2.0, 0.5] + [3.0, 1.0], columns=["height", "weight"])
    return x, y


@pytest.fixture(scope="module")
def map(frames):
    return mb.select(*frames, ["bures"], folds=2).best


def test_ids_text_and_missing_values_stay_as_they_were(map, frames, tmp_path) -> None:
    rows = frames[0].assign(id=[f"A{i}" for i in range(60)])[["id", "weight", "height"]]
    rows.loc[3, "weight"] = np.nan
    rows.to_csv(tmp_path / "rows.csv", index=False)
    again = read_rows(tmp_path / "rows.csv")
    assert list(again.frame.columns) == ["id", "weight", "height"]
    found = moved(map, again, "rows.csv")
    assert list(found.rows.frame["id"]) == list(rows["id"])
    assert found.unmoved == 1
    assert found.outside == 0
    expected = map.transform(frames[0])
    whole = np.arange(60) != 3
    np.testing.assert_allclose(found.rows.frame[["height", "weight"]].to_numpy()[whole], expected.to_numpy()[whole])
    assert found.rows.frame["height"][3] == rows["height"][3]
    far = moved(map, Rows(frames[0] + 100), "far")
    assert far.outside == 60


def test_what_is_not_moved_keeps_its_text(map, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    mb.save(map, "map.npz")
    lines = ["id;height;code;weight", "007;1,5;12345678901234567891;0", '0;NA;"a;b";2', "1e3;0,25;1,50;1,75"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    words = ["apply", "map.npz", "a.csv", "--out", "b.csv"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    written = (tmp_path / "b.csv").read_text().splitlines()
    assert [written[0], written[2]] == [lines[0], lines[2]]  # a row with a missing coordinate, as it was
    before, after = ([line.split(";") for line in (some[1], some[3])] for some in (lines, written))
    assert [(row[0], row[2]) for row in after] == [(row[0], row[2]) for row in before]
    x, pushed = ([[float(row[j].replace(",", ".")) for j in (1, 3)] for row in some] for some in (before, after))
    np.testing.assert_array_equal(pushed, map.transform(np.array(x)))
    failed = CliRunner().invoke(app, words)
    assert "--out b.csv exists" in str(failed.exception)
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0


def test_text_between_quotes_stays_as_it_is(map, frames, tmp_path) -> None:
    notes = [' "both" ends ', "two\nlines", "\n# three\n", "a;b, c", '"'] * 12
    for sep in ",;":
        frames[0].assign(note=notes).to_csv(tmp_path / "a.csv", index=False, sep=sep)
        write_rows(moved(map, read_rows(tmp_path / "a.csv"), "a.csv").rows, tmp_path / "b.csv")
        again = pd.read_csv(tmp_path / "b.csv", sep=sep)
        assert list(again["note"]) == notes
        np.testing.assert_allclose(again[["height", "weight"]], map.transform(frames[0]), rtol=1e-12)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
def test_what_is_written_is_read_again(map, frames, tmp_path, suffix) -> None:
    frames[0].to_csv(tmp_path / "rows.csv", index=False)
    found = moved(map, read_rows(tmp_path / "rows.csv"), "rows")
    write_rows(found.rows, tmp_path / f"moved{suffix}")
    again = read_rows(tmp_path / f"moved{suffix}")
    assert len(again.frame) == 60
    numbers = again.numbers(list(again.frame.columns), "moved")
    np.testing.assert_array_equal(numbers, map.transform(frames[0]))


@pytest.fixture
def nameless(frames, tmp_path, monkeypatch):
    """A map that was fitted to arrays, saved in the current folder."""
    monkeypatch.chdir(tmp_path)
    found = mb.select(*(frame.to_numpy() for frame in frames), ["bures"], folds=2).best
    mb.save(found, "map.npz")
    return found


@pytest.mark.parametrize("out", ["b.csv", "b.parquet", "b.npy", "b.npz"])
@pytest.mark.parametrize("rows", ["a.npy", "a.npz"])
def test_arrays_are_moved_and_a_row_with_nan_is_not(nameless, frames, rows, out) -> None:
    points = frames[0].to_numpy(copy=True)
    points[3, 1] = np.nan
    np.save("a.npy", points)
    np.savez("a.npz", cloud=points)
    done = CliRunner().invoke(app, ["apply", "map.npz", rows, "--out", out])
    assert done.exit_code == 0, done.output
    assert "1 of 60 rows have a missing coordinate and were not moved." in done.output
    if out == "b.npz" and rows == "a.npz":
        with np.load("b.npz") as written:
            assert list(written) == ["cloud"]
    again = read_rows(Path(out)).frame if out != "b.csv" else pd.read_csv(out, header=None)
    whole = np.arange(60) != 3
    np.testing.assert_array_equal(again.to_numpy()[3], points[3])
    np.testing.assert_array_equal(again.to_numpy()[whole], nameless.transform(points[whole]))


def test_other_arrays_of_a_file_are_kept_and_never_dropped(nameless, frames) -> None:
    labels = np.array(["A", "B"] * 30)
    np.savez("a.npz", points=frames[0].to_numpy(), labels=labels)
    assert CliRunner().invoke(app, ["apply", "map.npz", "a.npz", "--out", "b.npz"]).exit_code == 0
    with np.load("b.npz") as written:
        assert sorted(written) == ["labels", "points"]
        np.testing.assert_array_equal(written["labels"], labels)
        np.testing.assert_array_equal(written["points"], nameless.transform(frames[0].to_numpy()))
    failed = CliRunner().invoke(app, ["apply", "map.npz", "a.npz", "--out", "b.npy"])
    assert "cannot keep the other arrays, labels: an .npz file does" in str(failed.exception)
    assert not Path("b.npy").exists()
    np.savez("c.npz", one=frames[0].to_numpy(), two=labels)
    failed = CliRunner().invoke(app, ["apply", "map.npz", "c.npz", "--out", "b.npy"])
    assert "c.npz holds the arrays one, two; call the cloud 'points'." in str(failed.exception)


def test_rows_that_cannot_be_moved_are_refused(map, frames, tmp_path) -> None:
    with pytest.raises(
        mb.InvalidInput, match="does not name its columns, and the map was fitted to 'height', 'weight'"
    ):
        moved(map, Rows(pd.DataFrame(frames[0].to_numpy())), "rows")
    for wrong in (np.zeros(3), np.array([["a", "b"]]), np.array([[1.0, np.inf]])):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(mb.InvalidInput, match=r"wrong\.npy"):
            read_rows(tmp_path / "wrong.npy")
    with pytest.raises(mb.InvalidInput, match="column 'name'"):
        write_rows(Rows(frames[0].assign(name="Ann")), tmp_path / "moved.npy")
    with pytest.raises(mb.InvalidInput, match="height"):
        moved(map, Rows(frames[0].rename(columns={"height": "heigth"})), "rows")
    with pytest.raises(mb.InvalidInput, match="column 'weight'"):
        moved(map, Rows(frames[0].assign(weight="heavy")), "rows")
    with pytest.raises(mb.InvalidInput, match=r"expected one of \.csv, \.parquet, \.npy, \.npz"):
        read_rows(tmp_path / "rows.xlsx")
    with pytest.raises(mb.InvalidInput, match="There is no file"):
        read_rows(tmp_path / "rows.csv")


def test_the_two_commands(frames, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = frames
    x.assign(id="a").to_csv("a.csv", index=False)
    holes = y.copy()
    holes.loc[0, "height"] = np.nan
    holes.to_csv("b.csv", index=False, sep=";", decimal=",")
    words = ["fit", "--source", "a.csv", "--target", "b.csv", "--estimator", "identity,bures", "--folds", "2"]

    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, mb.InvalidInput)
    assert "'id'" in str(failed.exception)
    assert "--columns a,b chooses among the columns" in str(failed.exception)
    words += ["--columns", "height,weight"]
    failed = CliRunner().invoke(app, words)
    assert "--drop-missing leaves out rows" in str(failed.exception)
    failed = CliRunner().invoke(app, ["fit", "--source", "none.csv", "--target", "b.csv"])
    assert str(failed.exception) == "There is no file none.csv."
    failed = CliRunner().invoke(app, [*words, "--drop-missing", "--estimator", "nobody", "--out", "deep/down"])
    assert isinstance(failed.exception, mb.UnknownName)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]

    done = CliRunner().invoke(app, [*words, "--drop-missing", "--out", "found"])
    assert done.exit_code == 0, done.output
    assert "b.csv: 1 of 50 rows have a missing value and were left out." in done.output
    assert "bures is best in" in done.output
    assert "<h1>A map from a.csv to b.csv</h1>" in (tmp_path / "found" / "index.html").read_text()
    assert list(pd.read_csv("found/selection.csv")["estimator"]) == ["bures", "identity"]

    done = CliRunner().invoke(app, ["apply", "found/map.npz", "a.csv", "--out", "moved.csv"])
    assert done.exit_code == 0, done.output
    expected = mb.load("found/map.npz").transform(x)
    np.testing.assert_allclose(pd.read_csv("moved.csv")[["height", "weight"]], expected)
    assert list(pd.read_csv("moved.csv")["id"]) == ["a"] * 60
    failed = CliRunner().invoke(app, ["apply", "found/map.npz", "a.csv", "--out", "a.csv"])
    assert isinstance(failed.exception, mb.InvalidParameter)


@pytest.mark.parametrize("out", ["a.csv", "a.csv/within"])
def test_fit_refuses_a_folder_that_cannot_be_made_before_it_fits(frames, tmp_path, monkeypatch, out) -> None:
    monkeypatch.chdir(tmp_path)
    for frame, name in zip(frames, ("a.csv", "b.csv"), strict=True):
        frame.to_csv(name, index=False)
    before = (tmp_path / "a.csv").read_bytes()
    monkeypatch.setattr("mongebench.selection.choose.select", None)  # not reached
    failed = CliRunner().invoke(app, ["fit", "--source", "a.csv", "--target", "b.csv", "--out", out])
    assert isinstance(failed.exception, mb.InvalidParameter)
    assert f"--out {out} cannot be made a folder" in str(failed.exception)
    assert (tmp_path / "a.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("a.csv", "is the file that is read"),
        ("./a.csv", "is the file that is read"),
        ("link.csv", "is the file that is read"),
        ("nowhere/moved.csv", "there is no folder nowhere"),
        ("moved.xlsx", r"expected one of \.csv, \.parquet, \.npy, \.npz"),
    ],
)
def test_apply_refuses_what_it_cannot_write_to(map, frames, tmp_path, monkeypatch, out, said) -> None:
    monkeypatch.chdir(tmp_path)
    mb.save(map, "map.npz")
    frames[0].to_csv("a.csv", index=False)
    (tmp_path / "link.csv").symlink_to("a.csv")
    before = (tmp_path / "a.csv").read_bytes()
    failed = CliRunner().invoke(app, ["apply", "map.npz", "a.csv", "--out", out])
    assert isinstance(failed.exception, (mb.InvalidParameter, mb.InvalidInput))
    with pytest.raises(type(failed.exception), match=said):
        raise failed.exception
    assert (tmp_path / "a.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "link.csv", "map.npz"]


@pytest.mark.parametrize(("more", "said"), [(lambda one: 1.0, "constant"), (lambda one: one["height"], "equal")])
def test_fit_says_which_option_leaves_out_a_column(frames, tmp_path, monkeypatch, more, said) -> None:
    monkeypatch.chdir(tmp_path)
    for frame, name in zip(frames, ("a.csv", "b.csv"), strict=True):
        frame.assign(more=more(frame)).to_csv(name, index=False)
    words = ["fit", "--source", "a.csv", "--target", "b.csv", "--estimator", "bures", "--folds", "2"]
    failed = CliRunner().invoke(app, words)
    assert said in str(failed.exception)
    assert "--columns a,b" in str(failed.exception)
    assert CliRunner().invoke(app, [*words, "--columns", "height,weight"]).exit_code == 0


@pytest.mark.parametrize("both", [True, False])
def test_a_column_named_as_the_index_is_no_coordinate(frames, tmp_path, monkeypatch, both) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = (frame.assign(person=[f"{k:03d}" for k in range(len(frame))]) for frame in frames)
    one[["height", "person", "weight"]].to_csv("a.csv", index=False)
    (other if both else frames[1]).to_parquet("b.parquet")
    words = ["fit", "--source", "a.csv", "--target", "b.parquet", "--estimator", "bures", "--folds", "2"]
    done = CliRunner().invoke(app, [*words, "--index", "person"])
    assert done.exit_code == 0, done.output
    expected = mb.select(*(frame[["height", "weight"]] for frame in frames), ["bures"], folds=2).best
    found = mb.load("selection/map.npz").transform(frames[0][["height", "weight"]])
    np.testing.assert_allclose(found, expected.transform(frames[0][["height", "weight"]]), rtol=1e-12)


@pytest.mark.parametrize(
    ("index", "said"), [("persn", "Did you mean 'person'"), ("height", "share the column 'person'")]
)
def test_an_index_that_leaves_other_columns_is_refused(frames, tmp_path, monkeypatch, index, said) -> None:
    monkeypatch.chdir(tmp_path)
    frames[0].assign(person=1.5).to_csv("a.csv", index=False)
    frames[1].to_csv("b.csv", index=False)
    failed = CliRunner().invoke(app, ["fit", "--source", "a.csv", "--target", "b.csv", "--index", index])
    assert said in str(failed.exception)


ORIGINAL = [1.5, 0.25], [2.5, 0.75], [-0.5, 0.5], [4.5, 1.25]


@pytest.mark.parametrize(
    ("name", "frame", "option"),
    [
        ("a.csv", pd.DataFrame(ORIGINAL, columns=["height", "weight_kg"]), "--columns"),
        ("a.csv", pd.DataFrame(ORIGINAL, columns=["height", "weight"]).assign(more=[3.5, 1.5, 2.5, 0.5]), "--columns"),
        ("a.csv", pd.DataFrame(ORIGINAL), ""),
        ("a.npy", pd.DataFrame(ORIGINAL), ""),
        ("a.csv", pd.DataFrame({"id": range(4), "height": [1.5, 2, 3.25, 4], "weight": [2, 1.5, 3, 2.5]}), "--index"),
        ("a.csv", pd.DataFrame({"id": list("abcd"), "height": [1.5, 2, 3.25, 4], "weight": [2, 1, 3, 2]}), "--index"),
        ("a.csv", pd.DataFrame(ORIGINAL, columns=["height", "2"]), "--header"),
        ("a.csv", pd.DataFrame(ORIGINAL, columns=["height", "weight"]).replace(0.5, np.nan), "--drop-missing"),
        ("a.npy", pd.DataFrame(ORIGINAL).replace(0.5, np.nan), "--drop-missing"),
        ("a.parquet", pd.DataFrame(ORIGINAL, columns=["height", "weight"]).replace(0.5, np.nan), "--drop-missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_options_that_fit_has(frames, tmp_path, monkeypatch, name, frame, option):
    monkeypatch.chdir(tmp_path)
    frames[1].to_csv("b.csv", index=False)
    if name == "a.npy":
        np.save(name, frame)
    elif name == "a.parquet":
        frame.to_parquet(name)
    else:
        frame.to_csv(name, index=False, header=not isinstance(frame.columns, pd.RangeIndex))
    said = str(CliRunner().invoke(app, ["fit", "--source", name, "--target", "b.csv"]).exception)
    assert not re.search(r"\b(columns|index|header|separator|decimal) = ", said), said
    named = set(re.findall(r"--[\w-]+", said))
    known = set(re.findall(r"--[\w-]+", CliRunner().invoke(app, ["fit", "--help"], env={"COLUMNS": "200"}).output))
    assert named <= known
    assert option in named or not option, said
    if not option:
        assert "Name those of both files, or of neither" in said


def test_fit_says_how_many_points_it_looked_at(frames, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for frame, name in zip(frames, ("a.csv", "b.csv"), strict=True):
        frame.to_csv(name, index=False)
    words = ["fit", "--source", "a.csv", "--target", "b.csv", "--estimator", "bures", "--folds", "2", "--most", "20"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "a.csv: ranked on a random 20 of 60 points, the map fitted to 60; --most 0 uses all." in done.output
    assert "Fitted to 60 of 60 source points" in (tmp_path / "selection" / "index.html").read_text()


@pytest.mark.long
def test_a_hundred_thousand_rows_of_ten_columns_fit_into_two_gibibytes(tmp_path) -> None:
    """Half a minute: two files of 9 MB, read, ranked on 2000 rows, and the winner fitted to all of them."""
    rng = np.random.default_rng(0)
    for name, shift in (("a.csv", 0), ("b.csv", 1)):
        head = ",".join("abcdefghij")
        np.savetxt(tmp_path / name, rng.normal(shift, size=(100_000, 10)), "%.6f", ",", header=head, comments="")
    words = ["fit", "--source", "a.csv", "--target", "b.csv", "--estimator", "identity,bures,smoothed_plugin"]
    code = (
        "import resource\nfrom mongebench.cli import app\n"
        f"app({words!r}, standalone_mode=False)\n"
        "print('KiB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"  # KiB under Linux
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "ranked on a random 2000 of 100000 points, the map fitted to 100000" in done.stdout
    assert int(done.stdout.split("KiB")[-1]) < 2 << 20
