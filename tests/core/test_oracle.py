"""Views: declared oracles are answered and counted, the others refused; budgets end."""

import numpy as np
import pytest

import mongebench as mb
from mongebench.core.measure import Unknown
from mongebench.core.oracle import Meter, Oracle, SourceView, TargetView, as_view, offers, tier

NORMAL = mb.Source(
    dim=2, sampler=lambda n, rng: rng.normal(size=(n, 2)), log_density=lambda x: -(x**2).sum(-1) / 2 - np.log(2 * np.pi)
)


def view(*oracles: Oracle, budget: int | None = 10, meter: Meter | None = None) -> SourceView:
    return SourceView(NORMAL, declared=frozenset(oracles), budget=budget, seed=3, meter=meter or Meter())


def test_samples_are_fixed_and_counted_once() -> None:
    seen = view(Oracle.SOURCE_SAMPLES)
    assert seen.samples.shape == (10, 2)
    assert seen.samples is seen.samples
    assert np.array_equal(np.asarray(seen), seen.samples)
    assert dict(seen.meter.counts) == {Oracle.SOURCE_SAMPLES: 10}


def test_undeclared_oracles_are_refused_by_name() -> None:
    seen = view(Oracle.SOURCE_SAMPLES)
    with pytest.raises(mb.OracleNotDeclared, match=r"Oracle.SOURCE_DENSITY"):
        seen.log_density(np.zeros((1, 2)))
    with pytest.raises(mb.OracleNotDeclared, match=r"source_samples"):
        seen.sample(1)
    with pytest.raises(mb.OracleNotDeclared, match="nothing"):
        _ = view().samples
    assert not seen.meter.counts


def test_draws_end_at_the_budget_and_are_those_of_the_fixed_sample() -> None:
    seen = view(Oracle.SOURCE_SAMPLER, Oracle.SOURCE_SAMPLES)
    drawn = np.concatenate([seen.sample(4), seen.sample(6)])
    assert np.array_equal(drawn, seen.samples)
    with pytest.raises(mb.BudgetExceeded, match=r"1 draws asked .* 0 of 10 left"):
        seen.sample(1)


def test_unlimited_draws_are_fresh_and_reproducible() -> None:
    first, second = view(Oracle.SOURCE_SAMPLER, budget=None), view(Oracle.SOURCE_SAMPLER, budget=None)
    a, b = first.sample(5), first.sample(5)
    assert not np.array_equal(a, b)
    assert np.array_equal(a, second.sample(5))
    assert np.array_equal(b, second.sample(5))
    assert first.meter.counts[Oracle.SOURCE_SAMPLER] == 10


def test_batches_are_so_many_draws_in_one() -> None:
    fresh = view(Oracle.SOURCE_SAMPLER, budget=None).batches(3, 4)
    assert fresh.shape == (3, 4, 2)
    assert np.array_equal(fresh.reshape(12, 2), view(Oracle.SOURCE_SAMPLER, budget=None).sample(12))
    bounded, one_by_one = view(Oracle.SOURCE_SAMPLER), view(Oracle.SOURCE_SAMPLER)
    batches = bounded.batches(3, 4)
    assert np.array_equal(batches, np.stack([one_by_one.batch(4) for _ in range(3)]))
    assert all(len(np.unique(batch, axis=0)) == 4 for batch in batches)
    assert bounded.meter.counts == {Oracle.SOURCE_SAMPLER: 10}
    assert bounded.batches(2, 50).shape == (2, 10, 2)


def test_unlimited_budget_has_no_fixed_sample() -> None:
    with pytest.raises(mb.OracleUnavailable, match="n_source"):
        _ = view(Oracle.SOURCE_SAMPLES, budget=None).samples


def test_evaluations_are_counted_by_point() -> None:
    seen = view(Oracle.SOURCE_DENSITY)
    seen.log_density(np.zeros((7, 2)))
    seen.log_density(np.zeros((5, 2)))
    assert seen.meter.counts[Oracle.SOURCE_DENSITY] == 12


def test_what_the_problem_does_not_know_is_unavailable() -> None:
    seen = TargetView(mb.Target(dim=2), declared=frozenset(Oracle), budget=1, seed=0, meter=Meter())
    with pytest.raises(mb.OracleUnavailable, match="potential"):
        seen.potential(np.zeros((1, 2)))
    assert not Unknown("anything")


def test_equal_seeds_give_the_two_sides_different_streams() -> None:
    target = mb.Target(dim=2, sampler=lambda n, rng: rng.normal(size=(n, 2)))
    assert not np.allclose(NORMAL.sample(5, seed=0), target.sample(5, seed=0))


def test_offers_and_tier_names() -> None:
    known = offers(NORMAL, mb.Target(potential=lambda y: y), Unknown("map"))
    assert known == {
        Oracle.SOURCE_SAMPLES,
        Oracle.SOURCE_SAMPLER,
        Oracle.SOURCE_DENSITY,
        Oracle.TARGET_POTENTIAL,
    }
    assert tier(frozenset({Oracle.TARGET_POTENTIAL, Oracle.SOURCE_SAMPLES})) == "source samples + target potential"
    assert tier(frozenset()) == "no oracle"


def test_exchanged_sides_are_noticed() -> None:
    with pytest.raises(mb.InvalidInput, match="exchanged"):
        as_view(NORMAL, TargetView, declared=frozenset(), seed=0)
    with pytest.raises(mb.InvalidInput, match="exchanged"):
        as_view(view(), TargetView, declared=frozenset(), seed=0)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_sample_wants_a_positive_whole_number(n) -> None:
    with pytest.raises(mb.InvalidInput, match="positive whole number"):
        NORMAL.sample(n, seed=0)


def test_batches_reuse_a_finite_budget_and_refresh_an_unlimited_one() -> None:
    seen = view(Oracle.SOURCE_SAMPLER)
    pool = {tuple(row) for row in seen.batch(100)}
    assert len(pool) == 10
    first, second = seen.batch(6), seen.batch(6)
    assert not np.array_equal(first, second)
    assert {tuple(row) for row in np.concatenate([first, second])} <= pool
    assert len(np.unique(first, axis=0)) == 6
    assert seen.meter.counts[Oracle.SOURCE_SAMPLER] == 10
    assert np.array_equal(view(Oracle.SOURCE_SAMPLER).batch(100), seen._draw_pool())
    fresh = view(Oracle.SOURCE_SAMPLER, budget=None)
    assert not np.array_equal(fresh.batch(6), fresh.batch(6))
    assert fresh.meter.counts[Oracle.SOURCE_SAMPLER] == 12


def test_compiled_code_gets_the_function_and_charges_itself() -> None:
    seen = view(Oracle.SOURCE_DENSITY)
    assert seen.uncounted(Oracle.SOURCE_DENSITY) is NORMAL.log_density
    assert not seen.meter.counts
    with pytest.raises(mb.OracleNotDeclared):
        seen.uncounted(Oracle.SOURCE_SCORE)


def test_batches_of_the_two_sides_are_independent() -> None:
    """Equal indices would couple the pools, pair by pair: two batches of 20 of 100 share 4 indices on the average."""
    clouds = [np.arange(100.0)[:, None]] * 2
    declared = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
    source, target = (
        as_view(cloud, kind, declared=declared, seed=5)
        for cloud, kind in zip(clouds, (SourceView, TargetView), strict=True)
    )
    pairs = [(source.batch(20)[:, 0], target.batch(20)[:, 0]) for _ in range(400)]
    shared = np.mean([len(np.intersect1d(x, y)) for x, y in pairs])
    # hypergeometric: variance 20 * 0.2 * 0.8 * 80 / 99 = 2.59
    assert abs(shared - 4) < 4 * np.sqrt(2.59 / 400)
    equal = np.mean([np.mean(x == y) for x, y in pairs])
    assert abs(equal - 0.01) < 4 * np.sqrt(0.01 / 8000)
    # nor do the batches of one side repeat each other, or follow the draws of the pool
    assert abs(np.mean([len(np.intersect1d(pairs[k][0], pairs[k + 1][0])) for k in range(399)]) - 4) < 0.4


def test_a_view_says_whether_its_draws_are_of_one_finite_set_of_points() -> None:
    cloud = mb.Source(sampler=lambda n, rng: rng.normal(size=(n, 3)), size=5)
    shared = {"declared": frozenset({Oracle.SOURCE_SAMPLER}), "seed": 0, "meter": Meter()}
    assert view().is_finite
    assert not view(budget=None).is_finite
    assert SourceView(cloud, budget=None, **shared).is_finite
    assert SourceView(NORMAL, budget=None, **shared).known_dim == 2
    undimensioned = SourceView(cloud, budget=4, **shared)
    assert undimensioned.known_dim is None
    assert undimensioned.dim == 3
