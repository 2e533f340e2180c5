"""Checkpoints of two random input-convex networks in the format of Korotin et al., for `korotin` without their files.

    python -m mongebench.datasets.truths.make_pair DIRECTORY [--dim 3] [--seed 0]

writes `{dim}_v1.pt` and `{dim}_v2.pt`. The networks are random and not trained: their map bends, but it leads to no
mixture of ten Gaussians as the authors' do. The tests of the problem read such a pair.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

WIDTHS = (16, 16, 8)


def make_pair(directory: Path, dim: int, seed: int = 0) -> None:
    """Write both checkpoints, float32 as the authors'."""
    import torch

    rng = np.random.default_rng(seed)
    for version in (1, 2):
        state = {}
        for k, width in enumerate(WIDTHS):
            state[f"quadratic_layers.{k}.quadratic_decomposed"] = 0.3 * rng.standard_normal((dim, 1, width))
            state[f"quadratic_layers.{k}.weight"] = rng.standard_normal((width, dim))
            state[f"quadratic_layers.{k}.bias"] = rng.standard_normal(width)
        for k, (before, width) in enumerate(itertools.pairwise(WIDTHS)):
            state[f"convex_layers.{k}.weight"] = rng.uniform(0, 1 / before, (width, before))
        state["final_layer.weight"] = rng.uniform(0, 2 / WIDTHS[-1], (1, WIDTHS[-1]))
        tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in state.items()}
        torch.save(tensors, directory / f"{dim}_v{version}.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=make_pair.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dim", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_pair(given.directory, given.dim, given.seed)
