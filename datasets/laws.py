"""One-dimensional laws with exact tails and quantiles: what monotone maps t = Q_target(F_source(z)) are made of.

A probability is handed around as the logarithm of the mass on one side of a point together with that side, so that
no tail is ever the difference 1 - F: at eight standard deviations that difference has no digit left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

import numpy as np
import scipy.optimize
from array_api_compat import array_namespace
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from mongebench.core.arrays import blockwise
from mongebench.core.device_draws import Generator
from mongebench.core.errors import MongebenchError
from mongebench.datasets.linear import Array, constants

LawName = Literal["normal", "logistic", "gumbel", "laplace", "generalised_normal_1.5", "generalised_normal_4"]
LAW_NAMES: tuple[LawName, ...] = get_args(LawName)

# Height above the mode's potential at which the panels end. From there on v''/v'^2 is about 1/(2 DEPTH) for every law
# here, and 32 Gauss-Laguerre nodes give the rest of the tail to rounding.
_DEPTH = 300.0
_TAIL_NODES, _TAIL_WEIGHTS = np.polynomial.laguerre.laggauss(32)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # on [0, 1]


class Tail(NamedTuple):
    """Probabilities: the logarithm of the mass on one side of a point, and whether that is the lower side."""

    log_mass: Array
    lower: NDArray[np.bool_]


class Law(Protocol):
    """A law on the line with density exp(-v)/Z; z stands for an array of any shape."""

    @property
    def traceable(self) -> bool:
        """Whether `sample` takes a `DeviceGenerator` too."""
        ...

    @property
    def mean(self) -> float:
        """E z."""
        ...

    @property
    def variance(self) -> float:
        """E (z - E z)^2."""
        ...

    @property
    def log_normaliser(self) -> float:
        """log Z, the logarithm of the integral of exp(-v)."""
        ...

    @property
    def strong_convexity(self) -> float:
        """The greatest known lower bound of v''; -inf where none is known."""
        ...

    def potential(self, z: Any) -> Any:
        """v(z), in any array namespace."""
        ...

    def derivative(self, z: Any) -> Any:
        """v'(z), in any array namespace."""
        ...

    def tail(self, z: Array) -> Tail:
        """The mass beyond z, on the side with (roughly) no more than half of it."""
        ...

    def quantile(self, tail: Tail) -> Array:
        """The points that have these masses beside them: the inverse of `tail`."""
        ...

    def sample(self, shape: tuple[int, ...], rng: Any) -> Any:
        """Independent draws."""
        ...


def monotone(source: Law, target: Law, z: Array) -> Array:
    """The increasing map that takes `source` to `target`, at points z of any shape."""
    return target.quantile(source.tail(z))


@dataclass(frozen=True)
class Normal:
    """N(0, 1 / precision), by the error function.

    Parameters
    ----------
    precision
        1 / variance.
    """

    precision: float
    mean: float = 0.0
    traceable: ClassVar[bool] = True

    @property
    def variance(self) -> float:
        """E z^2."""
        return 1 / self.precision

    @property
    def log_normaliser(self) -> float:
        """log of the integral of exp(-v)."""
        return float(np.log(2 * np.pi / self.precision) / 2)

    @property
    def strong_convexity(self) -> float:
        """v''."""
        return self.precision

    def potential(self, z: Any) -> Any:
        """v(z), in any array namespace."""
        return self.precision / 2 * z * z

    def derivative(self, z: Any) -> Any:
        """v'(z), in any array namespace."""
        return self.precision * z

    def tail(self, z: Array) -> Tail:
        """The mass beyond z, on the lighter side."""
        z = np.asarray(z, dtype=np.float64)
        return Tail(log_ndtr(-np.abs(z) * np.sqrt(self.precision)), np.asarray(z < 0))

    def quantile(self, tail: Tail) -> Array:
        """The points that have these masses beside them."""
        z: Array = ndtri_exp(tail.log_mass) / np.sqrt(self.precision)
        signed: Array = np.where(tail.lower, z, -z)
        return signed

    def sample(self, shape: tuple[int, ...], rng: Generator) -> Any:
        """Independent draws."""
        return float(np.sqrt(self.variance)) * rng.standard_normal(shape)


@dataclass(frozen=True)
class _Panels:
    """Intervals on each of which the sixteen Gauss-Legendre nodes integrate exp(-v) to rounding.

    `log_below` and `log_above`, (k + 1,) as `edges`, are the log of the mass on either side, not normalised.
    """

    edges: Array
    log_below: Array
    log_above: Array

    @functools.cached_property
    def middle(self) -> int:
        """The edge nearest to the median."""
        return int(np.argmin(np.abs(self.log_below - self.log_above)))

    @functools.cached_property
    def log_total(self) -> float:
        return float(np.logaddexp(self.log_below[self.middle], self.log_above[self.middle]))


@dataclass(frozen=True, eq=False)
class LogConcave:
    """A law whose potential is convex and smooth, but perhaps for a kink at 0.

    Masses are summed from the far end of each tail inwards, on Gauss-Legendre panels and by Gauss-Laguerre
    quadrature beyond them; their relative error is a few 1e-16 times |v|, the rounding of the potential itself.

    Parameters
    ----------
    potential, derivative
        v and v', elementwise, in any array namespace.
    strong_convexity
        inf v''.
    """

    potential: Callable[[Any], Any]
    derivative: Callable[[Any], Any]
    strong_convexity: float
    traceable: ClassVar[bool] = False

    @property
    def log_normaliser(self) -> float:
        """log of the integral of exp(-v)."""
        return self._panels.log_total

    @functools.cached_property
    def mean(self) -> float:
        """E z."""
        return self.expectation(lambda z: z)

    @functools.cached_property
    def variance(self) -> float:
        """E (z - E z)^2."""
        return self.expectation(lambda z: (z - self.mean) ** 2)

    def expectation(self, function: Callable[[Array], Array]) -> float:
        """E function(z), for a smooth function that is small against exp(v) far out."""
        edges = self._panels.edges
        widths = np.diff(edges)
        nodes = edges[:-1, None] + widths[:, None] * _NODES
        density = np.exp(-self.potential(nodes) - self.log_normaliser)
        return float(widths @ (function(nodes) * density) @ _WEIGHTS)

    def tail(self, z: Array) -> Tail:
        """The mass beyond z, on the lighter side as far as the panels know it."""
        z = np.asarray(z, dtype=np.float64)
        lower = z < self._panels.edges[self._panels.middle]
        log_mass = np.empty_like(z)
        for side in (True, False):
            log_mass[lower == side] = self._log_mass(z[lower == side], side)
        return Tail(log_mass, lower)

    def quantile(self, tail: Tail) -> Array:
        """The points that have these masses beside them."""
        panels = self._panels
        z = np.empty_like(tail.log_mass)
        for side in (True, False):
            here = tail.lower == side
            # The edges in the order of growing mass; two of them bracket each answer, but for the far tail.
            edges, log_mass = (panels.edges, panels.log_below) if side else (panels.edges[::-1], panels.log_above[::-1])
            log_mass = log_mass - panels.log_total
            goal = tail.log_mass[here]
            index = np.minimum(np.searchsorted(log_mass, goal), len(edges) - 1)
            bracket = edges[index], np.where(index == 0, -np.inf if side else np.inf, edges[index - 1])
            z[here] = _invert(
                functools.partial(self._log_mass_and_slope, lower=side),
                goal,
                np.interp(goal, log_mass, edges),
                np.minimum(*bracket),
                np.maximum(*bracket),
            )
        return z

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Independent draws by quantile, with tails as deep as the law's own."""
        # Half a uniform variable has the logarithm -log 2 - Exp(1); unlike log(rng.random()) it does not end at -37.
        log_mass = -np.log(2.0) - rng.standard_exponential(shape)
        return self.quantile(Tail(log_mass, rng.random(shape) < 0.5))

    def _log_mass_and_slope(self, z: Array, *, lower: bool) -> tuple[Array, Array]:
        log_mass = self._log_mass(z, lower)
        density = np.exp(-self.potential(z) - self.log_normaliser - log_mass)
        return log_mass, density if lower else -density

    def _log_mass(self, z: Array, lower: bool) -> Array:
        """Log of the mass on one side of z: (n,) -> (n,)."""
        edges = self._panels.edges

        def of_block(z: Array) -> Array:
            beyond = z < edges[0] if lower else z > edges[-1]
            values = np.empty_like(z)
            values[beyond] = self._far_mass(z[beyond], lower)
            values[~beyond] = self._near_mass(z[~beyond], lower)
            return values - self._panels.log_total

        return blockwise(of_block, z, row_bytes=4 * 8 * len(_TAIL_NODES))

    def _near_mass(self, z: Array, lower: bool) -> Array:
        """Within the panels: what lies behind the panel's outer edge, and the part of the panel up to z."""
        panels = self._panels
        index = np.clip(np.searchsorted(panels.edges, z, side="right") - 1, 0, len(panels.edges) - 2)
        index = index if lower else index + 1
        behind = (panels.log_below if lower else panels.log_above)[index]
        return np.logaddexp(behind, self._log_integral(z, panels.edges[index]))

    def _far_mass(self, z: Array, lower: bool) -> Array:
        """Beyond the panels, where exp(v(z) - v(z + u)) is nearly exp(-|v'(z)| u), the Gauss-Laguerre weight."""
        height, slope = self.potential(z), self.derivative(z)
        ratio = height[:, None] + _TAIL_NODES - self.potential(z[:, None] + _TAIL_NODES / slope[:, None])
        log_mass: Array = np.log(np.exp(ratio) @ _TAIL_WEIGHTS) - height - np.log(-slope if lower else slope)
        return log_mass

    def _log_integral(self, start: Array, end: Array) -> Array:
        """Log of the integral of exp(-v) between points of one panel."""
        height = self.potential(start)
        ratio = height[:, None] - self.potential(start[:, None] + (end - start)[:, None] * _NODES)
        with np.errstate(divide="ignore"):  # an empty interval has the logarithm -inf
            result: Array = np.log(np.abs(end - start) * (np.exp(ratio) @ _WEIGHTS)) - height
        return result

    @functools.cached_property
    def _panels(self) -> _Panels:
        mode = _root(self.derivative, 0.0, -np.sign(self.derivative(np.float64(0.0))))
        top = float(self.potential(np.float64(mode))) + _DEPTH
        ends = [_root(lambda z: self.potential(z) - top, mode, sign) for sign in (-1.0, 1.0)]
        # Short steps at first: exp(-v) must not fall by more than floating point can hold within a panel.
        edges = np.unique(np.concatenate([np.linspace(mode, end, 33) for end in ends]))
        while True:
            middle = (edges[:-1] + edges[1:]) / 2
            whole = self._log_integral(edges[:-1], edges[1:])
            halves = np.logaddexp(self._log_integral(edges[:-1], middle), self._log_integral(middle, edges[1:]))
            # What no bisection can mend: rounding of v (of its terms, which may cancel) and of the point itself.
            height = np.abs(self.potential(edges)).max() + np.abs(edges * self.derivative(edges))
            rounding = 4 * np.finfo(float).eps * np.maximum(height[:-1], height[1:])
            rough = np.abs(whole - halves) > rounding
            if not rough.any():
                break
            edges = np.sort(np.concatenate([edges, middle[rough]]))
        below = np.concatenate([self._far_mass(edges[:1], True), whole])
        above = np.concatenate([whole, self._far_mass(edges[-1:], False)])
        return _Panels(edges, np.logaddexp.accumulate(below), np.logaddexp.accumulate(above[::-1])[::-1])


@dataclass(frozen=True, eq=False)
class NormalMixture:
    """A mixture of normal laws: exact tails and densities, quantiles by safeguarded Newton steps.

    Parameters
    ----------
    weights, means, deviations
        (k,) each; the weights sum to 1.
    """

    weights: Array
    means: Array
    deviations: Array
    log_normaliser: float = 0.0
    strong_convexity: float = -np.inf
    traceable: ClassVar[bool] = True

    @property
    def mean(self) -> float:
        """E z."""
        return float(self.weights @ self.means)

    @property
    def variance(self) -> float:
        """E (z - E z)^2."""
        return float(self.weights @ (self.deviations**2 + (self.means - self.mean) ** 2))

    def potential(self, z: Any) -> Any:
        """-log density (normalised), in any array namespace."""
        xp, _, log_terms = self._log_terms(z)
        top = xp.max(log_terms, axis=-1, keepdims=True)
        return -xp.log(xp.sum(xp.exp(log_terms - top), axis=-1)) - top[..., 0]

    def derivative(self, z: Any) -> Any:
        """v'(z), in any array namespace."""
        xp, slopes, log_terms = self._log_terms(z)
        shares = xp.exp(log_terms - xp.max(log_terms, axis=-1, keepdims=True))
        return xp.sum(shares * slopes, axis=-1) / xp.sum(shares, axis=-1)

    def _log_terms(self, z: Any) -> tuple[Any, Any, Any]:
        """Namespace, then for each component the slope of its potential and the log of its part of the density."""
        log_heights = np.log(self.weights / (self.deviations * np.sqrt(2 * np.pi)))
        xp, means, deviations, log_heights = constants(z, self.means, self.deviations, log_heights)
        standard = (z[..., None] - means) / deviations
        return xp, standard / deviations, log_heights - standard * standard / 2

    def tail(self, z: Array) -> Tail:
        """The mass beyond z, on the lighter side."""
        z = np.asarray(z, dtype=np.float64)
        below, above = (self._log_mass(z, side) for side in (True, False))
        return Tail(np.minimum(below, above), below < above)

    def quantile(self, tail: Tail) -> Array:
        """The points that have these masses beside them."""
        z = np.empty_like(tail.log_mass)
        for side in (True, False):
            goal = tail.log_mass[tail.lower == side]
            # Beyond the outermost of the components' own quantiles every component has too much (or too little) mass.
            standard = ndtri_exp(goal) if side else -ndtri_exp(goal)
            candidates = self.means + standard[:, None] * self.deviations
            low, high = candidates.min(axis=1), candidates.max(axis=1)
            slopes = functools.partial(self._log_mass_and_slope, lower=side)
            z[tail.lower == side] = _invert(slopes, goal, (low + high) / 2, low, high)
        return z

    def sample(self, shape: tuple[int, ...], rng: Generator) -> Any:
        """Independent draws."""
        component = rng.choice(len(self.weights), size=shape, p=self.weights)
        noise = rng.standard_normal(shape)
        _, means, deviations = constants(noise, self.means, self.deviations)
        return means[component] + deviations[component] * noise

    def _log_mass_and_slope(self, z: Array, *, lower: bool) -> tuple[Array, Array]:
        log_mass = self._log_mass(z, lower)
        density = np.exp(-self.potential(z) - log_mass)
        return log_mass, density if lower else -density

    def _log_mass(self, z: Array, lower: bool) -> Array:
        standard = (z[..., None] - self.means) / self.deviations
        log_mass: Array = logsumexp(log_ndtr(standard if lower else -standard), b=self.weights, axis=-1)
        return log_mass


def _invert(
    log_mass_and_slope: Callable[[Array], tuple[Array, Array]], goal: Array, start: Array, low: Array, high: Array
) -> Array:
    """Solve log mass(z) = goal for every entry, by Newton steps for log(-log mass) or, outside [low, high], bisection.

    That function is almost linear far out, for exponential, Gaussian and double exponential tails alike. A step always
    points towards the solution, so that it never leaves a bracket on a side where it is infinite. Goals that are not
    finite, where a law's potential overflows, give NaN.
    """
    z = np.where(np.isfinite(goal), start, np.nan)
    low, high = low.copy(), high.copy()
    active = np.flatnonzero(np.isfinite(goal))
    for _ in range(500):
        if not len(active):
            return z
        at, below, above = z[active], low[active], high[active]
        log_mass, slope = log_mass_and_slope(at)
        excess = np.log(log_mass / goal[active])
        right = (excess > 0) == (slope > 0)  # the solution is on the right
        below, above = np.where(right, at, below), np.where(right, above, at)
        step = at - excess * log_mass / slope
        inside = (step >= below) & (step <= above)
        z[active] = np.where(inside, step, below / 2 + above / 2)
        low[active], high[active] = below, above
        # A Newton step from this near doubles the digits to all there are.
        done = (inside & (np.abs(excess) < 1e-9)) | (above - below <= 4 * np.finfo(float).eps * np.abs(at))
        active = active[~done]
    raise MongebenchError(
        f"Quantiles of log masses {goal[active].min():.6g} to {goal[active].max():.6g} were not found."
    )


def _root(function: Callable[[Any], Any], start: float, sign: float) -> float:
    """The root of a function that changes sign once, looked for from `start` on in one direction."""
    reach = 2.0**-20
    while function(np.float64(start)) * function(np.float64(start + sign * reach)) > 0:
        reach *= 2
    return float(scipy.optimize.brentq(lambda z: function(np.float64(z)), start, start + sign * reach, xtol=1e-14))


@functools.cache
def named_law(name: LawName, quadratic: float = 0.0) -> Law:
    """The law of density proportional to exp(-v(z) - quadratic z^2 / 2), not standardised.

    v is z^2/2 (normal), log(2 cosh(z/2)) twice (logistic), z + exp(-z) (gumbel), sqrt(0.01 + z^2) (laplace, its kink
    smoothed) or |z|^p (generalised_normal_p).
    """
    if name == "normal":
        return Normal(1 + quadratic)
    potential, derivative = _LAWS[name]
    # Every v here has v'' > 0, but its infimum is 0: at infinity, or at 0 for generalised_normal_4.
    return LogConcave(
        lambda z: potential(z) + quadratic / 2 * z * z,
        lambda z: derivative(z) + quadratic * z,
        strong_convexity=quadratic,
    )


def _logistic(z: Any) -> Any:
    return 2 * array_namespace(z).logaddexp(z / 2, -z / 2)


def _logistic_derivative(z: Any) -> Any:
    return array_namespace(z).tanh(z / 2)


def _gumbel(z: Any) -> Any:
    return z + array_namespace(z).exp(-z)


def _gumbel_derivative(z: Any) -> Any:
    return -array_namespace(z).expm1(-z)


def _laplace(z: Any) -> Any:
    return array_namespace(z).sqrt(0.01 + z * z)


def _laplace_derivative(z: Any) -> Any:
    return z / _laplace(z)


def _power(z: Any, p: float) -> Any:
    return array_namespace(z).abs(z) ** p


def _power_derivative(z: Any, p: float) -> Any:
    xp = array_namespace(z)
    return p * xp.sign(z) * xp.abs(z) ** (p - 1)


_LAWS: dict[LawName, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "logistic": (_logistic, _logistic_derivative),
    "gumbel": (_gumbel, _gumbel_derivative),
    "laplace": (_laplace, _laplace_derivative),
    "generalised_normal_1.5": (lambda z: _power(z, 1.5), lambda z: _power_derivative(z, 1.5)),
    "generalised_normal_4": (lambda z: _power(z, 4.0), lambda z: _power_derivative(z, 4.0)),
}
