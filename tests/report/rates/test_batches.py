"""Implicit steps on simulated batches, where a bound is an equality: what the batches leave, and false alarms."""

import numpy as np
import pytest

from mongebench.report.rates.verdict import Verdict

from ..conftest import simulated

rates = simulated("rates")


def test_large_batches_leave_the_proven_factor(rng) -> None:
    found = rates.on_batches(rng, 3, 10**10, 20)
    np.testing.assert_allclose(found, 1.1 ** (-2.0 * np.arange(21)), rtol=1e-3)


def test_batches_leave_the_noise_that_the_linearised_step_accumulates(rng) -> None:
    """Covariances of n points are off by d (d + 1) / n, means by d / n; a step takes 2 tau and tau of them over."""
    dim, n, tau = 32, 4096, rates.TAU
    left = tau * dim * (dim + 1) / (4 * (1 + tau) * n) + tau * dim / ((2 + tau) * n)
    last = np.array([rates.on_batches(rng, dim, n, 20)[-1] for _ in range(40)])
    assert rates.SHIFT * (last.mean() - 1.1**-40) == pytest.approx(left, rel=0.25)  # three standard errors: 0.12


def test_an_equality_is_seldom_called_broken() -> None:
    """At most 5 %, and three deviations of the binomial."""
    trials = 120
    found, _ = rates.verdicts_on_batches(2, 4096, trials)
    assert found[Verdict.BROKEN] <= 0.05 * trials + 3 * np.sqrt(0.05 * 0.95 * trials)
