"""A run in one figure: error against dimension for each tier and family, MMD, seconds, and the rate with its line."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mongebench.report.figures.style import legend, look, panels, plain, rivals_of
from mongebench.report.figures.traces import against_flow_time
from mongebench.report.rates.flows import TracedFlow, along, flows
from mongebench.report.tables.results import aggregate, row_order
from mongebench.run.reading import Run
from mongebench.run.store import RunError

MOST_PANELS = 16
SIZE = (3.1, 2.5)
"""Inches of a panel."""


def summary(run: Run, rows: pd.DataFrame) -> Figure | None:
    """A line of panels for each tier: UVP by family, MMD; below, seconds by tier and the rate of one problem.

    Of families that were measured in several dimensions, at their first budget, where the exact map is known. None
    where there is no such family, or where there are too many for one figure.
    """
    rivals = rivals_of(rows)
    known = rows[rows["uvp"].notna()] if "uvp" in rows else rows[:0]
    families = {
        str(problem): block[block["budget"] == block["budget"].iloc[0]]
        for problem, block in known.groupby("problem", sort=False)
        if block["dim"].nunique() > 1
    }
    tiers = list(dict.fromkeys(tier for block in families.values() for tier in block.loc[~block["anchor"], "tier"]))
    flow = _flows(run)
    columns = max(len(families) + 1, len(tiers) + bool(flow))
    if not tiers or columns * (len(tiers) + 1) > MOST_PANELS:
        return None
    figure, axes = panels(columns * (len(tiers) + 1), SIZE, columns)
    free = list(axes)
    for line, tier in enumerate(tiers):
        own = [block[block["anchor"] | (block["tier"] == tier)] for block in families.values()]
        beside = iter(axes[line * columns : (line + 1) * columns])
        for column, block in enumerate(own):
            axis = next(beside)
            if line:
                axis.sharey(axes[column])
            against_dimension(axis, block, "uvp", "UVP (%)", rivals)
            axis.set_title(f"{_who(tier)}\n{plain(str(block['problem'].iloc[0]))}")
            free.remove(axis)
        if "mmd_squared" in own[-1]:
            axis = next(beside)
            if line:
                axis.sharey(axes[len(own)])
            against_dimension(axis, own[-1], "mmd_squared", r"MMD$^2$", rivals)
            axis.set_title(f"{_who(tier)}\n{plain(str(own[-1]['problem'].iloc[0]))}, MMD")
            free.remove(axis)
        axis = axes[len(tiers) * columns + line]
        every = pd.concat(own)
        against_dimension(axis, every[~every["anchor"]], "fit_seconds", "fit seconds", rivals)
        axis.set_title(f"{_who(tier)}\nfit time, mean over families")
        free.remove(axis)
    if flow:
        axis = axes[len(tiers) * columns + len(tiers)]
        against_flow_time(axis, flow, rivals, "l2_error")
        lam = flow[0].planned.strong_convexity
        title = plain(f"{flow[0].problem}, d = {flow[0].planned.dim}")
        axis.set_title(f"measured rate\n{title}" + (rf", $\lambda$ = {lam:.3g}" if lam is not None else ""))
        axis.set_ylabel(r"$|T_t - T^*|^2 \; / \; |T_0 - T^*|^2$")
        free.remove(axis)
    for axis in free:
        axis.remove()
    legend(figure, figure.axes)
    return figure


def _who(tier: str) -> str:
    """A tier as a title has room for it."""
    return "knowing " + tier.replace(" + ", " +\n") if len(tier) > 40 else f"knowing {tier}"


def _flows(run: Run) -> list[TracedFlow]:
    """The flows of the first problem that the theory speaks of."""
    try:
        found = [one for one in flows(run) if not one.obstacle and along(one.trace, "l2_error")]
    except RunError:
        return []
    return [one for one in found if (one.problem, one.planned.dim) == (found[0].problem, found[0].planned.dim)]


def _decades(axis: Axes) -> float:
    low, high = axis.get_ylim()
    return math.log10(high / low) if low > 0 else math.inf


def _tick(value: float, _: int | None) -> str:
    """Plain numbers where they are short."""
    return f"{value:g}" if 1e-3 <= value < 1e4 else rf"$10^{{{math.log10(value):.0f}}}$"


def against_dimension(axis: Axes, block: pd.DataFrame, metric: str, label: str, rivals: list[str]) -> None:
    """A curve for each estimator, with standard errors; what is below the floor is drawn at the floor."""
    found = aggregate(block.assign(problem="", budget=""), metric)
    for name in row_order(found["estimator"]):
        own = found[(found["estimator"] == name) & (found["n_ok"] > 0)].sort_values("dim")
        if name == "truth" or own.empty:
            continue
        values = own["mean"].clip(lower=own["floor"].fillna(0))
        errors = own["standard_error"] if metric != "fit_seconds" else None
        axis.errorbar(own["dim"].astype(float), values, yerr=errors, label=plain(name), capsize=2, **look(name, rivals))
    dims = sorted(found["dim"].astype(int).unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(dims, [str(dim) for dim in dims])
    axis.minorticks_off()
    axis.set_yscale("log", nonpositive="clip")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3) if _decades(axis) < 2 else (1,), numticks=8))
    axis.yaxis.set_major_formatter(FuncFormatter(_tick))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("dimension d")
    axis.set_ylabel(label)
