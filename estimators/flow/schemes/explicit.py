"""The explicit scheme: regression on the velocity, in weak form."""

from __future__ import annotations

from mongebench.estimators.flow.schemes.stepwise import Stepwise


class FlowExplicit(Stepwise):
    """Explicit steps along the flow, T_{k+1} = argmin |T - T_k|^2 / (2 tau) + dD(T_k)[T - T_k], in weak form.

    The regression of T on T_k + tau v, v the velocity of the flow, without an estimate of v where V is known: dF(T_k)
    needs grad V and DT_k only. F is as stiff as an entropy is, and with flexible potentials the steps must be small;
    those that would not decrease D are halved, and flow time counts what was taken. With `divergence="kl_score"` v is
    estimated from the batch, as published.

    Use it for comparison, or where a step can afford only one gradient of V. Parameters: see `Stepwise`.

    Reference: Dumont, Lacombe and Vialard 2026 (arXiv 2603.25182).
    """

    linear = True
