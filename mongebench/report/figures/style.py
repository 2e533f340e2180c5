"""What all figures look like: one style, colour-blind safe, a grid of panels with one legend."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mongebench.core.text import printable
from mongebench.report.tables.results import row_order

# Okabe and Ito's colours, which colour-blind readers can tell apart, without their yellow, which is too light for lines
# on white; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Item = TypeVar("Item")
QUIET = "0.45"
"""Grey of what curves are held against: anchors, theory, floors."""
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titley": 1.0,  # where it would come to lie anyhow, above ticks that are at the bottom: found for every draw
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "figure.dpi": 150,
}
FORMATS = ("png", "svg", "pdf")
PANELS = 24
"""What a printed figure shows at most: with more, no page would hold it, and it would take minutes to draw."""
CHARACTERS, HANDLE, LINE = 13, 7, 0.2
"""Of a legend: characters an inch, the width of a handle in characters, and inches of a line."""
FORMULA = re.compile(r"\\[a-zA-Z]+|[${}^_\\]")
"""What takes no room in a label."""


def panels(
    count: int, size: tuple[float, float], columns: int | None = None, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes of this size (inches) in a nearly square grid, or one of that many columns."""
    columns = columns or math.ceil(math.sqrt(count))
    lines = -(-count // columns)
    width, height = size[0] * columns, size[1] * lines + 0.5
    figure, axes = plt.subplots(lines, columns, figsize=(width, height), squeeze=False, layout="constrained", **shared)
    for axis in axes.ravel()[count:]:
        axis.set_axis_off()
    return figure, list(axes.ravel()[:count])


def few(blocks: Sequence[Item], each: int = 1) -> tuple[Sequence[Item], str]:
    """The first blocks that fit, of so many panels `each`, and the figure's title: a sentence if some are left out."""
    most = max(1, PANELS // each)
    if len(blocks) <= most:
        return blocks, ""
    return blocks[:most], f"The first {most} of {len(blocks)} places"


def rivals_of(rows: pd.DataFrame) -> list[str]:
    """The estimators of a run that are not anchors, in the order that gives each its `look` in every figure of it."""
    return row_order(rows.loc[~rows["anchor"], "estimator"])


def look(name: str, rivals: Sequence[str]) -> dict[str, Any]:
    """Anchors are grey and dashed, rivals coloured; up to 49 of them differ in colour or marker.

    A label without its parameters, or with fewer, is a rival's of that name: traces leave out the step.
    """
    named = [rival for rival in rivals if rival.partition("(")[0] == name.partition("(")[0]]
    if not named:
        anchors = {"identity": ":", "mean_shift": "-.", "bures": "--"}
        return {"color": QUIET, "linestyle": anchors.get(name, "--"), "marker": "", "linewidth": 1.2}
    index = list(rivals).index(name if name in rivals else named[0])
    marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker, "markersize": 4}


def plain(text: str) -> str:
    """Text from a plugin, a file or a record, to be drawn as it stands: none of it is a formula of matplotlib's."""
    return printable(text).replace("$", r"\$")


def legend(figure: Figure, axes: Sequence[Axes], title: str = "") -> None:
    """One legend below all panels, each label once, no wider than they are, and a title above; the figure grows."""
    figure.suptitle(title)
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    width = max((len(FORMULA.sub("", name)) for name in found), default=0) + HANDLE
    columns = max(1, min(len(found), int(figure.get_figwidth() * CHARACTERS / width)))
    lines = -(-len(found) // columns)
    figure.set_figheight(figure.get_figheight() + LINE * max(0, lines - 2))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False)
