"""`diagnose`: how good a map to a target that is known by V is, without a truth and without a sample of the target.

With D(T) = E[V(T) - log det DT] over x ~ mu0, KL(T#mu0 | gamma) = D(T) + E log mu0 + log Z, which is 0 for T*. So
D(T) - D(T*) is that KL, and where V - lambda/2 |y|^2 is convex, strong convexity of D on gradients of convex functions
gives the bound (docs/theory.md, equation 3)

    E|T - T*|^2 <= (2 / lambda) (D(T) - D(T*)),

with equality for T = T* + a constant and V = lambda/2 |y|^2. The same log-ratios make the push-forward a proposal for
importance sampling: weights exp(-V(T) + log det DT - log mu0), whose mean is Z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from mongebench.core.arrays import Points, as_points, as_values
from mongebench.core.errors import InvalidInput
from mongebench.core.estimator import MapEstimator
from mongebench.core.measure import Source, Target
from mongebench.metrics.divergence import controlled

Vector = NDArray[np.float64]

STREAM = 0x64696167
"""Of the draws, which are never those of a fit."""
DIFFERENCE = 1e-5
"""Step of central differences, in standard deviations of the source's coordinate."""
EQUAL = 1e-6
"""Log-weights that differ by no more are equal, up to the rounding of V and of log det DT."""
CONFIDENT = 1.96
"""Standard errors that the bound adds."""
ROUNDING = 1e-12
"""A KL below it, in nats, is 0 as far as float64 tells."""
REACH = 0.1
"""Step of second differences of V, in standard deviations of the images; a lambda-convex V passes at any step."""
NOISE = 1e-6
"""Rounding of V, relative: that of float32, which V may compute in."""


@dataclass(frozen=True)
class Diagnosis:
    """What is known about a map without a truth; None for what source and target do not determine.

    Attributes
    ----------
    n
        Points of the source.
    divergence, divergence_se
        D(T) = E[V(T) - log det DT] with its standard error: KL up to a constant that no map changes, so that of two
        maps the one with the smaller D is closer in KL. Infinite where the map leaves the target's support or is not
        locally invertible.
    kl, kl_se
        KL(T#mu0 | gamma) = D(T) - D*, in nats, with its standard error; where the density of the source is known.
    log_normaliser, normaliser
        log Z, and whether it is "known" or "estimated": by the mean of the importance weights, which is too low where
        they have a heavy tail, and misses every mode of the target that no image reaches. KL is too low by as much, so
        that it is a lower bound then.
    error_bound
        An upper bound on E|T - T*|^2 for a T that is the gradient of a convex function, in squared units of the
        target: (2 / lambda) (kl + 1.96 kl_se), where lambda > 0 is known, and the normaliser is, or is estimated from
        weights whose k-hat says that they may be trusted.
    effective_size
        Effective sample size (sum w)^2 / sum w^2 of the n weights: n for the exact map.
    k_hat, k_limit
        Shape of the generalised Pareto distribution in the tail of the weights (Vehtari et al. 2024), and the value
        above which n of them are not to be trusted: min(1 - 1 / log10 n, 0.7).
    outside, met
        How many images V is not finite at, and one of them, (d,).
    folded
        At how many points det DT is not positive.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry 2024, Pareto smoothed importance sampling, JMLR 25.
    """

    n: int
    divergence: float
    divergence_se: float
    outside: int
    folded: int
    met: Vector | None = None
    kl: float | None = None
    kl_se: float | None = None
    log_normaliser: float | None = None
    normaliser: str = "unknown"
    error_bound: float | None = None
    effective_size: float | None = None
    k_hat: float | None = None
    k_limit: float | None = None

    def __str__(self) -> str:
        spread = f" +- {self.divergence_se:.2g}" if np.isfinite(self.divergence) else ""
        lines = [f"D(T) = {self.divergence:.6g}{spread} up to its constant, over {self.n} points."]
        if self.outside and self.met is not None:
            shown = np.array2string(self.met, precision=4, separator=", ", threshold=8)
            lines.append(f"The map leaves the target's support at {self.outside} points, for instance to y = {shown}.")
        if self.folded:
            lines.append(f"The map is not locally invertible at {self.folded} points.")
        if self.kl is not None and np.isfinite(self.kl):
            value = f"{self.kl:.4g} +- {self.kl_se:.2g} nats" if abs(self.kl) > ROUNDING else "0 to rounding"
            lines.append(
                f"KL = {value}, log Z known."
                if self.normaliser == "known"
                else f"KL >= {value}: log Z is estimated from the images, and a mode of the target that none of them "
                "reaches is not seen."
            )
        if self.error_bound is not None:
            lines.append(f"E|T - T*|^2 <= {self.error_bound:.4g}, if T is the gradient of a convex function.")
        if self.effective_size is not None:
            trusted = "" if self._trusted else f", above {self.k_limit:.2f}: do not trust averages of these weights"
            lines.append(
                f"As a proposal: effective sample size {self.effective_size:.0f} of {self.n}, k-hat {self.k_hat:.2f}"
                f"{trusted}."
            )
        return "\n".join(lines)

    @property
    def _trusted(self) -> bool:
        return self.k_hat is not None and self.k_limit is not None and self.k_hat <= self.k_limit


def diagnose(map: Any, source: Any, target: Target, *, n: int = 4000, seed: int = 0) -> Diagnosis:
    """Judge a map to a target of which the potential V is known.

    Parameters
    ----------
    map
        A fitted estimator, or a function (n, d) -> (n, d). Its log det DT comes from its method `log_det` where it has
        one, as flows do, and is otherwise found by central differences, with 2 d evaluations per point.
    source
        A `Source`, whose density, where known, gives KL, the bound and the weights; or (m, d) samples, of which at most
        n are used. Points that the map was fitted to make it look too good.
    target
        A `Target` with a potential or log-density, and, for the bound, its `strong_convexity` and `log_normaliser`.
    n
        Draws of the source, at least 100.
    seed
        Seed of the draws.

    Raises
    ------
    InvalidInput
        Fewer than 100 points, no potential, what is no map, a map that returns another shape or values that are not
        finite, and a `strong_convexity` that V does not have at the images.
    """
    function = map.transform if isinstance(map, MapEstimator) else map
    if not callable(function):
        raise InvalidInput(f"diagnose judges a fitted estimator or a function (n, d) -> (n, d), got {map!r:.80}.")
    if not isinstance(target, Target) or not target.potential:
        raise InvalidInput("diagnose asks V of the target: give mb.Target(potential=V), or mb.Target(log_density=...).")
    x = _points(source, n, seed)
    y = as_values(function(x), "The map")
    if y.shape != x.shape:
        raise InvalidInput(f"The map must return values of the shape {x.shape} of its points, got {y.shape}.")
    if wrong := int((~np.isfinite(y)).any(axis=1).sum()):
        raise InvalidInput(f"The map must return finite values: {wrong} of its {len(y)} images are not finite.")
    log_det = _log_det(map, function, x)
    potential = _values(target.potential, y, "The potential V of the target")
    _check_convexity(target, y, potential, seed)
    outside, folded = ~np.isfinite(potential), ~np.isfinite(log_det)
    costs = np.where(outside | folded, np.inf, potential - np.where(folded, 0.0, log_det))
    whole = bool(np.isfinite(costs).all())
    found: dict[str, Any] = {
        "n": len(x),
        "divergence": float(costs.mean()),
        "divergence_se": _standard_error(costs) if whole else np.inf,
        "outside": int(outside.sum()),
        "met": y[outside][0] if outside.any() else None,
        "folded": int(folded.sum()),
    }
    if isinstance(source, Source) and source.log_density and not folded.any():
        log_ratio = _values(source.log_density, x, "The log-density of the source") + costs
        found |= _as_proposal(log_ratio, target)
    return Diagnosis(**found)


def _points(source: Any, n: int, seed: int) -> Points:
    if isinstance(n, bool) or not isinstance(n, int) or n < 100:
        raise InvalidInput(f"diagnose takes means over n >= 100 points, got n = {n!r}.")
    if not isinstance(source, Source):
        if not callable(source):
            x = as_points(source, name="source", min_rows=100)
            return x[np.sort(np.random.default_rng((seed, STREAM)).permutation(len(x))[:n])]
        source = Source(sampler=source)
    drawn: Points = source.sample(n if source.size is None else min(n, source.size), seed=(seed, STREAM))
    return drawn


def _log_det(map: Any, function: Callable[[Any], Any], x: Points) -> Vector:
    """log det DT(x), (n, d) -> (n,); -inf where DT has no positive determinant."""
    own = getattr(getattr(function, "__self__", map), "log_det", None)
    if own is not None:
        return as_values(own(x), "log_det of the map")
    steps = DIFFERENCE * np.diag(np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0))
    slopes = [
        (as_values(function(x + step), "The map") - as_values(function(x - step), "The map")) / (2 * step[j])
        for j, step in enumerate(steps)
    ]
    sign, logarithm = np.linalg.slogdet(np.stack(slopes, axis=2))
    return np.where(sign > 0, logarithm, -np.inf)


def _values(function: Callable[[Any], Any], points: Points, what: str) -> Vector:
    """Values of a potential or log-density, (n, d) -> (n,), in float64 though it be written for JAX."""
    import jax

    with jax.enable_x64(True):
        values = as_values(function(points), what)
    if values.shape != (len(points),):
        raise InvalidInput(
            f"{what} maps points of shape {points.shape} to {values.shape}; expected one number per point."
        )
    return values


def _check_convexity(target: Target, y: Points, potential: Vector, seed: int) -> None:
    """Refuse a lambda that V does not have near the images, (n, d), along random directions and the axes.

    V(y + s) + V(y - s) - 2 V(y) >= lambda |s|^2 wherever V is lambda-convex, at any s.
    """
    convexity = target.strong_convexity
    if not convexity:
        return
    steps = np.random.default_rng((seed, STREAM)).standard_normal(y.shape)
    steps[::2] = np.eye(y.shape[1])[np.arange(len(steps[::2])) % y.shape[1]]
    steps *= REACH * (np.sqrt(y.var(axis=0).mean()) or 1.0) / np.linalg.norm(steps, axis=1, keepdims=True)
    ahead, behind = (_values(target.potential, y + side * steps, "The potential V of the target") for side in (1, -1))
    square = (steps**2).sum(axis=1)
    with np.errstate(invalid="ignore"):  # outside of the support V is infinite
        curvature = (ahead + behind - 2 * potential) / square
    rounding = NOISE * (np.abs(ahead) + np.abs(behind) + 2 * np.abs(potential)) / square
    low = np.isfinite(curvature) & (curvature + rounding < convexity * (1 - NOISE))
    if low.any():
        k = int(np.argmin(np.where(low, curvature, np.inf)))
        where = np.array2string(y[k], precision=4, separator=", ", threshold=8)
        raise InvalidInput(
            f"strong_convexity = {convexity:g} is not that of V: at the image {where} its curvature along a direction "
            f"is {curvature[k]:.4g}, and {int(low.sum())} of {len(y)} images have less than {convexity:g}. The bound "
            "would be false: give the smallest eigenvalue that the Hessian of V has anywhere, or None."
        )


def _standard_error(values: Vector) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _as_proposal(log_ratio: Vector, target: Target) -> dict[str, Any]:
    """KL, the bound and the weights, from log mu0 + V(T) - log det DT, (n,), which is infinite outside the support."""
    from arviz_stats.base import array_stats  # a second of scipy.stats, which `import mongebench` does not wait for

    n, inside = len(log_ratio), log_ratio[np.isfinite(log_ratio)]
    if len(inside) < 100:
        return {}
    log_weights = -inside
    # It takes minus the log-weights. Equal weights, those of the exact map, have no tail to fit.
    k_hat = float(array_stats.psislw(inside)[1]) if np.ptp(inside) > EQUAL else -np.inf
    k_limit = float(min(1 - 1 / np.log10(n), 0.7))
    log_mean = float(logsumexp(log_weights) - np.log(n))
    found: dict[str, Any] = {
        "effective_size": float(np.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))),
        "k_hat": k_hat,
        "k_limit": k_limit,
        "log_normaliser": log_mean if target.log_normaliser is None else target.log_normaliser,
        "normaliser": "estimated" if target.log_normaliser is None else "known",
    }
    if len(inside) < n:
        return found | {"kl": np.inf, "kl_se": np.inf}
    if target.log_normaliser is not None:  # where weights have a heavy tail, so has the control variate
        terms = log_ratio + target.log_normaliser
        terms = controlled(terms) if k_hat <= k_limit else terms
    else:  # by the delta method: log of the mean weight moves as the weight over its mean
        terms = log_ratio + log_mean + np.expm1(log_weights - log_mean)
    kl, kl_se = float(terms.mean()), _standard_error(terms)
    found |= {"kl": kl, "kl_se": kl_se}
    if target.strong_convexity and (target.log_normaliser is not None or k_hat <= k_limit):
        found["error_bound"] = 2 / target.strong_convexity * (max(kl, 0.0) + CONFIDENT * kl_se)
    return found
