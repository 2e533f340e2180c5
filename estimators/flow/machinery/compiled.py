"""Functions of a problem, compiled so that another instance of the problem needs no other compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


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
        self.programs: dict[Any, Any] = {}

    def __call__(self, *given: Any) -> Any:
        """What the function returns: trees of arrays in and out."""
        return self._program(given)(*given)

    def lower(self, *given: Any) -> Any:
        """The program for such arguments, before XLA optimises it."""
        return self._program(given).lower(*given)

    def _program(self, given: tuple[Any, ...]) -> Any:
        leaves, structure = jax.tree.flatten(given)
        kind = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in self.programs:
            # On the device once, and not sent there with every call.
            closed = jax.tree.map(_on_device, eqx.filter_closure_convert(self._function, *given))
            self.programs[kind] = eqx.filter_jit(closed)
        return self.programs[kind]


def _on_device(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
