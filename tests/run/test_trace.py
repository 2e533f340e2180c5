"""A trace scores every map it is handed: against T*, against gamma, and in KL where the fit's objective tells it."""

import time

import numpy as np
import pytest

import mongebench as mb
from mongebench.core.oracle import Meter
from mongebench.metrics import Evaluation, EvaluationPoints
from mongebench.metrics.energy_distance import energy_distance
from mongebench.run.clock import Clock
from mongebench.run.measurement import measure
from mongebench.run.planned import Conditions
from mongebench.run.record import Cell, Spec
from mongebench.run.trace import POINTS, RunTrace, kl_offset

FLOW = "flow_implicit"


@pytest.fixture(scope="module")
def points() -> EvaluationPoints:
    return EvaluationPoints.draw(mb.problem("gaussian", dim=2, seed=3), 3000, seed=0)


def traced(points: EvaluationPoints, kl_offset: float | None = None) -> RunTrace:
    return RunTrace(Clock(), points, (Meter(),), None, kl_offset)


def test_scores_are_the_metrics_on_the_first_points(points) -> None:
    trace = traced(points)
    assert trace(lambda x: 2 * x, flow_time=0.5)
    first = EvaluationPoints(points.problem, points.x[:POINTS], points.y[:POINTS], points.exact[:POINTS], points.seed)
    (point,) = trace.points
    assert point.energy_distance == energy_distance(Evaluation.of(lambda x: 2 * x, first)).value
    assert point.l2_error == pytest.approx(np.mean(np.sum((2 * first.x - first.exact) ** 2, axis=1)))
    assert point.kl is None


def test_standard_errors_are_those_of_means_over_the_points(points) -> None:
    """Against many traces on points of their own: of the error, and of its ratio to the start's, which is paired."""
    at_start, later = (lambda x: x), (lambda x: 1.5 * x)
    seen = []
    for seed in range(200):
        trace = traced(EvaluationPoints.draw(points.problem, 100, seed=seed))
        trace(at_start)
        trace(later)
        seen.append([(p.l2_error, p.l2_error_se, p.l2_ratio_se) for p in trace.points])
    (first, second), told = np.moveaxis(seen, 1, 0)[..., 0], np.mean(seen, axis=0)
    # A standard deviation of 200 is known to 5 %.
    assert told[1, 1] == pytest.approx(np.std(second, ddof=1), rel=0.2)
    assert told[1, 2] == pytest.approx(np.std(second / first, ddof=1), rel=0.2)
    assert told[0, 2] == 0
    # Pairing is what it is for.
    unpaired = np.hypot(told[1, 1] / first.mean(), told[0, 1] * second.mean() / first.mean() ** 2)
    assert told[1, 2] < unpaired


def test_traces_of_one_problem_share_what_depends_on_its_points(points) -> None:
    assert traced(points).scored is traced(points).scored


def test_scoring_is_charged_to_evaluate(points) -> None:
    trace = traced(points)

    def slow(x):
        time.sleep(0.1)
        return x

    with trace.clock.phase("fit"):
        trace(slow)
        trace(slow)
    assert trace.clock.seconds("evaluate") > 0.2
    assert trace.clock.seconds("fit") < 0.1


def test_kl_is_that_of_two_gaussians(points) -> None:
    """F of the identity has a closed form, and so has KL(N(m0, S0) | N(m, S)) = F + log Z + E[log mu0]."""
    problem = points.problem
    big = problem.source.sample(200_000, seed=1), problem.target.sample(200_000, seed=1)
    (m0, m), (s0, s) = ([cloud.mean(axis=0) for cloud in big], [np.cov(cloud.T) for cloud in big])
    inverse = np.linalg.inv(s)
    quadratic = (np.trace(inverse @ s0) + (m0 - m) @ inverse @ (m0 - m)) / 2
    exact = quadratic - 1 + np.linalg.slogdet(s)[1] / 2 - np.linalg.slogdet(s0)[1] / 2
    trace = traced(points, kl_offset(mb.estimator(FLOW), points))
    trace(lambda x: x, objective=quadratic)
    # log mu0 has standard deviation 1 in the plane; its mean is over 3000 points.
    assert trace.points[0].kl == pytest.approx(exact, abs=4 / np.sqrt(3000))


class Sampled(mb.MapEstimator):
    """Asks for V, but moves another divergence down."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLER, mb.Oracle.TARGET_POTENTIAL})

    def __init__(self, divergence="kl_score"):
        self.divergence = divergence

    def fit(self, source, target, *, seed=0, trace=None):
        return self

    def transform(self, X):
        return X


def test_kl_is_unknown_where_a_term_is_or_the_objective_is_another(points) -> None:
    assert kl_offset(mb.estimator(FLOW), points) is not None
    assert kl_offset(Sampled("kl"), points) == kl_offset(mb.estimator(FLOW), points)
    assert kl_offset(Sampled(), points) is None
    assert kl_offset(mb.estimator("bures"), points) is None
    problem = points.problem
    for source, target in (
        (mb.Source(dim=2, sampler=problem.source.sampler), problem.target),
        (problem.source, mb.Target(dim=2, sampler=problem.target.sampler, potential=problem.target.potential)),
    ):
        unknown = mb.Problem(source=source, target=target, dim=2, version=1)
        assert kl_offset(mb.estimator(FLOW), EvaluationPoints.draw(unknown, 50, seed=0)) is None


def test_a_flow_leaves_both_on_its_way(points) -> None:
    flow = mb.estimator(FLOW, family="quadratic", tau=0.5, steps=4, batch_size=1000)
    record = mb.run_cell(points.problem, flow, n_source=None, n_target=10, evaluation_points=1000)
    kl = [point.kl for point in record.trace]
    assert kl[0] > 5 * abs(kl[-1])
    assert record.trace[0].energy_distance > 5 * abs(record.trace[-1].energy_distance)


def test_without_a_truth_the_trace_still_has_the_energy_distance(points) -> None:
    problem = mb.Problem(source=points.problem.source, target=points.problem.target, dim=2, version=1)
    trace = traced(EvaluationPoints.draw(problem, 100, seed=0))
    trace(lambda x: x)
    assert trace.points[0].l2_error is None
    assert trace.points[0].l2_error_se is None
    assert trace.points[0].energy_distance > 0


def test_a_map_on_its_way_to_infinity_is_recorded_as_it_is(points) -> None:
    trace = traced(points)
    trace(lambda x: 1e200 * x)
    trace(lambda x: np.nan * x)
    assert trace.points[0].l2_error == np.inf
    assert np.isnan(trace.points[1].l2_error)


def test_a_fit_stops_at_its_cpu_budget_and_says_so(points) -> None:
    clock = Clock()
    trace = RunTrace(clock, points, (Meter(),), None, cpu_budget=0.2)
    with clock.phase("fit"):
        assert trace(lambda x: x)  # nothing was spent
        time.sleep(0.3)  # waiting is no work
        assert trace(lambda x: x)
        while clock.cpu("fit") < 0.2:
            sum(range(1000))
        assert not trace(lambda x: x)
    assert trace.stopped


def test_compilation_is_no_part_of_the_cpu_budget(points) -> None:
    clock = Clock()
    trace = RunTrace(clock, points, (Meter(),), None, cpu_budget=0.2)
    with clock.phase("fit"):
        since = time.perf_counter()
        while clock.cpu("fit") < 0.3:
            sum(range(1000))
        clock.compiling.append((since, time.perf_counter()))
        assert trace(lambda x: x)
    assert not trace.stopped


def test_a_record_says_what_the_budget_did_to_its_fit() -> None:
    problem = mb.problem("gaussian", dim=2, seed=0)
    cell = Cell(
        estimator=Spec(name="euclidean", parameters={}),
        problem=Spec(name="gaussian", parameters={}),
        n_source=200,
        n_target=200,
        seed=0,
    )
    estimator = mb.estimator("euclidean", units=4, steps=50, inner_steps=2)
    record, _ = measure(cell, problem, estimator, Conditions(evaluation_points=200, cpu_budget=1e-6))
    assert any("CPU budget" in warning for warning in record.warnings)
    assert len(record.trace) <= 2
    free, _ = measure(cell, problem, estimator, Conditions(evaluation_points=200))
    assert len(free.trace) == 51
    assert not any("CPU" in warning for warning in free.warnings)
