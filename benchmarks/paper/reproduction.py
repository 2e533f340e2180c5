"""Sets a run of `paper_fig2` beside the figure of Dumont, Lacombe and Vialard 2026, and a run of its rates in order.

    mongebench run paper_fig2
    python benchmarks/paper/reproduction.py results/runs/paper_fig2 --figures results

prints, for each method of their figure, the mean and the standard deviation of the energy distance over the seeds, ours
and theirs, a bootstrap interval of our mean, and whether the two agree; and draws both figures of their experiment.

    mongebench run paper_rates
    python benchmarks/paper/reproduction.py --rates results/runs/paper_rates

prints, for each method, the learning rate with the lowest mean over the tuning seeds.

    mongebench run paper_differences
    python benchmarks/paper/reproduction.py --paired results/runs/paper_differences

prints each row beside the first of its scheme, and `--paired` of a run of `paper_fair` beside the first of all: mean,
standard deviation, and the interval of the difference, paired by seed.

What is reported: arXiv 2603.25182, version 3, figure 2: mean and standard deviation over a hundred seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

import mongebench as mb
from mongebench.core.text import counted

METRIC = "energy_distance_v"
SEEDS = 100
"""Of the reported figure."""
THEIR_AXIS, BAR = 0.1, 0.01 / 3
"""Where the axis of the reported figure ends, and the width of a bar."""
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Method:
    """One of their figure: its name, how we ask for it, and what is reported of it."""

    name: str
    scheme: str
    optimiser: str
    mean: float
    deviation: float
    colour: str


METHODS = (
    Method("implicit", "implicit", "adam", 0.0241, 0.0179, "tab:green"),
    Method("explicit", "explicit", "adam", 0.0194, 0.0098, "tab:orange"),
    Method("Euclidean, SGD", "descent", "sgd", 0.1213, 0.1138, "tab:blue"),
    Method("Euclidean, Adam", "descent", "adam", 0.0291, 0.0156, "tab:purple"),
)


def values_of(rows: pd.DataFrame) -> Iterator[tuple[Method, pd.DataFrame]]:
    """The rows of each method of the frame of a run."""
    asked = rows["estimator_parameters"].map(json.loads)
    for method in METHODS:
        own = [
            name == "published" and (given["scheme"], given["optimiser"]) == (method.scheme, method.optimiser)
            for name, given in zip(rows["estimator_name"], asked, strict=True)
        ]
        yield method, rows[own].assign(rate=asked[own].map(lambda given: given["learning_rate"]))


def interval(values: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """Of the mean over seeds, by the bootstrap."""
    means = rng.choice(values, size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per method: theirs, ours, and whether they agree.

    They agree where a 95 % interval of the difference of the means holds 0: ours is resampled, theirs is normal with
    the reported standard deviation over its hundred seeds.
    """
    lines = []
    for method, own in values_of(rows):
        measured = own[METRIC].dropna().to_numpy(float)
        if not len(measured):
            continue
        rng = np.random.default_rng(0)
        low, high = interval(measured, rng)
        ours = rng.choice(measured, size=(RESAMPLES, len(measured))).mean(axis=1)
        theirs = rng.normal(method.mean, method.deviation / np.sqrt(SEEDS), RESAMPLES)
        apart = np.quantile(ours - theirs, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        lines.append(
            {
                "method": method.name,
                "reported mean": method.mean,
                "sd": method.deviation,
                "our mean": round(float(measured.mean()), 4),
                "our sd": round(float(measured.std(ddof=1)), 4),
                "95 % interval": f"{low:.4f} .. {high:.4f}",
                "difference": f"{apart[0]:+.4f} .. {apart[1]:+.4f}",
                "agree": "yes" if apart[0] <= 0 <= apart[1] else "no",
                "reported mean inside": "yes" if low <= method.mean <= high else "no",
                "UVP %": f"{own['uvp'].mean():.2f} (sd {own['uvp'].std():.2f})",
                "CPU s per seed": f"{own['fit_cpu_seconds'].mean():.2f}",
                "n_ok/n_planned": f"{len(measured)}/{len(own)}",
            }
        )
    return pd.DataFrame(lines)


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per method and rate, with the rate that the rule chooses marked."""
    lines = []
    for method, own in values_of(rows):
        found = []
        for rate, fits in own.groupby("rate"):
            failed = int(fits[METRIC].isna().sum())
            mean = float("inf") if failed else float(fits[METRIC].mean())
            found.append({"method": method.name, "learning rate": rate, "mean": mean, "failed": failed})
        best = min(found, key=lambda line: line["mean"]) if found else None
        lines += [line | {"chosen": "yes" if line is best else ""} for line in found]
    return pd.DataFrame(lines)


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per estimator: its mean, and how far that is from the first one of its scheme, with an interval.

    Differences are taken seed by seed: all methods of a seed begin with one network, and share that part of the noise.
    Where plain descent is among them, or every scheme has one row, all are held against the first.
    """
    asked = rows["estimator_parameters"].map(json.loads)
    schemes = asked.map(lambda given: given.get("scheme")).fillna(rows["estimator_name"].str.removeprefix("flow_"))
    labels = dict(zip(rows["estimator"], schemes, strict=True))
    together = len(set(schemes)) == len(labels) or "descent" in set(schemes)
    by_seed = rows.pivot(index="seed", columns="estimator", values=METRIC)[list(labels)]
    lines, firsts = [], {}
    for label, scheme in labels.items():
        own = by_seed[label]
        first = firsts.setdefault("all" if together else scheme, label)
        apart = (own - by_seed[first]).dropna().to_numpy(float)
        low, high = interval(apart, np.random.default_rng(0))
        lines.append(
            {
                "estimator": label,
                "mean": round(float(own.mean()), 4),
                "sd": round(float(own.std(ddof=1)), 4),
                "UVP %": round(float(rows.loc[rows["estimator"] == label, "uvp"].mean()), 2),
                "from the first": "" if label == first else f"{apart.mean():+.4f} ({low:+.4f} .. {high:+.4f})",
                "n_ok/n_planned": f"{int(own.notna().sum())}/{len(own)}",
            }
        )
    return pd.DataFrame(lines)


def histograms(rows: pd.DataFrame) -> Figure:
    """Their figure 2: the energy distance over the seeds, one row per method on one axis, both means marked.

    Their axis ends at `THEIR_AXIS`; ours goes on until it shows every mean. Seeds beyond it are counted in the titles.
    """
    found = [(method, own[METRIC].dropna().to_numpy(float)) for method, own in values_of(rows)]
    furthest = max(max(values.mean(), method.mean) for method, values in found)
    end = max(THEIR_AXIS, np.ceil(120 * furthest) / 100)
    edges = np.linspace(0, end, round(end / BAR) + 1)
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    for axes, (method, values) in zip(figure.subplots(len(METHODS), 1, sharex=True), found, strict=True):
        axes.hist(values, bins=edges, color=method.colour, alpha=0.5)
        axes.axvline(values.mean(), color=method.colour, linewidth=2)
        axes.axvline(method.mean, color="black", linestyle="--", linewidth=1.5)
        told = f"{method.name}: mean {values.mean():.4f}, reported {method.mean:.4f}"
        if beyond := int((values > end).sum()):
            told += f"; {counted(beyond, 'seed')} beyond {end:g}"
        axes.set_title(told, fontsize=10, loc="left")
        axes.set_ylabel("seeds")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    axes.set_xlim(0, end)
    axes.set_xlabel("energy distance (V-statistic) after the fit; solid: our mean, dashed: the reported one")
    return figure


def planes(run: mb.Run) -> Figure:
    """Their figure 1: source, the points that both schemes push it to, and target, in four panels of one scale."""
    pushed = {}
    for planned in run.plan.cells:
        given = planned.cell.estimator.parameters
        if planned.cell.estimator.name == "published" and planned.cell.seed == 0:
            sketch = run.sketch(planned)
            if sketch is not None:
                pushed[given["scheme"]] = sketch
    shown = pushed["implicit"]
    panels = [
        ("source", shown.x, "tab:blue"),
        ("pushed by explicit steps", pushed["explicit"].pushed, "tab:orange"),
        ("pushed by implicit steps", shown.pushed, "tab:green"),
        ("target", shown.y, "tab:red"),
    ]
    figure = Figure(figsize=(10.0, 2.9), layout="constrained")
    for axes, (title, points, colour) in zip(figure.subplots(1, 4, sharex=True, sharey=True), panels, strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=2, color=colour, alpha=0.5, linewidths=0)
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal")
        axes.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5))
    return figure


def main() -> None:
    """Print one table, and draw figures where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a run of paper_fig2, or of paper_rates")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--rates", action="store_true", help="the run is one of paper_rates")
    shown.add_argument("--paired", action="store_true", help="the run is one of paper_differences or paper_fair")
    parser.add_argument("--figures", type=Path, help="folder to draw the two figures into")
    given = parser.parse_args()
    run = mb.read_run(given.run)
    rows = run.frame()
    table = rates if given.rates else paired if given.paired else agreement
    print(table(rows).to_string(index=False))
    if given.figures:
        given.figures.mkdir(parents=True, exist_ok=True)
        histograms(rows).savefig(given.figures / "paper_fig2.png", dpi=150)
        planes(run).savefig(given.figures / "paper_fig1.png", dpi=150)


if __name__ == "__main__":
    main()
