"""What all metrics share: the registry, reproducibility and odd inputs."""

import numpy as np
import pytest

from mongebench.core.errors import ContractViolation, InvalidInput
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.metrics import (
    Direction,
    Evaluation,
    EvaluationPoints,
    Metric,
    NonFiniteMap,
    Value,
    base,
    compute,
    evaluate,
)
from mongebench.plugins import METRICS, find, metrics

ALL = {name: find(METRICS, name).load() for name in metrics()}
by_metric = pytest.mark.parametrize("name", ALL)


def gaussian(d=2, size=None, exact=True):
    known = {"truth": lambda x: 2 * x + 1, "truth_tier": TruthTier.CLOSED_FORM} if exact else {}
    return Problem(
        source=Source(dim=d, sampler=lambda n, rng: rng.normal(size=(n, d)), size=size),
        target=Target(dim=d, sampler=lambda n, rng: 1 + 2 * rng.normal(size=(n, d)), total_variance=4.0 * d),
        dim=d,
        version=1,
        **known,
    )


def test_registry():
    assert len(ALL) == 12
    for name, metric in ALL.items():
        assert isinstance(metric, Metric)
        assert metric.__name__ == name
        assert metric.__doc__


def test_evaluate_gives_all_metrics_as_plain_numbers():
    values = evaluate(lambda x: x, gaussian(), n=50)
    assert set(values) == set(ALL)
    for value in values.values():
        assert all(type(number) is float for number in (value.value, value.standard_error, value.floor))
        assert value.standard_error >= 0
        assert value.floor >= 0


def test_metrics_against_the_truth_are_left_out_without_one():
    values = evaluate(lambda x: x, gaussian(exact=False), n=50)
    assert set(values) == {name for name, metric in ALL.items() if not metric.needs_truth}
    assert len(values) == 8


def test_exact_map_is_at_every_floor():
    values = evaluate(lambda x: 2 * x + 1, gaussian(8), n=500, seed=3)
    for name, value in values.items():
        match ALL[name].direction:
            case Direction.LOWER:
                assert value.value <= value.floor, name
            case Direction.HIGHER:
                assert value.value >= 1 - value.floor, name
            case Direction.ZERO:
                assert abs(value.value) <= value.floor, name


def test_wrong_map_is_above_every_floor():
    turned = np.array([[-0.5, -1.0], [1.0, -0.5]])  # 117 degrees
    values = evaluate(lambda x: x @ turned.T, gaussian(), n=500)
    for name, value in values.items():
        match ALL[name].direction:
            case Direction.LOWER:
                assert value.value > value.floor + 3 * value.standard_error, name
            case Direction.HIGHER:
                assert value.value < 1 - value.floor - 3 * value.standard_error, name
            case Direction.ZERO:
                assert abs(value.value) > value.floor + 3 * value.standard_error, name


@by_metric
def test_same_points_same_value_whatever_came_before(name):
    points = EvaluationPoints.draw(gaussian(), 60, 1)
    alone = ALL[name](Evaluation.of(np.tanh, EvaluationPoints.draw(gaussian(), 60, 1)))
    compute(Evaluation.of(lambda x: x, points))
    assert compute(Evaluation.of(np.tanh, points))[name] == alone
    assert ALL[name](Evaluation.of(np.tanh, EvaluationPoints.draw(gaussian(), 60, 2))) != alone or alone.value == 0


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 3), (3, 2), (4, 5), (5, 4), (2, 700)])
@pytest.mark.parametrize("d", [1, 2, 12])
def test_few_points(evaluation, rng, n, m, d):
    e = evaluation(rng.normal(size=(n, d)), rng.normal(size=(m, d)), np.tanh, truth=lambda x: 2 * x)
    for name, value in compute(e).items():
        assert np.isfinite(value.value), name
        known = m >= 4 or not name.startswith(("energy", "mmd"))
        assert np.isfinite([value.standard_error, value.floor]).all() == known, name


def test_constant_and_repeated_points_do_not_warn(evaluation, rng):
    column = np.hstack([rng.normal(size=(40, 1)), np.full((40, 1), 3.0)])
    atoms = rng.integers(2, size=(40, 2)).astype(float)
    for x, y in ((column, column + 1), (atoms, atoms[:30]), (np.ones((40, 2)), column), (column, np.ones((40, 2)))):
        for name, value in compute(evaluation(x, y, lambda x: x + 1, truth=lambda x: x + 1)).items():
            if name not in ("uvp", "mmd_squared") or y.var() > 0:
                assert np.isfinite(value.value), name


def test_diverged_map_does_not_warn(evaluation, rng):
    values = compute(evaluation(*rng.normal(size=(2, 50, 2)), lambda x: -1e200 * x, truth=lambda x: 2 * x))
    assert values["l2_error"].value == np.inf
    # No metric takes it for a good map.
    assert not any(value.value <= value.floor for name, value in values.items() if name not in ("cosine", "cost_gap"))


def test_maps_that_reuse_one_buffer(rng):
    buffer = np.empty((20_000, 2))

    def careless(x):
        out = buffer[: len(x)]
        np.multiply(x, 3.0, out=out)
        return out

    clean = evaluate(lambda x: 3.0 * x, gaussian(), n=40)
    assert evaluate(careless, gaussian(), n=40) == clean


def test_maps_that_break_the_contract():
    with pytest.raises(NonFiniteMap, match="at 50 of 50"):
        evaluate(lambda x: x * np.nan, gaussian(), n=50)
    with pytest.raises(ContractViolation, match=r"\(50, 1\)"):
        evaluate(lambda x: x[:, :1], gaussian(), n=50)
    with pytest.raises(ContractViolation, match="copy it first"):
        evaluate(lambda x: np.add(x, 1, out=x), gaussian(), n=50)


def test_one_point_a_side_is_not_enough():
    with pytest.raises(InvalidInput, match="at least 2 points per side"):
        evaluate(lambda x: x, gaussian(), n=1)
    with pytest.raises(InvalidInput, match="1 source"):
        evaluate(lambda x: x, gaussian(size=1), n=100)


def test_variance_of_mean():
    assert base.variance_of_mean(np.array([0.0, 2.0])) == 1.0
    assert np.isnan(base.variance_of_mean(np.array([1.0])))


def test_own_metrics_need_no_more_than_a_function():
    @base.metric(unit="length", direction=Direction.LOWER)
    def farthest(evaluation):
        """Length of the longest image."""
        return Value(float(np.linalg.norm(evaluation.pushed, axis=1).max()), 0.0, 0.0)

    assert farthest(Evaluation.of(lambda x: 0 * x, EvaluationPoints.draw(gaussian(), 10, 0))).value == 0
    assert farthest.__doc__ == "Length of the longest image."
