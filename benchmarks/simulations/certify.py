"""Which planted errors `certify` finds: a table of errors x families, each cell the checks that refuse the problem.

    python benchmarks/simulations/certify.py [--dims 2 8] [--families gaussian ...] [--errors "V x 3" ...]

An error that a problem does not claim the opposite of is shown as `-`: one of the map where the target is symmetric
under it, of convexity where lambda is 0 already. Exit code 1 if any planted error passes.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

import mongebench as mb
from mongebench.check.certificate import Certificate, certify
from mongebench.check.differences import Frame
from mongebench.core.measure import Unknown

FAMILIES = (
    "gaussian", "product", "product_mixture", "radial", "potential", "mixture", "rings", "ridges", "factors",
)  # fmt: skip
GAUSSIAN_SOURCES = ("gaussian", "product", "radial", "factors")
GAUSSIAN_TARGETS = ("gaussian", "product_mixture", "potential", "mixture", "rings", "factors")
Error = Callable[[mb.Problem], mb.Problem | None]
ERRORS: dict[str, Error] = {}


def planted(name: str) -> Callable[[Error], Error]:
    """Registers an error: problem -> the same with the error, or None where it would be none."""

    def register(error: Error) -> Error:
        ERRORS[name] = error
        return error

    return register


def frame_of(measure: Any) -> Frame:
    return Frame.of(measure.sample(20_000, seed=99))


def source(problem: mb.Problem, **changes: Any) -> mb.Problem:
    return replace(problem, source=replace(problem.source, **changes))


def target(problem: mb.Problem, **changes: Any) -> mb.Problem:
    return replace(problem, target=replace(problem.target, **changes))


def without_map(problem: mb.Problem) -> mb.Problem:
    unknown = Unknown("exact map")
    return replace(problem, truth=unknown, truth_inverse=unknown, truth_tier=mb.TruthTier.NONE, truth_error=0.0)


def steeper(problem: mb.Problem, factor: float) -> mb.Problem:
    of = problem.target
    return target(problem, potential=lambda y: factor * of.potential(y), gradient=lambda y: factor * of.gradient(y))


def wider(problem: mb.Problem, side: str, factor: float) -> mb.Problem:
    measure = getattr(problem, side)
    centre = frame_of(measure).centre
    change = {"source": source, "target": target}[side]
    return change(problem, sampler=lambda n, rng: centre + factor * (measure.sampler(n, rng) - centre))


def normal(problem: mb.Problem, side: str) -> mb.Problem:
    frame = frame_of(getattr(problem, side))
    change = {"source": source, "target": target}[side]
    return change(problem, sampler=lambda n, rng: frame.centre + rng.standard_normal((n, problem.dim)) @ frame.axes.T)


def after(problem: mb.Problem, move: Callable[[Any], Any], back: Callable[[Any], Any]) -> mb.Problem:
    """The map followed by another one, its inverse included."""
    return replace(
        problem, truth=lambda x: move(problem.truth(x)), truth_inverse=lambda y: problem.truth_inverse(back(y))
    )


@planted("V x 3")
def _(p: mb.Problem) -> mb.Problem:
    return steeper(p, 3.0)


@planted("V x 3, no log Z")
def _(p: mb.Problem) -> mb.Problem:
    return target(steeper(p, 3.0), log_normaliser=None)


@planted("V x 3, no log Z, no map")
def _(p: mb.Problem) -> mb.Problem:
    return without_map(target(steeper(p, 3.0), log_normaliser=None))


@planted("V x 1.03, no log Z")
def _(p: mb.Problem) -> mb.Problem:
    return target(steeper(p, 1.03), log_normaliser=None)


@planted("V x 1.03, no log Z, no map")
def _(p: mb.Problem) -> mb.Problem:
    return without_map(target(steeper(p, 1.03), log_normaliser=None))


@planted("grad V x 1.001")
def _(p: mb.Problem) -> mb.Problem:
    return target(p, gradient=lambda y: 1.001 * p.target.gradient(y))


@planted("log Z + 0.001")
def _(p: mb.Problem) -> mb.Problem | None:
    if p.truth_error:
        return None  # the map is known to that, no better
    return target(p, log_normaliser=p.target.log_normaliser + 1e-3)


@planted("log mu0 + 0.001")
def _(p: mb.Problem) -> mb.Problem | None:
    if p.truth_error:
        return None
    return source(p, log_density=lambda x: p.source.log_density(x) + 1e-3)


@planted("score of opposite sign")
def _(p: mb.Problem) -> mb.Problem:
    return source(p, score=lambda x: -p.source.score(x))


@planted("score of opposite sign, no density")
def _(p: mb.Problem) -> mb.Problem:
    return source(p, score=lambda x: -p.source.score(x), log_density=Unknown("density"))


@planted("score x 1.001")
def _(p: mb.Problem) -> mb.Problem:
    return source(p, score=lambda x: 1.001 * p.source.score(x))


@planted("lambda x 1.1")
def _(p: mb.Problem) -> mb.Problem | None:
    return replace(p, strong_convexity=1.1 * p.strong_convexity) if p.strong_convexity else None


@planted("lambda + 0.05")
def _(p: mb.Problem) -> mb.Problem:
    return replace(p, strong_convexity=p.strong_convexity + 0.05)


@planted("source sampler x 1.03")
def _(p: mb.Problem) -> mb.Problem:
    return wider(p, "source", 1.03)


@planted("source sampler x 1.03, no map")
def _(p: mb.Problem) -> mb.Problem:
    return without_map(wider(p, "source", 1.03))


@planted("source sampler x 1.03, no density")
def _(p: mb.Problem) -> mb.Problem:
    return source(wider(p, "source", 1.03), log_density=Unknown("density"), score=Unknown("score"))


@planted("source sampler normal")
def _(p: mb.Problem) -> mb.Problem | None:
    return None if p.name in GAUSSIAN_SOURCES else normal(p, "source")


@planted("source sampler, one half 30 % rarer")
def _(p: mb.Problem) -> mb.Problem:
    frame = frame_of(p.source)

    def sample(n: int, rng: np.random.Generator) -> Any:
        x = p.source.sampler(2 * n, rng)
        kept = x[(frame.coordinates(x)[:, 0] > 0) | (rng.random(2 * n) < 0.7)]
        return kept[:n]

    return source(p, sampler=sample)


@planted("target sampler x 1.03")
def _(p: mb.Problem) -> mb.Problem:
    return wider(p, "target", 1.03)


@planted("target sampler x 1.03, no map")
def _(p: mb.Problem) -> mb.Problem:
    return without_map(target(wider(p, "target", 1.03), total_variance=None))


@planted("target sampler normal")
def _(p: mb.Problem) -> mb.Problem | None:
    return None if p.name in GAUSSIAN_TARGETS else normal(p, "target")


@planted("total variance x 1.1")
def _(p: mb.Problem) -> mb.Problem:
    return target(p, total_variance=1.1 * p.total_variance)


@planted("map + 0.1")
def _(p: mb.Problem) -> mb.Problem:
    return after(p, lambda y: y + 0.1, lambda y: y - 0.1)


@planted("map x 1.001")
def _(p: mb.Problem) -> mb.Problem | None:
    if p.truth_error:
        return None
    return after(p, lambda y: 1.001 * y, lambda y: y / 1.001)


@planted("map turned by 1 degree")
def _(p: mb.Problem) -> mb.Problem | None:
    if p.dim == 1:
        return None
    frame, angle = frame_of(p.target), np.radians(1.0)
    turn = np.eye(p.dim)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    forward = frame.axes @ turn @ frame.inverse
    backward = frame.axes @ turn.T @ frame.inverse
    return after(
        p,
        lambda y: frame.centre + (y - frame.centre) @ forward.T,
        lambda y: frame.centre + (y - frame.centre) @ backward.T,
    )


@planted("map reflected")
def _(p: mb.Problem) -> mb.Problem:
    centre = frame_of(p.target).centre
    return after(p, lambda y: 2 * centre - y, lambda y: 2 * centre - y)


@planted("the identity for a map")
def _(p: mb.Problem) -> mb.Problem:
    return replace(p, truth=lambda x: x, truth_inverse=lambda y: y)


@planted("inverse + 0.0001")
def _(p: mb.Problem) -> mb.Problem:
    return replace(p, truth_inverse=lambda y: p.truth_inverse(y) + 1e-4)


def found(name: str, dim: int, errors: Iterable[str] = ERRORS, n: int = 2000) -> dict[str, Certificate | None]:
    """The certificates of a family's broken problems; None where the error would be none."""
    problem = mb.problem(name) if name == "mixture" else mb.problem(name, dim=dim)
    broken = {error: ERRORS[error](problem) for error in errors}
    return {error: None if one is None else certify(one, n=n) for error, one in broken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--errors", nargs="+", default=list(ERRORS), choices=list(ERRORS))
    given = parser.parse_args()
    places = [(name, dim) for name in given.families for dim in given.dims if name != "mixture" or dim == 2]
    letters: dict[str, str] = {}
    columns = {}
    missed = 0
    for name, dim in places:
        cells = {}
        for error, certificate in found(name, dim, given.errors).items():
            if certificate is None:
                cells[error] = "-"
                continue
            for check in certificate.checks:
                letters.setdefault(check.name, string.ascii_letters[len(letters)])
            cells[error] = "".join(sorted(letters[failed] for failed in certificate.failed)) or "MISSED"
            missed += certificate.ok
        columns[f"{name} {dim}"] = cells
        print(f"{name} {dim}", file=sys.stderr, flush=True)
    for letter, check in sorted((letter, check) for check, letter in letters.items()):
        print(f"{letter} = {check}")
    widths = {place: max(len(place), *map(len, cells.values())) for place, cells in columns.items()}
    width = max(map(len, given.errors))
    print("\n" + " ".join([" " * width, *(f"{place:{widths[place]}}" for place in columns)]))
    for error in given.errors:
        print(" ".join([f"{error:{width}}", *(f"{cells[error]:{widths[place]}}" for place, cells in columns.items())]))
    print(f"\n{missed} planted errors passed.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
