"""Figures for papers and READMEs, by matplotlib: vector formats beside a PNG; which ones, the run's records decide."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from io import BytesIO
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from mongebench.report.figures import clouds, pictures, traces
from mongebench.report.figures.style import FORMATS, STYLE, few, legend, look, panels, plain, rivals_of
from mongebench.report.figures.summary import against_dimension, summary
from mongebench.report.tables.results import aggregate
from mongebench.run.reading import Run
from mongebench.run.store import replacing

TITLE = 42
"""Characters of a line of a panel's title."""
LINE = 0.17
"""Inches of an estimator's line."""


def draw(run: Run, folder: Path) -> list[Path]:
    """Draw what the run allows; the files written.

    `error` always; `summary` where a family was measured in several dimensions; `rate`, `rate_kl` and `anytime` where
    there are traces; `clouds` where maps of the plane were measured, `recoloured` where a problem has pictures, and
    `distribution` where there are many seeds.
    """
    rows = run.frame()
    with plt.rc_context(STYLE):
        drawn = {
            "summary": summary(run, rows),
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
        # Laid out and measured once: savefig would do both again for each format. With "none" in place of None it would
        # still draw each of them twice.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
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
    """A panel for each problem and tier: UVP against dimension, or by estimator, the best on top, where d is one.

    Where the exact map is unknown it is the energy distance. Anchors are in every panel.
    """
    rivals = rivals_of(rows)
    every = [
        (problem, budget, tier, block[block["anchor"] | (block["tier"] == tier)])
        for (problem, budget), block in rows.groupby(["problem", "budget"], sort=False)
        for tier in block.loc[~block["anchor"], "tier"].unique().tolist() or [block["tier"].iloc[0]]
    ]
    blocks, heading = few(every)
    if not blocks:
        return None
    by_estimator = any(block["dim"].nunique() == 1 for *_, block in blocks)
    most = max(block["estimator"].nunique() for *_, block in blocks)
    tiers = set(Counter((problem, budget) for problem, budget, *_ in blocks).values())
    # Where each problem has as many tiers, a row of panels is a problem and a column a tier.
    columns = tiers.pop() if len(tiers) == 1 and max(tiers) > 1 else None
    figure, axes = panels(len(blocks), (3.6, max(3.1, by_estimator * LINE * most)), columns)
    for axis, (problem, budget, tier, block) in zip(axes, blocks, strict=True):
        metric = "uvp" if "uvp" in block and block["uvp"].notna().any() else "energy_distance"
        label = "UVP (%)" if metric == "uvp" else "energy distance"
        if block["dim"].nunique() > 1 and metric == "uvp":
            against_dimension(axis, block, metric, label, rivals)
            where = ""
        else:
            _by_estimator(axis, aggregate(block, metric), rivals)
            axis.set_xlabel(label)
            where = ", ".join(f"d = {dim}" for dim in sorted(block["dim"].unique()))
        title = (f"{problem}{where and ', ' + where}, {budget}", f"knowing {tier}")
        axis.set_title("\n".join(fill(plain(line), TITLE) for line in title))
    legend(figure, axes, heading)
    return figure


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
