"""Scores without a truth, against what is known where there is one."""

import numpy as np
import pytest

import mongebench as mb
from mongebench.estimators.held_out import Fold
from mongebench.selection.scores import DualPotential, c_transform, score


@pytest.fixture
def pair():
    return mb.problem("gaussian", dim=3, condition=5.0, seed=2)


@pytest.fixture
def fitted(pair):
    return mb.estimator("bures").fit(pair.source.sample(500, seed=1), pair.target.sample(500, seed=2))


class WithoutPotential:
    """The same map, which does not tell its potential."""

    def __init__(self, fitted) -> None:
        self.transform = fitted.transform


def test_a_potential_that_is_integrated_is_the_estimators_own_up_to_a_constant(pair, fitted) -> None:
    x = pair.source.sample(50, seed=3)
    own, integrated = DualPotential(fitted, np.zeros(3)), DualPotential(WithoutPotential(fitted), x.mean(axis=0))
    assert own.own
    assert not integrated.own
    difference = own.value(x) - integrated.value(x)  # Gauss and Legendre's rule is exact for a quadratic
    np.testing.assert_allclose(difference, difference[0], atol=1e-9)


def test_the_c_transform_of_a_quadratic_is_that_of_its_conjugate(pair, fitted) -> None:
    # T(x) = A x + b: f^c(y) = |y|^2 / 2 - phi*(y), with the minimiser x = A^{-1} (y - b) inside the box of the starts.
    b = fitted.transform(np.zeros((1, 3)))[0]
    A = fitted.transform(np.eye(3)) - b
    inner = pair.source.sample(40, seed=4) * 0.5
    y = fitted.transform(inner)
    f = DualPotential(fitted, np.zeros(3))
    starts = pair.source.sample(400, seed=5)
    expected = ((inner - y) ** 2).sum(axis=1) / 2 - f.value(inner)
    np.testing.assert_allclose(c_transform(f, y, starts), expected, atol=1e-6 * np.linalg.norm(A))


def test_the_exact_map_attains_half_the_squared_distance_and_others_less(pair) -> None:
    x, y = pair.source.sample(4000, seed=6), pair.target.sample(4000, seed=7)
    fold = Fold(x[:2000], x[2000:], y[:2000], y[2000:])

    class Exact:
        transform = staticmethod(pair.truth)

    exact = score(Exact(), fold, most=2000, seed=0)
    distance = ((x - pair.truth(x)) ** 2).sum(axis=1) / 2
    noise = np.hypot(exact.at_source.std(), exact.at_target.std()) / np.sqrt(2000) + distance.std() / np.sqrt(4000)
    assert exact.semi_dual == pytest.approx(distance.mean(), abs=3 * noise)
    assert exact.metrics["monotonicity_violation"].value == 0
    for name in ("identity", "mean_shift"):
        other = score(mb.estimator(name).fit(fold.x_fit, fold.y_fit), fold, most=2000, seed=0)
        gaps = exact.at_source - other.at_source, exact.at_target - other.at_target  # paired: on the same points
        assert sum(gap.mean() for gap in gaps) > 5 * np.hypot(*(gap.std() / np.sqrt(2000) for gap in gaps))


def test_an_image_that_does_not_reach_a_point_costs_no_more_than_the_data_say(pair) -> None:
    """A map into the hull of the sample: over all of space the conjugate of its potential is infinite outside."""
    x, y = pair.source.sample(120, seed=8), pair.target.sample(120, seed=9)
    fold = Fold(x[:100], x[100:], y[:100], y[100:])
    scores = {
        name: score(mb.estimator(name, **given).fit(fold.x_fit, fold.y_fit), fold, most=100, seed=0).semi_dual
        for name, given in (("entropic", {"epsilon": 0.1}), ("identity", {}))
    }
    assert scores["entropic"] > scores["identity"]
