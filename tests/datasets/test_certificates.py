"""Every problem family, in many dimensions: certified, reproducible, and one potential for all array libraries."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch

import mongebench as mb
from mongebench.check.certificate import certify

Case = tuple[str, dict[str, Any]]

SETTINGS: list[Case] = [
    ("gaussian", {}),
    ("gaussian", {"condition": 100.0, "commuting": True, "seed": 1}),
    ("product", {}),
    ("product", {"law": "mixed", "source_law": "mixed", "quadratic": 0.3, "condition": 20.0, "seed": 1}),
    ("product", {"law": "laplace", "source_law": "gumbel", "rotate": False, "seed": 2}),
    ("product_mixture", {}),
    ("product_mixture", {"modes": 5, "separation": 8.0, "seed": 1}),
    ("radial", {}),
    ("radial", {"power": 1.0, "condition": 3.0, "seed": 1}),
    ("radial", {"power": 1.5, "quadratic": 2.0, "condition": 10.0, "seed": 2}),
    ("radial", {"power": 2.0, "seed": 3}),
    ("potential", {}),
    ("potential", {"components": 3, "sharpness": 20.0, "target_law": "mixed", "quadratic": 1.0, "seed": 1}),
    ("rings", {}),
    ("rings", {"hollow": 20.0, "condition": 1e4, "seed": 1}),
    ("ridges", {}),
    ("factors", {}),
    ("factors", {"count": 1, "strength": 20.0, "noise": 0.01, "seed": 1}),
]
CASES: list[Case] = [
    *((name, {"dim": dim, **parameters}) for dim in (2, 32) for name, parameters in SETTINGS),
    ("gaussian", {"dim": 8, "condition": 1e6}),
    ("gaussian", {"dim": 8, "condition": 1e10}),
    ("gaussian", {"dim": 1, "condition": 1e12}),
    ("gaussian", {"dim": 128}),
    ("ridges", {"dim": 8, "sharpness": 30.0, "target_law": "mixed", "seed": 1}),
    ("radial", {"dim": 128, "power": 1.0, "condition": 3.0}),
    ("mixture", {}),
]
ON_THE_LINE: list[Case] = [(name, {"dim": 1, **parameters}) for name, parameters in SETTINGS]
LONG_CASES: list[Case] = [(name, {"dim": 128, **parameters}) for name, parameters in SETTINGS]
ONE_EACH: list[Case] = [
    ("gaussian", {"dim": 3}),
    ("product", {"dim": 7, "law": "mixed", "quadratic": 0.2, "source_law": "mixed"}),
    ("product_mixture", {"dim": 3}),
    ("radial", {"dim": 3, "power": 1.5, "condition": 2.0}),
    ("potential", {"dim": 3, "target_law": "gumbel"}),
    ("mixture", {}),
    ("rings", {"dim": 3}),
    ("ridges", {"dim": 3}),
    ("factors", {"dim": 3}),
]


def label(case: object) -> str:
    return "-".join(map(str, case.values())) if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in ON_THE_LINE)],
    ids=label,
)
def test_certificate(name: str, parameters: dict[str, Any]) -> None:
    certificate = certify(mb.problem(name, **parameters), n=500, seed=3)
    assert certificate.ok, str(certificate)
    # Every family knows everything, so that no check was left out.
    assert len(certificate.checks) == 19


@pytest.mark.long
@pytest.mark.parametrize(("name", "parameters"), LONG_CASES, ids=label)
def test_certificate_in_128_dimensions(name: str, parameters: dict[str, Any]) -> None:
    certificate = certify(mb.problem(name, **parameters), n=4000, seed=4)
    assert certificate.ok, str(certificate)


def functions(problem: mb.Problem) -> list[tuple[str, Callable[[Any], Any], np.ndarray]]:
    """What is written once for all array libraries, with points to evaluate it at."""
    x, y = problem.source.sample(16), problem.target.sample(16)
    of_target = [("potential", problem.target.potential, y), ("gradient", problem.target.gradient, y)]
    if problem.name in ("potential", "ridges"):  # their densities invert a gradient, in NumPy
        return of_target
    return [*of_target, ("log_density", problem.source.log_density, x), ("score", problem.source.score, x)]


def close(values: Any, expected: np.ndarray, epsilon: float) -> None:
    # Sums of d terms of the size of the largest value, and potentials that magnify the rounding of their argument.
    np.testing.assert_allclose(np.asarray(values), expected, rtol=0, atol=100 * epsilon * (1 + np.abs(expected).max()))


@pytest.mark.parametrize(("name", "parameters"), ONE_EACH, ids=label)
def test_one_function_for_all_array_libraries(name: str, parameters: dict[str, Any]) -> None:
    for _, function, points in functions(mb.problem(name, **parameters)):
        expected = function(points)
        single, double = np.finfo(np.float32).eps, np.finfo(np.float64).eps
        numpy_single = function(points.astype(np.float32))
        assert numpy_single.dtype == np.float32
        close(numpy_single, expected, single)
        for dtype, epsilon in ((torch.float32, single), (torch.float64, double)):
            values = function(torch.tensor(points, dtype=dtype))
            assert values.dtype == dtype
            close(values, expected, epsilon)
        given = jax.numpy.asarray(points, dtype=np.float32)
        assert isinstance(function(given), jax.Array)
        close(function(given), expected, single)
        close(jax.jit(function)(given), expected, single)


@pytest.mark.parametrize(("name", "parameters"), ONE_EACH, ids=label)
def test_automatic_derivatives_are_the_stated_ones(name: str, parameters: dict[str, Any]) -> None:
    of = {label: (function, points) for label, function, points in functions(mb.problem(name, **parameters))}
    for value, derivative in (("potential", "gradient"), ("log_density", "score")):
        if value not in of:
            continue
        function, points = of[value]
        expected = of[derivative][0](points)
        given = jax.numpy.asarray(points, dtype=np.float32)
        close(jax.grad(lambda x, f=function: f(x).sum())(given), expected, np.finfo(np.float32).eps)
        leaf = torch.tensor(points, dtype=torch.float64, requires_grad=True)
        function(leaf).sum().backward()
        close(leaf.grad, expected, np.finfo(np.float64).eps)


@pytest.mark.parametrize("power", [1.0, 1.5, 4.0])
def test_automatic_derivative_at_the_origin(power: float) -> None:
    potential = mb.problem("radial", power=power).target.potential
    assert not np.asarray(jax.grad(lambda y: potential(y).sum())(jax.numpy.zeros((1, 2)))).any()


@pytest.mark.parametrize(("name", "parameters"), ONE_EACH, ids=label)
def test_samples_are_reproducible_and_the_two_sides_independent(name: str, parameters: dict[str, Any]) -> None:
    first, second = mb.problem(name, **parameters), mb.problem(name, **parameters)
    n = 2000
    for side in ("source", "target"):
        draws = getattr(first, side).sample(n, seed=7)
        np.testing.assert_array_equal(draws, getattr(second, side).sample(n, seed=7))
        assert not np.isin(draws, getattr(first, side).sample(n, seed=8)).any()
    u, y = first.truth(first.source.sample(n, seed=7)), first.target.sample(n, seed=7)
    d = first.dim
    # Correlations of independent coordinates have standard error n^-1/2; five of them cover 2 d^2 <= 98 numbers.
    for left in (u, np.abs(u - u.mean(axis=0))):
        right = y if left is u else np.abs(y - y.mean(axis=0))
        assert np.abs(np.corrcoef(left.T, right.T)[:d, d:]).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize(("name", "parameters"), ONE_EACH, ids=label)
def test_digest_is_that_of_the_parameters(name: str, parameters: dict[str, Any]) -> None:
    digest = mb.problem(name, **parameters).digest
    assert mb.problem(name, **parameters).digest == digest
    if parameters:
        others = [{**parameters, "seed": 1}, {**parameters, "dim": parameters["dim"] + 1}]
        assert len({digest, *(mb.problem(name, **other).digest for other in others)}) == 3


@pytest.mark.parametrize(("name", "parameters"), ONE_EACH, ids=label)
def test_truth_far_outside_the_samples(name: str, parameters: dict[str, Any]) -> None:
    problem = mb.problem(name, **parameters)
    x = 50.0 * problem.source.sample(20)
    u = problem.truth(x)
    assert np.isfinite(u).all()
    assert (((x[1:] - x[:-1]) * (u[1:] - u[:-1])).sum(axis=1) >= 0).all()


@pytest.mark.parametrize(("name", "parameters"), ONE_EACH, ids=label)
def test_no_points_give_no_points(name: str, parameters: dict[str, Any]) -> None:
    problem = mb.problem(name, **parameters)
    nothing = np.empty((0, problem.dim))
    assert problem.truth(nothing).shape == problem.truth_inverse(nothing).shape == nothing.shape
