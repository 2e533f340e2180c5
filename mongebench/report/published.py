"""The two figures that papers on Monge maps show: clouds of pushed points, and how the energy distance scatters."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mongebench.report.style import COLOURS, QUIET, panels
from mongebench.report.tables import row_order
from mongebench.run.record import Status
from mongebench.run.sketch import Sketch
from mongebench.run.store import RunDirectory

METRIC = "energy_distance_v"
"""As it is usually published; unlike the unbiased one it is positive, so that a logarithmic axis holds every value."""
MANY_SEEDS = 4
"""From which on a distribution is drawn."""
BINS = 30
MARGIN = 0.08
"""Around the clouds, as a share of their width."""


def clouds(directory: RunDirectory, rows: pd.DataFrame) -> Figure | None:
    """Source, pushed and target points: a line of panels a problem of the plane, a column a method, its first seed.

    Points keep the colour of where they come from, across the source; the target lies grey beneath the pushed ones.
    None where no map of the plane was measured.
    """
    cells = [planned.cell for planned in directory.plan().cells]
    plane = rows[(rows["dim"] == 2) & rows["status"].isin([Status.OK, Status.AT_FLOOR])]
    sketches = {index: directory.sketch(cells[index]) for index in plane.index}
    shown = plane[[sketches[index] is not None for index in plane.index]]
    if shown.empty:
        return None
    planned = rows[rows["dim"] == 2]
    methods = row_order(planned["estimator"].unique())
    blocks = list(planned.groupby(["problem", "budget"], sort=False))
    figure, axes = panels(len(blocks) * (len(methods) + 2), (1.75, 1.95), columns=len(methods) + 2)
    for line, ((problem, budget), block) in enumerate(blocks):
        source, *middle, target = axes[line * (len(methods) + 2) : (line + 1) * (len(methods) + 2)]
        known = [index for index in block.index if index in shown.index]
        if not known:
            for axis in (source, *middle, target):
                axis.set_axis_off()
            continue
        any_sketch = sketches[known[0]]
        assert any_sketch is not None
        hue = any_sketch.x[:, 0]
        _scatter(source, any_sketch.x, hue, any_sketch)
        _scatter(target, any_sketch.y, None, any_sketch)
        source.set_title("source")
        target.set_title("target")
        source.set_ylabel(textwrap.fill(f"{problem}\n{budget}", 26) if len(blocks) > 1 else "")
        for axis, name in zip(middle, methods, strict=True):
            own = block[block["estimator"] == name]
            first = next((index for index in own.index if index in known), None)
            axis.set_title(textwrap.fill(name, 20))
            if first is None:
                axis.set_axis_off()
                axis.text(0.5, 0.5, ", ".join(own["status"].unique()), ha="center", transform=axis.transAxes)
                continue
            sketch = sketches[first]
            assert sketch is not None
            _scatter(axis, sketch.y, None, sketch)
            outside = _scatter(axis, sketch.pushed, hue, sketch)
            value = rows.loc[first, "energy_distance"]
            axis.set_xlabel(f"energy distance {value:.2g}" + (f"\n{outside} points outside" if outside else ""))
    return figure


def _scatter(axis: Axes, points: NDArray[np.float32], hue: NDArray[np.float32] | None, frame: Sketch) -> int:
    """Points in the frame of source and target; how many lie outside of it."""
    if hue is None:
        axis.scatter(*points.T, s=3, color="0.8", linewidths=0, rasterized=True)
    else:
        axis.scatter(*points.T, s=4, c=hue, cmap="viridis", linewidths=0, alpha=0.9, rasterized=True)
    both = np.concatenate([frame.x, frame.y])
    low, high = both.min(axis=0), both.max(axis=0)
    margin = MARGIN * (high - low).max()
    axis.set_xlim(low[0] - margin, high[0] + margin)
    axis.set_ylim(low[1] - margin, high[1] + margin)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    return int(((points < low - margin) | (points > high + margin)).any(axis=1).sum())


def distribution(rows: pd.DataFrame) -> Figure | None:
    """Energy distance (V-statistic) over seeds, a panel a method, a column a problem, one logarithmic axis a column.

    The axis holds every measured value; failures are counted in each panel's title. None below `MANY_SEEDS` seeds.
    """
    blocks = [
        (key, block)
        for key, block in rows.groupby(["problem", "dim", "budget"], sort=False)
        if block["seed"].nunique() >= MANY_SEEDS and METRIC in block and block[METRIC].notna().any()
    ]
    if not blocks:
        return None
    methods = row_order({name for _, block in blocks for name in block["estimator"]})
    figure, axes = panels(len(blocks) * len(methods), (3.4, 1.05), columns=len(blocks), sharex="col")
    for column, ((problem, dim, _), block) in enumerate(blocks):
        own_axes = axes[column :: len(blocks)]
        values, floor = block[METRIC].dropna(), float(block[f"{METRIC}_floor"].max())
        low, high = min(values.min(), floor) / 1.3, values.max() * 1.3
        edges = np.geomspace(low, high, BINS + 1)
        for place, (axis, name) in enumerate(zip(own_axes, methods, strict=True)):
            _histogram(axis, block[block["estimator"] == name], edges, floor, COLOURS[place % len(COLOURS)], name)
        own_axes[0].set_title(f"{problem}, d = {dim}\n{own_axes[0].get_title()}")
        own_axes[-1].set_xlabel("energy distance (V-statistic)")
    return figure


def _histogram(axis: Axes, own: pd.DataFrame, edges: NDArray[np.float64], floor: float, colour: str, name: str) -> None:
    values = own[METRIC].dropna()
    axis.set_xscale("log")
    axis.set_xlim(edges[0], edges[-1])
    axis.axvspan(edges[0], floor, color="0.92", zorder=0)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_title(f"{name}, {len(values)}/{len(own)}", fontsize=8, loc="left", pad=2)
    if len(values):
        axis.hist(values, bins=edges, color=colour, alpha=0.55)
        axis.plot(values, np.zeros(len(values)), "|", color=colour, markersize=9, clip_on=False)
        median = float(values.median())
        axis.axvline(median, color="black", linewidth=1)
        axis.text(median, 1.0, f" {median:.2g}", transform=axis.get_xaxis_transform(), fontsize=7, va="top")
    axis.text(floor, 1.0, "floor ", transform=axis.get_xaxis_transform(), fontsize=6, ha="right", va="top", color=QUIET)
