"""Instances of a family are independent: what one draws says nothing of what another draws."""

import numpy as np
import pytest

import mongebench as mb
from mongebench.core.session import views
from mongebench.metrics.base import EvaluationPoints
from mongebench.run.measurement import Conditions, measure
from mongebench.run.record import Cell, Spec


def invariants(points: np.ndarray) -> np.ndarray:
    """What no rotation changes: the sorted distances from the mean."""
    return np.sort(np.linalg.norm(points - points.mean(axis=0), axis=1))


def drawn(instance: int, seed: int = 0) -> list[np.ndarray]:
    problem = mb.problem("product", dim=2, seed=instance)
    source, target, _ = views(problem, mb.estimator("bures"), 100, 100, seed)
    points = EvaluationPoints.draw(problem, 100, 0)
    return [invariants(cloud) for cloud in (source.samples, target.samples, points.x, points.y)]


@pytest.mark.parametrize("other", [(12, 0), (11, 1), (0, 0)])
def test_instances_and_seeds_draw_points_of_their_own(other: tuple[int, int]) -> None:
    """`product` in the plane is one law, rotated: of equal draws its instances would have equal invariants."""
    first, second = drawn(11), drawn(*other)
    sides = slice(0, 2) if other[0] == 11 else slice(None)  # the seeds of an instance share its evaluation points
    for one, two in zip(first[sides], second[sides], strict=True):
        # Quantiles of two samples of 100 points differ by 0.1 standard deviations or so; those of equal draws do not.
        assert np.abs(one - two).max() > 1e-3
    assert all(np.array_equal(one, two) for one, two in zip(first, drawn(11), strict=True))


def test_the_first_instance_keeps_the_seed_of_the_cell() -> None:
    problem = mb.problem("product", dim=2)
    source, _, _ = views(problem, mb.estimator("bures"), 100, 100, 3)
    assert np.array_equal(source.samples, problem.source.sample(100, seed=3))


def test_a_fit_in_python_is_the_fit_of_the_cell() -> None:
    problem, estimator = mb.problem("product", dim=2, seed=11), mb.estimator("bures")
    fitted = mb.fit(problem, estimator, n_source=100, n_target=100, seed=4)
    cell = Cell(
        estimator=Spec(name="bures", parameters={}),
        problem=Spec(name="product", parameters={"dim": 2, "seed": 11}),
        n_source=100,
        n_target=100,
        seed=4,
    )
    record, _ = measure(cell, problem, estimator, Conditions(evaluation_points=500))
    again = mb.evaluate(fitted.transform, problem, n=500)
    assert record.metrics["uvp"].value == pytest.approx(again["uvp"].value, rel=1e-12)
