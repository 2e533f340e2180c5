"""KL from log-ratios, against the closed form for Gaussians."""

import numpy as np
import pytest

from mongebench.metrics.divergence import controlled


def standard_error(values: np.ndarray) -> float:
    return float(values.std() / np.sqrt(len(values)))


@pytest.mark.parametrize("shift", [1e-6, 1e-3, 0.1])
def test_the_noise_falls_with_the_divergence(shift: float) -> None:
    """x -> x + shift from N(0, 1) to itself: l = shift x + shift^2 / 2, whose plain mean has the noise of shift x."""
    x = np.random.default_rng(0).standard_normal(2000)
    log_ratio = shift * x + shift**2 / 2
    values, kl = controlled(log_ratio), shift**2 / 2
    assert values.mean() == pytest.approx(kl, abs=4 * standard_error(values))
    assert standard_error(values) < 0.05 * kl  # l + e^{-l} - 1 is l^2 / 2, whose sd is sqrt(2) of its mean


@pytest.mark.parametrize("factor", [1.5, 3.0, 10.0, 30.0])
def test_far_from_the_target_nothing_is_extrapolated(factor: float) -> None:
    """N(0, I) against N(0, I / factor) in d = 32: e^{-l} is next to 0 at every point that a sample has."""
    dim = 32
    x = np.random.default_rng(1).standard_normal((2000, dim))
    log_ratio = (factor - 1) * (x**2).sum(axis=1) / 2 - dim * np.log(factor) / 2
    values = controlled(log_ratio)
    assert values.mean() == pytest.approx(dim * (factor - 1 - np.log(factor)) / 2, abs=4 * standard_error(log_ratio))
