"""Estimators that know more than they were told."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import mongebench as mb
from mongebench import plugins

fakes = plugins.import_file(Path(__file__).with_name("fakes.py"))
PAIR, Sound = fakes.PAIR, fakes.Sound


class RebuildsTheProblem(Sound):
    """Builds the problem that it thinks it is on, and asks it for the map."""

    def fit(self, source, target, *, seed=0, trace=None):
        self.map_ = mb.problem("gaussian", dim=source.dim).truth
        return super().fit(source, target, seed=seed, trace=trace)

    def transform(self, X):
        return self.map_(X)


class RebuildsInAThread(RebuildsTheProblem):
    """The same, where its own thread is not asked."""

    def fit(self, source, target, *, seed=0, trace=None):
        with ThreadPoolExecutor(1) as pool:
            self.map_ = pool.submit(mb.problem, "gaussian", dim=source.dim).result().truth
        return super(RebuildsTheProblem, self).fit(source, target, seed=seed, trace=trace)


class RebuildsWhenAsked(RebuildsTheProblem):
    """The same, once it is fitted."""

    def fit(self, source, target, *, seed=0, trace=None):
        return super(RebuildsTheProblem, self).fit(source, target, seed=seed, trace=trace)

    def transform(self, X):
        return mb.problem("gaussian", dim=X.shape[1]).truth(X)


class RebuildsInSupports(RebuildsTheProblem):
    """The same, before it is fitted."""

    def supports(self, problem):
        type(self).found = mb.problem("gaussian", dim=problem.dim)
        return mb.Support(True)


class TracesTheTruth(Sound):
    """Shows the trace the exact map."""

    def fit(self, source, target, *, seed=0, trace=None):
        trace(PAIR.truth, flow_time=0.0)
        return super().fit(source, target, seed=seed, trace=trace)


class ReadsTheExactMap(Sound):
    """Looks for it in the view."""

    def fit(self, source, target, *, seed=0, trace=None):
        self.map_ = source._exact_map
        return super().fit(source, target, seed=seed, trace=trace)

    def transform(self, X):
        return self.map_(X)


class DrawsInPrivate(Sound):
    """Draws from a problem that it built before, as much as it likes."""

    def fit(self, source, target, *, seed=0, trace=None):
        return self.walk(PAIR.source.sampler(10**4, np.random.default_rng(0)), target.samples, trace)


class DrewBefore(Sound):
    """The linear map between draws that it made when it was imported; of anything else, its samples' means."""

    claims = frozenset()

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        if source.dim == 2 and len(source.samples) > 1:
            self.fitted_ = LINEAR
        return self

    def transform(self, X):
        return self.fitted_.transform(X) if hasattr(self, "fitted_") else X + self.shift_


DrewBefore.potential = None
LINEAR = mb.estimator("bures").fit(PAIR.source.sample(20_000, seed=6), PAIR.target.sample(20_000, seed=6))


class KeepsCloudsOnDisk(Sound):
    """Learns from all samples of its dimension that it has ever been given."""

    def fit(self, source, target, *, seed=0, trace=None):
        clouds = []
        for side, new in (("source", source.samples), ("target", target.samples)):
            path = Path(os.environ["FAKES_FOLDER"], f"{side}-{source.dim}.npy")
            clouds.append(np.concatenate([np.load(path), new]) if path.exists() else new)
            np.save(path, clouds[-1])
        return self.walk(*clouds, trace)


class KeepsAMapOnDisk(Sound):
    """Learns once in each dimension, for all processes that will ever be."""

    claims = frozenset()

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        path = Path(os.environ["FAKES_FOLDER"], f"map-{source.dim}.npy")
        if path.exists():
            self.shift_ = np.load(path)
        else:
            np.save(path, self.shift_)
        return self


GUARDED = [
    RebuildsTheProblem,
    RebuildsInAThread,
    RebuildsWhenAsked,
    RebuildsInSupports,
    TracesTheTruth,
    DrawsInPrivate,
]
"""Cheats that the problem refuses, in every run."""
CHEATS = [*GUARDED, ReadsTheExactMap, DrewBefore, KeepsCloudsOnDisk, KeepsAMapOnDisk]
"""Cheats that do not pass the checks."""
