"""The pictures on the page of `mongebench fit`: what is drawn where, and in which order."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import mongebench as mb
from mongebench.core.tablefile import Table
from mongebench.report.figures.selection import BARS, SHOWN, displacement, moved_most, pairs
from mongebench.report.site import selection as page

NAMES = ("age", "dose", "height", "weight")
SHIFT = np.array([0.0, 3.0, -1.0, 2.0])
UNITS = np.array([1.0, 100.0, 0.1, 1.0])


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clouds():
    """Source, source moved by SHIFT standard deviations, and a target of another size; coordinates in UNITS."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = x[:200] + SHIFT
    y = SHIFT + (y - y.mean(axis=0)) / y.std(axis=0)
    return x * UNITS, (x + SHIFT) * UNITS, y * UNITS


def test_displacement_is_in_standard_deviations_whatever_the_units(clouds) -> None:
    np.testing.assert_allclose(displacement(*clouds), np.abs(SHIFT), rtol=1e-12)


def test_bars_are_the_displacements_the_largest_on_top(clouds) -> None:
    (axis,) = moved_most(*clouds, NAMES).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    widths = [bar.get_width() for bar in axis.patches]
    assert dict(zip(labels, np.round(widths, 9), strict=True)) == {"dose": 3, "weight": 2, "height": 1, "age": 0}
    assert labels[::-1] == ["dose", "weight", "height", "age"]
    assert widths == sorted(widths)  # from the bottom up


def test_many_coordinates_have_as_many_bars_as_can_be_read() -> None:
    x = np.random.default_rng(0).standard_normal((50, BARS + 10))
    moved = x + x.std(axis=0) * np.arange(BARS + 10)
    (axis,) = moved_most(x, moved, moved, [f"c{j}" for j in range(BARS + 10)]).axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == [f"c{j}" for j in range(10, BARS + 10)]


def test_pairs_of_what_moved_most_before_after_and_target_on_one_scale(clouds) -> None:
    figure = pairs(*clouds, NAMES)
    grid = np.array(figure.axes).reshape(3, 3)
    assert [axis.get_title() for axis in grid[0]] == ["source", "moved", "target"]
    for row, (first, second) in zip(grid, [("dose", "weight"), ("dose", "height"), ("weight", "height")], strict=True):
        assert [axis.get_xlabel() for axis in row] == [first] * 3
        assert row[0].get_ylabel() == second
        assert len({(axis.get_xlim(), axis.get_ylim()) for axis in row}) == 1
        chosen = [NAMES.index(first), NAMES.index(second)]
        for axis, points in zip(row, clouds, strict=True):
            (drawn,) = axis.collections
            offsets = np.asarray(drawn.get_offsets())
            np.testing.assert_array_equal(np.sort(offsets, axis=0), np.sort(points[:, chosen], axis=0))
            low, high = np.transpose([axis.get_xlim(), axis.get_ylim()])
            assert ((offsets > low) & (offsets < high)).all(axis=1).mean() > 0.98
    # A point and its image are drawn alike: the second column is the first one, shifted.
    before, after = (np.asarray(axis.collections[0].get_offsets()) for axis in grid[0, :2])
    np.testing.assert_allclose(after - before, np.tile([300.0, 2.0], (300, 1)), rtol=1e-12)


def test_of_many_points_some_are_drawn() -> None:
    x = np.random.default_rng(0).standard_normal((3 * SHOWN, 2))
    for axis in pairs(x, x + 1, x[:10], ["a", "b"]).axes:
        assert len(axis.collections[0].get_offsets()) == (10 if axis.get_title() == "target" else SHOWN)


def test_one_coordinate_is_three_histograms(clouds) -> None:
    (axis,) = pairs(*(points[:, :1] for points in clouds), ["age"]).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["source", "moved", "target"]
    assert axis.get_xlabel() == "age"


def test_the_page_shows_both_pictures_of_the_map_that_it_describes(clouds, tmp_path, monkeypatch) -> None:
    x, _, y = clouds
    found = mb.select(x, y, ["identity", "bures"], folds=2)
    drawn = []
    for name, draw in (("pairs", pairs), ("moved_most", moved_most)):
        monkeypatch.setattr(page, name, lambda *given, draw=draw: drawn.append(given) or draw(*given))
    path = page.build(found, Table(x, NAMES), Table(y, NAMES), ("/home/me/a.csv", "b<c>.csv"), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count('<img src="data:image/png;base64,') == 2
    assert "A map from a.csv to b&lt;c&gt;.csv" in text
    assert "/home/me" not in text
    assert "best in 100% of the resamples" in text
    for source, pushed, target, names in drawn:
        np.testing.assert_array_equal(source, x)
        np.testing.assert_array_equal(pushed, found.best.transform(x))
        np.testing.assert_array_equal(target, y)
        assert names == list(NAMES)
    assert len(drawn) == 2
