"""Estimators that each break one check and no other, by its name; all derive from two that break none."""

import copy
import itertools
import time

import numpy as np

import mongebench as mb
from mongebench.core.estimator import keep_going
from mongebench.core.oracle import _behind

SAMPLES = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})
WITH_A_UNIT = frozenset(mb.Claim) - {mb.Claim.UNIT_FREE}
"""Of estimators whose fault is also one of the unit or of the origin."""


def one_by_one(estimators, sources, targets, *, seeds, traces):
    for estimator, source, target, seed, trace in zip(estimators, sources, targets, seeds, traces, strict=True):
        estimator.fit(source, target, seed=seed, trace=trace)
    return [None] * len(estimators)


class Sound(mb.MapEstimator):
    """The mean shift, in twenty steps of half the remaining way."""

    needs = SAMPLES
    claims = frozenset(mb.Claim)
    fit_together = staticmethod(one_by_one)

    def __init__(self, steps=20):
        self.steps = steps

    def fit(self, source, target, *, seed=0, trace=None):
        return self.walk(source.samples, target.samples, trace)

    def walk(self, x, y, trace):
        full = y.mean(axis=0) - x.mean(axis=0)
        for step in range(1, self.steps + 1):
            self.shift_ = (1 - 0.5**step) * full
            if not trace(lambda X, shift=self.shift_: X + shift, flow_time=float(step)):
                break
        return self

    def transform(self, X):
        return X + self.shift_

    def potential(self, X):
        return (X**2).sum(axis=1) / 2 + X @ self.shift_


class SoundWithSampler(Sound):
    """The same from batches of the source."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLER, mb.Oracle.TARGET_SAMPLES})

    def fit(self, source, target, *, seed=0, trace=None):
        return self.walk(source.batch(128), target.samples, trace)


class NeedsIsASet(Sound):
    """Breaks declares_its_oracles."""

    needs = set(SAMPLES)  # noqa: RUF012  the point


class SaysNothingOfItself(Sound):
    pass


class LearnsInInit(Sound):
    """Breaks keeps_its_parameters."""

    def __init__(self, steps=20):
        self.steps = steps
        self.shift_ = None


class MapsUnfitted(Sound):
    """Breaks refuses_before_fit."""


# Set after the class is made, where the contract's guard is not put around it.
MapsUnfitted.transform = lambda self, X: Sound.transform(self, X) if hasattr(self, "shift_") else X


class ReturnsACopy(Sound):
    """Breaks fit_returns_itself."""


ReturnsACopy.fit = lambda self, source, target, **options: copy.copy(Sound.fit(self, source, target, **options))


class SqueezesOnePoint(Sound):
    """Breaks keeps_shapes."""

    def transform(self, X):
        return X[0] + self.shift_ if len(X) == 1 else X + self.shift_


class WidensFloats(Sound):
    """Breaks keeps_float_types."""


def _widened(self, X):
    images = Sound.transform(self, X)
    return images.astype(np.float64) if isinstance(images, np.ndarray) else images


WidensFloats.transform = _widened


class ForgetsTheLibrary(Sound):
    """Breaks keeps_torch_and_jax_arrays."""


ForgetsTheLibrary.transform = lambda self, X: np.asarray(Sound.transform(self, X))


class KnowsItsSampleOnly(Sound):
    """Breaks maps_new_points."""

    def fit(self, source, target, *, seed=0, trace=None):
        x = source.samples
        self.centre_, self.radius_ = x.mean(axis=0), 8 * x.std() if len(x) > 1 else np.inf
        return super().fit(source, target, seed=seed, trace=trace)

    def transform(self, X):
        far = np.linalg.norm(X - self.centre_, axis=1) > self.radius_
        return np.where(far[:, None], np.nan, X + self.shift_)


class CentresTheQuery(Sound):
    """Breaks gives_a_point_one_image."""

    claims = WITH_A_UNIT

    def transform(self, X):
        return X + self.shift_ + 1e-4 * X.mean(axis=0)


class Alternates(Sound):
    """Breaks repeats_itself."""

    claims = WITH_A_UNIT

    signs = itertools.cycle([1, -1])

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = self.shift_ + 1e-4 * next(self.signs)
        return self


class StartsWarm(Sound):
    """Breaks forgets_at_refit."""

    def fit(self, source, target, *, seed=0, trace=None):
        before = getattr(self, "shift_", 0.0)
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = self.shift_ + 1e-3 * before
        return self


class LearnsAFunction(Sound):
    """Breaks saves_and_loads."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.map_ = lambda X: X + self.shift_
        return self


class WritesBehindTheView(Sound):
    """Breaks leaves_its_input_alone."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        source.samples.base[0] = 0.0
        return self


class TrustsTheFirstRow(Sound):
    """Breaks ignores_the_order_of_samples."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = self.shift_ + 0.05 * (source.samples[0] - source.samples.mean(axis=0))
        return self


class RaisesInSupports(Sound):
    """Breaks answers_supports_honestly."""

    def supports(self, problem):
        if problem.dim > 100:
            raise ValueError("too many dimensions")
        return mb.Support(True)


class DeclaresTooMuch(Sound):
    """Breaks asks_what_it_declares."""

    needs = SAMPLES | {mb.Oracle.SOURCE_SCORE}


class AsksBehindTheView(Sound):
    """Breaks asks_under_the_meter: draws from the measure that no attribute of the view leads to."""

    def fit(self, source, target, *, seed=0, trace=None):
        _behind[source].draw(7, seed=3)
        return super().fit(source, target, seed=seed, trace=trace)


PAIR = mb.problem("gaussian", dim=2)  # before any fit, where nothing forbids it
SHIFT = PAIR.truth(np.zeros((1, 2)))
MATRIX = PAIR.truth(np.eye(2)) - SHIFT
MEANS = PAIR.source.sample(10**4).mean(axis=0), PAIR.target.sample(10**4).mean(axis=0)


class KnowsThePair(Sound):
    """Breaks knows_no_problem_by_name: it knows the registered pair from its means, and the map from elsewhere."""

    claims = frozenset()

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        gaps = (
            [source.samples.mean(axis=0) - MEANS[0], target.samples.mean(axis=0) - MEANS[1]] if source.dim == 2 else [9]
        )
        self.known_ = bool(np.max(np.abs(gaps)) < 0.4 and len(source.samples) > 1)
        return self

    def transform(self, X):
        return X @ MATRIX + SHIFT if self.known_ else X + self.shift_


KnowsThePair.potential = None


class LeansOnTheLastDraw(Sound):
    """Breaks keeps_nothing_between_fits; the draw that it saw first it learns from alone."""

    claims = WITH_A_UNIT
    first = last = None

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        cls, own = type(self), self.shift_
        cls.first, before, cls.last = own if cls.first is None else cls.first, cls.last, own
        if own.shape == cls.first.shape and not np.allclose(own, cls.first) and before.shape == own.shape:
            self.shift_ = own + 1e-3 * (before - own)
        return self


class Greedy(SoundWithSampler):
    """Breaks keeps_within_the_budget."""

    def fit(self, source, target, *, seed=0, trace=None):
        return self.walk(source.sample(128), target.samples, trace)


class GoesBackInTime(Sound):
    """Breaks traces_maps."""

    def fit(self, source, target, *, seed=0, trace=None):
        return super().fit(source, target, seed=seed, trace=lambda map, *, flow_time: trace(map, flow_time=-flow_time))


class PosesForTheCamera(Sound):
    """Breaks learns_the_same_when_watched."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        if trace is not keep_going:
            self.shift_ = self.shift_ + 1e-3
        return self


class GoesOn(Sound):
    """Breaks stops_when_told."""

    def fit(self, source, target, *, seed=0, trace=None):
        return super().fit(source, target, seed=seed, trace=lambda map, **options: trace(map, **options) or True)


class Polishes(Sound):
    """Breaks ends_in_time, with the limit of half a CPU second."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        if abs(self.shift_ - (target.samples.mean(axis=0) - source.samples.mean(axis=0))).max() > 1e-3:
            began = time.process_time()
            while time.process_time() - began < 0.6:
                pass
        return self


class UsesGlobalRandomness(Sound):
    """Breaks leaves_global_randomness_alone."""

    def fit(self, source, target, *, seed=0, trace=None):
        np.random.normal()  # noqa: NPY002  the point
        return super().fit(source, target, seed=seed, trace=trace)


class Prints(Sound):
    """Breaks says_nothing."""

    def fit(self, source, target, *, seed=0, trace=None):
        print("fitting")
        return super().fit(source, target, seed=seed, trace=trace)


class DividesByVariance(Sound):
    """Breaks survives_one_point."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        spread = source.samples.std(axis=0)
        self.shift_ = self.shift_ * (spread / spread)
        return self


class LosesTheOnlyAxis(Sound):
    """Breaks works_in_one_dimension."""

    def transform(self, X):
        return (X + self.shift_)[:, 0] if X.shape[1] == 1 else X + self.shift_


class ComparesAllPairs(Sound):
    """Breaks maps_many_points_in_little_memory."""

    def transform(self, X):
        nearest = np.abs(X[:, :1] - X[:, 0]).min(axis=1, keepdims=True)  # all zero
        return X + self.shift_ + nearest


class ImputesNan(Sound):
    """Breaks refuses_nan."""


def _imputed(self, *sides, **options):
    return Sound.fit(
        self, *(np.nan_to_num(side) if isinstance(side, np.ndarray) else side for side in sides), **options
    )


ImputesNan.fit = _imputed


class ShrinksToTheOrigin(Sound):
    """Breaks moves_with_the_measures."""

    claims = WITH_A_UNIT

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = self.shift_ - 0.05 * source.samples.mean(axis=0)
        return self


class PrefersAnAxis(Sound):
    """Breaks turns_with_the_measures."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = self.shift_ * np.where(np.arange(len(self.shift_)) == 0, 0.8, 1.0)
        return self


class StopsWithinAMillionth(Sound):
    """Breaks unit_free: an absolute tolerance."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = np.where(np.abs(self.shift_) < 1e-6, 0.0, self.shift_)
        return self


class Swirls(Sound):
    """Breaks is_the_gradient_of_a_convex_function: turns by ten degrees."""

    claims = frozenset({mb.Claim.GRADIENT_OF_CONVEX})

    def fit(self, source, target, *, seed=0, trace=None):
        self.centre_ = source.samples.mean(axis=0)
        return super().fit(source, target, seed=seed, trace=trace)

    def transform(self, X):
        if X.shape[1] != 2:
            return X + self.shift_
        cos, sin = np.cos(np.pi / 18), np.sin(np.pi / 18)
        return (X - self.centre_) @ np.array([[cos, sin], [-sin, cos]]) + self.centre_ + self.shift_


Swirls.potential = None  # it has none


class WrongPotential(Sound):
    """Breaks is_the_gradient_of_its_potential."""

    def potential(self, X):
        return 1.1 * super().potential(X)


class MapsBackElsewhere(Sound):
    """Breaks maps_back."""

    invertible = True

    def inverse_transform(self, Y):
        return Y - 1.1 * self.shift_


class SoundBothWays(Sound):
    """The same, with its map back."""

    invertible = True

    def inverse_transform(self, Y):
        return Y - self.shift_


def _with_a_slip(estimators, *views, **options):
    errors = one_by_one(estimators, *views, **options)
    estimators[1].shift_ = estimators[0].shift_ + 1e-3
    return errors


class SlipsInATeam(Sound):
    """Breaks fits_seeds_together_as_alone."""

    fit_together = staticmethod(_with_a_slip)


class WalksAway(Sound):
    """Breaks beats_the_identity."""

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        self.shift_ = -self.shift_
        return self


FAKES = {
    "declares_its_oracles": NeedsIsASet,
    "says_what_it_is": SaysNothingOfItself,
    "keeps_its_parameters": LearnsInInit,
    "refuses_before_fit": MapsUnfitted,
    "fit_returns_itself": ReturnsACopy,
    "keeps_shapes": SqueezesOnePoint,
    "keeps_float_types": WidensFloats,
    "keeps_torch_and_jax_arrays": ForgetsTheLibrary,
    "maps_new_points": KnowsItsSampleOnly,
    "gives_a_point_one_image": CentresTheQuery,
    "repeats_itself": Alternates,
    "forgets_at_refit": StartsWarm,
    "saves_and_loads": LearnsAFunction,
    "leaves_its_input_alone": WritesBehindTheView,
    "ignores_the_order_of_samples": TrustsTheFirstRow,
    "answers_supports_honestly": RaisesInSupports,
    "asks_what_it_declares": DeclaresTooMuch,
    "asks_under_the_meter": AsksBehindTheView,
    "knows_no_problem_by_name": KnowsThePair,
    "keeps_nothing_between_fits": LeansOnTheLastDraw,
    "keeps_within_the_budget": Greedy,
    "traces_maps": GoesBackInTime,
    "learns_the_same_when_watched": PosesForTheCamera,
    "stops_when_told": GoesOn,
    "ends_in_time": Polishes,
    "leaves_global_randomness_alone": UsesGlobalRandomness,
    "says_nothing": Prints,
    "survives_one_point": DividesByVariance,
    "works_in_one_dimension": LosesTheOnlyAxis,
    "maps_many_points_in_little_memory": ComparesAllPairs,
    "refuses_nan": ImputesNan,
    "moves_with_the_measures": ShrinksToTheOrigin,
    "turns_with_the_measures": PrefersAnAxis,
    "unit_free": StopsWithinAMillionth,
    "is_the_gradient_of_a_convex_function": Swirls,
    "is_the_gradient_of_its_potential": WrongPotential,
    "maps_back": MapsBackElsewhere,
    "fits_seeds_together_as_alone": SlipsInATeam,
    "beats_the_identity": WalksAway,
}
