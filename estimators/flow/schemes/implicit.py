"""The implicit scheme: minimising movements."""

from __future__ import annotations

from mongebench.estimators.flow.schemes.stepwise import Stepwise


class FlowImplicit(Stepwise):
    """Minimising movements along the flow, T_{k+1} = argmin D(T) + |T - T_k|^2 / (2 tau): stable at any tau.

    Use it to follow the flow with the scheme that has a proof: one step contracts the distance to T* by
    1 / (1 + lambda tau) where V is lambda-convex. To arrive, take `FlowNewton`. Parameters: see `Stepwise`.

    Reference: Dumont, Lacombe and Vialard 2026 (arXiv 2603.25182).
    """

    linear = False
