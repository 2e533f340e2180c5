"""Programs that instances of a problem share."""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import mongebench as mb
from mongebench.estimators.flow.machinery.compiled import Compiled
from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
from mongebench.estimators.flow.machinery.objective import Batch, objective
from mongebench.estimators.flow.potential import Quadratic


@pytest.mark.parametrize("name", ["gaussian", "product", "potential"])
def test_instances_of_a_family_share_one_program(name: str) -> None:
    """Else each would be compiled anew, which takes longer than a fit of the nightly run."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((20, 3)), "float32")
    batch = Batch(x, x[:0], jnp.zeros(2, "uint32"))
    potential = Quadratic.identity_like(x)
    programs, apart, found = [], [], []
    for seed in (0, 1):
        value = functools.partial(objective, KullbackLeibler(mb.problem(name, dim=3, seed=seed).target.potential, 3))
        function = Compiled(value)
        found.append(float(function(potential, batch)))
        assert found[-1] == pytest.approx(float(value(potential, batch)), rel=1e-5)
        programs.append(function.lower(potential, batch).as_text())
        apart.append(eqx.filter_jit(value).lower(potential, batch).as_text())
    assert programs[0] == programs[1]
    assert found[0] != found[1]
    assert apart[0] != apart[1]  # as they are without it


def test_another_structure_is_another_program() -> None:
    scale = jnp.asarray([1.0, 2.0])
    function = Compiled(lambda x: x * scale)
    for x in (jnp.ones(2), jnp.ones((3, 2)), jnp.zeros(2), jnp.ones(2, "int32")):
        assert function(x) == pytest.approx(np.asarray(x) * np.asarray(scale))
    assert len(function._programs) == 3
