"""Figures for papers and READMEs, by matplotlib: vector formats beside a PNG; which ones, the run's records decide."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mongebench.report import published, tables, traces
from mongebench.report.style import FORMATS, STYLE, legend, look, panels
from mongebench.report.tables import aggregate, row_order
from mongebench.run.store import Readable


def draw(directory: Readable, folder: Path) -> list[Path]:
    """Draw what the run allows; the files written.

    `error` always; `rate` and `anytime` where there are traces; `clouds` where maps of the plane were measured, and
    `distribution` where there are many seeds.
    """
    rows = tables.frame(directory)
    with plt.rc_context(STYLE):
        drawn = {
            "error": error_overview(rows),
            "rate": traces.rate(directory),
            "anytime": traces.anytime(directory, rows),
            "clouds": published.clouds(directory, rows),
            "distribution": published.distribution(rows),
        }
    return [path for name, figure in drawn.items() if figure is not None for path in save(figure, name, folder)]


def save(figure: Figure, name: str, folder: Path) -> list[Path]:
    """Write a figure in each of `FORMATS` and close it; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    with plt.rc_context(STYLE):
        for path in paths:
            figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)
    return paths


def error_overview(rows: pd.DataFrame) -> Figure | None:
    """UVP against dimension, a panel a problem; energy distance by estimator where the exact map is unknown."""
    names = row_order(name for name in rows["estimator"].unique() if name != "truth")
    rivals = [name for name in names if not rows.loc[rows["estimator"] == name, "anchor"].any()]
    blocks = list(rows.groupby(["problem", "budget"], sort=False))
    if not blocks:
        return None
    figure, axes = panels(len(blocks), (3.6, 3.1))
    for axis, ((problem, budget), block) in zip(axes, blocks, strict=True):
        known = "uvp" in block and block["uvp"].notna().any()
        summary = aggregate(block, "uvp" if known else "energy_distance")
        axis.set_title(f"{problem}\n{budget}")
        if known:
            _against_dimension(axis, summary, names, rivals)
        else:
            _by_estimator(axis, summary, names, rivals)
    legend(figure, axes)
    return figure


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
                **look(name, rivals),
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
        marked = {**look(name, rivals), "linestyle": ""}
        marked["marker"] = marked["marker"] or "o"
        row = measured.loc[name]
        axis.errorbar(row["mean"], place, xerr=row["standard_error"], capsize=2, **marked)
    floor = float(measured["floor"].max()) if len(measured) else np.nan
    if floor > 0:
        # A U-statistic can be negative: logarithmic above the floor, linear below it.
        axis.set_xscale("symlog", linthresh=floor)
        axis.axvline(floor, color="0.6", linewidth=1)
        axis.text(floor, 0.01, " floor", transform=axis.get_xaxis_transform(), fontsize=7, color="0.4")
    axis.set_yticks(np.arange(len(shown)), shown)
    axis.set_xlabel("energy distance")
