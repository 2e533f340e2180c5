"""What is true of Monge maps, and so of what estimates them."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from mongebench.check.base import check
from mongebench.check.subject import (
    ROUNDING,
    TOLERANCE,
    Subject,
    expect,
    moved,
    rms_distance,
)
from mongebench.core.arrays import Points
from mongebench.core.estimator import Claim, keep_going
from mongebench.core.problem import Problem
from mongebench.datasets.linear import rotation


@check
def moves_with_the_measures(subject: Subject) -> None:
    """Where claimed: if both measures move by one vector, so does the map, T'(x + c) = T(x) + c.

    Why: it is true of the Monge map, and estimators that have it need no centring.

    How to fix: centre the samples in `fit`, or drop `Claim.TRANSLATION_EQUIVARIANT`.
    """
    subject.expect_claim(Claim.TRANSLATION_EQUIVARIANT)
    shift = np.full(subject.problem.dim, 8.0)
    other = subject.fit(moved(subject.problem, np.eye(subject.problem.dim), shift))
    subject.expect_same_map(
        other.transform(subject.query + shift) - shift, subject.images, "The moved problem has not the moved map"
    )


@check
def turns_with_the_measures(subject: Subject) -> None:
    """Where claimed: if both measures are turned by one orthogonal matrix, so is the map, T'(Q x) = Q T(x).

    Why: it is true of the Monge map for the squared distance.

    How to fix: do nothing coordinate by coordinate, or drop `Claim.ROTATION_EQUIVARIANT`.
    """
    subject.expect_claim(Claim.ROTATION_EQUIVARIANT)
    dim = subject.problem.dim
    turn = -rotation(dim, np.random.default_rng(1)) if dim > 1 else -np.eye(1)
    other = subject.fit(moved(subject.problem, turn, np.zeros(dim)))
    subject.expect_same_map(
        other.transform(subject.query @ turn.T) @ turn, subject.images, "The turned problem has not the turned map"
    )


@check
def unit_free(subject: Subject) -> None:
    """Where claimed: T(s x) / s is the same map whatever the unit s, from 1e-8 to 1e8, and 1e6 away from the origin.

    Why: metres and microns, counts and years since 1970 are the same data; a map that depends on them is wrong in one.

    How to fix: work in centred coordinates divided by one scalar for both clouds, or drop `Claim.UNIT_FREE`.
    """
    subject.expect_claim(Claim.UNIT_FREE)
    eye, origin, away = np.eye(subject.problem.dim), np.zeros(subject.problem.dim), np.full(subject.problem.dim, 1e6)

    def gap(problem: Problem, unit: float, shift: Points) -> float:
        images = subject.fit(problem).transform(unit * subject.query + shift)
        return rms_distance((np.asarray(images) - shift) / unit, subject.images) / subject.spread

    far = moved(subject.problem, eye, away)
    # There and back, coordinates keep ten digits: what that alone does to an iteration that enlarges it is no fault.
    noise = gap(moved(far, eye, -away), 1.0, origin)
    for unit in (1e-8, 1e8):
        found = gap(moved(subject.problem, eye, origin, unit), unit, origin)
        expect(
            found <= ROUNDING + 3 * noise,
            f"In units of {1 / unit:g} the map differs (by {found:.1e} of the target's standard deviation).",
        )
    found = gap(far, 1.0, away)
    rounded = float(np.finfo(np.float64).eps * np.linalg.norm(away)) / subject.spread
    expect(
        found <= ROUNDING + 100 * rounded + 3 * noise,
        f"Moved by {away[0]:g}, the map differs (by {found:.1e} of the target's standard deviation).",
    )


@check
def is_the_gradient_of_a_convex_function(subject: Subject) -> None:
    """Where claimed: T is cyclically monotone, so no reassignment of 200 images to their points costs less.

    Why: by Rockafellar's theorem (Convex Analysis, theorem 24.8) this is what gradients of convex functions are.

    How to fix: take the gradient of one convex potential, or drop `Claim.GRADIENT_OF_CONVEX`.
    """
    subject.expect_claim(Claim.GRADIENT_OF_CONVEX)
    from scipy.optimize import linear_sum_assignment

    points = subject.problem.source.sample(200, seed=97)
    images = np.asarray(subject.fitted.transform(points))
    products = (points - points.mean(axis=0)) @ (images - images.mean(axis=0)).T
    rows, columns = linear_sum_assignment(-products)
    gain = float((products[rows, columns].sum() - np.trace(products)) / np.abs(np.diagonal(products)).sum())
    expect(gain <= ROUNDING, f"Reassigning its images raises sum <x, T(x)> by {gain:.1e} of its absolute terms.")


@check
def is_the_gradient_of_its_potential(subject: Subject) -> None:
    """Where there is a method `potential`, (n, d) -> (n,), its gradient is the map, by central differences.

    Why: potentials are drawn and compared like maps.

    How to fix: return phi with T = grad phi: |x|^2 / 2 for the identity, |x|^2 / 2 - f for a dual potential f.
    """
    potential = getattr(subject.fitted, "potential", None)
    if potential is None:
        raise SkipTest("it has no potential")
    step = 1e-4
    slopes = [
        (potential(subject.query + shift) - potential(subject.query - shift)) / (2 * step)
        for shift in step * np.eye(subject.problem.dim)
    ]
    gap = rms_distance(np.stack(slopes, axis=1), subject.images) / subject.spread
    expect(gap <= TOLERANCE, f"grad potential is {gap:.2g} target standard deviations off the map.")


@check
def maps_back(subject: Subject) -> None:
    """Where it is `invertible`: what `inverse_transform` gives has the same image; of a monotone T it is the point.

    Why: the map back is used for the other direction, and nobody sees there that it belongs to another map.

    How to fix: invert the map that `transform` is, or leave `invertible` at False and `inverse_transform` out.
    """
    if not subject.estimator.invertible:
        raise SkipTest("it has no map back")
    back = np.asarray(subject.fitted.inverse_transform(subject.images))
    subject.expect_rounding(subject.fitted.transform(back), subject.images, "Mapped back and forth, images are others")
    if Claim.GRADIENT_OF_CONVEX not in subject.estimator.claims:
        return  # a map that folds has several points for one image; a monotone one is constant between them
    step = 1e-4
    columns = [
        (np.asarray(subject.fitted.transform(subject.query + shift)) - subject.fitted.transform(subject.query - shift))
        / (2 * step)
        for shift in step * np.eye(subject.problem.dim)
    ]
    # Images that agree to ROUNDING tell points apart up to that over the least slope of the map there: none where it
    # is flat. Twice, for what the slope changes within that distance.
    slopes = np.linalg.svd(np.stack(columns, axis=2), compute_uv=False).min(axis=1)
    gap = float(np.sqrt(np.mean((slopes**2)[:, None] * (back - subject.query) ** 2))) / subject.spread
    expect(gap <= 2 * ROUNDING, f"Mapped forth and back, points are {gap:.1e} target standard deviations off.")


@check
def fits_seeds_together_as_alone(subject: Subject) -> None:
    """Where there is `fit_together`, copies with seeds 0 and 1 learn what each learns alone.

    Why: fitting together is a matter of speed, never of results.

    How to fix: give each copy its own views, seed and trace, or leave `fit_together` at None.
    """
    together = subject.estimator.fit_together
    if together is None:
        raise SkipTest("it has no fit_together")
    seeds = (0, 1)
    team = [clone(subject.estimator) for _ in seeds]
    sources, targets, _ = zip(*(subject.views() for _ in seeds), strict=True)
    errors = together(team, sources, targets, seeds=seeds, traces=[keep_going] * len(team))
    expect(not any(errors), f"fit_together reports {errors!r}.")
    for seed, member in zip(seeds, team, strict=True):
        alone = np.asarray(subject.fit(seed=seed).transform(subject.query))
        images, sentence = member.transform(subject.query), f"Together, seed {seed} gave another map"
        subject.expect_rounding(images, alone, sentence, subject.repeat_noise)


@check
def beats_the_identity(subject: Subject) -> None:
    """Between two Gaussians, from 500 samples per side, its squared error is below that of doing nothing.

    Why: an estimator that loses there is not learning, or learns the wrong direction.

    How to fix: check that source and target are not exchanged, and that the defaults suit 500 points.
    """
    if not subject.needs:
        raise SkipTest("it asks for nothing, so it can learn nothing")
    points = subject.problem.source.sample(2000, seed=96)
    exact = subject.problem.truth(points)
    error = rms_distance(subject.fit(n=500).transform(points), exact)
    nothing = rms_distance(points, exact)
    expect(error < nothing, f"Its root mean squared error is {error:.3g}, that of the identity {nothing:.3g}.")
