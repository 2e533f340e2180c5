"""Input-convex networks of Korotin et al., as their checkpoints hold them, in float64 by torch."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mongebench.core.arrays import blockwise
from mongebench.core.errors import InvalidInput
from mongebench.datasets.linear import Array

STRONG_CONVEXITY = 0.01
"""Of every checkpoint: the networks end with 0.005 |x|^2."""


@dataclass(frozen=True, eq=False)
class ConvexNetwork:
    """psi(x) = w . celu(z_2) + 0.005 |x|^2, z_k = V_k celu(z_{k-1}) + q_k(x), celu left out at z_0 = q_0(x).

    q_k(x) = (x A_k)^2 + W_k x + b_k, squares entry by entry; convex because celu is convex and increasing and V, w >=
    0.

    Parameters
    ----------
    squares, weights, biases
        A_k (d, m_k), W_k (m_k, d) and b_k (m_k,), tensors of torch in float64.
    passes
        V_k (m_k, m_{k-1}), from k = 1 on.
    last
        w, (m_2,).
    """

    squares: list[Any]
    weights: list[Any]
    biases: list[Any]
    passes: list[Any]
    last: Any

    @classmethod
    def read(cls, path: Path, dim: int) -> ConvexNetwork:
        """The network of a checkpoint, read as data alone. Raises `InvalidInput` on what is none of dimension `dim`."""
        import torch

        content = path.read_bytes()
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return cls.of(state, dim)
        except Exception as reason:  # torch raises whatever it runs into, OSError in a file that is cut short
            said = str(reason).partition("\n")[0].partition(". ")[0] or type(reason).__name__
            raise InvalidInput(
                f"{path} ({len(content)} bytes) is no checkpoint of an input-convex network in d = {dim} ({said}). "
                "Download it anew."
            ) from None

    @classmethod
    def of(cls, state: Mapping[str, Any], dim: int) -> ConvexNetwork:
        """From the state dictionary of a checkpoint. Raises `InvalidInput`, `KeyError`."""
        layers = 1 + max(int(found[1]) for key in state if (found := re.match(r"quadratic_layers\.(\d+)\.", key)))
        tensors = {key: tensor.double() for key, tensor in state.items()}
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise InvalidInput(f"{key} has entries that are not finite")
        quadratic = [f"quadratic_layers.{k}" for k in range(layers)]
        passes = [tensors[f"convex_layers.{k}.weight"] for k in range(layers - 1)]
        last = tensors["final_layer.weight"][0]
        for weight in (*passes, last):
            if not (weight >= 0).all():
                raise InvalidInput("a weight between its layers is negative: it is not convex")
        network = cls(
            [tensors[f"{name}.quadratic_decomposed"][:, 0, :] for name in quadratic],
            [tensors[f"{name}.weight"] for name in quadratic],
            [tensors[f"{name}.bias"] for name in quadratic],
            passes,
            last,
        )
        if len(network.squares[0]) != dim:
            raise InvalidInput(f"it takes points of dimension {len(network.squares[0])}")
        return network

    def value(self, x: Any) -> Any:
        """psi, (..., d) -> (...), tensors."""
        import torch

        z = self._quadratic(0, x)
        for k, weight in enumerate(self.passes, start=1):
            z = (z if k == 1 else torch.nn.functional.celu(z)) @ weight.T + self._quadratic(k, x)
        return torch.nn.functional.celu(z) @ self.last + STRONG_CONVEXITY / 2 * (x**2).sum(dim=-1)

    def _quadratic(self, k: int, x: Any) -> Any:
        return (x @ self.squares[k]) ** 2 + x @ self.weights[k].T + self.biases[k]


@dataclass(frozen=True, eq=False)
class Differentiated:
    """A strongly convex function of torch with its derivatives as NumPy sees them, by automatic differentiation.

    Parameters
    ----------
    function
        (..., d) -> (...), tensors.
    row_bytes
        Memory that the Hessian at one point takes.
    """

    function: Callable[[Any], Any]
    row_bytes: int

    def value(self, x: Array) -> Array:
        """(n, d) -> (n,)."""
        return self._blockwise(self.function, x)

    def gradient(self, x: Array) -> Array:
        """(n, d) -> (n, d)."""
        import torch

        return self._blockwise(torch.func.grad(lambda x: self.function(x).sum()), x)

    def hessian(self, x: Array) -> Array:
        """(n, d) -> (n, d, d)."""
        return self._blockwise(self._hessians, x)

    def solve(self, x: Array, right_side: Array) -> Array:
        """H(x)^-1 right_side, (n, d) and (n, d) -> (n, d)."""
        return np.asarray(np.linalg.solve(self.hessian(x), right_side[:, :, None])[:, :, 0], dtype=np.float64)

    def log_determinant(self, x: Array) -> Array:
        """log det H, (n, d) -> (n,)."""
        return self._blockwise(self._log_determinants, x)

    def _hessians(self, x: Any) -> Any:
        import torch

        # In reverse mode twice: forward mode loads a part of torch that is deprecated, and warns.
        return torch.func.vmap(torch.func.jacrev(torch.func.grad(self.function)))(x)

    def _log_determinants(self, x: Any) -> Any:
        import torch

        return torch.linalg.slogdet(self._hessians(x))[1]

    def _blockwise(self, function: Callable[[Any], Any], x: Array) -> Array:
        import torch

        def of_block(block: Array) -> Array:
            values: Array = function(torch.tensor(block, dtype=torch.float64)).numpy()
            return values

        return blockwise(of_block, np.asarray(x, dtype=np.float64), row_bytes=self.row_bytes)
