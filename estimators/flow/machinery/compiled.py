"""Functions of a problem, compiled so that another instance of the problem needs no other compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


class Compiled:
    """`function`, compiled once for arguments of each structure.

    The arrays that it closes over, such as the means and the matrices in V, are arguments of the program and no part
    of it: instances of one family of problems have one program, which JAX's cache on disk compiles once for them all.

    Parameters
    ----------
    function
        Trees of arrays to trees of arrays.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._programs: dict[Any, tuple[Any, list[jax.Array]]] = {}

    def __call__(self, *given: Any) -> Any:
        """What the function returns."""
        program, constants = self._program(given)
        return program(constants, given)

    def lower(self, *given: Any) -> Any:
        """The program for such arguments, before XLA optimises it."""
        program, constants = self._program(given)
        return program.lower(constants, given)

    def _program(self, given: tuple[Any, ...]) -> tuple[Any, list[jax.Array]]:
        leaves, structure = jax.tree.flatten(given)
        kind = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in self._programs:
            traced = jax.jit(self._function).trace(*given)  # told to the clock, as `jax.make_jaxpr` is not
            closed, form = traced.jaxpr, jax.tree.structure(traced.out_info)

            def program(constants: list[jax.Array], given: tuple[Any, ...]) -> Any:
                results = jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(given))
                return jax.tree.unflatten(form, results)

            # On the device once, and not sent there with every call.
            self._programs[kind] = jax.jit(program), [jnp.asarray(constant) for constant in closed.consts]
        return self._programs[kind]
