"""Tables from files: what pandas wrote is read back as it was, or refused with the parameter that decides."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mongebench as mb
from mongebench.core.csvfile import Layout, read_csv
from mongebench.core.tablefile import read_pair, read_table

X = np.random.default_rng(1).normal(size=(40, 2))
COUNTS = np.random.default_rng(2).integers(0, 50, size=(40, 2))
XY = pd.DataFrame(X, columns=["x", "y"])
ROWS = "1.5,2.25\n3.5,4.75\n0.5,6.25\n7.5,8.75\n"


def read(folder: Path, text: str | bytes, **layout):
    path = folder / "cloud.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    columns = layout.pop("columns", None)
    return read_table(path, Layout(**layout), columns=columns)


NUMBERS_FOR_NAMES = {
    "pandas": pd.DataFrame(X).to_csv(index=False),
    "quoted": pd.DataFrame(X).to_csv(index=False, quoting=2),
    "all quoted": pd.DataFrame(X).to_csv(index=False, quoting=1),
    "years": pd.DataFrame(X, columns=[2019, 2020]).to_csv(index=False),
    "fractions": pd.DataFrame(X, columns=[0.5, 1.5]).to_csv(index=False),
    "over counts": pd.DataFrame(COUNTS).to_csv(index=False),
    "years over counts": pd.DataFrame(COUNTS, columns=[2019, 2020]).to_csv(index=False),
    "from 1 over counts": pd.DataFrame(COUNTS, columns=[1, 2]).to_csv(index=False),
    "one column": pd.DataFrame(X[:, :1]).to_csv(index=False),
    "one year over counts": pd.DataFrame(COUNTS[:, :1], columns=[2019]).to_csv(index=False),
    "a count beside a fraction": pd.DataFrame({0: COUNTS[:, 0], 1: X[:, 1]}).to_csv(index=False),
    "two levels": pd.DataFrame(X, columns=pd.MultiIndex.from_tuples([(0, 0), (0, 1)])).to_csv(index=False),
    "semicolons": pd.DataFrame(X).to_csv(index=False, sep=";", decimal=","),
    "names and numbers": "x,2019\n" + ROWS,
    "sodium and potassium": "NA,K\n" + ROWS,
}


@pytest.mark.parametrize("kind", NUMBERS_FOR_NAMES)
def test_names_that_may_be_numbers_are_refused_and_header_decides(tmp_path: Path, kind: str) -> None:
    text = NUMBERS_FOR_NAMES[kind]
    with pytest.raises(mb.InvalidInput, match=r"line 1, .* header = true .* header = false"):
        read(tmp_path, text)
    lines = text.count("\n")
    if kind != "two levels":
        assert len(read(tmp_path, text, header=True).points) == lines - 1
    if "names" not in kind and "sodium" not in kind:
        assert len(read(tmp_path, text, header=False).points) == lines


@pytest.mark.parametrize("header", [False, True])
def test_index_of_pandas_is_left_out(tmp_path: Path, header: bool) -> None:
    for frame in (XY, pd.DataFrame(X)):
        np.testing.assert_array_equal(read(tmp_path, frame.to_csv()).points, X)
        # Without the names nothing tells an index from a coordinate but its values.
        with pytest.raises(mb.InvalidInput, match=r"index = true .* index = false"):
            read(tmp_path, frame.to_csv(header=False))
        np.testing.assert_array_equal(read(tmp_path, frame.to_csv(header=header), index=True, header=header).points, X)


ROW_NUMBERS = {
    "a sample of rows": XY.sample(frac=0.5, random_state=1).to_csv(),
    "some rows": XY[X[:, 0] > 0].to_csv(),
    "some rows without names": XY[X[:, 0] > 0].to_csv(header=False),
    "named": XY.rename_axis("id").to_csv(),
    "named and shuffled": XY.rename_axis("id").sample(frac=1.0, random_state=1).to_csv(),
    "saved twice": XY.reset_index(names="Unnamed: 0").to_csv(index=False),
    "from 1": XY.set_index(np.arange(1, 41)).rename_axis("n").to_csv(),
    "as fractions": XY.assign(t=np.arange(40.0))[["t", "x", "y"]].to_csv(index=False),
    "of R": '"x" "y"\n"1" 1.5 2.25\n"2" 3.5 4.75\n',
    "fewer names": "x,y\n1,2,3\n4,5,6\n",
    "labels": ",x,y\na,1.5,2.5\nb,3.5,4.5\n",
    "days": ",x,y\n2020-01-01,1.5,2.5\n2020-01-02,3.5,4.5\n",
}


@pytest.mark.parametrize("kind", ROW_NUMBERS)
def test_row_numbers_are_no_coordinate_in_silence(tmp_path: Path, kind: str) -> None:
    text = ROW_NUMBERS[kind]
    with pytest.raises(mb.InvalidInput, match="index = true"):
        read(tmp_path, text)
    assert read(tmp_path, text, index=True).points.shape[1] == 2


def test_two_indices_are_refused_and_columns_chooses(tmp_path: Path) -> None:
    text = XY.reset_index().reset_index().to_csv(index=False)
    with pytest.raises(mb.InvalidInput, match="columns = "):
        read(tmp_path, text, index=True)
    for columns in (["x", "y"], ["y", "x"], ["index"]):
        np.testing.assert_array_equal(
            read(tmp_path, text, columns=columns).points, XY.assign(index=np.arange(40.0))[columns]
        )


def test_a_coordinate_that_counts_is_one_if_told(tmp_path: Path) -> None:
    frame = XY.assign(t=np.arange(40))[["t", "x", "y"]]
    np.testing.assert_array_equal(read(tmp_path, frame.to_csv(index=False), index=False).points, frame)


EUROPE = pd.DataFrame({"x": [1.5, 3.25, 1.0, 0.5], "y": [2.5, 4.75, 2.0, 1.5]})


@pytest.mark.parametrize(
    "text",
    [
        "x;y\n1,5;2,5\n3,25;4,75\n1,0;2,0\n0,5;1,5\n",
        "1,5;2,5\n3,25;4,75\n1,0;2,0\n0,5;1,5\n",
        "sep=;\r\nx;y\r\n1,5;2,5\r\n3,25;4,75\r\n1;2\r\n,5;1,5\r\n\r\n",
        EUROPE.to_csv(sep="\t", decimal=",", index=False),
        EUROPE.to_csv(sep=" ", decimal=",", index=False),
        EUROPE.to_csv(sep="|", decimal=",", index=False),
        EUROPE.to_csv(decimal=",", index=False),  # the fields are quoted
        "\ufeff" + EUROPE.to_csv(sep=";", decimal=","),
        EUROPE.to_csv(sep=";", index=False),
        EUROPE.to_csv(sep="\t", index=False).encode("utf-16"),
        "# x,y\n" + EUROPE.to_csv(header=False, index=False),
        "# written by hand\nx, y\n1.5,  2.5\n# the second half\n3.25, 4.75\n1.0, 2.0\n.5, +1.5e0\n\n\n",
        "  1.5   2.5\n 3.25  4.75\n 1.0   2.0\n 0.5   1.5\n",
        "x,y\r1.5,2.5\r3.25,4.75\r1,2\r.5,1.5\r",
        '"x","y"\n"1.5","2.5"\n"3.25","4.75"\n"1","2"\n"0.5","1.5"\n',
    ],
)
def test_separators_and_decimal_signs_of_the_whole_file(tmp_path: Path, text: str | bytes) -> None:
    np.testing.assert_array_equal(read(tmp_path, text).points, EUROPE)


OPEN = {
    "1,5\n2,5\n3,25\n2,75\n": [({"separator": ","}, 2), ({"decimal": ","}, 1)],
    "x\n1,5\n2,5\n3,25\n4,75\n": [({"decimal": ","}, 1)],
    "x;y\n1,234;5,678\n2,345;6,789\n": [({"decimal": ","}, 2)],
    "x;y\n1.234;5.678\n2.345;6.789\n": [({"decimal": "."}, 2)],
}


@pytest.mark.parametrize("text", OPEN)
def test_what_a_file_leaves_open_is_refused_and_parameters_decide(tmp_path: Path, text: str) -> None:
    with pytest.raises(mb.InvalidInput, match="decimal"):
        read(tmp_path, text)
    for layout, width in OPEN[text]:
        assert read(tmp_path, text, **layout).points.shape[1] == width


def test_programs_write_fractions_and_whole_numbers_apart(tmp_path: Path) -> None:
    """Two whole numbers or one with a decimal comma: no closing zeros there, no leading ones here."""
    one = XY[["x"]].to_csv(sep=";", decimal=",", index=False, header=False)
    np.testing.assert_array_equal(read(tmp_path, one).points, X[:, :1])
    two = pd.DataFrame(COUNTS).to_csv(index=False, header=False)
    np.testing.assert_array_equal(read(tmp_path, two).points, COUNTS)


@pytest.mark.parametrize("mark", ["NA", "?", "null", "", "nan", "#N/A", "-", "None", '""', "<NA>"])
@pytest.mark.parametrize("row", [0, 2, 3])
@pytest.mark.parametrize("column", [0, 1])
def test_missing_values_are_named_with_their_row(tmp_path: Path, mark: str, row: int, column: int) -> None:
    rows = [line.split(",") for line in ROWS.split()]
    rows[row][column] = mark
    body = "\n".join(map(",".join, rows))
    for text, line in ((body, row + 1), ("x,y\n" + body, row + 2)):
        with pytest.raises(mb.InvalidInput, match=rf"missing value.* in row {row} \(line {line}\)"):
            read(tmp_path, text)
    if mark and column == 0:
        with pytest.raises(mb.InvalidInput, match=rf"missing value.* in row {row} \(line {row + 1}\)"):
            read(tmp_path, "\n".join(fields[0] for fields in rows))


@pytest.mark.parametrize("note", ['say "hi", he said; "ho" | "so" \t and', '"', 'a "b"\n\n# c', "1,5;2"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_text_between_quotes_hides_no_separator(tmp_path: Path, note: str, place: int, decimal: str, sep: str) -> None:
    """Quotes, other separators, line ends and # in a field of text, which the other separators can make nothing of."""
    frame = XY.copy()
    frame.insert(place, "note", note)
    table = read(tmp_path, frame.to_csv(index=False, sep=sep, decimal=decimal), columns=["x", "y"])
    np.testing.assert_array_equal(table.points, X)
    assert {row.fields[place] for row in read_csv(tmp_path / "cloud.csv", Layout()).rows} == {note.strip()}


def test_a_remark_may_have_quotes_of_any_kind(tmp_path: Path) -> None:
    assert read(tmp_path, '# "my "best" cloud\nx,y\n' + ROWS).names == ("x", "y")


REFUSED = {
    "x,y\n1,2,3\n4,5,6\n": "line 1 has 2 fields, the others have 3",
    "x,y,z\n1,2\n4,5\n": "line 1 names 3 columns, line 2 has 2 fields",
    "x,y\n1,2,\n4,5,\n": "end with the separator ','",
    "x,y,\n1,2,\n4,5,\n": "end with the separator ','",
    "1,2,\n4,5,\n": "end with the separator ','",
    "1.5,2.5\n4,5\n6,7,8\n": "line 1 has 2 fields, line 3 has 3",
    "1.5,2.5\n4,5\n6\n": "line 3 has 1",
    "x\n1.5\n\n2.5\n": r"missing value, '', in row 1 \(line 3\)",
    "x,y\nm,kg\n1.5,2\n2.5,3\n": "'m' in row 0",
    "x,y\n1_000,2\n2.5,3\n": "'1_000' in row 0",
    "x;y\n1.234,5;5,6\n2.345,5;6.789,1\n": "'1.234,5' in row 0",
    "x,kind\n1.5,a\n2.5,b\n": r"'a' in row 0 \(line 2\), column 'kind'.* columns = ",
    "x,y\n": "0 rows",
    "": "no rows",
    'x,y\n"1.5,2\n2.5,3\n': "line 4: unexpected end of data, with the separator ','",
    'x,y\n1.5,"say "no" 2"\n': "line 2: ',' expected .* a quote is written twice",
    "x,y\n1,2\0\n": "NUL",
    "x,y\n1.5,inf\n2,3\n": "infinite",
    "<html>\n<p>lost</p>\n": "not a real numeric array",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_the_cause(tmp_path: Path, text: str) -> None:
    with pytest.raises(mb.InvalidInput, match=REFUSED[text]):
        read(tmp_path, text)


def test_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mb.InvalidInput, match="UTF-8"):
        read(tmp_path, ("größe,y\n" + ROWS).encode("latin-1"))


def test_explicit_layouts_are_taken_at_their_word(tmp_path: Path) -> None:
    assert read(tmp_path, "1.5:2.5\n3.5:4.5\n", separator=":").points.tolist() == [[1.5, 2.5], [3.5, 4.5]]
    assert read(tmp_path, "x,y\n" + ROWS, decimal=".", separator=",", header=True, index=False).names == ("x", "y")
    with pytest.raises(mb.InvalidInput, match="'x' in row 0"):
        read(tmp_path, "x,y\n" + ROWS, header=False)
    with pytest.raises(mb.InvalidInput, match="leaves none"):
        read(tmp_path, "x\n1.5\n2.5\n", index=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    values=st.integers(1, 3).flatmap(
        lambda d: st.lists(
            st.lists(st.one_of(st.integers(-30, 3000), st.floats(-1e6, 1e6)), min_size=d, max_size=d),
            min_size=4,
            max_size=12,
        )
    ),
    names=st.sampled_from(["numbers", "text", "years", "none"]),
    index=st.sampled_from(["none", "rows", "named", "sampled"]),
    sep=st.sampled_from([",", ";", "\t", "|", " "]),
    decimal=st.sampled_from([".", ","]),
    quoting=st.sampled_from([0, 1, 2]),
    places=st.sampled_from([None, 1, 3]),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    told=st.sets(st.sampled_from(["header", "index", "separator", "decimal"])),
)
def test_what_pandas_wrote_is_read_back_or_refused(
    tmp_path_factory, values, names, index, sep, decimal, quoting, places, end, bom, told
) -> None:
    """In every layout that `to_csv` has; what is told rightly is never refused where all of it is told.

    Whole numbers named by whole numbers are left to the tests above: some are points that nothing tells from names.
    """
    whole = all(isinstance(value, int) for row in values for value in row)
    frame = pd.DataFrame(np.array(values, dtype=int if whole and names in ("text", "none") else float))
    if places is not None:
        frame = frame.round(places)
    kept = frame.to_numpy(dtype=float)
    frame.columns = {
        "text": list("xyz"[: frame.shape[1]]),
        "years": [2019 + j for j in range(frame.shape[1])],
    }.get(names, range(frame.shape[1]))
    if index == "named":
        frame = frame.rename_axis("id")
    if index == "sampled":
        frame = frame.set_index(np.random.default_rng(0).permutation(100)[: len(frame)])
    text = frame.to_csv(
        header=names != "none", index=index != "none", sep=sep, decimal=decimal, quoting=quoting, lineterminator=end
    )
    truth = {"header": names != "none", "index": index != "none", "separator": sep, "decimal": decimal}
    try:
        table = read(
            tmp_path_factory.mktemp("csv", numbered=True),
            ("\ufeff" if bom else "") + text,
            **{key: truth[key] for key in told},
        )
    except mb.InvalidInput:
        assert len(told) < 4
    else:
        # A permutation that nothing names and that lies among whole numbers is an index that nobody can see.
        if not (index == "sampled" and names == "none"):
            np.testing.assert_allclose(table.points, kept, rtol=1e-15)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(alphabet='0123456789.,;-+eExyNA? \t\n"#', max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(tmp_path_factory, text) -> None:
    try:
        table = read(tmp_path_factory.mktemp("any", numbered=True), text)
    except mb.InvalidInput:
        return
    assert np.isfinite(table.points).all()
    assert table.names is None or len(table.names) == table.points.shape[1]


# Two files


def write(folder: Path, name: str, frame: pd.DataFrame) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".npy":
        np.save(path, frame.to_numpy())
    else:
        frame.to_csv(path, index=False, header=not name.startswith("plain"))
    return path


@pytest.mark.parametrize(("a", "b"), list(itertools.product(["a.csv", "a.parquet"], ["b.csv", "b.parquet"])))
def test_columns_are_matched_by_name(tmp_path: Path, a: str, b: str) -> None:
    people = pd.DataFrame({"height": X[:, 0] + 170, "weight": X[:, 1] + 60})
    one, other = write(tmp_path, a, people), write(tmp_path, b, (people + np.array([5.0, 2.0]))[["weight", "height"]])
    source, target = read_pair(one, other)
    assert source.names == target.names == ("height", "weight")
    np.testing.assert_allclose(target.points - source.points, np.broadcast_to([5.0, 2.0], (40, 2)), rtol=1e-12)
    source, target = read_pair(one, other, columns="position")
    assert (target.points - source.points)[:, 0].max() < -90
    source, target = read_pair(one, other, columns=["weight"])
    np.testing.assert_allclose(target.points - source.points, np.full((40, 1), 2.0), rtol=1e-12)


def test_names_that_differ_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path, "a.csv", XY)
    for other in (XY.rename(columns={"y": "z"}), XY.assign(z=1.0), XY[["x"]]):
        with pytest.raises(mb.InvalidInput, match=r"b\.csv has the columns .*a\.csv 'x', 'y'.* columns = 'position'"):
            read_pair(one, write(tmp_path, "b.csv", other))
    for name in ("plain.csv", "plain.npy"):
        for pair in ((one, write(tmp_path, name, XY)), (write(tmp_path, name, XY), one)):
            with pytest.raises(mb.InvalidInput, match=rf"{name} does not name its columns, .*a\.csv does"):
                read_pair(*pair)
            assert read_pair(*pair, columns="position")[0].points.shape == (40, 2)
    plain = write(tmp_path, "plain.csv", XY)
    assert read_pair(plain, write(tmp_path, "plain.npy", XY))[0].names is None
    with pytest.raises(mb.InvalidInput, match="cannot be matched by name"):
        read_pair(plain, plain, columns="name")
    with pytest.raises(mb.InvalidInput, match=r"Did you mean 'x'|Valid: x, y"):
        read_pair(one, one, columns=["xx"])
    with pytest.raises(mb.InvalidInput, match="does not name its columns"):
        read_pair(one, plain, columns=["x"])
    twice = tmp_path / "twice.csv"
    twice.write_text("x,x,y\n1.5,2.5,3.5\n4.5,5.5,6.5\n")
    thrice = tmp_path / "thrice.csv"
    thrice.write_text("x,y,x\n1.5,2.5,3.5\n4.5,5.5,6.5\n")
    with pytest.raises(mb.InvalidInput, match="has the columns"):
        read_pair(twice, thrice)
    with pytest.raises(mb.InvalidInput, match="several of that name"):
        read_pair(twice, thrice, columns=["x"])


def test_parquet_keeps_indices_apart_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for frame in (XY, XY.sample(frac=0.5, random_state=1), XY.rename_axis("id")):
        frame.to_parquet(path)
        for index in ("auto", True) if not isinstance(frame.index, pd.RangeIndex) else ("auto",):
            np.testing.assert_array_equal(read_table(path, Layout(index=index)).points, frame)
    XY.reset_index().to_parquet(path)
    with pytest.raises(mb.InvalidInput, match=r"'index' seems to number the rows: index = true"):
        read_table(path)
    np.testing.assert_array_equal(read_table(path, Layout(index=True)).points, X)
    np.testing.assert_array_equal(read_table(path, columns=["y"]).points, X[:, 1:])
    for bad in ("a", None, pd.Timestamp("2020-01-01")):
        XY.assign(z=[bad] * 40).to_parquet(path)
        with pytest.raises(mb.InvalidInput, match="column 'z'"):
            read_table(path)
        assert read_table(path, columns=["x", "y"]).points.shape == (40, 2)


def test_cells_keep_the_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("# a comment\n\nx,y\n1.5,2\n\n# another\n3.5,4\n")
    assert [row.line for row in read_csv(path, Layout()).rows] == [4, 7]
