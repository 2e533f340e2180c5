"""Neural rivals with the settings of their authors, as presets: minutes to hours of a GPU, and fresh draws."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from mongebench.core.estimator import ProblemInfo, Support
from mongebench.estimators.neural import ENOT, W2Dual


def preset(init: Callable[..., None], **values: Any) -> Callable[..., None]:
    """An `__init__` with these defaults in place of its own, as its signature says, too."""
    signature = inspect.signature(init)
    parameters = [
        parameter.replace(default=values.get(name, parameter.default))
        for name, parameter in signature.parameters.items()
    ]
    signature = signature.replace(parameters=parameters)

    @functools.wraps(init)
    def begin(*positional: Any, **named: Any) -> None:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        init(*bound.args, **bound.kwargs)

    begin.__signature__ = signature  # type: ignore[attr-defined]
    return begin


def _fresh_draws_alone(problem: ProblemInfo) -> Support:
    if problem.n_source is None and problem.n_target is None:
        return Support(True)
    return Support(False, "its setting is published for draws without limit, and costs as much; give n = unlimited")


class ENOTPublished(ENOT):
    """ENOT as published on the pairs of Korotin et al.: 200 000 steps of 1024 fresh draws.

    Reported cost: 14 to 21 GPU minutes. The width of 512 is published for d >= 64. The learning rate is our choice: the
    authors' value was not available to us.

    Parameters
    ----------
    steps, batch_size, width, depth, learning_rate, expectile, weight
        As in `ENOT`.

    References
    ----------
    Buzun, Bobrin and Dylov 2024, ENOT: Expectile regularization for fast and accurate training of neural
    optimal transport (NeurIPS).
    """

    __init__ = preset(ENOT.__init__, steps=200_000, batch_size=1024, width=512, expectile=0.9, weight=0.3)

    def supports(self, problem: ProblemInfo) -> Support:
        """Draws without limit."""
        return _fresh_draws_alone(problem)


class W2DualPublished(W2Dual):
    """Neural dual with the conjugates of Amos 2023: L-BFGS started from a network regressed on its results.

    Reported cost: 91 to 1028 GPU minutes on the pairs of Korotin et al. The number of steps, the batch and the networks
    are our choices: the method and its times were available to us, its settings were not.

    Parameters
    ----------
    steps, batch_size, width, depth, learning_rate, inner_steps, conjugates
        As in `W2Dual`.

    References
    ----------
    Amos 2023, On amortizing convex conjugates for optimal transport (ICLR).
    """

    __init__ = preset(
        W2Dual.__init__,
        steps=100_000,
        batch_size=1024,
        width=128,
        inner_steps=1,
        conjugates="lbfgs",
        learning_rate=5e-3,
    )

    def supports(self, problem: ProblemInfo) -> Support:
        """Draws without limit."""
        return _fresh_draws_alone(problem)
