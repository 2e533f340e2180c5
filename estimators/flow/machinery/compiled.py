"""Functions of a problem, compiled so that another instance of the problem needs no other compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class Compiled:
    """`function`, compiled once for arguments of each structure.

    The arrays that it closes over, such as the means and the matrices in V, are arguments of the program and no part
    of it: instances of one family of problems have one program, which JAX's cache on disk compiles once for them all.

    Attributes
    ----------
    programs
        By the structure of their arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *given: Any) -> Any:
        """What the function returns: trees of arrays in and out."""
        leaves, structure = jax.tree.flatten(given)
        kind = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in self.programs:
            self.programs[kind] = eqx.filter_jit(eqx.filter_closure_convert(self._function, *given))
        return self.programs[kind](*given)
