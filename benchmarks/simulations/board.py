"""What the board concludes from runs whose truth is known, before and after; `power.py` has `compare` and the gates.

python benchmarks/simulations/board.py [RUNS] prints the table of docs/protocol.md. "Before" is the rule of ranks at two
standard errors, which the rule of today has replaced.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mongebench.report.tables import ranking

Array = NDArray[np.float64]
FAMILY = np.array([0, 0, 1, 2, 3, 4, 5])
"""Of the places of the reference run: one family is there in two dimensions."""
SEEDS = 4
TOGETHER = 0.86
"""Correlation of the log errors of two estimators over the seeds of a place: the median of the reference run."""
BAD = 1000.0
"""A fit that fails badly, over one that does not."""


def errors(rng: np.random.Generator, means: list[float], cv: list[float], law: str, together: float = 0.0) -> Array:
    """(estimators, places, 1, SEEDS) errors of these means and coefficients of variation."""
    shape = (len(means), len(FAMILY), 1, SEEDS)
    mean, spread = (np.array(values)[:, None, None, None] for values in (means, cv))
    if law == "gamma":
        return mean * rng.gamma(1 / spread**2, spread**2, size=shape)
    sigma = np.sqrt(np.log1p(spread**2))
    common = np.sqrt(together) * rng.normal(size=shape[1:])
    return mean * np.exp(sigma * (common + np.sqrt(1 - together) * rng.normal(size=shape)) - sigma**2 / 2)


def failing(rng: np.random.Generator, bad: int) -> Array:
    """The first is a tenth better than the second on most seeds, and fails badly on `bad` of them at each place."""
    drawn = errors(rng, [0.9, 1.0], [0.3, 0.3], "lognormal", TOGETHER)
    drawn[0, :, :, :bad] *= BAD
    return np.minimum(drawn, 100.0)  # as the board cuts them


def ranks_before(ratio: Array) -> Array:
    """(estimators, places) 1 + the rivals whose mean is lower by two standard errors of the difference."""
    values = ratio[:, :, 0]
    mean, error = values.mean(axis=-1), stats.sem(values, axis=-1)
    beaten = mean[:, None] - mean > 2 * np.hypot(error[:, None], error)
    return 1.0 + beaten.sum(axis=1)


def above(ratio: Array, one: int = 0, other: int = 1) -> dict[str, bool]:
    """Whether one stands above another, by each rule: ranks, with shared rank 1 as no worse; logs of each fit; ours."""
    mean = ranks_before(ratio).mean(axis=1)
    fits = np.log(ratio).mean(axis=(1, 2, 3))
    places = ranking.log_means(ratio)
    return {
        "ranks": bool(mean[one] <= mean[other]),
        "geometric mean of fits": bool(fits[one] < fits[other]),
        "board": bool(places[one] < places[other]),
    }


def told_apart(ratio: Array) -> dict[str, bool]:
    """Whether anybody is demoted at a place, and whether anybody is separated from the leader."""
    result = ranking.rank(ratio, FAMILY, draws=400)
    leader = int(result.log_mean.argmin())
    separated = [result.versus(k, leader)[1] > 0 for k in range(len(ratio))]
    return {"ranks": bool((ranks_before(ratio) > 1).any()), "board": any(separated)}


def share(question: Callable[[Array], dict[str, bool]], draw: Callable[[], Array], runs: int) -> dict[str, float]:
    """In how many of the runs each rule says yes."""
    answers = pd.DataFrame([question(draw()) for _ in range(runs)])
    return {str(name): float(value) for name, value in answers.mean().items()}


def board_table(runs: int, seed: int = 0) -> pd.DataFrame:
    """Shares of runs, a row a truth, a column a rule."""
    rng = np.random.default_rng(seed)
    two, twelve = [2.0, 1.0], [1.0] * 12
    rows: dict[str, dict[str, float]] = {}
    for law in ("lognormal", "gamma"):
        title = f"twice the error, CV 1 ({law}), above a steady one"
        rows[title] = share(above, lambda law=law: errors(rng, two, [1.0, 0.3], law), runs)
        title = f"twice the error, both CV 1 ({law}), above the better one"
        rows[title] = share(above, lambda law=law: errors(rng, two, [1.0, 1.0], law), runs)
    for bad in (1, 2, 3):
        title = f"bad on {bad} of {SEEDS} seeds, above a steady one"
        rows[title] = share(above, lambda bad=bad: failing(rng, bad), runs)
    for law, cv, together in (("lognormal", 1.0, 0.0), ("gamma", 1.0, 0.0), ("lognormal", 0.5, TOGETHER)):
        title = f"twelve equal ones, CV {cv:g} ({law}, correlation {together:g}): somebody told apart"
        rows[title] = share(told_apart, lambda a=(cv, law, together): errors(rng, twelve, [a[0]] * 12, *a[1:]), runs)
    for factor in (1.2, 1.5, 2.0, 3.0):
        title = f"eleven of {factor:g} times the leader's error, CV 0.5, correlation {TOGETHER}: any told apart"
        means = [1.0, *[factor] * 11]
        rows[title] = share(told_apart, lambda m=means: errors(rng, m, [0.5] * 12, "lognormal", TOGETHER), runs)
    return pd.DataFrame(rows).T


def main(runs: int = 400) -> None:
    pd.set_option("display.width", 200, "display.max_columns", 10, "display.max_colwidth", 100)
    print("Shares of runs\n", (100 * board_table(runs)).round(1).to_string(), sep="")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
