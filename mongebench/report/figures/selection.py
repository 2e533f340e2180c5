"""A map between two samples without a truth, drawn: pairs of coordinates before, after and target; what moved most."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mongebench.core.arrays import Points
from mongebench.report.figures.style import COLOURS, QUIET, STYLE, plain

SHOWN = 1000
"""Points of a cloud that are drawn."""
COORDINATES = 3
"""That moved most: their pairs are drawn."""
BARS = 20


def displacement(x: Points, pushed: Points, y: Points) -> NDArray[np.float64]:
    """Root mean square displacement of each coordinate, (d,), in units of its spread in both samples."""
    spread = np.sqrt((x.var(axis=0) + y.var(axis=0)) / 2)
    return np.asarray(np.sqrt(((pushed - x) ** 2).mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def pairs(x: Points, pushed: Points, y: Points, names: Sequence[str]) -> Figure:
    """The pairs of the coordinates that moved most, in three columns of one scale: source, moved source, target.

    Of one coordinate its three histograms.
    """
    rng = np.random.default_rng(0)
    rows, targets = (rng.permutation(len(points))[:SHOWN] for points in (x, y))
    clouds = (("source", x[rows], COLOURS[0]), ("moved", pushed[rows], COLOURS[2]), ("target", y[targets], COLOURS[1]))
    moved = np.argsort(-displacement(x, pushed, y), kind="stable")[:COORDINATES]
    with plt.rc_context(STYLE):
        if len(moved) == 1:
            return _histograms(clouds, names[0])
        chosen = [(i, j) for k, i in enumerate(moved) for j in moved[k + 1 :]]
        size = (8.4, 2.7 * len(chosen) + 0.3)
        figure, axes = plt.subplots(len(chosen), 3, figsize=size, squeeze=False, layout="constrained")
        for axis, (title, _, _) in zip(axes[0], clouds, strict=True):
            axis.set_title(title)
        for line, (i, j) in zip(axes, chosen, strict=True):
            both = np.concatenate([points[:, [i, j]] for _, points, _ in clouds])
            low, high = np.quantile(both, [0.002, 0.998], axis=0)
            room = 0.08 * (high - low)
            for axis, (_, points, colour) in zip(line, clouds, strict=True):
                axis.scatter(points[:, i], points[:, j], s=5, color=colour, alpha=0.5, linewidths=0)
                axis.set_xlim(low[0] - room[0], high[0] + room[0])
                axis.set_ylim(low[1] - room[1], high[1] + room[1])
                axis.set_xlabel(plain(names[i]))
            line[0].set_ylabel(plain(names[j]))
        return figure


def _histograms(clouds: Sequence[tuple[str, Points, str]], name: str) -> Figure:
    figure, axis = plt.subplots(figsize=(6.0, 3.0), layout="constrained")
    edges = np.histogram_bin_edges(np.concatenate([points[:, 0] for _, points, _ in clouds]), bins=40)
    for title, points, colour in clouds:
        axis.hist(
            points[:, 0], bins=edges.tolist(), histtype="step", linewidth=1.6, color=colour, label=title, density=True
        )
    axis.set_xlabel(plain(name))
    axis.set_ylabel("density")
    axis.legend(frameon=False)
    return figure


def moved_most(x: Points, pushed: Points, y: Points, names: Sequence[str]) -> Figure:
    """Bars of `displacement`, the largest first."""
    sizes = displacement(x, pushed, y)
    order = np.argsort(-sizes, kind="stable")[:BARS]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 0.24 * len(order) + 0.8), layout="constrained")
        axis.barh([plain(names[j]) for j in order[::-1]], sizes[order[::-1]], color=COLOURS[2], height=0.7)
        axis.axvline(1, color=QUIET, linewidth=1, linestyle=":")
        axis.set_xlabel("root mean square displacement, in standard deviations of the coordinate")
        return figure
