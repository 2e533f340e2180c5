"""The map back by Newton steps, of maps whose inverse is known."""

from __future__ import annotations

import numpy as np
import pytest

from mongebench.core.errors import NotConverged
from mongebench.estimators.inverse import preimages

TURN = np.array([[0.8, -0.6], [0.6, 0.8]])
STEEP = 50.0


def bent(x):
    """The gradient of sum_i u_i^2 / 40 + 3 log cosh(50 u_i) / 50, u = x TURN: a step of 6 at 0, flat beside it."""
    return (x @ TURN / 20 + 3 * np.tanh(STEEP * x @ TURN)) @ TURN.T


def bent_derivative(x):
    slopes = 1 / 20 + 3 * STEEP / np.cosh(np.minimum(abs(STEEP * x @ TURN), 300)) ** 2
    return np.einsum("ik,nk,jk->nij", TURN, slopes, TURN)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_points_on_and_beside_a_steep_step_are_found_from_afar(shift):
    # Slopes from 1/20 to 150: full steps overshoot from one side of the step to the other, and would go on for ever.
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2)) * np.geomspace(1e-4, 2, 200)[:, None]
    y, start = bent(x) + shift, np.full((200, 2), 7.0)
    before = y.copy(), start.copy()
    found = preimages(lambda x: bent(x) + shift, bent_derivative, y, start)
    # A rounding of y, over the least slope.
    np.testing.assert_allclose(found, x, atol=100 * np.finfo(float).eps * (4 + shift) * 20)
    assert all(np.array_equal(was, now) for was, now in zip(before, (y, start), strict=True))


def test_what_is_no_image_is_counted_and_said():
    y = np.array([[0.5], [2.0], [-1.5]])
    with pytest.raises(NotConverged, match=r"2 of 3 points are no images: .* up to 1\.0e\+00 away"):
        preimages(np.tanh, lambda x: (1 / np.cosh(x) ** 2)[:, :, None], y, np.zeros((3, 1)))
