"""Runs the authors' own code of the explicit scheme, to tell a difference of algorithms from one of draws.

    git clone https://github.com/theodumont/monge-constrained-flow CLONE && git -C CLONE checkout c525afb
    python benchmarks/paper/authors.py CLONE --beside 3

feeds it the network and the batches of our fits (seeds 0, 1, 2) and our score, all in float64, and prints how far the
maps are apart after each outer step: rounding, as long as the dynamics do not amplify it.

    python benchmarks/paper/authors.py CLONE --seeds 200 320 --out results/paper_authors.csv

runs it as it is, on draws of its own, and writes the energy distance of each seed as `paper_fig2` has it: the
V-statistic of 10 000 points per side. Their Sinkhorn iteration is run without its tape, which nothing reads and which
changes no number.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import mongebench as mb
from mongebench.estimators.flow.machinery.sampled import negative_entropy, scale_of
from mongebench.estimators.flow.potential.clamped import Clamped
from mongebench.estimators.flow.schemes.published import Published

Points = NDArray[np.float64]

UNITS, STEPS, INNER_STEPS, BATCH, FINAL_TIME, RATE = 20, 10, 100, 100, 4.0, 0.1
POINTS = 10_000
"""Of the energy distance, a side."""
SETTING = {
    "device": torch.device("cpu"),
    "epsilon": None,
    "target": None,
    "lr_inner_explicit": RATE,
    "hidden_dim": UNITS,
    "depth": 2,
}


class Recorded:
    """The source of our fit, which keeps what it drew."""

    def __init__(self) -> None:
        self.sampler, self.drawn = mb.problem("mixture").source.sampler, []

    def __call__(self, n: int, rng: np.random.Generator) -> Points:
        points = self.sampler(n, rng)
        self.drawn.append(points)
        return points

    def batches(self) -> Points:
        """Those of the steps, (STEPS * INNER_STEPS, BATCH, 2): what is drawn before them is a batch at a time."""
        return np.concatenate([points for points in self.drawn if len(points) > BATCH]).reshape(-1, BATCH, 2)


class Fed:
    """A generator, as their code asks for one, of given batches."""

    def __init__(self, batches: Points) -> None:
        self.batches, self.n_batch = iter(batches), BATCH

    def next(self) -> torch.Tensor:
        return torch.tensor(next(self.batches))


def beside(seed: int) -> list[float]:
    """Root mean squared distance of their maps and ours after each outer step, on equal draws in float64."""
    theirs = importlib.import_module("explicitConstrainedFlow")
    source, ours = Recorded(), []

    def trace(map: Callable[[Points], Points], **_: Any) -> bool:
        ours.append(map)
        return True

    estimator = Published("explicit", dtype="float64")
    target = mb.Target(dim=2, potential=lambda y: (y * y).sum(axis=1) / 2)
    estimator.fit(mb.Source(dim=2, sampler=source), target, seed=seed, trace=trace)
    with jax.enable_x64(True):
        begin = Clamped.random(np.zeros((1, 2)), UNITS, np.random.default_rng(seed))
    force = jax.jit(jax.grad(lambda y: negative_entropy(y, 0.05 * scale_of(y)) * len(y)))
    x = mb.problem("mixture").source.sample(1000, seed=5)
    apart: list[float] = []

    def velocity(points: torch.Tensor, **_: Any) -> torch.Tensor:
        y = points.detach().numpy()
        return torch.tensor(-y - np.asarray(force(jnp.asarray(y))))

    def after(solve: Callable[..., Any], map: Any, **given: Any) -> Any:
        if not apart:
            _load(map, begin)
        losses = solve(map=map, **given)
        moved = map.forward(torch.tensor(x)).detach().numpy()
        apart.append(float(np.sqrt(np.mean(np.sum((moved - ours[len(apart) + 1](x)) ** 2, axis=1)))))
        return losses

    solve = theirs.solve_inner_optim_problem
    theirs.solve_inner_optim_problem = lambda **given: after(solve, **given)
    batches = source.batches()
    with _float64():
        first = torch.tensor(batches[0])
        theirs.explicitDynamic(
            Fed(batches), velocity, STEPS, FINAL_TIME, INNER_STEPS, first, mapClass="ICNNMap", **SETTING
        )
    theirs.solve_inner_optim_problem = solve
    return apart


def alone(seed: int) -> float:
    """Energy distance at the end of one of their fits, on draws of its own."""
    theirs, sampling, main, dynamics = (
        importlib.import_module(name) for name in ("explicitConstrainedFlow", "sampling", "main", "dynamics")
    )
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(seed)
    sampled = {"means": main.means, "covariances": main.covariances, "weights": main.weights}
    source = sampling.GenerateGaussianMixture(n_batch=BATCH, **sampled)
    map = theirs.explicitDynamic(
        source,
        dynamics.langevinDynamic,
        STEPS,
        FINAL_TIME,
        INNER_STEPS,
        source.next(),
        mapClass="ICNNMap",
        **SETTING,
    )
    problem = mb.problem("mixture")
    x, y = problem.source.sample(POINTS, seed=777 + seed), problem.target.sample(POINTS, seed=888 + seed)
    z = map.forward(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    return 2 * _mean_distance(z, y) - _mean_distance(z, z) - _mean_distance(y, y)


def _load(network: Any, begin: Clamped) -> None:
    layers = {
        "input_layer.weight": begin.first,
        "input_layer.bias": begin.first_offset,
        "hidden_layers.0.weight": begin.passes,
        "hidden_layers.0.bias": begin.second_offset,
        "w_z_layers.0.weight": begin.skip,
        "output_layer.weight": begin.last[None],
        "output_layer.bias": np.zeros(1),
    }
    network.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in layers.items()})


@contextmanager
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(before)


def _mean_distance(a: Points, b: Points, block: int = 500) -> float:
    return sum(float(cdist(a[i : i + block], b).sum()) for i in range(0, len(a), block)) / (len(a) * len(b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="directory of the authors' code")
    parser.add_argument("--beside", type=int, metavar="K", help="step beside step, for seeds 0 to K - 1")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FROM", "TO"), help="their code alone")
    parser.add_argument("--out", type=Path, help="CSV of --seeds")
    asked = parser.parse_args()
    sys.path.insert(0, str(asked.clone))
    torch.set_num_threads(1)
    torch.autograd.set_detect_anomaly = lambda on: None  # only slows down
    sinkhorn = importlib.import_module("Sinkhorn").Sinkhorn
    sinkhorn.iterateSinkhorn = torch.no_grad()(sinkhorn.iterateSinkhorn)
    for seed in range(asked.beside or 0):
        print(f"seed {seed}:", " ".join(f"{distance:.1e}" for distance in beside(seed)), flush=True)
    if asked.seeds:
        rows = []
        for seed in range(*asked.seeds):
            since = time.process_time()
            rows.append({"seed": seed, "energy_distance_v": alone(seed), "cpu_seconds": time.process_time() - since})
            if asked.out:
                pd.DataFrame(rows).to_csv(asked.out, index=False, float_format="%.6g")
        values = np.array([row["energy_distance_v"] for row in rows])
        means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        print(
            f"{len(values)} seeds: mean {values.mean():.4f} (95 % {low:.4f} .. {high:.4f}), sd {values.std(ddof=1):.4f}"
        )


if __name__ == "__main__":
    main()
