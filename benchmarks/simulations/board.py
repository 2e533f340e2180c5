"""What the board, `compare` and the gates of a night conclude from runs whose truth is known, before and after.

python benchmarks/simulations/board.py [RUNS] prints the tables of docs/protocol.md. "Before" is the rule of ranks at
two standard errors and the paired t-test on differences under Bonferroni, which they replaced. `compare` and the gates
are tried on the records of the reference run, results/nightly.zip.
"""

import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mongebench.report import gates
from mongebench.report.tables import ranking, results
from mongebench.report.tables.compare import Change, compare
from mongebench.report.tables.results import IDENTITY_COLUMNS
from mongebench.run.reading import read_run

Array = NDArray[np.float64]
FAMILY = np.array([0, 0, 1, 2, 3, 4, 5])
"""Of the places of the reference run: one family is there in two dimensions."""
SEEDS = 4
TOGETHER = 0.86
"""Correlation of the log errors of two estimators over the seeds of a place: the median of the reference run."""
UNLIKE = 0.5
"""Standard deviation of the log of the scatter of a place where a code is run again, over the scatter of its fits."""
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


def reference_run(archive: Path) -> pd.DataFrame:
    """The frame of a zipped run."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        rows = read_run(folder).frame()
    return rows[(rows["status"] != "unsupported") & ~rows["anchor"]].reset_index(drop=True)


def again(
    rows: pd.DataFrame, rng: np.random.Generator, factor: float, changed: float
) -> tuple[pd.DataFrame, pd.Series]:
    """The run as new code of equal quality might repeat it, a share of its places worse by a factor; and which those.

    A fit of other random numbers on the same draws: its log error scatters as fits of one place do, give or take a
    factor that differs between places, correlated over seeds as errors of two estimators are.
    """
    place = rows.groupby(IDENTITY_COLUMNS, sort=False).ngroup()
    scatter = np.log(rows["uvp"]).groupby(place).transform("std").fillna(0)
    worse = pd.Series(rng.random(place.max() + 1) < changed)[place].set_axis(rows.index)
    scatter = scatter * np.exp(UNLIKE * rng.normal(size=place.max() + 1))[place]
    noise = np.exp(np.sqrt(2 * (1 - TOGETHER)) * scatter * rng.normal(size=len(rows)))
    return rows.assign(uvp=rows["uvp"] * noise * np.where(worse, factor, 1.0)), worse


def worse_before(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """Places called worse by Student's t on paired differences under Bonferroni, by place."""
    difference = (second["uvp"] - first["uvp"]).groupby([first[name] for name in IDENTITY_COLUMNS], sort=False)
    size = difference.size()
    quantile = stats.t.isf(0.025 / len(size), size - 1)
    return difference.mean() > quantile * difference.sem()


def compare_table(rows: pd.DataFrame, runs: int, seed: int = 0) -> pd.DataFrame:
    """Shares of a tenth of the places that are worse, found before and after; and runs with a false claim."""
    rng = np.random.default_rng(seed)
    table = {}
    for seeds in (2, 3, 4):
        own = rows[rows["seed"] < seeds].reset_index(drop=True)
        for factor in (1.2, 1.5, 2.0):
            found = [_found(own, *again(own, rng, factor, 0.1)) for _ in range(runs)]
            table[f"{seeds} seeds, {factor:g} times the error"] = np.mean(found, axis=0)
    columns = ["found before", "found after", "false claims before", "false claims after"]
    return pd.DataFrame(table, index=columns).T


def _found(first: pd.DataFrame, second: pd.DataFrame, worse: pd.Series) -> tuple[float, ...]:
    planted = worse.groupby([first[name] for name in IDENTITY_COLUMNS], sort=False).first()
    before = worse_before(first, second).reindex(planted.index)
    judged = compare(first, second).set_index(IDENTITY_COLUMNS)["change"].reindex(planted.index)
    claimed = judged.isin([Change.WORSE, Change.BETTER])
    return (
        float(before[planted].mean()),
        float((judged == Change.WORSE)[planted].mean()),
        float(before[~planted].any()),
        float(claimed[~planted].any()),
    )


def gates_table(rows: pd.DataFrame, runs: int, seed: int = 0) -> pd.DataFrame:
    """Shares of gates that break where all errors grow by a factor: exactly, and as `again` repeats them."""
    rng = np.random.default_rng(seed)
    recorded = gates.record(rows)
    summary = results.aggregate(rows, "uvp")
    high = summary["mean"] + np.maximum(4 * summary["standard_error"].fillna(0), 0.1 * summary["mean"])
    old = summary[IDENTITY_COLUMNS].assign(metric="uvp", recorded=summary["mean"], n=summary["n_ok"], high=high)

    def broken(found: pd.DataFrame) -> list[float]:
        return [len(gates.judge(found, one).broken) / len(one) for one in (old, recorded)]

    table = {}
    for factor in (1.0, 1.2, 1.5, 2.0):
        exact = broken(rows.assign(uvp=factor * rows["uvp"]))
        noisy = np.mean([broken(again(rows, rng, factor, 1.0)[0]) for _ in range(runs)], axis=0)
        table[f"{factor:g} times the error"] = [*exact, *noisy]
    columns = ["exactly, before", "exactly, after", "with other random numbers, before", "and after"]
    return pd.DataFrame(table, index=columns).T


def main(runs: int = 400) -> None:
    pd.set_option("display.width", 200, "display.max_columns", 10, "display.max_colwidth", 100)
    print("Shares of runs, board\n", (100 * board_table(runs)).round(1).to_string(), sep="")
    rows = reference_run(Path(__file__).resolve().parents[2] / "results" / "nightly.zip")
    print("\nShares, compare\n", (100 * compare_table(rows, max(1, runs // 20))).round(1).to_string(), sep="")
    print("\nShares, gates\n", (100 * gates_table(rows, max(1, runs // 40))).round(1).to_string(), sep="")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
