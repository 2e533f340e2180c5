"""Figures for papers and READMEs, by matplotlib: vector formats beside a PNG, one style, colour-blind safe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mongebench.report.tables import aggregate, row_order

# Okabe and Ito's colours, told apart by colour-blind readers too; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "figure.dpi": 150,
}
FORMATS = ("png", "svg", "pdf")


def draw(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw what the run allows; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure = error_overview(rows)
        if figure is None:
            return []
        paths = [folder / f"error.{suffix}" for suffix in FORMATS]
        for path in paths:
            figure.savefig(path, bbox_inches="tight", dpi=150)
        plt.close(figure)
    return paths


def error_overview(rows: pd.DataFrame) -> Figure | None:
    """UVP against dimension, a panel a problem; energy distance by estimator where the exact map is unknown."""
    names = row_order(name for name in rows["estimator"].unique() if name != "truth")
    rivals = [name for name in names if not rows.loc[rows["estimator"] == name, "anchor"].any()]
    panels = list(rows.groupby(["problem", "budget"], sort=False))
    if not panels:
        return None
    columns = math.ceil(math.sqrt(len(panels)))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 3.1 * lines + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, ((problem, budget), block) in zip(axes.ravel(), panels, strict=False):
        known = "uvp" in block and block["uvp"].notna().any()
        summary = aggregate(block, "uvp" if known else "energy_distance")
        axis.set_title(f"{problem}\n{budget}", fontsize=9)
        if known:
            _against_dimension(axis, summary, names, rivals)
        else:
            _by_estimator(axis, summary, names, rivals)
    handles, shown = _legend(axes.ravel()[: len(panels)])
    figure.legend(handles, shown, loc="outside lower center", ncols=min(5, len(shown)), frameon=False)
    return figure


def _look(name: str, rivals: list[str]) -> dict[str, Any]:
    """Anchors are grey and dashed, rivals coloured."""
    if name not in rivals:
        anchors = {"identity": ":", "mean_shift": "-.", "bures": "--"}
        return {"color": "0.45", "linestyle": anchors.get(name, "--"), "marker": "", "linewidth": 1.2}
    index = rivals.index(name)
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 4}


def _against_dimension(axis: Axes, summary: pd.DataFrame, names: list[str], rivals: list[str]) -> None:
    for name in names:
        own = summary[(summary["estimator"] == name) & (summary["n_ok"] > 0)].sort_values("dim")
        if len(own):
            axis.errorbar(
                own["dim"].astype(float),
                own["mean"],
                yerr=own["standard_error"],
                label=name,
                capsize=2,
                **_look(name, rivals),
            )
    dims = sorted(summary["dim"].astype(int).unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(dims, [str(dim) for dim in dims])
    axis.minorticks_off()
    axis.set_yscale("log")
    axis.set_xlabel("dimension d")
    axis.set_ylabel("UVP (%)")


def _by_estimator(axis: Axes, summary: pd.DataFrame, names: list[str], rivals: list[str]) -> None:
    measured = summary[summary["n_ok"] > 0].set_index("estimator")
    shown = [name for name in names if name in measured.index]
    for place, name in enumerate(shown):
        look = {**_look(name, rivals), "linestyle": ""}
        look["marker"] = look["marker"] or "o"
        row = measured.loc[name]
        axis.errorbar(row["mean"], place, xerr=row["standard_error"], capsize=2, **look)
    floor = float(measured["floor"].max()) if len(measured) else np.nan
    if floor > 0:
        # A U-statistic can be negative: logarithmic above the floor, linear below it.
        axis.set_xscale("symlog", linthresh=floor)
        axis.axvline(floor, color="0.6", linewidth=1)
        axis.text(floor, 0.01, " floor", transform=axis.get_xaxis_transform(), fontsize=7, color="0.4")
    axis.set_yticks(np.arange(len(shown)), shown)
    axis.set_xlabel("energy distance")


def _legend(axes: np.ndarray) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return list(found.values()), list(found)
