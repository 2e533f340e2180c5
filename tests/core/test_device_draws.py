"""Draws by JAX on its device: of the same law as the host's, metered and refused alike, and never in their place."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import scipy.stats

import mongebench as mb
from mongebench.core import guard
from mongebench.core.device_draws import VARIABLE, DeviceGenerator, Traceable, are_wanted, traceable
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView
from mongebench.datasets.gaussian import Normal
from mongebench.datasets.gaussian_mixture import GaussianMixture
from mongebench.datasets.laws import Normal as NormalLaw
from mongebench.datasets.laws import NormalMixture
from mongebench.datasets.potential import CONTRACTION, _Blocks
from mongebench.datasets.product import RotatedProduct

FACTORS = np.array([[[1.0, 0.0], [0.5, 0.2]], [[0.1, 0.0], [0.0, 2.0]], [[1.0, -1.0], [0.0, 1.0]]])
MIXTURE = GaussianMixture(np.array([0.1, 0.3, 0.6]), np.array([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]]), FACTORS)
LINE = NormalMixture(np.array([0.2, 0.8]), np.array([-1.0, 2.0]), np.array([0.3, 1.0]))
MEAN, AXES, VALUES = np.array([1.0, -2.0]), np.array([[0.6, -0.8], [0.8, 0.6]]), np.array([0.5, 3.0])
STANDARD = mb.Source(dim=2, sampler=traceable(lambda n, rng: rng.standard_normal((n, 2))))


@pytest.fixture(autouse=True)
def on_device(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "device")


def view(kind=SourceView, measure=STANDARD, *, seed=3, budget=None, declared=frozenset(Oracle), **more):
    return kind(measure, declared=declared, budget=budget, seed=seed, meter=Meter(), **more)


def batches(seen, count=1, n=5):
    return np.asarray(seen.batches(count, n, on_device=True))


DRAWN = {
    ("gaussian", ""): (True, True),
    ("mixture", ""): (True, True),
    ("potential", ""): (True, True),
    ("potential", "logistic target"): (False, False),
    ("product", ""): (True, False),
    ("product", "normal target"): (True, True),
    ("product_mixture", ""): (True, True),
    ("radial", ""): (True, False),
    ("ridges", ""): (False, False),
    ("rings", ""): (False, True),
    ("posterior", ""): (True, False),
}
"""Problems, and whether JAX can draw from their source and from their target: docs/engine.md says the same."""
MORE = {
    "": {},
    "logistic target": {"target_law": "logistic"},
    "normal target": {"law": "normal", "quadratic": 2.0},
}


def problem(name: str, what: str) -> mb.Problem:
    dim = {} if name in ("mixture", "posterior") else {"dim": 3}
    return mb.problem(name, **dim, **MORE[what])


SAMPLERS = [(name, what, side) for (name, what), can in DRAWN.items() for side in (0, 1) if can[side]]


@pytest.mark.parametrize(("name", "what"), DRAWN)
def test_a_measure_says_whether_jax_can_draw_from_it(name, what) -> None:
    made = problem(name, what)
    assert (made.source.draws_on_device, made.target.draws_on_device) == DRAWN[name, what]


@pytest.mark.parametrize(("name", "what", "side"), SAMPLERS)
def test_the_law_is_that_of_the_hosts_draws(name, what, side) -> None:
    """A law is known by its projections (Cramer and Wold): two-sample Kolmogorov-Smirnov tests of some of them."""
    made = problem(name, what)
    measure = (made.source, made.target)[side]
    n = 20_000
    host, device = measure.sample(n, seed=1), np.asarray(measure.sample_on_device(n, seed=1))
    assert device.shape == host.shape
    directions = np.concatenate([np.eye(host.shape[1]), np.random.default_rng(0).standard_normal((5, host.shape[1]))])
    levels = [scipy.stats.ks_2samp(host @ w, device @ w).pvalue for w in directions]
    assert min(levels) > 1e-3 / len(levels)  # each law is refused once in a thousand seeds
    assert not np.isclose(host[:100], device[:100]).any(axis=1).any()


def test_components_have_their_weights_and_their_own_noise() -> None:
    n = 30_000
    source = mb.Source(dim=2, sampler=traceable(MIXTURE.sample))
    x = np.asarray(source.sample_on_device(n, seed=0))
    nearest = ((x[:, None] - MIXTURE.means) ** 2).sum(axis=2).argmin(axis=1)  # they are far apart
    counts = np.bincount(nearest, minlength=3)
    assert scipy.stats.chisquare(counts, n * MIXTURE.weights).pvalue > 1e-3
    for k, factor in enumerate(FACTORS):
        own = x[nearest == k]
        # of a normal law: Var(c_ij) = (c_ii c_jj + c_ij^2) / m
        exact = factor @ factor.T
        error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / len(own))
        assert (np.abs(np.cov(own.T) - exact) < 4 * error).all()
        assert (np.abs(own.mean(axis=0) - MIXTURE.means[k]) < 4 * np.sqrt(np.diag(exact) / len(own))).all()


def old_mixture(n: int, rng: np.random.Generator) -> np.ndarray:
    component = rng.choice(3, size=n, p=MIXTURE.weights)
    noise = rng.standard_normal((n, 2, 1))
    draws = MIXTURE.means[component]
    for k, factor in enumerate(FACTORS):
        draws[component == k] += (factor @ noise[component == k])[:, :, 0]
    return draws


def old_line(n: int, rng: np.random.Generator) -> np.ndarray:
    component = rng.choice(2, size=(n, 3), p=LINE.weights)
    return LINE.means[component] + LINE.deviations[component] * rng.standard_normal((n, 3))


def old_product(n: int, rng: np.random.Generator) -> np.ndarray:
    z = np.empty((n, 2))
    z[:, :1] = rng.normal(scale=np.sqrt(1 / 3.0), size=(n, 1))
    component = rng.choice(2, size=(n, 1), p=LINE.weights)
    z[:, 1:] = LINE.means[component] + LINE.deviations[component] * rng.standard_normal((n, 1))
    return (MEAN + VALUES * z) @ AXES.T


def old_gradient(n: int, rng: np.random.Generator) -> np.ndarray:
    u = rng.standard_normal((n, 5)) @ BLOCKS.axes
    columns, start = [], 0
    for part in BLOCKS.parts:
        own = u[:, start : (start := start + part.sites.shape[1])]
        logits = part.sharpness * (own @ part.sites.T - (part.sites**2).sum(axis=1) / 2)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        columns.append(CONTRACTION * own + shares @ part.sites)
    return np.column_stack(columns) @ BLOCKS.axes.T


BLOCKS = _Blocks.random(
    np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))[0], 4, 4.0, np.random.default_rng(4)
)
PRODUCT = RotatedProduct([NormalLaw(3.0), LINE], AXES, MEAN, VALUES)
AS_BEFORE = {
    "normal": (
        Normal(MEAN, AXES, VALUES).sample,
        lambda n, rng: MEAN + rng.standard_normal((n, 2)) @ (AXES * np.sqrt(VALUES)).T,
    ),
    "mixture": (MIXTURE.sample, old_mixture),
    "line": (lambda n, rng: LINE.sample((n, 3), rng), old_line),
    "product": (PRODUCT.sample, old_product),
    "pushed": (lambda n, rng: BLOCKS.gradient(rng.standard_normal((n, 5))), old_gradient),
}


@pytest.mark.parametrize("law", AS_BEFORE)
def test_numpys_draws_are_to_the_last_bit_what_they_were_before_jax_drew_any(law) -> None:
    """Records of the CPU rest on them. The expressions are those of the first versions of each law."""
    now, before = AS_BEFORE[law]
    for n in (1, 1000):
        np.testing.assert_array_equal(now(n, np.random.default_rng(5)), before(n, np.random.default_rng(5)))


def test_draws_are_repeated_by_their_seed_and_by_nothing_else() -> None:
    target = mb.Target(dim=2, sampler=STANDARD.sampler)
    first = view()
    calls = [
        batches(first),
        batches(first),
        batches(view(seed=4)),
        batches(view(TargetView, target)),
        STANDARD.sample(5, seed=(3, 0)),
    ]
    np.testing.assert_array_equal(batches(view()), calls[0])
    values = np.concatenate([np.ravel(call) for call in calls])
    assert len(np.unique(values)) == len(values) == 5 * 10


def test_arrays_of_one_draw_are_independent() -> None:
    generator = DeviceGenerator(jax.random.key(0))
    with jax.enable_x64(True):
        values = np.concatenate([generator.standard_normal((50,)), generator.standard_normal((50,))])
    assert len(np.unique(values)) == 100
    same = STANDARD.sampler(5, generator), STANDARD.sampler(5, generator)
    assert not np.isclose(*same).any()


def test_batches_are_arrays_of_jax_in_float64_whatever_the_precision_of_the_fit() -> None:
    for x64 in (False, True):
        with jax.enable_x64(x64):
            drawn = view().batches(3, 4, on_device=True)
        assert isinstance(drawn, jax.Array)
        assert (drawn.shape, drawn.dtype) == ((3, 4, 2), np.float64)
    assert isinstance(view().batches(3, 4), np.ndarray)  # to whoever does not ask


def test_draws_are_metered_as_on_the_host() -> None:
    host, device = view(), view()
    for count, n in ((1, 5), (3, 4)):
        host.batches(count, n)
        device.batches(count, n, on_device=True)
    assert device.meter.counts == host.meter.counts == {Oracle.SOURCE_SAMPLER: 17}


def test_a_finite_budget_is_of_the_hosts_points() -> None:
    """They are drawn once, and sent once or in parts."""
    bounded = view(budget=10)
    np.testing.assert_array_equal(bounded.batches(3, 4, on_device=True), view(budget=10).batches(3, 4))
    assert bounded.meter.counts == {Oracle.SOURCE_SAMPLER: 10}


def test_what_was_not_declared_is_refused() -> None:
    seen = view(declared=frozenset({Oracle.SOURCE_SAMPLES}))
    with pytest.raises(mb.OracleNotDeclared, match="SOURCE_SAMPLER"):
        seen.batches(1, 5, on_device=True)
    assert not seen.meter.counts


def test_the_doors_of_a_problem_are_closed_to_draws_on_the_device_too() -> None:
    made = problem("gaussian", "")
    seen = view(measure=made.source)
    for draw in (
        lambda: made.source.sample_on_device(5),
        lambda: made.source.sampler(5, DeviceGenerator(jax.random.key(0))),
    ):
        draw()  # compiled: what is refused below is refused at every call
        with guard.closed(), pytest.raises(mb.OracleNotDeclared, match="while an estimator learns"):
            draw()
    with guard.closed():
        assert batches(seen).shape == (1, 5, 3)
        with pytest.raises(mb.OracleNotDeclared):
            batches(view(measure=made.source))  # a view of one's own


@pytest.mark.parametrize(
    ("sampler", "what"),
    [
        (lambda n, rng: rng.standard_normal((n, 2)) / 0, "holds 20 NaN or infinite entries"),
        (lambda n, rng: rng.standard_normal((n, 3)), "has 3 columns; expected d = 2"),
        (lambda n, rng: rng.standard_normal((n - 1, 2)), "has 9 rows; expected at least 10"),
    ],
)
def test_what_are_no_points_is_refused_in_the_same_words(sampler, what) -> None:
    measure = mb.Source(dim=2, sampler=traceable(sampler))
    said = []
    for draw in (measure.sample, measure.sample_on_device):
        with np.errstate(divide="ignore"), pytest.raises(mb.InvalidInput, match=what) as raised:
            draw(10)
        said.append(str(raised.value))
    assert said[0] == said[1]
    with pytest.raises(mb.InvalidInput, match="positive whole number"):
        measure.sample_on_device(0)


def test_a_sampler_is_compiled_once_for_a_number_of_points_while_the_clock_stands_still() -> None:
    traced, standing = [], []

    def sampler(n: int, rng) -> object:
        traced.append((n, bool(standing)))
        return rng.standard_normal((n, 2))

    @contextmanager
    def drawing() -> Iterator[None]:
        standing.append(True)
        yield
        standing.pop()

    seen = view(measure=mb.Source(dim=2, sampler=traceable(sampler)), drawing=drawing)
    for count in (3, 3, 4, 3):
        seen.batches(count, 2, on_device=True)
    assert traced == [(6, True), (8, True)]


def test_another_sampler_in_its_place_is_not_taken_for_one_that_jax_can_draw_from() -> None:
    assert dataclasses.replace(STANDARD, score=lambda x: -x).draws_on_device
    reversed_ = dataclasses.replace(STANDARD, sampler=lambda n, rng: STANDARD.sampler(n, rng)[::-1])
    assert not reversed_.draws_on_device
    assert isinstance(view(measure=reversed_).batches(1, 5, on_device=True), np.ndarray)
    assert isinstance(STANDARD.sampler, Traceable)


@pytest.mark.parametrize(
    ("asked", "backend", "wanted"),
    [(None, "cpu", False), (None, "gpu", True), ("", "gpu", True), ("host", "gpu", False), ("device", "cpu", True)],
)
def test_the_device_draws_on_a_gpu_unless_told_otherwise(asked, backend, wanted, monkeypatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.delenv(VARIABLE) if asked is None else monkeypatch.setenv(VARIABLE, asked)
    assert are_wanted() is wanted
    assert isinstance(view().batches(1, 5, on_device=True), jax.Array) is wanted


def test_no_third_place_is_known(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(mb.InvalidParameter, match=r"MONGEBENCH_DRAWS is 'gpu', expected \"device\""):
        view().batches(1, 5, on_device=True)
