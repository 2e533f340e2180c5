"""The floor of a family, against regressions in closed form."""

import numpy as np
import pytest

import mongebench as mb
from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.estimators.flow.machinery.floor import family_floor
from mongebench.estimators.flow.schemes.implicit import FlowImplicit


def test_the_best_affine_map_in_one_dimension_is_the_line_of_least_squares():
    """T* increases, so that the line does, and is the gradient of a convex quadratic."""
    problem = mb.problem("product", dim=1)
    found = family_floor(FlowImplicit("quadratic"), problem, points=2000, restarts=1)
    x = problem.source.sample(40_000, seed=9)
    y = problem.truth(x)
    correlation = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    exact = (1 - correlation**2) * y.var()
    assert found.value == pytest.approx(exact, abs=4 * found.standard_error)
    assert found.value > 5 * found.standard_error


def test_a_family_that_holds_the_exact_map_has_no_floor():
    problem = mb.problem("gaussian", dim=2)
    assert family_floor(FlowImplicit("quadratic"), problem, points=300, restarts=1).value < 1e-12


def test_a_richer_family_leaves_less():
    problem = mb.problem("product", dim=1)
    affine, bent = (
        family_floor(flow, problem, points=500, restarts=1, evaluations=30).value
        for flow in (FlowImplicit("quadratic"), FlowImplicit("ridge", units=4))
    )
    assert bent < 0.5 * affine


def test_what_it_refuses():
    problem = mb.problem("gaussian", dim=2)
    with pytest.raises(InvalidParameter, match="dictionary"):
        family_floor(FlowImplicit("dictionary"), problem)
    unknown = mb.Problem(source=problem.source, target=problem.target, dim=2, version=1)
    with pytest.raises(InvalidInput, match="exact map"):
        family_floor(FlowImplicit("ridge"), unknown)
