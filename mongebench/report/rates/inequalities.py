"""The inequalities of the constrained gradient flow that traces are held against: a curve, a line, and who proved it.

T_t is the flow of D(T) = KL(T#mu0 | gamma) over gradients of convex functions, V lambda-convex, D* = D(T*), norms those
of L2(mu0). Each inequality bounds a mean over the evaluation points at time t, relative to one at the start. "As
reported of v3" cites version 3 of Dumont, Lacombe, Vialard 2026, arXiv 2603.25182, from notes of others; "ours" is
proved in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mongebench.report.rates.noise import Vector

Line = Callable[[Vector, float], Vector]


class StepBounds(NamedTuple):
    """Bounds on the factor by which one step changes the squared error, of the shape of tau."""

    explicit: Vector
    implicit: Vector


def step_bounds(tau: Vector | float, strong_convexity: float) -> StepBounds:
    """(1 - lambda tau)^2 of an explicit Euler step, (1 + lambda tau)^-2 of an implicit one; flow: e^{-2 lambda tau}.

    The explicit one needs tau <= 2 / (lambda + L), with L the Lipschitz constant of grad F on the family.
    """
    product = strong_convexity * np.asarray(tau, dtype=np.float64)
    return StepBounds((1 - product) ** 2, (1 + product) ** -2)


@dataclass(frozen=True)
class Inequality:
    """observed_t <= line(t) start_0, a claim about one trace.

    Attributes
    ----------
    name
        Of the column `inequality` of verdicts.
    formula, source
        In full, and where it is from.
    observed, start
        Fields of `TracePoint`: "l2_error" or "kl".
    ratio_se
        The field with the standard error of observed_t / start_0.
    line, implicit_line
        In words, of the flow, and of k implicit steps of size tau.
    of_flow, of_steps
        (flow times or step sizes (n,), lambda) -> (n,), the logarithm of those lines.
    strictly_convex
        Whether it asks for lambda > 0; else lambda = 0 is enough.
    """

    name: str
    formula: str
    source: str
    observed: str
    start: str
    ratio_se: str
    line: str
    implicit_line: str
    of_flow: Line
    of_steps: Line
    strictly_convex: bool = True

    @property
    def what(self) -> str:
        """What is observed, in a word."""
        return "error" if self.observed == "l2_error" else "KL"

    @property
    def own(self) -> bool:
        """Whether the start is measured by what is observed."""
        return self.observed == self.start

    def speaks_of(self, strong_convexity: float | None) -> bool:
        """Whether V is convex enough."""
        if strong_convexity is None or not np.isfinite(strong_convexity):
            return False
        return strong_convexity > 0 if self.strictly_convex else strong_convexity >= 0


def _exponential(time: Vector, lam: float) -> Vector:
    return -2 * lam * time


def _implicit(tau: Vector, lam: float) -> Vector:
    return np.asarray(np.cumsum(np.log(step_bounds(tau, lam).implicit)))


def _by_kl(line: Line) -> Line:
    return lambda along, lam: np.log(4 / lam) + line(along, lam)


def _harmonic(time: Vector, lam: float) -> Vector:
    del lam
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(2 * time))


STEPS = "(1 + lambda tau)^{-2k}"
OF_STEPS = "the bound of k implicit steps"
MAP = Inequality(
    name="map",
    formula="|T_t - T*|^2 <= e^{-2 lambda t} |T_0 - T*|^2",
    source="ours, and the authors' slides with a constant C in place of 1",
    observed="l2_error",
    start="l2_error",
    ratio_se="l2_ratio_se",
    line="e^{-2 lambda t}",
    implicit_line=f"{STEPS}, {OF_STEPS}",
    of_flow=_exponential,
    of_steps=_implicit,
)
MAP_BY_KL = Inequality(
    name="map by KL",
    formula="|T_t - T*|^2 <= (4/lambda) e^{-2 lambda t} (D_0 - D*)",
    source="theorem 2.13 as reported of v3; follows from that of the map, with 2 in place of 4",
    observed="l2_error",
    start="kl",
    ratio_se="l2_to_kl_se",
    line="(4/lambda) e^{-2 lambda t} (D_0 - D*)",
    implicit_line=f"(4/lambda) {STEPS} (D_0 - D*), {OF_STEPS}",
    of_flow=_by_kl(_exponential),
    of_steps=_by_kl(_implicit),
)
KL = Inequality(
    name="KL",
    formula="D_t - D* <= e^{-2 lambda t} (D_0 - D*)",
    source="theorem 2.13 as reported of v3; our own proof, also of the steps",
    observed="kl",
    start="kl",
    ratio_se="kl_ratio_se",
    line="e^{-2 lambda t} (D_0 - D*)",
    implicit_line=f"{STEPS} (D_0 - D*), {OF_STEPS}",
    of_flow=_exponential,
    of_steps=_implicit,
)
KL_CONVEX = Inequality(
    name="KL, lambda = 0",
    formula="D_t - D* <= W2^2(mu0, gamma) / (2 t)",
    source="theorem 2.13 as reported of v3; our own proof, for any T_0 with |T_0 - T*|^2 in place of W2^2",
    observed="kl",
    start="l2_error",
    ratio_se="kl_to_l2_se",
    line="W2^2 / (2 t)",
    implicit_line=f"W2^2 / (2 t), {OF_STEPS} too",
    of_flow=_harmonic,
    of_steps=lambda tau, lam: _harmonic(np.cumsum(tau), lam),
    strictly_convex=False,
)
PROPOSITION = Inequality(
    name="map, proposition 3.1",
    formula="|T_k - T*|^2 <= (1 + lambda^2 tau^2 / 4)^{-k} |T_0 - T*|^2",
    source="the factor of proposition 3.1 as reported of v3, with the constant 1; weaker than that of `map`",
    observed="l2_error",
    start="l2_error",
    ratio_se="l2_ratio_se",
    line="e^{-2 lambda t}",
    implicit_line="(1 + lambda^2 tau^2 / 4)^{-k}, the factor of proposition 3.1 as reported of v3",
    of_flow=_exponential,
    of_steps=lambda tau, lam: np.asarray(-np.cumsum(np.log1p((lam * tau) ** 2 / 4))),
)
INEQUALITIES = (MAP, MAP_BY_KL, KL, KL_CONVEX)
"""Those that have verdicts; `PROPOSITION` is asked only of implicit steps that do not keep `MAP`."""


def speaking(strong_convexity: float | None) -> tuple[Inequality, ...]:
    """Those held against a flow of this lambda; that of the map in any case, as its verdict says what is missing."""
    if strong_convexity is not None and strong_convexity == 0:
        return (MAP, KL_CONVEX)
    return (MAP, MAP_BY_KL, KL) if MAP.speaks_of(strong_convexity) else (MAP,)
