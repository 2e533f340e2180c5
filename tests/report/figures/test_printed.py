"""What the figures claim: the theory's line, axes that hold every value, failures that are counted."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import StepPatch

from mongebench.report.figures import clouds, printed, traces
from mongebench.report.figures.printed import draw
from mongebench.report.figures.style import FORMATS, PANELS, few, look, plain
from mongebench.report.figures.summary import summary
from mongebench.run.reading import read_run
from mongebench.run.record import Status
from mongebench.run.sketch import POINTS, Sketch

from ..conftest import cell, exponential, sketch, trace


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def lines(axis) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axis.get_lines()}


def with_sketches(run, shift: float = 0.0):
    for record in list(run.records()):
        run.write(record, sketch(shift))
    return run


def test_a_run_draws_what_it_has(write_run, tmp_path) -> None:
    run = write_run([(cell("flow", seed=seed), exponential(2.0, 0.1)) for seed in range(4)])
    run = with_sketches(run)
    paths = draw(read_run(run.path), tmp_path / "figures")
    names = {"error", "rate", "anytime", "clouds", "distribution"}
    assert {path.name for path in paths} == {f"{name}.{suffix}" for name in names for suffix in FORMATS}
    assert all(path.stat().st_size > 1000 for path in paths)


def test_without_traces_sketches_and_seeds_only_the_overview_is_drawn(write_run, tmp_path) -> None:
    paths = draw(read_run(write_run([(cell("bures"), [])]).path), tmp_path / "figures")
    assert {path.stem for path in paths} == {"error"}


def test_many_rivals_differ_in_colour_or_marker() -> None:
    names = [f"rival {number}" for number in range(49)]
    assert len({(look(name, names)["color"], look(name, names)["marker"]) for name in names}) == 49


def test_one_dimension_is_no_curve_but_an_order_the_best_on_top(write_run) -> None:
    errors = {"middling": 3.0, "best": 0.5, "worst": 40.0}
    run = write_run([(cell(name), trace([0.0], [error / 100])) for name, error in errors.items()])
    (axis,) = printed.error_overview(read_run(run.path).frame()).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["worst", "middling", "best"]
    drawn = [container.lines[0].get_xdata()[0] for container in axis.containers]
    assert drawn == pytest.approx(sorted(errors.values(), reverse=True))


def test_curves_and_theory_start_at_one(write_run) -> None:
    run = write_run([(cell("flow", tau=0.1, steps=20), exponential(3.0, 0.1))], strong_convexity=0.7)
    (axis,) = traces.rate(read_run(run.path)).axes
    drawn = lines(axis)
    times, errors = drawn["flow"].T
    np.testing.assert_allclose(errors, np.exp(-3.0 * times))
    times, line = drawn[r"$e^{-2\lambda t}$"].T
    np.testing.assert_allclose(line, np.exp(-2 * 0.7 * times))
    assert times[-1] == 2.0
    assert axis.get_yscale() == "log"


def with_kl(points, share):
    """The same trace with a KL that is a constant share of the squared error."""
    known = {"kl_se": 0.0, "kl_ratio_se": 0.0, "kl_to_l2_se": 0.0, "l2_to_kl_se": 0.0}
    return [point.model_copy(update={"kl": share * point.l2_error, **known}) for point in points]


def test_seeds_are_a_median_in_a_band_and_kl_has_a_figure_of_its_own(write_run) -> None:
    rates = (2.0, 3.0, 5.0)
    entries = [(cell("flow_implicit", seed=k), with_kl(exponential(rate, 0.1), 0.5)) for k, rate in enumerate(rates)]
    run = write_run(entries, strong_convexity=0.8)
    for figure in (traces.rate(read_run(run.path)), traces.rate_kl(read_run(run.path))):
        (axis,) = figure.axes
        times, middle = lines(axis)["flow_implicit"].T
        np.testing.assert_allclose(middle, np.exp(-3.0 * times))
        (band,) = axis.collections
        edges = band.get_paths()[0].vertices
        np.testing.assert_allclose(edges[:, 1].min(), np.exp(-5.0 * 2.0))
        at_one = edges[np.isclose(edges[:, 0], 1.0), 1]
        np.testing.assert_allclose([at_one.min(), at_one.max()], np.exp([-5.0, -2.0]))
    drawn = lines(traces.rate(read_run(run.path)).axes[0])
    by_kl, proposition = (
        drawn[r"$(4/\lambda)\, e^{-2\lambda t} (D_0 - D^*)$, v3"],
        drawn[r"$(1 + \lambda^2\tau^2/4)^{-k}$, implicit, v3"],
    )
    np.testing.assert_allclose(by_kl[:, 1], 4 / 0.8 * 0.5 * np.exp(-1.6 * by_kl[:, 0]))
    np.testing.assert_allclose(proposition[:, 1], (1 + 0.08**2 / 4) ** -np.arange(1.0, 21.0))


def test_without_strong_convexity_the_line_of_kl_is_one_over_t(write_run) -> None:
    run = write_run([(cell("flow"), with_kl(exponential(3.0, 0.1), 0.5))], strong_convexity=0.0)
    drawn = lines(traces.rate_kl(read_run(run.path)).axes[0])
    times, line = drawn[r"$W_2^2 / (2 t)$"].T
    np.testing.assert_allclose(line, 1 / 0.5 / (2 * times))
    assert set(lines(traces.rate(read_run(run.path)).axes[0])) == {"flow"}


def test_nothing_is_drawn_below_the_floor(write_run) -> None:
    """A curve down to 1e-176 of its start, and one to a known floor of 1e-3."""
    run = write_run([(cell("flow"), exponential(200.0, 0.1))])
    assert traces.rate(read_run(run.path)).axes[0].get_ylim()[0] >= 1e-9
    run = write_run([(cell("flow"), exponential(20.0, 0.1))], floor=3e-3)
    assert traces.rate(read_run(run.path)).axes[0].get_ylim()[0] == pytest.approx(5e-4)


def test_a_bound_that_underflows_leaves_the_curves_their_room(write_run) -> None:
    run = write_run([(cell("flow"), trace(np.arange(0, 6000.0, 100.0), np.geomspace(1.0, 1e-3, 60)))])
    (axis,) = traces.rate(read_run(run.path)).axes
    assert 1e-6 < axis.get_ylim()[0] < 1e-3


def test_the_known_floor_is_shaded_and_no_plateau(write_run) -> None:
    times = np.arange(0, 8.0, 0.2)
    curve = trace(times, 3.0 * np.exp(-2 * times) + 0.01)
    assert not traces.rate(read_run(write_run([(cell("flow"), curve)]).path)).axes[0].patches
    run = write_run([(cell("flow"), curve)], floor=0.01)
    (axis,) = traces.rate(read_run(run.path)).axes
    (patch,) = [patch for patch in axis.patches if patch.get_label() == "floor"]
    assert patch.get_y() + patch.get_height() == pytest.approx(0.01 / 3.01, rel=0.2)


def test_anytime_has_every_iterative_fit_and_the_anchors(write_run) -> None:
    entries = [(cell("flow"), exponential(2.0, 0.1)), (cell("euclidean"), trace([0.0, None], [3.0, 1.0]))]
    run = write_run([*entries, (cell("exact"), [])])
    seconds, calls = traces.anytime(read_run(run.path), read_run(run.path).frame()).axes
    assert lines(seconds).keys() == lines(calls).keys() == {"flow", "plain_descent"}
    assert lines(calls)["plain_descent"].tolist() == [[0, 3.0], [100, 1.0]]


def test_every_value_is_on_the_axis_and_failures_are_counted(write_run) -> None:
    """Seven decades between the seeds: the published axis, 0 to 0.1, would lose most of them."""
    values = {seed: 10.0 ** (2 * seed - 5) for seed in range(4)}
    entries = [(cell("flow", seed=seed), [] if seed < 4 else None) for seed in range(6)]
    run = write_run(entries, energy_distance=lambda one: values[one.seed])
    (axis,) = clouds.distribution(read_run(run.path).frame()).axes
    low, high = axis.get_xlim()
    assert low < min(values.values()) < max(values.values()) < high
    (bars,) = [patch for patch in axis.patches if isinstance(patch, StepPatch)]
    assert bars.get_data().values.sum() == 4
    assert "flow, 4/6, median" in axis.get_title(loc="left")


def test_few_seeds_are_no_distribution(write_run) -> None:
    assert clouds.distribution(read_run(write_run([(cell("flow"), [])]).path).frame()) is None


def test_clouds_show_every_method_and_count_what_lies_outside(write_run) -> None:
    run = with_sketches(write_run([(cell(name), []) for name in ("bures", "flow")]), shift=100.0)
    first, bures, flow, last = clouds.clouds(read_run(run.path), read_run(run.path).frame()).axes
    assert [axis.get_title() for axis in (first, bures, flow, last)] == ["source", "bures", "flow", "target"]
    assert f"{POINTS} of {POINTS} outside" in bures.get_xlabel()


def test_a_method_that_failed_has_its_status_for_a_cloud(write_run) -> None:
    run = with_sketches(write_run([(cell("flow"), []), (cell("other"), [])]))
    _, other = run.records()
    run.write(other.model_copy(update={"status": Status.DIVERGED, "metrics": {}}))
    axes = clouds.clouds(read_run(run.path), read_run(run.path).frame()).axes
    assert axes[2].get_xlabel() == "diverged"


def test_a_sketch_survives_its_file_and_nothing_is_unpickled(tmp_path) -> None:
    path = tmp_path / "sketch.npz"
    path.write_bytes(sketch().to_bytes())
    again = Sketch.load(path)
    np.testing.assert_array_equal(again.pushed, sketch().pushed)
    assert again.x.dtype == np.float32
    path.write_bytes(b"half a file")
    assert Sketch.load(path) is None
    np.savez(path, x=np.array([{}], dtype=object))
    assert Sketch.load(path) is None


MARKUP = r"$low_$high"
"""What matplotlib would take for a formula that it cannot read."""


@pytest.mark.parametrize("name", [MARKUP, r"$\frac$", r"a\$b$c_$", "$", "$$", r"\$_$"])
def test_text_from_elsewhere_is_drawn_as_it_stands(name: str) -> None:
    figure = plt.figure()
    text = figure.text(0.5, 0.5, plain(name))
    figure.draw_without_rendering()
    assert text._preprocess_math(plain(name)) == (name, False)
    plt.close(figure)


def test_names_with_dollars_are_in_every_figure(write_run, tmp_path) -> None:
    cells = [cell(MARKUP, seed=seed, problem={"path": path}) for seed in range(4) for path in (MARKUP, "b")]
    run = with_sketches(write_run([(one, exponential(2.0, 0.1)) for one in cells]))
    drawn = draw(read_run(run.path), tmp_path / "figures")
    assert {path.stem for path in drawn} == {"error", "rate", "anytime", "clouds", "distribution"}
    for path in drawn:
        if path.suffix == ".svg":
            assert MARKUP in path.read_text(encoding="utf-8"), path.stem


def test_the_summary_has_a_panel_for_each_tier_and_family_and_the_rate_with_its_line(write_run) -> None:
    dims = (1, 2, 4)
    run = write_run(
        [
            *(
                (cell(name, problem={"dim": dim}), trace([0.0], [dim / 100]))
                for name in ("identity", "bures")
                for dim in dims
            ),
            *((cell("flow", problem={"dim": dim}), exponential(2.0, 0.1)) for dim in dims),
        ]
    )
    found = read_run(run.path)
    figure = summary(found, found.frame())
    titles = [axis.get_title() for axis in figure.axes]
    assert sum("gaussian" in title for title in titles) >= 2
    (rate,) = [axis for axis in figure.axes if axis.get_title().startswith("measured rate")]
    theory = lines(rate)[r"$e^{-2\lambda t}$"]
    assert theory[-1, 1] == pytest.approx(np.exp(-2 * theory[-1, 0]), rel=1e-6)
    rows = found.frame()
    assert summary(found, rows[rows["dim"] == 2]) is None  # one dimension is no curve


def test_an_estimator_has_one_look_in_every_figure() -> None:
    rivals = ["entropic", "flow(tau=0.1)", "flow(tau=0.2)", "sorting"]
    assert look("flow", rivals) == look("flow(tau=0.1)", rivals)  # traces leave the step out of the label
    assert len({(look(name, rivals)["color"], look(name, rivals)["marker"]) for name in rivals}) == 4
    assert look("identity", rivals)["marker"] == ""


def test_a_figure_of_many_places_shows_the_first_and_says_so() -> None:
    kept, title = few(list(range(PANELS + 1)))
    assert (kept, title) == (list(range(PANELS)), f"The first {PANELS} of {PANELS + 1} places")
    assert few([1, 2], each=PANELS) == ([1], "The first 1 of 2 places")
    assert few([1, 2]) == ([1, 2], "")
