"""What an estimator may see of a problem: declared, metered and budgeted views of the two measures.

An estimator declares its oracles in `needs`; a view answers those and refuses the rest, counts every draw and every
evaluation, and ends at the budget. The set of oracles is the estimator's tier: a map learnt from V and one learnt
from 500 samples are not rivals.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mongebench.core import guard
from mongebench.core.arrays import Points, as_points
from mongebench.core.errors import BudgetExceeded, InvalidInput, OracleNotDeclared, OracleUnavailable
from mongebench.core.measure import Measure, Seed, Source, Target, Unknown


class Oracle(StrEnum):
    """What an estimator can ask for. Samples are one fixed draw of the budget's size; a sampler gives fresh draws."""

    SOURCE_SAMPLES = "source_samples"
    SOURCE_SAMPLER = "source_sampler"
    SOURCE_DENSITY = "source_density"
    SOURCE_SCORE = "source_score"
    TARGET_SAMPLES = "target_samples"
    TARGET_SAMPLER = "target_sampler"
    TARGET_POTENTIAL = "target_potential"
    TARGET_GRADIENT = "target_gradient"
    EXACT_MAP = "exact_map"


def tier(needs: frozenset[Oracle]) -> str:
    """The tier's name: its oracles in a fixed order, "no oracle" where nothing is asked."""
    return " + ".join(oracle.replace("_", " ") for oracle in Oracle if oracle in needs) or "no oracle"


def within(needs: frozenset[Oracle], *, n_source: int | None, n_target: int | None) -> frozenset[Oracle]:
    """What `needs` comes to within a budget: of a finite one a sampler gives a fixed sample, and no more."""
    finite = {
        Oracle.SOURCE_SAMPLER: Oracle.SOURCE_SAMPLES if n_source is not None else Oracle.SOURCE_SAMPLER,
        Oracle.TARGET_SAMPLER: Oracle.TARGET_SAMPLES if n_target is not None else Oracle.TARGET_SAMPLER,
    }
    return frozenset(finite.get(oracle, oracle) for oracle in needs)


@dataclass
class Meter:
    """Counts of draws (points drawn) and evaluations (points evaluated), by oracle."""

    counts: Counter[Oracle] = field(default_factory=Counter)

    def charge(self, oracle: Oracle, points: int) -> None:
        """Add `points` draws or evaluations. Compiled code, which Python sees once, charges what it evaluated."""
        self.counts[oracle] += points

    @property
    def draws(self) -> int:
        """Points drawn, of all four oracles of samples."""
        return sum(count for oracle, count in self.counts.items() if oracle.endswith(("samples", "sampler")))


@dataclass(frozen=True)
class _Behind:
    """What a view answers from; `trusted` unless an estimator made it while it learnt, out of whatever it has."""

    measure: Measure
    declared: frozenset[Oracle]
    exact_map: Callable[[Any], Any]
    budget: int | None
    drawing: Callable[[], AbstractContextManager[None]]
    trusted: bool

    def draw(self, n: int, seed: Seed, on_device: bool = False) -> Any:
        sample = self.measure.sample_on_device if on_device else self.measure.sample
        with self.drawing(), guard.opened(self.trusted):
            return sample(n, seed=seed)


_behind: weakref.WeakKeyDictionary[View, _Behind] = weakref.WeakKeyDictionary()
"""By view: no attribute of a view leads to its measure, stops the clock, or lifts what was declared and allowed."""


class View:
    """What the source and the target views have in common: samples, up to the budget.

    An estimator is handed its views and nothing else of a problem: no attribute of them leads to the measure. They
    are not copied (a copy of an estimator that keeps one asks the same).

    Parameters
    ----------
    measure
        The `Source` or `Target` behind the view.
    declared
        The oracles of the estimator's `needs`.
    budget
        How many points may be drawn; None for unlimited.
    seed
        Of all draws of this view.
    meter
        Where draws and evaluations are counted.
    pool
        The draws themselves, where the user brought them.
    drawing
        Entered around every draw: the runner stops the clock of `fit` there, because drawing is the problem's work.
    exact_map
        T*, of a source; it is not kept where EXACT_MAP is not declared.
    """

    samples_oracle: Oracle
    sampler_oracle: Oracle

    def __init__(
        self,
        measure: Measure,
        *,
        declared: frozenset[Oracle],
        budget: int | None,
        seed: Seed,
        meter: Meter,
        pool: Points | None = None,
        drawing: Callable[[], AbstractContextManager[None]] = nullcontext,
        exact_map: Callable[[Any], Any] = Unknown("exact map"),
    ) -> None:
        if Oracle.EXACT_MAP not in declared:
            exact_map = Unknown("exact map")
        _behind[self] = _Behind(measure, declared, exact_map, budget, drawing, trusted=not guard.is_closed())
        self._seed = seed if isinstance(seed, tuple) else (seed,)
        self._pool = pool
        self._drawn = 0
        self._calls = 0
        self.meter = meter

    @property
    def budget(self) -> int | None:
        """How many points may be drawn; None for unlimited."""
        return _behind[self].budget

    @property
    def known_dim(self) -> int | None:
        """Dimension d; None where only a draw will tell."""
        return _behind[self].measure.dim

    @property
    def dim(self) -> int:
        """Dimension d, found by a draw where it is not known."""
        return self._draw_pool().shape[1] if self.known_dim is None else self.known_dim

    @property
    def is_finite(self) -> bool:
        """Whether all draws are of one finite set of points: a budget, or a cloud that holds no more."""
        return self.budget is not None or _behind[self].measure.size is not None

    @property
    def samples(self) -> Points:
        """The fixed draw of the budget's size, (n, d), the same at every access; `np.asarray(view)` gives it too."""
        self._ask(self.samples_oracle)
        if self.budget is None:
            raise OracleUnavailable(
                "samples is one fixed draw, but the budget is unlimited: give n_source and n_target, or arrays."
            )
        pool = self._draw_pool()
        if not self.meter.counts[self.samples_oracle]:
            self.meter.charge(self.samples_oracle, len(pool))
        return pool

    def sample(self, n: int) -> Points:
        """n fresh draws, (n, d); raises `BudgetExceeded` when fewer than n are left."""
        self._ask(self.sampler_oracle)
        if self.budget is None:
            fresh: Points = self._fresh(n)
            return fresh
        if n > self.budget - self._drawn:
            raise BudgetExceeded(
                f"{n} draws asked of {self.sampler_oracle}, {self.budget - self._drawn} of {self.budget} left."
            )
        points = self._draw_pool()[self._drawn : self._drawn + n]
        self._drawn += n
        self.meter.charge(self.sampler_oracle, n)
        return points

    def _fresh(self, n: int, on_device: bool = False) -> Any:
        """n draws beyond any budget, (n, d)."""
        points = _behind[self].draw(n, (*self._seed, self._calls), on_device)
        self._calls += 1
        self.meter.charge(self.sampler_oracle, n)
        return points

    def batch(self, n: int) -> Points:
        """Draws for one step of an iteration, (n, d): fresh ones where the budget is unlimited, else n of its points.

        Of a finite budget each batch is a random subset without repetition (all points if there are no more than n),
        and the budget's points are counted as drawn once.
        """
        if self.budget is None:
            return self.sample(n)
        self._ask(self.sampler_oracle)
        pool = self._draw_pool()
        if not self.meter.counts[self.sampler_oracle]:
            self.meter.charge(self.sampler_oracle, len(pool))
        # Another stream on each side, as for the draws themselves, and another than theirs: equal indices would give
        # the two sides of a step the same subset of their pools, call after call.
        stream = np.random.SeedSequence(self._seed, spawn_key=(_behind[self].measure.stream, 1 + self._calls))
        rng = np.random.default_rng(stream)
        self._calls += 1
        return pool[rng.permutation(len(pool))[:n]] if n < len(pool) else pool

    def batches(self, count: int, n: int, *, on_device: bool = False) -> Any:
        """`count` times `batch(n)`, (count, n, d); less than n where the budget is less. One call draws all of them.

        An estimator that computes in JAX asks for `on_device`: where it is worth while and the sampler can, fresh draws
        are then made by JAX and never on the host (see `device_draws`), float64 as others are. It must take either
        kind of array.
        """
        if self.budget is not None:
            return np.stack([self.batch(n) for _ in range(count)])
        self._ask(self.sampler_oracle)
        on_device = on_device and _behind[self].measure.draws_on_device
        return self._fresh(count * n, on_device).reshape(count, n, -1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.samples, dtype=dtype, copy=copy)

    def _draw_pool(self) -> Points:
        behind = _behind[self]
        if behind.measure.dim is not None and not {self.samples_oracle, self.sampler_oracle} & behind.declared:
            self._ask(self.samples_oracle)
        if self._pool is None:
            if self.budget is None:
                raise InvalidInput("The dimension is not known before the first draw; give the measure its dim.")
            self._pool = behind.draw(self.budget, self._seed)
        return self._pool

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def _ask(self, oracle: Oracle) -> None:
        if oracle not in _behind[self].declared:
            declared = ", ".join(sorted(_behind[self].declared)) or "nothing"
            raise OracleNotDeclared(
                f"{oracle} was asked for, but `needs` declares {declared}. Add Oracle.{oracle.name} to `needs`."
            )

    def uncounted(self, oracle: Oracle) -> Callable[[Any], Any]:
        """The function behind a density or potential oracle, for compiled code, which Python sees only once.

        Whoever asks for it charges what the compiled code evaluates: `view.meter.charge(oracle, points)`.
        """
        self._ask(oracle)
        function: Callable[[Any], Any] = getattr(_behind[self].measure, _FUNCTION_OF[oracle])
        return function

    def _evaluate(self, oracle: Oracle, points: Any) -> Any:
        self._ask(oracle)
        behind = _behind[self]
        function = behind.exact_map if oracle is Oracle.EXACT_MAP else getattr(behind.measure, _FUNCTION_OF[oracle])
        with guard.opened(behind.trusted):
            values = function(points)
        self.meter.charge(oracle, points.shape[0])
        return values


_FUNCTION_OF = {
    Oracle.SOURCE_DENSITY: "log_density",
    Oracle.SOURCE_SCORE: "score",
    Oracle.TARGET_POTENTIAL: "potential",
    Oracle.TARGET_GRADIENT: "gradient",
}


class SourceView(View):
    """The source mu0 as an estimator sees it."""

    samples_oracle = Oracle.SOURCE_SAMPLES
    sampler_oracle = Oracle.SOURCE_SAMPLER

    def log_density(self, x: Any) -> Any:
        """log mu0(x), normalised, (n, d) -> (n,)."""
        return self._evaluate(Oracle.SOURCE_DENSITY, x)

    def score(self, x: Any) -> Any:
        """grad log mu0(x), (n, d) -> (n, d)."""
        return self._evaluate(Oracle.SOURCE_SCORE, x)

    def exact_map(self, x: Any) -> Any:
        """T*(x), (n, d) -> (n, d): for the anchor `truth` only, not for ranked estimators."""
        return self._evaluate(Oracle.EXACT_MAP, x)


class TargetView(View):
    """The target gamma = exp(-V)/Z as an estimator sees it."""

    samples_oracle = Oracle.TARGET_SAMPLES
    sampler_oracle = Oracle.TARGET_SAMPLER

    def potential(self, y: Any) -> Any:
        """V(y) up to a constant, (n, d) -> (n,)."""
        return self._evaluate(Oracle.TARGET_POTENTIAL, y)

    def gradient(self, y: Any) -> Any:
        """grad V(y), (n, d) -> (n, d)."""
        return self._evaluate(Oracle.TARGET_GRADIENT, y)


def offers(source: Source, target: Target, exact_map: Any = None) -> frozenset[Oracle]:
    """The oracles that a pair of measures can answer."""
    answers = {
        Oracle.SOURCE_SAMPLES: source.sampler,
        Oracle.SOURCE_SAMPLER: source.sampler,
        Oracle.SOURCE_DENSITY: source.log_density,
        Oracle.SOURCE_SCORE: source.score,
        Oracle.TARGET_SAMPLES: target.sampler,
        Oracle.TARGET_SAMPLER: target.sampler,
        Oracle.TARGET_POTENTIAL: target.potential,
        Oracle.TARGET_GRADIENT: target.gradient,
        Oracle.EXACT_MAP: exact_map,
    }
    return frozenset(oracle for oracle, function in answers.items() if function)


def as_view(given: Any, kind: type[View], *, declared: frozenset[Oracle], seed: Seed) -> View:
    """The view an estimator's `fit` works with, from whatever its user handed over.

    `given` is a view already (passed through), an (n, d) array of samples, a `Source` or `Target`, or a sampler
    `(n, generator) -> (n, d)`. Raises `InvalidInput`.
    """
    measure_type = Source if kind is SourceView else Target
    name = measure_type.__name__.lower()
    if isinstance(given, View):
        if not isinstance(given, kind):
            raise InvalidInput(f"A {type(given).__name__} was given as {name}: source and target are exchanged.")
        return given
    pool: Points | None = None
    if isinstance(given, Measure):
        if not isinstance(given, measure_type):
            raise InvalidInput(f"A {type(given).__name__} was given as {name}: source and target are exchanged.")
        measure = given
    elif callable(given):
        measure = measure_type(sampler=given)
    else:
        pool = as_points(given, name=f"{name} samples")
        measure = measure_type(dim=pool.shape[1], size=len(pool))
    budget = None if pool is None else len(pool)
    return kind(measure, declared=declared, budget=budget, seed=seed, meter=Meter(), pool=pool)
