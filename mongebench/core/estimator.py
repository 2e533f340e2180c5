"""The one contract of the suite: a Monge-map estimator is a scikit-learn estimator with declared oracles.

To write one, subclass `MapEstimator`, store the parameters in `__init__`, declare `needs`, and write `fit` and
`transform`:

    class Shift(MapEstimator):
        needs = frozenset({Oracle.SOURCE_SAMPLES, Oracle.TARGET_SAMPLES})

        def fit(self, source, target, *, seed=0, trace=None):
            self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
            return self

        def transform(self, X):
            return X + self.shift_

Whatever the user passes (arrays of any library, measures, the runner's metered views), `fit` receives a `SourceView`
and a `TargetView` and `transform` a read-only float64 (n, d) NumPy array; what `transform` returns is given back as
the kind of array that came in. Columns of frames are matched by name. The base class does that at one place, around
the methods of every subclass.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from mongebench.core import guard, parameters
from mongebench.core.arrays import as_points, as_values, column_names, like, order_by_name
from mongebench.core.errors import ContractViolation, InvalidInput, InvalidParameter, NoInverse
from mongebench.core.oracle import Oracle, SourceView, TargetView, View, as_view

Map = Callable[[Any], Any]
"""(n, d) -> (n, d)."""
CPU_ALONE = "numpy"
FRAMEWORKS = ("jax", "torch")
"""Those that can use a GPU; whoever names neither among its modules computes on the CPU, as NumPy does."""


class Trace(Protocol):
    """What an iterative `fit` calls at each outer step; False means that the budget is spent: stop."""

    def __call__(self, map: Map, *, flow_time: float | None = None, **diagnostics: float) -> bool:
        """Record the map reached at `flow_time` (sum of the steps), with the solver's own diagnostics.

        A map with a method `log_det`, x (n, d) -> log det DT(x) (n,), has its KL to the target recorded as well.
        """
        ...


def keep_going(map: Map, *, flow_time: float | None = None, **diagnostics: float) -> bool:
    """The trace of a fit that nobody watches."""
    del map, flow_time, diagnostics
    return True


class FitTogether(Protocol):
    """Fits copies of an estimator to one problem with different seeds, as their own `fit` would up to rounding."""

    def __call__(
        self,
        estimators: Sequence[Any],
        sources: Sequence[SourceView],
        targets: Sequence[TargetView],
        *,
        seeds: Sequence[int],
        traces: Sequence[Trace],
    ) -> list[Exception | None]:
        """What ended each fit; None for one that came to its end. Raises what concerns all of them."""
        ...


@dataclass(frozen=True)
class Support:
    """Whether an estimator can serve a problem, and a sentence why not."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class ProblemInfo:
    """What `MapEstimator.supports` may know of a problem before seeing any of it."""

    dim: int
    n_source: int | None
    n_target: int | None
    offers: frozenset[Oracle]
    strong_convexity: float | None


class Claim(StrEnum):
    """A property of every map an estimator learns, which not every sound estimator has; `mongebench check` tests it."""

    TRANSLATION_EQUIVARIANT = "translation_equivariant"
    """Both measures moved by one vector move the map: T'(x + c) = T(x) + c."""
    ROTATION_EQUIVARIANT = "rotation_equivariant"
    """Both measures turned by one orthogonal matrix turn the map: T'(Q x) = Q T(x)."""
    UNIT_FREE = "unit_free"
    """Both measures scaled by s scale the map, T'(s x) = s T(x), whatever s and however far from the origin; of
    parameters that are in units of the data (an absolute epsilon), of course, with those scaled too."""
    GRADIENT_OF_CONVEX = "gradient_of_convex"
    """T = grad phi for some convex phi, at all points."""


@dataclass(frozen=True)
class Range:
    """The numbers that a parameter may be tuned over: whole ones where both ends are."""

    low: float
    high: float
    log: bool = True


class MapEstimator(BaseEstimator, abc.ABC):
    """Base of all Monge-map estimators: T = grad phi learnt from what `needs` declares.

    Class attributes
    ----------------
    needs
        The oracles that `fit` may use.
    anchor
        True for the reference rows that stand in every table (identity, mean shift, Bures, truth).
    claims
        What else is true of its maps; see `Claim`.
    any_size
        Whether time and memory of a fit, and of the map, grow no faster than n log n in the number of samples: then
        `mongebench.select` fits it to all points of samples of any size.
    invertible
        Whether it has an inverse map, `inverse_transform`.
    fit_together
        None, or what fits copies with different seeds in one call; see `FitTogether`.
    tunable
        Parameters that `mongebench tune` searches over, by name: a `Range` of numbers, or a list of choices.
    matters_with
        Of parameters that do nothing in some settings: the values of others, by name, with which they matter. Any of
        several suffices: {"learning_rate": {"inner": ["adam"]}}. Else they are refused unless they are at their
        default, so that one fit is one cell.

    The annotations of `__init__` say what each parameter may be (see `mongebench.core.parameters`). They are held
    against it when an estimator is made by its name, and when `fit` is called.
    """

    needs: ClassVar[frozenset[Oracle]]
    anchor: ClassVar[bool] = False
    claims: ClassVar[frozenset[Claim]] = frozenset()
    any_size: ClassVar[bool] = False
    invertible: ClassVar[bool] = False
    fit_together: ClassVar[FitTogether | None] = None
    tunable: ClassVar[Mapping[str, Range | Sequence[Any]]] = MappingProxyType({})
    matters_with: ClassVar[Mapping[str, Mapping[str, Collection[Any]]]] = MappingProxyType({})
    column_names_: tuple[str | int, ...] | None = None
    """Of the frames that `fit` was given; None where it was given arrays."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        to_points, to_values = _guarded_map(columns=True), _guarded_map(columns=False)
        guarded = {
            "fit": _guarded_fit,
            "transform": to_points,
            "inverse_transform": to_points,
            "potential": to_values,
            "log_det": to_values,
        }
        for name, around in guarded.items():
            if name in cls.__dict__:
                setattr(cls, name, around(cls.__dict__[name]))

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the columns that `fit` saw, (d,); not there, as in scikit-learn, unless all of them are text."""
        names = self.column_names_
        if names is None or not all(isinstance(name, str) for name in names):
            raise AttributeError(f"This {type(self).__name__} was not fitted to frames whose columns have names.")
        return np.array(names, dtype=object)

    def check_parameters(self) -> None:
        """Raise `InvalidParameter` where parameters do not go together, each of which suits its annotation."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that `fit` imports: the runner imports them before the clock of `fit` starts."""
        return ()

    @property
    def device_framework(self) -> str:
        """What it computes with: one of `FRAMEWORKS`, which can use a GPU, or `CPU_ALONE`; read off `modules`."""
        roots = {name.partition(".")[0] for name in self.modules}
        return next((name for name in FRAMEWORKS if name in roots), CPU_ALONE)

    @property
    def versioned_libraries(self) -> tuple[str, ...]:
        """Modules whose versions a record carries, beside those that its code imports: `modules` unless it says more.

        Another version of one of them makes the record run again.
        """
        return self.modules

    def supports(self, problem: ProblemInfo) -> Support:
        """Whether this estimator, with its parameters, can serve `problem`; asked before `fit`, never raises."""
        del problem
        return Support(True)

    @abc.abstractmethod
    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Learn the map from `source` to `target`.

        Parameters
        ----------
        source, target
            (n, d) arrays of samples, `Source` / `Target` measures, samplers, or the runner's views. The columns of two
            frames are matched by name.
        seed
            Of every random choice of the fit.
        trace
            Called as `trace(map, flow_time=...)` at each outer step; stop when it returns False.

        Returns
        -------
        self

        Raises
        ------
        InvalidParameter
            A parameter that does not suit its annotation, or does not go with the others.
        InvalidInput
            Data of the wrong shape, with missing, NaN or infinite entries, of two dimensions, or frames whose columns
            have other names.
        """

    @abc.abstractmethod
    def transform(self, X: Any) -> Any:
        """The learnt map at any points, (n, d) -> (n, d), same array type, dtype and device out as in.

        After a fit to frames, the columns of a frame are matched with those by name; the images are in the order of X.
        """

    def inverse_transform(self, Y: Any) -> Any:
        """The map back, (n, d) -> (n, d), arrays and columns as in `transform`; of estimators that are `invertible`.

        With T the learnt map, T(inverse_transform(T(x))) = T(x); where T is one-to-one, inverse_transform(T(x)) = x,
        and elsewhere it is one of the points that have this image. Away from the images of T it is what the estimator
        says: the nearest image's point, or a continuation.

        Raises
        ------
        NoInverse
            It has none.
        NotConverged
            An iterative solver did not reach its tolerance.
        """
        del Y
        raise NoInverse(f"{type(self).__name__} has no map back: an estimator that has one says `invertible = True`.")

    def fitted_state(self) -> dict[str, Any]:
        """What `fit` learnt, as `mongebench.save` keeps it: the attributes whose names end in `_`.

        An estimator that learns something other than arrays, numbers, text, containers and dataclasses of them returns
        in its place what `restore` makes it from: of a network of torch the `state_dict`, of a search tree nothing.
        """
        return {name: value for name, value in vars(self).items() if _is_learnt(name)}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the fitted estimator of this `fitted_state`; the parameters and `n_features_in_` are there already."""
        for name, value in state.items():
            if not _is_learnt(name):
                raise InvalidInput(f"{name} is not the name of anything that `fit` learns.")
            setattr(self, name, value)


def refuse_invalid(estimator: MapEstimator) -> None:
    """Raise `InvalidParameter` where a parameter does not suit its annotation, or does not go with the others."""
    parameters.check(estimator)
    estimator.check_parameters()


def idle(estimator: MapEstimator) -> dict[str, str]:
    """Names of the parameters that do nothing in this setting, and what of it makes them idle: "inner='newton'"."""
    return {
        name: ", ".join(f"{other}={getattr(estimator, other)!r}" for other in conditions)
        for name, conditions in estimator.matters_with.items()
        if not any(getattr(estimator, other) in values for other, values in conditions.items())
    }


def refuse_idle(estimator: MapEstimator, what: str) -> None:
    """Raise `InvalidParameter` where a parameter is set that does nothing: it would name one fit in two ways.

    `what` is what messages call the estimator.
    """
    defaults = parameters.parameters_of(type(estimator))
    for name, setting in idle(estimator).items():
        if name in defaults and not parameters.same(getattr(estimator, name), defaults[name].default):
            raise InvalidParameter(
                f"{name}={getattr(estimator, name)!r} does nothing with {setting} in {what}: leave it out there, or "
                f"set {_ways(estimator.matters_with[name])}."
            )


def _ways(conditions: Mapping[str, Collection[Any]]) -> str:
    return " or ".join(f"{other}={value!r}" for other, values in conditions.items() for value in values)


def check_support(estimator: MapEstimator, problem: ProblemInfo) -> Support:
    """Oracles first, budgets next, then the estimator's own word.

    Raises `InvalidParameter` as `fit` does, and `ContractViolation` where that word is not a `Support`.
    """
    refuse_invalid(estimator)
    missing = [oracle for oracle in Oracle if oracle in estimator.needs - problem.offers]
    if missing:
        return Support(False, f"the problem does not offer {', '.join(missing)}")
    for oracle, budget, name in (
        (Oracle.SOURCE_SAMPLES, problem.n_source, "n_source"),
        (Oracle.TARGET_SAMPLES, problem.n_target, "n_target"),
    ):
        if oracle in estimator.needs and budget is None:
            return Support(False, f"learns from one fixed sample and needs a finite {name}")
    with guard.closed(not _knows_the_truth(estimator)):
        answer = estimator.supports(problem)
    if not isinstance(answer, Support) or not isinstance(answer.reason, str):
        raise ContractViolation(
            f"supports of {type(estimator).__name__} returned {answer!r}; return Support(True), or "
            "Support(False, reason) with a sentence that says why not."
        )
    return answer


def _is_learnt(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_") and name not in ("n_features_in_", "column_names_")


def _knows_the_truth(estimator: MapEstimator) -> bool:
    """Whether it declares the exact map: then nothing of a problem is kept from it."""
    return Oracle.EXACT_MAP in estimator.needs


def _is_write_to_input(error: ValueError) -> bool:
    return "read-only" in str(error)


def _guarded_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def fit(
        self: MapEstimator, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None, **extra: Any
    ) -> Any:
        refuse_invalid(self)
        names, target = _matched(source, target)
        on_views = isinstance(source, View) and isinstance(target, View)
        source = as_view(source, SourceView, declared=self.needs, seed=seed)
        target = as_view(target, TargetView, declared=self.needs, seed=seed)
        dims = {view.known_dim for view in (source, target)} - {None}
        if len(dims) > 1:
            raise InvalidInput(f"The source has dimension {source.dim}, the target {target.dim}; they must agree.")
        self.column_names_ = None  # of an earlier fit
        trace = trace or keep_going
        if trace is not keep_going and not guard.is_closed():  # in a fit within a fit it is the outer one's own code
            trace = guard.watched(trace)
        try:
            with guard.closed(not _knows_the_truth(self), everywhere=on_views):
                fitted = method(self, source, target, seed=seed, trace=trace, **extra)
        except ValueError as error:
            if _is_write_to_input(error):
                raise ContractViolation(f"{type(self).__name__}.fit tried to change its input; copy it.") from error
            raise
        if fitted is not self:
            raise ContractViolation(f"{type(self).__name__}.fit must return self, got {type(fitted).__name__}.")
        self.n_features_in_ = dims.pop() if dims else source.dim
        self.column_names_ = names
        return self

    return fit


def _matched(source: Any, target: Any) -> tuple[tuple[str | int, ...] | None, Any]:
    """The names of the columns, if a frame tells them, and the target with its columns in the source's order."""
    names, others = column_names(source), column_names(target)
    if names is None or others is None:
        return names or others, target
    remedy = "Name the columns of both alike, or match them by their position: give X.to_numpy()."
    order = order_by_name(others, names, name="The target", other="the source", remedy=remedy)
    return names, as_points(target, name="target samples")[:, order]


def _evaluate(estimator: MapEstimator, method: Callable[..., Any], X: Any, columns: bool) -> Any:
    what = f"{type(estimator).__name__}.{method.__name__}"
    dim = getattr(estimator, "n_features_in_", None)
    if dim is None:
        raise NotFittedError(f"This {type(estimator).__name__} is not fitted yet; call fit(source, target) first.")
    names, given = estimator.column_names_, column_names(X)
    order = None
    if names is not None and given is not None and names != given:
        remedy = "Give those columns alone, or match them by their position: give X.to_numpy()."
        order = order_by_name(given, names, name="X", other=f"{type(estimator).__name__} was fitted to", remedy=remedy)
    points = as_points(X if order is None else as_points(X, min_rows=0)[:, order], dim=dim, min_rows=0)
    expected = points.shape if columns else points.shape[:1]
    if len(points) == 0:
        return like(np.empty(expected), X)
    try:
        with guard.closed(not _knows_the_truth(estimator)):
            values = as_values(method(estimator, points), what)
    except ValueError as error:
        if _is_write_to_input(error):
            raise ContractViolation(f"{what} tried to change its input in place; copy it first.") from error
        raise
    if values.shape != expected:
        raise ContractViolation(f"{what} returned shape {values.shape} for {len(points)} points; expected {expected}.")
    return like(values[:, np.argsort(order)] if columns and order is not None else values, X)


def _guarded_map(columns: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Around what is evaluated at points: (n, d) -> (n, d), or to (n,) without columns."""

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def evaluated(self: MapEstimator, X: Any) -> Any:
            return _evaluate(self, method, X, columns=columns)

        return evaluated

    return around
