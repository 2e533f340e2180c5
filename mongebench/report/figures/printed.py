"""Figures for papers and READMEs, by matplotlib: vector formats beside a PNG; which ones, the run's records decide."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from mongebench.report.figures import clouds, pictures, traces
from mongebench.report.figures.style import FORMATS, STYLE, legend, look, panels, plain
from mongebench.report.tables.results import aggregate, row_order
from mongebench.run.reading import Run
from mongebench.run.store import replacing

LINE = 0.17
"""Inches of an estimator's line."""


def draw(run: Run, folder: Path) -> list[Path]:
    """Draw what the run allows; the files written.

    `error` always; `rate`, `rate_kl` and `anytime` where there are traces; `clouds` where maps of the plane were
    measured, `recoloured` where a problem has pictures, and `distribution` where there are many seeds.
    """
    rows = run.frame()
    with plt.rc_context(STYLE):
        drawn = {
            "error": error_overview(rows),
            "rate": traces.rate(run),
            "rate_kl": traces.rate_kl(run),
            "anytime": traces.anytime(run, rows),
            "clouds": clouds.clouds(run, rows),
            "recoloured": pictures.recoloured(run, rows),
            "distribution": clouds.distribution(rows),
        }
    return [path for name, figure in drawn.items() if figure is not None for path in save(figure, name, folder)]


def save(figure: Figure, name: str, folder: Path) -> list[Path]:
    """Write a figure in each of `FORMATS` and close it; the files. Raises what `replacing` raises."""
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    with plt.rc_context(STYLE):
        # Laid out and measured once: savefig would do both again for each format, most of the time of a report.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        box = figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
        for path in paths:
            with replacing(path) as file:
                figure.savefig(file, format=path.suffix[1:], bbox_inches=box, dpi=150)
    plt.close(figure)
    return paths


def inline(figure: Figure) -> str:
    """A figure as the address of a PNG that holds it."""
    kept = BytesIO()
    figure.savefig(kept, format="png", dpi=130)
    plt.close(figure)
    return f"data:image/png;base64,{b64encode(kept.getvalue()).decode('ascii')}"


def error_overview(rows: pd.DataFrame) -> Figure | None:
    """A panel a problem: UVP against dimension, or by estimator, the best on top, where there is one dimension only.

    Where the exact map is unknown it is the energy distance.
    """
    names = row_order(name for name in rows["estimator"].unique() if name != "truth")
    rivals = [name for name in names if not rows.loc[rows["estimator"] == name, "anchor"].any()]
    blocks = list(rows.groupby(["problem", "budget"], sort=False))
    if not blocks:
        return None
    by_estimator = any(block["dim"].nunique() == 1 for _, block in blocks)
    figure, axes = panels(len(blocks), (3.6, max(3.1, by_estimator * LINE * len(names))))
    for axis, ((problem, budget), block) in zip(axes, blocks, strict=True):
        known = "uvp" in block and block["uvp"].notna().any()
        summary = aggregate(block, "uvp" if known else "energy_distance")
        axis.set_title(plain(f"{problem}\n{budget}"))
        if known and block["dim"].nunique() > 1:
            _against_dimension(axis, summary, names, rivals)
        else:
            _by_estimator(axis, summary, rivals)
            axis.set_xlabel("UVP (%)" if known else "energy distance")
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
                label=plain(name),
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


def _by_estimator(axis: Axes, summary: pd.DataFrame, rivals: list[str]) -> None:
    measured = summary[(summary["n_ok"] > 0) & (summary["estimator"] != "truth")].sort_values("mean", ascending=False)
    for place, row in enumerate(measured.to_dict("records")):
        marked = {**look(row["estimator"], rivals), "linestyle": ""}
        marked["marker"] = marked["marker"] or "o"
        axis.errorbar(row["mean"], place, xerr=row["standard_error"], capsize=2, **marked)
    floor, lowest = float(measured["floor"].max()), float(measured["mean"].min())
    if lowest > 0 and not floor > lowest / 10:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    elif floor > 0:
        # A U-statistic can be negative: logarithmic above the floor, linear below it.
        axis.set_xscale("symlog", linthresh=floor)
        axis.axvline(floor, color="0.6", linewidth=1)
        axis.text(floor, 0.01, " floor", transform=axis.get_xaxis_transform(), fontsize=7, color="0.4")
    axis.set_yticks(np.arange(len(measured)), list(map(plain, measured["estimator"])), fontsize=7)
