"""Verdicts of a run: which traces go together, which row they make, and what a run without them is answered with."""

import io

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mongebench import cli, plugins
from mongebench.estimators.flow.machinery.floor import family_floor
from mongebench.estimators.flow.schemes.implicit import FlowImplicit
from mongebench.report.rates.flows import flows, together
from mongebench.report.rates.flows import frame as all_rows
from mongebench.report.rates.inequalities import KL, KL_CONVEX, MAP, MAP_BY_KL, step_bounds
from mongebench.report.rates.verdict import Scheme, rate_verdict
from mongebench.report.tables import terminal
from mongebench.run.reading import read_run
from mongebench.run.record import Spec, Status
from mongebench.run.store import RunError

from ..conftest import cell, exponential, trace


def shown(renderable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def frame(run, horizon=None, *, family_floors=False):
    """The rows about the map, one a flow."""
    rows = all_rows(run, horizon, family_floors=family_floors)
    return rows[rows["inequality"] == MAP.name].reset_index(drop=True)


def implicit(tau: float, end: float = 2.0) -> list:
    """The implicit scheme where its bound is an equality: slower than e^{-2 t} at any step."""
    steps = np.arange(round(end / tau) + 1)
    return trace(tau * steps, 3.0 * step_bounds(tau, 1.0).implicit ** steps)


def test_a_fit_and_its_refinement_are_one_row(write_run) -> None:
    run = write_run(
        [
            (cell("flow_implicit", tau=0.1, steps=20, units=8), implicit(0.1)),
            (cell("flow_implicit", tau=0.05, steps=40, units=8), implicit(0.05)),
            (cell("flow_implicit", tau=0.05, steps=40, units=9), implicit(0.05)),
        ]
    )
    first, other = frame(read_run(run.path)).to_dict("records")
    assert first["steps"] == "0.1 and 0.05"
    assert first["verdict"] == "holds"
    # Extrapolation leaves more than the resolution of a curve on the line; the bound of such steps decides.
    assert first["line"].startswith("(1 + lambda tau)^{-2k}")
    # Without a refinement it is what there is.
    assert other["steps"] == "0.05"
    assert other["verdict"] == "holds"
    assert other["line"].startswith("(1 + lambda tau)^{-2k}")
    assert other["estimator"] == "flow_implicit(units=9)"


def test_only_implicit_steps_have_a_bound_of_their_own(write_run) -> None:
    run = write_run([(cell("flow_explicit", tau=0.1, steps=20), implicit(0.1))])
    assert frame(read_run(run.path))["verdict"].tolist() == ["broken"]


@pytest.mark.parametrize(
    ("horizon", "verdict"), [(1.0, "holds"), (2.0, "plateau"), (6.0, "inconclusive"), (None, "plateau")]
)
def test_the_horizon_is_the_experiments_unless_another_is_asked_for(write_run, horizon, verdict) -> None:
    times = np.arange(21) / 10
    stall = trace(times, 3.0 * np.exp(-2.0 * np.minimum(times, 1.0)))
    points = exponential(2.0, 0.1) if horizon == 6.0 else stall
    run = write_run([(cell("flow"), points)], horizon=horizon)
    (row,) = frame(read_run(run.path)).to_dict("records")
    assert row["verdict"] == verdict
    assert row["horizon"] == horizon
    if verdict == "plateau":
        assert (row["until"], row["plateau"]) == pytest.approx((1.0, np.exp(-2.0)))
    assert frame(read_run(run.path), 0.5)["verdict"].tolist() == ["holds"]
    said = CliRunner().invoke(cli.app, ["rate", str(run.path), "--horizon", "0.5"], catch_exceptions=False)
    assert "up to t = 0.5" in said.output


def test_what_the_theorem_does_not_speak_of_is_not_applicable(write_run) -> None:
    slow = exponential(0.5, 0.1)
    fixed = cell("flow").model_copy(update={"n_source": 50})
    run = write_run(
        [(fixed, slow), (cell("flow", divergence="energy_distance"), slow), (cell("flow", divergence="kl"), slow)]
    )
    rows = frame(read_run(run.path))
    assert rows["verdict"].tolist() == ["not applicable", "not applicable", "broken"]
    assert "fixed sample of 50 points" in rows["reason"][0]
    assert "'energy_distance'" in rows["reason"][1]
    said = shown(terminal.rates(rows))
    assert "0/1" in said  # of one flow that it speaks of


def test_of_three_steps_each_but_the_last_has_its_refinement(write_run) -> None:
    run = write_run([(cell("flow", tau=0.2 / k, steps=10 * k), implicit(0.2 / k)) for k in (4, 1, 2)])
    assert frame(read_run(run.path))["steps"].tolist() == ["0.2 and 0.1", "0.1 and 0.05"]


def test_a_step_written_as_a_whole_number_finds_its_refinement(write_run) -> None:
    run = write_run(
        [(cell("flow", tau=1, steps=5), implicit(1.0, 5)), (cell("flow", tau=0.5, steps=10), implicit(0.5, 5))]
    )
    assert frame(read_run(run.path))["steps"].tolist() == ["1 and 0.5"]


def test_seeds_problems_and_other_parameters_are_never_paired(write_run) -> None:
    coarse = cell("flow", tau=0.2, steps=10, units=8)
    others = [
        cell("flow", seed=1, tau=0.1, steps=20, units=8),
        cell("flow", problem={"condition": 10.0}, tau=0.1, steps=20, units=8),
        cell("flow", tau=0.1, steps=20, units=9),
        cell("flow", tau=0.1, steps=10, units=8),
        cell("other", tau=0.1, steps=20, units=8),
    ]
    run = write_run([(one, exponential(2.0, one.estimator.parameters["tau"])) for one in (coarse, *others)])
    assert len(flows(read_run(run.path))) == 6
    assert all(flow.refined is None for flow in flows(read_run(run.path)))


def test_schemes_of_a_fixed_final_time_are_refined_by_their_steps(write_run) -> None:
    run = write_run(
        [(cell("natural", final_time=2.0, steps=steps), exponential(2.0, 2.0 / steps)) for steps in (10, 20)]
    )
    assert frame(read_run(run.path))["steps"].tolist() == ["0.2 and 0.1"]


def test_the_row_is_the_verdict_with_the_records_floor(write_run) -> None:
    points = exponential(2.0, 0.1)
    run = write_run([(cell("flow"), points)], floor=0.1)
    (row,) = frame(read_run(run.path)).to_dict("records")
    found = rate_verdict(points, 1.0, floor=0.1, scheme=Scheme.FLOW)
    assert (row["verdict"], row["rate"], row["floor"]) == (found.verdict, found.rate, 0.1)
    assert (row["low"], row["high"], row["constant"]) == (*found.interval, found.constant)
    assert (row["constant_low"], row["constant_high"]) == found.constant_interval


def test_the_familys_floor_is_taken_off_where_asked_for(write_run) -> None:
    """A trace that ends at what affine maps can reach on a product in one dimension."""
    floor = family_floor(FlowImplicit("quadratic"), plugins.problem("product", dim=1)).value
    times = np.arange(21) / 5
    points = trace(times, 1.0 * np.exp(-2.0 * times) + floor)
    fit = cell("flow_implicit", problem={"dim": 1}, family="quadratic")
    fit = fit.model_copy(update={"problem": Spec(name="product", parameters={"dim": 1})})
    run = write_run([(fit, points)])
    (without,), (taken_off,) = (
        frame(read_run(run.path), family_floors=asked).to_dict("records") for asked in (False, True)
    )
    assert without["verdict"] in ("plateau", "broken")
    assert taken_off["verdict"] == "holds"
    assert taken_off["floor"] == pytest.approx(floor)
    # A flow that came lower shows that the search has not found the best map: its floor is not known.
    lower = trace(times, np.exp(-2.0 * times) + floor / 2)
    (unknown,) = frame(read_run(write_run([(fit, lower)]).path), family_floors=True).to_dict("records")
    assert unknown["floor"] < 1e-6
    run = write_run([(fit, points)])
    said = CliRunner().invoke(cli.app, ["rate", str(run.path), "--family-floor"], catch_exceptions=False)
    assert "where the known floor is reached" in " ".join(said.output.replace("│", " ").split())


def test_flows_that_left_no_trace_are_rows_too(write_run) -> None:
    run = write_run(
        [(cell("flow", seed=seed), points) for seed, points in enumerate((exponential(2.0, 0.1), [], None))]
    )
    assert frame(read_run(run.path))["verdict"].tolist() == ["holds", "ok", "missing"]
    said = shown(terminal.rates(frame(read_run(run.path))))
    assert "1/3" in said
    assert "2 lambda = 2" in said


def test_one_estimators_wrong_trace_does_not_hide_the_others(write_run) -> None:
    backwards = trace([0.0, 0.4, 0.3, 0.2, 0.1], [5.0, 4.0, 3.0, 2.0, 1.0])
    rows = frame(read_run(write_run([(cell("mine"), backwards), (cell("flow"), exponential(2.0, 0.1))]).path))
    assert rows["verdict"].tolist() == ["inconclusive", "holds"]
    assert "must increase" in rows["reason"][0]


def test_a_fit_that_failed_on_its_way_says_so(write_run) -> None:
    run = write_run([(cell("flow"), exponential(2.0, 0.1))], status=Status.DIVERGED)
    (row,) = frame(read_run(run.path)).to_dict("records")
    assert row["reason"].startswith("the fit ended as diverged; ")


def test_the_command_shows_the_verdicts(write_run) -> None:
    run = write_run([(cell("flow", tau=0.1, steps=20), exponential(3.0, 0.1))])
    result = CliRunner().invoke(cli.app, ["rate", str(run.path)], catch_exceptions=False)
    assert result.exit_code == 0
    for words in ("flow", "holds up to t = 2", "1/1", "the end of each trace"):
        assert words in result.output
    # e^{-0.1} after the first step, which is the closest that it comes to the line.
    assert "at most 0.905 times e^{-2 lambda t}" in shown(terminal.rates(frame(read_run(run.path))))


def test_estimators_that_follow_no_flow_are_left_out(write_run) -> None:
    descent = trace([0.0, None, None], [3.0, 2.0, 1.0])
    run = write_run([(cell("euclidean"), descent), (cell("flow"), exponential(2.0, 0.1))])
    assert frame(read_run(run.path))["estimator"].tolist() == ["flow"]


def test_without_strong_convexity_the_table_says_so(write_run) -> None:
    run = write_run([(cell("flow"), exponential(2.0, 0.1))], strong_convexity=None)
    assert "lambda = not known" in shown(terminal.rates(frame(read_run(run.path))))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "has a trace"),
        (trace([None, None], [1.0, 0.5]), "has flow time"),
        (trace([0.0, 0.1], [None, None]), "has an error"),
    ],
)
def test_runs_without_a_rate_are_answered_with_a_sentence(write_run, points, words) -> None:
    run = write_run([(cell("flow"), points)], status=Status.OK)
    with pytest.raises(RunError, match=words):
        frame(read_run(run.path))


def test_a_folder_that_is_no_run(tmp_path) -> None:
    with pytest.raises(RunError, match="not a run"):
        frame(read_run(tmp_path))


def test_a_scheme_that_shortened_its_steps_has_no_refinement(write_run) -> None:
    """As explicit steps beyond the stability limit do: both fits took the steps that the limit allows."""
    run = write_run([(cell("flow", tau=tau, steps=steps), implicit(0.05)) for tau, steps in ((0.4, 20), (0.2, 40))])
    assert frame(read_run(run.path))["steps"].tolist() == ["0.05", "0.05"]
    assert not frame(read_run(run.path))["extrapolated"].any()


def with_kl(points, share=0.5):
    """The same trace with an exactly known KL, a constant share of the squared error."""
    known = {"kl_se": 0.0, "kl_ratio_se": 0.0, "kl_to_l2_se": 0.0, "l2_to_kl_se": 0.0}
    return [point.model_copy(update={"kl": share * point.l2_error, **known}) for point in points]


def test_a_flow_has_a_row_for_each_inequality_that_speaks_of_it(write_run) -> None:
    entries = [(cell("flow", seed=seed), with_kl(exponential(rate, 0.1))) for seed, rate in enumerate((3.0, 1.0))]
    rows = all_rows(read_run(write_run(entries).path))
    assert rows["inequality"].tolist() == [MAP.name, MAP_BY_KL.name, KL.name] * 2
    # At t = 2 a rate of 1 has e^{-2} left of the error, and 4 e^{-4} / (1/2) has more: 0.135 against 0.0366 * 4 * 0.5.
    assert rows["verdict"].tolist() == ["holds", "holds", "holds", "broken", "broken", "broken"]
    assert rows["until"].isna().tolist() == [True] * 3 + [False] * 3
    said = shown(terminal.rates(rows))
    for inequality in (MAP, MAP_BY_KL, KL):
        assert f"{inequality.name}: {inequality.formula}" in said
        assert "1/2" in said
    assert KL_CONVEX.name not in said
    assert "holds 1, broken 1" in said


def test_at_lambda_0_there_is_a_verdict_on_kl(write_run) -> None:
    points = with_kl(exponential(3.0, 0.1))
    rows = all_rows(read_run(write_run([(cell("flow"), points)], strong_convexity=0.0).path)).to_dict("records")
    assert [(row["inequality"], row["verdict"]) for row in rows] == [
        (MAP.name, "not applicable"),
        (KL_CONVEX.name, "holds"),
    ]
    # 2 t D_t / |T_0 - T*|^2 = t e^{-3 t} is largest at the step next to t = 1/3.
    assert rows[1]["constant"] == pytest.approx(0.3 * np.exp(-0.9))


def test_records_that_know_no_kl_say_so_and_keep_the_verdict_on_the_map(write_run) -> None:
    rows = all_rows(read_run(write_run([(cell("flow"), exponential(3.0, 0.1))]).path))
    assert rows["verdict"].tolist() == ["holds", "inconclusive", "inconclusive"]
    assert rows["reason"][2].startswith("the trace has no D_t - D*")


def test_implicit_steps_too_slow_for_their_bound_may_keep_the_weaker_one(write_run) -> None:
    slow = trace(0.1 * np.arange(21), 3.0 * step_bounds(0.1, 0.5).implicit ** np.arange(21))
    (row,) = frame(read_run(write_run([(cell("flow_implicit", tau=0.1, steps=20), slow)]).path)).to_dict("records")
    assert (row["verdict"], row["weaker"]) == ("broken", "holds")
    assert "it keeps (1 + lambda^2 tau^2 / 4)^{-k}" in row["reason"]


def test_seeds_share_a_line_of_the_table(write_run) -> None:
    run = write_run([(cell("flow", seed=seed), exponential(3.0, 0.1)) for seed in (0, 1, 2, 5)])
    said = shown(terminal.rates(frame(read_run(run.path))))
    assert "0-2, 5" in said
    assert "4/4" in said


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_band_over_seeds_is_of_those_that_have_not_ended(count) -> None:
    rng = np.random.default_rng(count)
    lengths = rng.integers(3, 20, count)
    traces = [list(zip(np.cumsum(rng.exponential(size=n)), rng.exponential(size=n), strict=True)) for n in lengths]
    time, band = together(traces)
    values = [np.interp(time, *np.transpose(trace), right=np.nan) / trace[0][1] for trace in traces]
    np.testing.assert_allclose(band, np.nanquantile(values, (0, 0.5, 1), axis=0), rtol=1e-12)
