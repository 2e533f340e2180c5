"""A certificate: independent checks that a problem's measures, its potential and its exact map are what they say.

    >>> import mongebench as mb
    >>> from mongebench.certificate import certify
    >>> certify(mb.problem("gaussian", dim=2)).ok
    True

Nothing here looks at how a problem was built. Laws are compared by samples, derivatives by finite differences, and
where density, potential and normaliser are known the map is put into the Monge-Ampere equation, which has no other
convex solution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from mongebench.core.arrays import Points
from mongebench.core.errors import InvalidInput
from mongebench.core.estimator import Map
from mongebench.core.measure import Pointwise
from mongebench.core.problem import Problem
from mongebench.metrics.base import Evaluation, EvaluationPoints
from mongebench.metrics.energy_distance import energy_distance

Array = NDArray[np.float64]

FALSE_ALARM = 1e-6
"""Probability with which each statistical check refuses a correct problem."""
STEP = 1e-4
"""Of central differences of fourth order, in units of the typical size of a coordinate."""
VALUE_ERROR = 1e-12
"""Relative error of the values of maps and potentials, and of the points they are taken at: rounding, mostly."""
EVALUATIONS = 4096
"""Of a map, for all its Jacobians together (but for at least four points)."""


@dataclass(frozen=True)
class Check:
    """One check, passed if `value` <= `tolerance`.

    Attributes
    ----------
    name
        What is checked.
    value, tolerance
        Their meaning is in `meaning`.
    meaning
        What the value is, and where the tolerance comes from.
    """

    name: str
    value: float
    tolerance: float
    meaning: str

    @property
    def ok(self) -> bool:
        """Whether the check was passed; NaN never passes."""
        return self.value <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        return f"{self.name:24} {verdict:6} {self.value:10.3g} <= {self.tolerance:<10.3g} {self.meaning}"


@dataclass(frozen=True)
class Certificate:
    """All checks that a problem's knowledge allows; `certificate["monge_ampere"]` is one of them."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all were passed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of those that were not."""
        return tuple(check.name for check in self.checks if not check.ok)

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks))


def certify(problem: Problem, *, n: int = 4000, seed: int = 0) -> Certificate:
    """Check a problem against everything it claims to know.

    Parameters
    ----------
    problem
        From `mongebench.problem`.
    n
        Samples a side for the comparison of laws; derivatives are checked at fewer points.
    seed
        Of the samples.

    Raises
    ------
    InvalidInput
        n below 100, or a problem that claims nothing (point clouds).
    """
    if n < 100:
        raise InvalidInput(f"certify compares laws by samples and needs n >= 100, got n = {n}.")
    points = EvaluationPoints.draw(problem, n, seed)
    checks = (*_laws(points), *_map(points), *_derivatives(points))
    if not checks:
        raise InvalidInput(f"{problem!r} states no exact map, no density and no potential: nothing can be checked.")
    return Certificate(checks)


def _laws(points: EvaluationPoints) -> Iterator[Check]:
    """Moments and energy distance: does the map push the source forward to the target?"""
    problem, y = points.problem, points.y
    stated = problem.target.total_variance
    if stated is not None and problem.target.size is None:
        squares = ((y - y.mean(axis=0)) ** 2).sum(axis=1)
        yield Check(
            "total_variance",
            float(abs(squares.mean() - stated)),
            float(_normal_quantile(1) * squares.std() / np.sqrt(len(y)) + stated / len(y)),
            "distance of the target's stated total variance from that of n samples; normal quantile x standard error",
        )
    if points.exact is None:
        return
    evaluation = Evaluation.of(problem.truth, points)
    u, error = evaluation.pushed, problem.truth_error
    yield _moment_check("pushforward_mean", u, y, error)
    # Products of centred coordinates: a shift, which the first check sees, would show here as well.
    yield _moment_check(
        "pushforward_covariance",
        u - u.mean(axis=0),
        y - y.mean(axis=0),
        error * (2 * np.sqrt(problem.total_variance) + error),
        order=2,
    )
    distance = energy_distance(evaluation)
    # The null law is a sum of weighted centred chi-squares; one with a single weight has the heaviest tail.
    heaviest = (chi2.isf(FALSE_ALARM, 1) - 1) / np.sqrt(2)
    yield Check(
        "energy_distance",
        distance.value,
        heaviest * distance.floor / 2 + 2 * error,
        "energy distance of T*(x) from fresh y; quantile of its null law (floor = 2 sd) + 2 truth_error",
    )


def _moment_check(name: str, first: Points, second: Points, slack: float, order: int = 1) -> Check:
    """Compares means of all coordinates (order 1) or of all products of two (order 2)."""
    means, variances = [], []
    for points in (first, second):
        left = points if order == 2 else np.ones((len(points), 1))
        mean = left.T @ points / len(points)
        means.append(mean)
        variances.append(((left**2).T @ points**2 / len(points) - mean**2) / len(points))
    difference = np.abs(means[0] - means[1]) - slack
    return Check(
        name,
        float(np.max(difference / np.sqrt(variances[0] + variances[1]))),
        _normal_quantile(difference.size),
        "largest difference in standard errors, less what truth_error explains; normal quantile (Bonferroni)",
    )


def _normal_quantile(count: int) -> float:
    return float(norm.isf(FALSE_ALARM / (2 * count)))


def _map(points: EvaluationPoints) -> Iterator[Check]:
    """Is the map the gradient of a convex function, and does it solve the Monge-Ampere equation?"""
    problem, x, u = points.problem, points.x, points.exact
    if u is None:
        return
    apart, images_apart = x - np.roll(x, 1, axis=0), u - np.roll(u, 1, axis=0)
    slopes = (apart * images_apart).sum(axis=1) / (apart**2).sum(axis=1)
    yield Check(
        "monotone",
        -float(slopes.min()),
        1e-9 * float(np.abs(slopes).max()),
        "-min <x - x', T x - T x'> / |x - x'|^2 over random pairs; rounding",
    )
    if problem.truth_inverse:
        back = np.linalg.norm(problem.truth_inverse(u) - x, axis=1) / (1 + np.linalg.norm(x, axis=1))
        yield Check(
            "inverse", float(back.max()), 1e-6, "max |T^-1(T x) - x| / (1 + |x|); accuracy of iterative inverses"
        )

    some = _few(x)
    jacobian, jacobian_error = _jacobian(problem.truth, some)
    size = np.abs(jacobian).max() or 1.0
    yield Check(
        "jacobian_symmetric",
        float(np.abs(jacobian - np.swapaxes(jacobian, 1, 2)).max() / size),
        float(jacobian_error.max() / size),
        "max |DT - DT^T| / max |DT|; error of finite differences",
    )
    smallest = np.linalg.eigvalsh((jacobian + np.swapaxes(jacobian, 1, 2)) / 2)[:, 0]
    yield Check(
        "jacobian_positive",
        float(-smallest.min() / size),
        float(problem.dim * jacobian_error.max() / size),
        "-smallest eigenvalue of DT / max |DT|; error of finite differences",
    )
    source, target = problem.source, problem.target
    if source.log_density and target.potential and target.log_normaliser is not None:
        image = u[: len(some)]
        log_determinant = np.linalg.slogdet(jacobian)[1]
        residual = source.log_density(some) + target.potential(image) + target.log_normaliser - log_determinant
        # d log det DT = tr(DT^-1 dDT), entry by entry. An inexact map is taken to err by truth_error, and by as much
        # again over the size of the source.
        inverses = np.abs(np.linalg.pinv(jacobian)).sum(axis=(1, 2))
        slack = problem.truth_error / float(x.std())
        tolerance = inverses * (jacobian_error + slack) + VALUE_ERROR * (1 + np.abs(target.potential(image)))
        if problem.truth_error:
            tolerance += problem.truth_error * np.linalg.norm(target.gradient(image), axis=1)
        yield Check(
            "monge_ampere",
            float(np.max(np.abs(residual) / tolerance)),
            1.0,
            "|log mu0(x) + V(T x) + log Z - log det DT| over what finite differences and truth_error explain, at worst",
        )


def _derivatives(points: EvaluationPoints) -> Iterator[Check]:
    """Gradients against finite differences, and the claimed convexity of V against its Hessian."""
    problem = points.problem
    source, target = problem.source, problem.target
    rng = points.rng(0)
    if target.potential and target.gradient:
        yield _gradient_check("target_gradient", target.potential, target.gradient, points.y[:64], rng)
    if source.log_density and source.score:
        yield _gradient_check("source_score", source.log_density, source.score, points.x[:64], rng)
    if target.gradient and problem.strong_convexity is not None:
        hessian, error = _jacobian(target.gradient, _few(points.y))
        smallest = np.linalg.eigvalsh((hessian + np.swapaxes(hessian, 1, 2)) / 2)[:, 0]
        worst = int(np.argmax(problem.strong_convexity - smallest - problem.dim * error))
        yield Check(
            "strong_convexity",
            float(problem.strong_convexity - smallest[worst]),
            float(problem.dim * error[worst]),
            "lambda - smallest eigenvalue of V'' where that is worst; error of finite differences",
        )


def _gradient_check(name: str, function: Pointwise, gradient: Map, at: Points, rng: np.random.Generator) -> Check:
    directions = rng.standard_normal(at.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    difference, error = _difference(lambda x: np.asarray(function(x))[:, None], at, directions)
    claimed = (np.asarray(gradient(at)) * directions).sum(axis=1)
    return Check(
        name,
        float(np.max(np.abs(difference[:, 0] - claimed) / error)),
        1.0,
        "derivative in a random direction against finite differences, over the error of the latter, at worst",
    )


def _difference(function: Map, at: Points, directions: Points) -> tuple[Array, Array]:
    """Directional derivatives, (n, k), by differences of fourth order, and a bound of their error, (n,)."""
    step = STEP * max(1e-3, float(np.abs(at).mean()))
    offsets = step * np.array([1.0, -1.0, 2.0, -2.0, 4.0, -4.0])
    values = np.asarray(function((at + offsets[:, None, None] * directions).reshape(-1, at.shape[1])))
    values = values.reshape(len(offsets), len(at), -1)
    narrow, middle, wide = (values[::2] - values[1::2]) / (2 * offsets[::2, None, None])
    fine, coarse = (4 * narrow - middle) / 3, (4 * middle - wide) / 3
    rounding = VALUE_ERROR * ((1 + np.abs(values).max(axis=(0, 2))) / step + np.abs(fine).max() / STEP)
    return fine, 4 * np.abs(fine - coarse).max(axis=1) + rounding


def _few(points: Points) -> Points:
    """As many points as Jacobians by finite differences are affordable at."""
    return points[: min(64, max(4, EVALUATIONS // (6 * points.shape[1])))]


def _jacobian(function: Map, at: Points) -> tuple[Array, Array]:
    """Jacobians (n, k, d) by finite differences, and a bound of the error of their entries at each point, (n,)."""
    n, d = at.shape
    columns, error = _difference(function, np.repeat(at, d, axis=0), np.tile(np.eye(d), (n, 1)))
    return np.swapaxes(columns.reshape(n, d, -1), 1, 2), error.reshape(n, d).max(axis=1)
