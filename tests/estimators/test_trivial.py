"""Identity, mean shift and truth against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from mongebench.core.errors import OracleUnavailable
from mongebench.core.measure import Source, Target
from mongebench.core.oracle import Meter, Oracle, SourceView
from mongebench.estimators.trivial import Identity, MeanShift, Truth


def test_identity_asks_for_nothing_and_changes_nothing():
    x = np.random.default_rng(0).normal(size=(20, 3))
    fitted = Identity().fit(Source(dim=3), Target(dim=3))
    assert Identity.needs == frozenset()
    np.testing.assert_array_equal(fitted.transform(x), x)


def test_mean_shift_is_exact_between_translates():
    x = np.random.default_rng(0).normal(size=(50, 3))
    shift = np.array([1.0, -2.0, 30.0])
    fitted = MeanShift().fit(x, x + shift)
    np.testing.assert_allclose(fitted.transform(x), x + shift, atol=1e-13)


def test_mean_shift_potential_has_the_map_as_gradient():
    x = np.random.default_rng(0).normal(size=(5, 2))
    fitted = MeanShift().fit(x, 2 * x + 1)
    h = 1e-4
    slopes = [
        (fitted.potential(x + h * e) - fitted.potential(x - h * e)) / (2 * h) for e in np.eye(2)
    ]  # exact for quadratics, up to rounding / h
    np.testing.assert_allclose(np.transpose(slopes), fitted.transform(x), atol=1e-10)


def test_truth_is_the_exact_map_and_is_counted():
    meter = Meter()
    view = SourceView(Source(dim=2), exact_map=lambda x: 3 * x, declared=Truth.needs, budget=None, seed=0, meter=meter)
    x = np.random.default_rng(0).normal(size=(7, 2))
    fitted = Truth().fit(view, Target(dim=2))
    np.testing.assert_array_equal(fitted.transform(x), 3 * x)
    assert meter.counts == {Oracle.EXACT_MAP: 7}


def test_truth_without_an_exact_map_says_so():
    x = np.ones((3, 2))
    with pytest.raises(OracleUnavailable, match="exact map"):
        Truth().fit(x, x).transform(x)
