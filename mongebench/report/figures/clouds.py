"""The two figures that papers on Monge maps show: clouds of pushed points, and how the energy distance scatters."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from mongebench.report.figures.style import COLOURS, QUIET, few, look, panels, plain, rivals_of
from mongebench.report.tables.results import row_order
from mongebench.run.reading import Run
from mongebench.run.record import Status
from mongebench.run.sketch import Sketch

METRIC = "energy_distance_v"
"""As it is usually published; unlike the unbiased one it is positive, so that a logarithmic axis holds every value."""
MANY_SEEDS = 4
"""From which on a distribution is drawn."""
BINS, PADDING = 30, 1.5
"""Of the logarithmic axis, and the factor that it reaches beyond the extreme values."""
WRAP = 22
"""Characters of a line of a title."""
COLUMNS = 10
"""Of clouds beside each other."""
MARGIN = 0.08
"""Around the clouds, as a share of their width."""

Cloud = NDArray[np.float32]
"""(n, 2)."""


def clouds(run: Run, rows: pd.DataFrame) -> Figure | None:
    """Source, pushed and target points of each problem of the plane, a panel per method that serves it, its first seed.

    Points keep the colour of the quadrant of the source that they come from; the target lies grey beneath the pushed
    ones. None where no map of the plane was measured.
    """
    sketches = [run.sketch(planned) if planned.dim == 2 else None for planned in run.plan.cells]
    rows = rows.assign(sketch=pd.Series(sketches, dtype=object))
    rows = rows[rows["status"] != Status.UNSUPPORTED]
    plane = rows[rows["dim"] == 2].groupby(["problem", "budget"], sort=False)
    blocks = [block for _, block in plane if block["sketch"].notna().any()]
    if not blocks:
        return None
    longest = 2 + max(block["estimator"].nunique() for block in blocks)
    columns = -(-longest // -(-longest // COLUMNS))  # as few lines as it takes, and those as full as each other
    places = -(-longest // columns) * columns
    figure, axes = panels(len(blocks) * places, (1.6, 1.9), columns=columns)
    for number, block in enumerate(blocks):
        first, *middle = axes[number * places : (number + 1) * places]
        frame = block["sketch"].dropna().iloc[0]
        _scatter(first, frame.x, frame, frame.x)
        first.set_title("source", fontsize=8)
        row = block.iloc[0]
        first.set_ylabel(plain(f"{_lines(row['problem'])}\n{row['budget']}"), fontsize=7)
        methods = row_order(block["estimator"].unique())
        for axis, name in zip(middle, methods, strict=False):
            _pushed(axis, block[block["estimator"] == name], frame)
            axis.set_title(plain(_lines(name)), fontsize=8)
        last, *empty = middle[len(methods) :]
        _scatter(last, frame.y, frame)
        last.set_title("target", fontsize=8)
        for axis in empty:
            axis.set_axis_off()
    return figure


def _lines(label: str) -> str:
    """A label with its parameters below the name."""
    parts = label.replace("(", "\n(", 1).splitlines()
    return "\n".join(textwrap.fill(part, WRAP, break_long_words=False) for part in parts)


def _pushed(axis: Axes, own: pd.DataFrame, frame: Sketch) -> None:
    """The first seed that has a sketch, or what became of them all."""
    _scatter(axis, frame.y, frame)
    drawn = own[own["sketch"].notna()]
    if drawn.empty:
        axis.set_xlabel(", ".join(own["status"].unique()), fontsize=8)
        return
    row = drawn.iloc[0]
    outside = _scatter(axis, row["sketch"].pushed, frame, row["sketch"].x)
    note = f"\n{outside} of {len(row['sketch'].x)} outside" if outside else ""
    axis.set_xlabel(f"energy distance {row['energy_distance']:.2g}{note}", fontsize=7)


def _scatter(axis: Axes, points: Cloud, frame: Sketch, origin: Cloud | None = None) -> int:
    """Points in the frame of source and target, coloured by their origin if they have one; how many lie outside."""
    if origin is None:
        axis.scatter(points[:, 0], points[:, 1], s=3, color="0.82", linewidths=0, rasterized=True)
    else:
        right, upper = (origin > origin.mean(axis=0)).T
        colours = np.array(COLOURS)[2 * right + upper]
        axis.scatter(points[:, 0], points[:, 1], s=4, c=colours, linewidths=0, alpha=0.85, rasterized=True)
    both = np.concatenate([frame.x, frame.y])
    low, high = both.min(axis=0), both.max(axis=0)
    margin = MARGIN * (high - low).max()
    low, high = low - margin, high + margin
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    return int(((points < low) | (points > high)).any(axis=1).sum())


def distribution(rows: pd.DataFrame) -> Figure | None:
    """Energy distance (V-statistic) over seeds: a panel per method, a column and a logarithmic axis per problem.

    The axis holds every measured value; failures are counted in each panel's title. None below `MANY_SEEDS` seeds.
    """
    blocks = [
        (key, block)
        for key, block in rows.groupby(["problem", "dim", "budget"], sort=False)
        if block["seed"].nunique() >= MANY_SEEDS and METRIC in block and block[METRIC].notna().any()
    ]
    if not blocks:
        return None
    methods = row_order(name for _, block in blocks for name in block["estimator"].unique())
    shown, heading = few(blocks, each=-(-len(methods) // 4))  # its panels are a quarter of the others' size
    rivals = rivals_of(rows)
    figure, axes = panels(len(shown) * len(methods), (3.4, 1.0), columns=len(shown), sharex="col")
    figure.suptitle(heading)
    for column, ((problem, dim, _), block) in enumerate(shown):
        own_axes = axes[column :: len(shown)]
        values, floor = block[METRIC].dropna(), float(block[f"{METRIC}_floor"].max())
        edges = np.geomspace(min(values.min(), floor) / PADDING, values.max() * PADDING, BINS + 1)
        for axis, name in zip(own_axes, methods, strict=True):
            own = block[block["estimator"] == name]
            measured = own[METRIC].dropna()
            _histogram(axis, measured, edges, floor, str(look(name, rivals)["color"]))
            median = f", median {measured.median():.2g}" if len(measured) else ""
            axis.set_title(plain(f"{name}, {len(measured)}/{len(own)}{median}"), fontsize=8, loc="left", pad=3)
        title = plain(f"{problem}, d = {dim}")
        own_axes[0].set_title(f"{title}\n\n{own_axes[0].get_title(loc='left')}", fontsize=8, loc="left")
        transform = own_axes[0].get_xaxis_transform()
        own_axes[0].text(floor, 1.0, " floor", transform=transform, fontsize=7, va="top", color=QUIET)
        own_axes[-1].set_xlabel("energy distance (V-statistic)")
    return figure


def _histogram(axis: Axes, values: pd.Series, edges: NDArray[np.float64], floor: float, colour: str) -> None:
    axis.set_xscale("log")
    axis.set_xlim(edges[0], edges[-1])
    axis.xaxis.set_minor_locator(NullLocator())  # a thousand ticks that panels an inch high only blacken
    axis.axvspan(edges[0], floor, color="0.92", zorder=0)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    if len(values):
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, fill=True, color=colour, alpha=0.55)  # one shape, where `hist` draws one a bin
        axis.plot(values, np.zeros(len(values)), "|", color=colour, markersize=8, clip_on=False)
        axis.axvline(float(values.median()), color="black", linewidth=1)
