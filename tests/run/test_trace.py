"""A trace scores every map it is handed: against T*, against gamma, and in KL where densities or T* tell it."""

import time
from dataclasses import replace

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
from mongebench.run.trace import POINTS, RunTrace

FLOW = "flow_implicit"


@pytest.fixture(scope="module")
def points() -> EvaluationPoints:
    return EvaluationPoints.draw(mb.problem("gaussian", dim=2, seed=3), 3000, seed=0)


def traced(points: EvaluationPoints) -> RunTrace:
    return RunTrace(Clock(), points, (Meter(),), None)


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


class Affine:
    """x -> x A + b, A symmetric and positive definite, as flows hand it to the trace."""

    def __init__(self, matrix, shift):
        self.matrix, self.shift = np.asarray(matrix, dtype=float), np.asarray(shift, dtype=float)

    def __call__(self, x):
        return x @ self.matrix + self.shift

    def log_det(self, x):
        return np.full(len(x), np.linalg.slogdet(self.matrix)[1])


def moments(measure):
    """(mean, covariance) of a Gaussian, read off the density: log p at 0, at units and at sums of two of them."""
    density = getattr(measure, "log_density", None) or (lambda x: -measure.potential(x))
    units = np.eye(2)
    at = lambda *points: np.asarray(density(np.array(points)), dtype=float)  # noqa: E731
    zero, one, two = at([0.0, 0.0]), at(*units), at(*-units)
    diagonal = 2 * zero - one - two
    mixed = zero + at(units[0] + units[1]) - one[0] - one[1]
    precision = np.diag(diagonal) - mixed * (1 - np.eye(2))
    return np.linalg.solve(precision, (one - two) / 2), np.linalg.inv(precision)


def exact_kl(problem, map):
    """KL(N(A m0 + b, A S0 A) | N(m, S))."""
    (m0, s0), (m, s) = moments(problem.source), moments(problem.target)
    mean, covariance = map(m0), map.matrix @ s0 @ map.matrix
    gap, inverse = mean - m, np.linalg.inv(s)
    log_det = np.linalg.slogdet(s)[1] - np.linalg.slogdet(covariance)[1]
    return (np.trace(inverse @ covariance) + gap @ inverse @ gap - 2 + log_det) / 2


def exact_map(problem):
    slopes = problem.truth(np.eye(2)) - problem.truth(np.zeros((2, 2)))
    return Affine(slopes, problem.truth(np.zeros((1, 2)))[0])


@pytest.mark.parametrize("away", [1.0, 1e-1, 1e-3])
def test_kl_is_that_of_two_gaussians_however_small(points, away):
    """By the closed form, to a few percent of itself: at 1e-3 of the way to the identity it is about 1e-6."""
    best, trace = exact_map(points.problem), traced(points)
    maps = [Affine(np.eye(2), np.zeros(2))]
    maps += [Affine(best.matrix + away * (np.eye(2) - best.matrix), (1 - away) * best.shift)]
    for step, one in enumerate(maps):
        trace(one, flow_time=float(step))
    start, point = trace.points
    for found, one in zip(trace.points, maps, strict=True):
        exact = exact_kl(points.problem, one)
        assert abs(found.kl - exact) < 4 * found.kl_se
        assert found.kl_se < 0.1 * exact
    assert point.kl_ratio_se <= point.kl_se / start.kl + point.kl / start.kl**2 * start.kl_se + 1e-12  # paired
    assert point.kl_to_l2_se > 0
    assert point.l2_to_kl_se > 0
    assert start.kl_ratio_se == pytest.approx(0, abs=1e-12)


def test_standard_errors_of_kl_and_of_its_ratios_are_those_of_other_draws(points):
    """Over 60 draws of 300 points each, whose own spread the mean standard error must be."""
    best = exact_map(points.problem)
    maps = [Affine(np.eye(2), np.zeros(2)), Affine(0.8 * best.matrix + 0.2 * np.eye(2), 0.9 * best.shift)]
    found = []
    for seed in range(60):
        trace = traced(EvaluationPoints.draw(points.problem, 300, seed=seed))
        for step, one in enumerate(maps):
            trace(one, flow_time=float(step))
        a, b = trace.points
        ratios = (b.kl / a.kl, b.l2_error / a.kl, b.kl / a.l2_error, b.kl)
        found.append((*ratios, b.kl_ratio_se, b.l2_to_kl_se, b.kl_to_l2_se, b.kl_se))
    spread, told = np.std(found, axis=0)[:4], np.mean(found, axis=0)[4:]
    assert told == pytest.approx(spread, rel=0.4)


def test_without_densities_the_exact_map_tells_kl(points):
    """By differences of T* at the same points: the same number, to rounding of the differences."""
    problem = points.problem
    target = problem.target
    unnormalised = mb.Target(dim=2, sampler=target.sampler, potential=target.potential)
    told = {"truth": problem.truth, "truth_tier": problem.truth_tier}
    by_map = mb.Problem(source=problem.source, target=unnormalised, dim=2, version=1, **told)
    unknown = mb.Problem(source=problem.source, target=unnormalised, dim=2, version=1)
    one = Affine(np.diag([1.5, 0.7]), [0.3, 0.0])
    found = []
    drawn = EvaluationPoints.draw(problem, 500, seed=0)
    for given in (problem, by_map, unknown):
        trace = traced(replace(drawn, problem=given, exact=drawn.exact if given.truth else None))
        trace(one, flow_time=0.0)
        found.append(trace.points[0].kl)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] is None


def test_no_kl_without_flow_time_or_jacobian(points):
    trace = traced(points)
    trace(Affine(np.eye(2), np.zeros(2)))
    trace(lambda x: x, flow_time=1.0)
    assert [point.kl for point in trace.points] == [None, None]


def test_a_flow_leaves_both_on_its_way(points) -> None:
    flow = mb.estimator(FLOW, family="quadratic", tau=0.5, steps=4, batch_size=1000)
    record = mb.run_cell(points.problem, flow, n_source=None, n_target=10, evaluation_points=1000)
    kl = [point.kl for point in record.trace]
    assert kl[0] > 5 * kl[-1] > 0
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


@pytest.mark.parametrize("family", [{"family": "quadratic"}, {"family": "ridge", "units": 6}])
def test_flows_hand_over_log_det_of_their_maps(points, family) -> None:
    """Against central differences of the map itself, at the start and after a step."""
    x = points.x[:20]
    pairs = []

    def watch(map, *, flow_time=None, **diagnostics):
        h = 1e-5
        columns = [(map(x + h * unit) - map(x - h * unit)) / (2 * h) for unit in np.eye(2)]
        pairs.append((map.log_det(x), np.linalg.slogdet(np.stack(columns, axis=2))[1]))
        return True

    flow = mb.estimator(FLOW, **family, tau=0.3, steps=1, batch_size=200, inner_steps=2)
    flow.fit(points.problem.source, points.problem.target, trace=watch)
    assert len(pairs) == 2
    for found, exact in pairs:
        np.testing.assert_allclose(found, exact, atol=1e-6)
    assert np.abs(pairs[1][0]).max() > 0.01
