"""Multiscale Sinkhorn against plain Sinkhorn on all pairs.

MultiScaleOT is compiled against a system package and not in the extra `test`: without `make extras` these tests are
skipped, and say so.
"""

from __future__ import annotations

import resource

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from mongebench.core.errors import InvalidInput, InvalidParameter, NotConverged
from mongebench.core.estimator import ProblemInfo
from mongebench.estimators import multiscale
from mongebench.estimators.entropic import Entropic
from mongebench.estimators.multiscale import Multiscale


def test_dimensions_above_three_are_refused_in_a_sentence():
    info = ProblemInfo(dim=4, n_source=9, n_target=9, offers=frozenset(), strong_convexity=None)
    assert "d = 3" in Multiscale().supports(info).reason


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("MultiScaleOT", reason="MultiScaleOT is not installed: `make extras` does it")

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_is_the_entropic_map(self, gaussian_pair, dim):
        x, y = gaussian_pair(dim).samples(150, 120)
        query = np.random.default_rng(5).normal(size=(20, dim))
        expected = Entropic(0.1, backend="pot_numpy", tolerance=1e-8).fit(x, y)
        fitted = Multiscale(0.1, tolerance=1e-8).fit(x, y)
        assert fitted.epsilon_ == expected.epsilon_
        # the kernel is cut at 1e-10, which the marginals hardly see; as in the test of the backends of `Entropic`
        np.testing.assert_allclose(fitted.transform(query), expected.transform(query), atol=1e-5)

    def test_far_points_keep_their_mass_at_a_small_epsilon(self):
        """Rows of the truncated kernel must not be empty: the mean of T over the source is that of the target."""
        rng = np.random.default_rng(0)
        x, y = rng.standard_t(3, (2, 200, 2))
        fitted = Multiscale(1e-3).fit(x, y)
        error = np.abs(fitted.transform(x).mean(axis=0) - y.mean(axis=0)).max()
        assert error < 2 * fitted.tolerance * np.abs(y).max()

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_no_pair_that_was_dropped_is_missed(self, gaussian_pair, dim):
        """The second marginal on all pairs, by the softmax of the same potential, is as near as on the pairs kept."""
        x, y = gaussian_pair(dim).samples(900, 700)
        fitted = Multiscale(1e-3, tolerance=1e-6).fit(x, y)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        exponents = (x @ y.T - (y**2).sum(axis=1) / 2) / fitted.epsilon_ + fitted.cross_.log_scaling
        coupling = np.exp(exponents - logsumexp(exponents, axis=1, keepdims=True)) / len(x)
        # both ends of the scaling: an iteration leaves one marginal exact and the other within the tolerance
        assert np.abs(coupling.sum(axis=0) - 1 / len(y)).sum() < 2 * fitted.tolerance

    @pytest.mark.parametrize(("dim", "power"), [(1, 1.5), (2, 1.0), (3, 2 / 3)])
    def test_epsilon_in_units_of_the_spacing(self, gaussian_pair, dim, power):
        x, y = gaussian_pair(dim).samples(200, 300)
        fitted = Multiscale(5.0, scale="spacing", tolerance=0.01).fit(x, y)
        np.testing.assert_allclose(fitted.epsilon_, 5 * 200.0**-power * Multiscale(1.0).fit(x, y).epsilon_)

    @pytest.mark.long
    def test_thirty_thousand_points_in_the_plane(self, gaussian_pair):
        """2 GiB hold the pairs of near points, where one matrix of all pairs would take 6.7."""
        pair = gaussian_pair(2)
        x, y = pair.samples(30_000, 30_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fitted = Multiscale(5.0, scale="spacing", tolerance=0.03).fit(x, y)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 2 * 2**20  # KiB under Linux
        assert pair.uvp(fitted.transform) < 0.5

    def test_refusals(self):
        with pytest.raises(InvalidInput, match="d = 4"):
            Multiscale().fit(np.eye(4), np.eye(4))
        for parameters in ({"tolerance": 0.0}, {"epsilon": -1.0}, {"scale": "median"}):
            with pytest.raises(InvalidParameter, match=next(iter(parameters))):
                Multiscale(**parameters).fit(np.eye(2), np.eye(2))

    @pytest.mark.parametrize("unit", [1e-150, 1e-8, 1e6, 1e8, 1e150])
    def test_units_do_not_matter(self, gaussian_pair, unit):
        x, y = gaussian_pair(2).samples(150, 120)
        expected = Multiscale().fit(x, y).transform(x)
        np.testing.assert_allclose(Multiscale().fit(unit * x, unit * y).transform(unit * x) / unit, expected, atol=1e-9)

    def test_potentials_that_miss_the_marginals_are_refused(self, gaussian_pair, monkeypatch):
        """Whatever the library says of its error: here the potentials are those of a transport to half the scale."""
        x, y = gaussian_pair(2).samples(150, 120)
        monkeypatch.setattr(multiscale, "cdist", lambda *problem: cdist(*problem) / 2)
        with pytest.raises(NotConverged, match="over all pairs"):
            Multiscale().fit(x, y)
