"""How often the ranking without a truth picks the estimator that the truth would: docs/choose.md quotes it.

    python benchmarks/simulations/selection.py results/selection.csv

Every family of problems with a truth, of both splits, ten seeds; one line of the file for each, written as it is
found, so that a run that was stopped goes on where it was. The figure is drawn beside it, and the summary printed.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

import mongebench as mb
from mongebench.metrics import Evaluation, EvaluationPoints, compute
from mongebench.report.figures.style import COLOURS, STYLE

FAMILIES = (
    *("gaussian", "product", "product_mixture", "radial", "potential", "mixture", "blurred"),
    *("rings", "ridges", "factors"),
)
DIMENSIONS = {"mixture": (2,), "blurred": (16,)}
ESTIMATORS = ("identity", "mean_shift", "bures", "exact", "smoothed_plugin")
"""Those whose fits take a fraction of a second: the figure costs 25 fits per line."""
N, FOLDS, SEEDS, POINTS = 200, 5, 10, 1000
COLUMNS = (
    "seed",
    "dim",
    "family",
    "split",
    "chosen",
    "best",
    "error",
    "least",
    "bures",
    "sure",
    "separated",
    "seconds",
)


def made(family: str, dim: int, seed: int) -> mb.Problem:
    given = {"images": "patches"} if family == "blurred" else {} if family == "mixture" else {"dim": dim}
    return mb.problem(family, **given, **({} if family == "mixture" else {"seed": seed}))


def line(family: str, dim: int, seed: int) -> dict[str, object]:
    """The errors (UVP) of the chosen and of the best estimator, both refitted to all points."""
    started = time.process_time()
    problem = made(family, dim, seed)
    x, y = problem.source.sample(N, seed=(seed, 1)), problem.target.sample(N, seed=(seed, 2))
    found = mb.select(x, y, ESTIMATORS, scale="none", folds=FOLDS, seed=seed)
    points = EvaluationPoints.draw(problem, POINTS, seed)
    errors = {
        name: compute(Evaluation.of(mb.estimator(name).fit(x, y, seed=seed).transform, points), ["uvp"])["uvp"].value
        for name in ESTIMATORS
    }
    chosen, best = found.table["estimator"][0], min(errors, key=errors.__getitem__)
    return {
        "seed": seed,
        "dim": dim,
        "family": family,
        "split": str(problem.split),
        "chosen": chosen,
        "best": best,
        "error": round(errors[chosen], 4),
        "least": round(errors[best], 4),
        "bures": round(errors["bures"], 4),
        "sure": round(float(found.table["best_share"][0]), 3),
        "separated": bool(found.table["separated"].iloc[1]),
        "seconds": round(time.process_time() - started, 1),
    }


def summary(rows: list[dict[str, str]]) -> str:
    """What docs/choose.md says."""
    right = np.array([row["chosen"] == row["best"] for row in rows])
    bures = np.array([row["best"] == "bures" for row in rows])
    sure = np.array([row["separated"] == "True" for row in rows])
    worse = np.array([float(row["error"]) - float(row["least"]) for row in rows])
    sentences = [
        f"{len(rows)} problems and seeds, n = {N}, {FOLDS} folds, of {', '.join(ESTIMATORS)}.",
        f"The ranking picks the best in {right.mean():.0%} (always bures: {bures.mean():.0%}).",
        f"It calls the first separated from the second in {sure.mean():.0%}, and is right in {right[sure].mean():.0%} "
        f"of these, in {right[~sure].mean():.0%} of the others.",
        f"What the choice loses in UVP: median {np.median(worse):.2g}, nine in ten at most "
        f"{np.quantile(worse, 0.9):.2g}, at worst {worse.max():.2g}.",
    ]
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        hits = sum(row["chosen"] == row["best"] for row in own)
        sentences.append(f"  {family}: {hits} of {len(own)}")
    return "\n".join(sentences)


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """A bar a family and dimension: in how many seeds the ranking, and `bures` without any, are right."""
    places = list(dict.fromkeys((row["family"], row["dim"]) for row in rows))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.5, 0.22 * len(places) + 0.9), layout="constrained")
        for height, (family, dim) in enumerate(reversed(places)):
            own = [row for row in rows if (row["family"], row["dim"]) == (family, dim)]
            right = np.mean([row["chosen"] == row["best"] for row in own])
            bures = np.mean([row["best"] == "bures" for row in own])
            first = height == 0
            axis.barh(height, right, color=COLOURS[0], height=0.6, label="chosen without a truth" if first else None)
            axis.plot(bures, height, "d", color="black", markersize=4, label="always bures" if first else None)
        axis.set_yticks(range(len(places)), [f"{family}, d = {dim}" for family, dim in reversed(places)])
        axis.set_xlim(0, 1.02)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.set_xlabel("share of seeds in which it is the best by the truth")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def main(path: Path) -> None:
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    done = {(row["family"], int(row["dim"]), int(row["seed"])) for row in rows}
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not rows:
            writer.writeheader()
        for seed in range(SEEDS):
            for family in FAMILIES:
                for dim in DIMENSIONS.get(family, (2, 8)):
                    if (family, dim, seed) not in done:
                        writer.writerow(line(family, dim, seed))
                        file.flush()
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    draw(rows, path.with_suffix(".png"))
    print(summary(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
