"""Estimators that each earn one status: a plugin file for the engine's tests."""

import errno
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np

import mongebench as mb

SAMPLES = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})


class Shift(mb.MapEstimator):
    """Sound: the mean shift."""

    needs = SAMPLES

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        return self

    def transform(self, X):
        return X + self.shift_


class Perfect(Shift):
    """Earns at_floor."""

    needs = frozenset({mb.Oracle.EXACT_MAP})

    def fit(self, source, target, *, seed=0, trace=None):
        self._map = source.exact_map
        return self

    def transform(self, X):
        return self._map(X)


class ReturnsNan(Shift):
    """Earns nonfinite."""

    def transform(self, X):
        return np.full_like(X, np.nan)


class FarAway(Shift):
    """Earns diverged by its map."""

    def transform(self, X):
        return 1e6 * X


class SeesItself(Shift):
    """Earns diverged by its own word."""

    def fit(self, source, target, *, seed=0, trace=None):
        raise mb.Diverged("step 3: the objective rose from 1 to 1e9")


class Hangs(Shift):
    """Earns timeout; tells that it has started by a file, where one is asked for."""

    def fit(self, source, target, *, seed=0, trace=None):
        if "FAKES_STARTED" in os.environ:
            Path(os.environ["FAKES_STARTED"]).touch()
        while True:
            time.sleep(0.1)


class Hogs(Shift):
    """Earns out_of_memory by growing past the limit."""

    def fit(self, source, target, *, seed=0, trace=None):
        self.held = []
        while True:
            self.held.append(np.zeros(1 << 23))
            self.held[-1][::512] = 1.0  # 64 MiB, each page touched
            time.sleep(0.005)


class RunsOut(Shift):
    """Earns out_of_memory by an allocation that fails."""

    def fit(self, source, target, *, seed=0, trace=None):
        raise MemoryError("cannot allocate 1 TiB")


class Refuses(Shift):
    """Earns unsupported."""

    def supports(self, problem):
        return mb.Support(False, "only works on Tuesdays")


class Lacks(Shift):
    """Earns missing_dependency."""

    def fit(self, source, target, *, seed=0, trace=None):
        import a_package_nobody_has  # noqa: F401


class Segfaults(Shift):
    """Earns crashed by a signal."""

    def fit(self, source, target, *, seed=0, trace=None):
        os.kill(os.getpid(), signal.SIGSEGV)


class Exits(Shift):
    """Earns crashed by leaving without a word, with a clean exit code."""

    def fit(self, source, target, *, seed=0, trace=None):
        os._exit(0)


class Raises(Shift):
    """Earns error."""

    def fit(self, source, target, *, seed=0, trace=None):
        raise RuntimeError("the matrix is [bold]singular[/bold]")


class Peeks(Shift):
    """Earns error: asks an oracle it does not declare."""

    def fit(self, source, target, *, seed=0, trace=None):
        source.log_density(np.zeros((1, source.dim)))
        return self


class Greedy(Shift):
    """Earns error: draws more than its budget."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLER, mb.Oracle.TARGET_SAMPLES})

    def fit(self, source, target, *, seed=0, trace=None):
        while True:
            source.sample(64)


class WrongShape(Shift):
    """Earns error: one column too few."""

    def transform(self, X):
        return X[:, :0]


class Overwrites(Shift):
    """Earns error: changes its input."""

    def transform(self, X):
        X += self.shift_
        return X


class ReturnsNothing(Shift):
    """Earns error: fit without self."""

    def fit(self, source, target, *, seed=0, trace=None):
        return None


class FillsTheDisk(Shift):
    """Nothing can be written any more once it was fitted."""

    def fit(self, source, target, *, seed=0, trace=None):
        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.fsync = full
        return super().fit(source, target, seed=seed, trace=trace)


class Remembers(Shift):
    """Earns error: its second fit returns the first one's map."""

    kept = None

    def fit(self, source, target, *, seed=0, trace=None):
        super().fit(source, target, seed=seed, trace=trace)
        Remembers.kept = self.shift_ if Remembers.kept is None else Remembers.kept
        self.shift_ = Remembers.kept
        return self


class Dispatches(Shift):
    """Sound, and returns from its fit long before the device has done what it was asked."""

    modules = ("jax",)

    def fit(self, source, target, *, seed=0, trace=None):
        import jax
        import jax.numpy as jnp

        x = jnp.ones((800, 800))
        work = jax.jit(lambda x: jax.lax.fori_loop(0, 60, lambda _, y: y @ x / 800, x)).lower(x).compile()
        since = time.perf_counter()
        self._pending = work(x)
        self.dispatch_seconds_ = time.perf_counter() - since
        return super().fit(source, target, seed=seed, trace=trace)

    def transform(self, X):
        return X + self.shift_ + 0 * float(self._pending[0, 0])


class Chatters(Shift):
    """Sound, but prints to standard output, which is the engine's."""

    def fit(self, source, target, *, seed=0, trace=None):
        print('{"done": "nonsense"}', flush=True)
        os.system("echo from a child")
        return super().fit(source, target, seed=seed, trace=trace)


class Steps(Shift):
    """Sound and traced: half the remaining way at each step."""

    def fit(self, source, target, *, seed=0, trace=None):
        full = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        self.shift_ = np.zeros_like(full)
        for step in range(1, 6):
            time.sleep(0.02)
            self.shift_ = (1 - 0.5**step) * full
            if not trace(lambda X: X + self.shift_, flow_time=0.1 * step, decrement=0.5**step):
                break
        return self


class Warns(Shift):
    """Sound, with a warning."""

    def fit(self, source, target, *, seed=0, trace=None):
        warnings.warn("it did not converge", stacklevel=1)
        return super().fit(source, target, seed=seed, trace=trace)


class Argues(Shift):
    """Earns error: raises where it should answer."""

    def supports(self, problem):
        raise ZeroDivisionError("supports divides by zero")


class Forgets(Shift):
    """Earns error: changes its parameter in the constructor, so that it cannot be cloned."""

    def __init__(self, scale=1.0):
        self.scale = 2 * scale


def fit_as_a_team(estimators, sources, targets, *, seeds, traces):
    for estimator, source, target, seed, trace in zip(estimators, sources, targets, seeds, traces, strict=True):
        estimator.fit(source, target, seed=seed, trace=trace)
    return [None] * len(estimators)


class Team(Shift):
    """Sound, and fits seeds together."""

    fit_together = staticmethod(fit_as_a_team)


def fit_all_but_the_first(estimators, sources, targets, *, seeds, traces):
    fit_as_a_team(estimators, sources, targets, seeds=seeds, traces=traces)
    return [mb.Diverged("step 1: lost"), *[None] * (len(estimators) - 1)]


class TeamLosesOne(Shift):
    """Of seeds fitted together the first earns diverged."""

    fit_together = staticmethod(fit_all_but_the_first)


def hang_as_a_team(estimators, sources, targets, *, seeds, traces):
    while True:
        time.sleep(0.1)


class TeamHangs(Shift):
    """Earns timeout where seeds are fitted together, and does not hang alone."""

    fit_together = staticmethod(hang_as_a_team)


def crash_as_a_team(estimators, sources, targets, *, seeds, traces):
    os.kill(os.getpid(), signal.SIGSEGV)


class TeamCrashes(Shift):
    """Earns crashed where seeds are fitted together."""

    fit_together = staticmethod(crash_as_a_team)
