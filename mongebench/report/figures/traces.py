"""Figures of traces: error against flow time with the theory's line, and against seconds and oracle calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mongebench.report.figures.style import QUIET, legend, look, panels, plain
from mongebench.report.rates.flows import Flow, flows
from mongebench.report.tables.results import row_order
from mongebench.run.reading import Run
from mongebench.run.record import Record, TracePoint
from mongebench.run.store import RunError

Curve = tuple[np.ndarray, ...]
"""x and y."""


def rate(run: Run) -> Figure | None:
    """Squared error against flow time, both in units of the flow: a panel a problem, e^{-2 lambda t} in each.

    None where no estimator of the run follows a flow.
    """
    try:
        found = [flow for flow in flows(run) if any(point.l2_error for point in flow.trace)]
    except RunError:
        return None
    blocks = [(key, list(block)) for key, block in groupby(found, key=_place)]
    names = list(dict.fromkeys(flow.estimator for flow in found))
    figure, axes = panels(len(blocks), (3.4, 2.9))
    for axis, (place, block) in zip(axes, blocks, strict=True):
        axis.set_title(plain(place))
        _against_flow_time(axis, block, names)
    legend(figure, axes)
    return figure


def _place(flow: Flow) -> str:
    return f"{flow.problem}, d = {flow.planned.dim}"


def _against_flow_time(axis: Axes, block: Sequence[Flow], names: list[str]) -> None:
    lowest, end = 1.0, 0.0
    for name in dict.fromkeys(flow.estimator for flow in block):
        own = [flow for flow in block if flow.estimator == name]
        coarse = look(name, names)
        fine = {"color": coarse["color"], "linestyle": ":"}
        traces = [flow.trace for flow in own], [flow.refinement or () for flow in own]
        for found, drawn in zip(traces, ({**coarse, "label": plain(name)}, fine), strict=True):
            curves = [curve for curve in map(_relative, found) if len(curve[0])]
            if curves:
                _plot(axis, curves, 6, linewidth=1.2, **drawn)
                lowest = min(lowest, *(error.min() for _, error in curves))
                end = max(end, *(time[-1] for time, _ in curves))
    if any(flow.refinement for flow in block):
        axis.plot([], [], ":", color=QUIET, label="at half the step")
    convexity = block[0].planned.strong_convexity
    if convexity is not None and 0 < convexity < np.inf:
        time = np.array([0.0, end])
        axis.plot(time, np.exp(-2 * convexity * time), "--", color="black", label=r"theory: $e^{-2\lambda t}$")
        axis.text(0.97, 0.95, rf"$\lambda$ = {convexity:.3g}", transform=axis.transAxes, ha="right", va="top")
        # A long flow's bound underflows: two decades below the curves say as much.
        lowest = min(lowest, max(np.exp(-2 * convexity * end), lowest / 100))
    axis.set_yscale("log")
    axis.set_ylim(bottom=lowest / 2)
    axis.set_xlim(left=0)
    axis.set_xlabel("flow time t")
    axis.set_ylabel(r"$|T_t - T^*|^2 \; / \; |T_0 - T^*|^2$")
    floors = [flow.floor / flow.trace[0].l2_error for flow in block if flow.trace[0].l2_error]
    floor = max(floors, default=0.0)
    if floor > lowest / 2:
        axis.axhspan(lowest / 2, floor, color="0.9", zorder=0, label="floor")


def _plot(axis: Axes, curves: Sequence[Curve], marks: int, **drawn: Any) -> None:
    """Curves of one look, as one line with gaps between them: a thousand lines are drawn at many times its cost.

    Each has about as many `marks`, the first of them at its start.
    """
    marked, start = list[int](), 0
    for x, _ in curves:
        marked += range(start, start + len(x), max(1, len(x) // marks))
        start += len(x) + 1
    x, y = (np.concatenate([part for curve in curves for part in (curve[side], [np.nan])][:-1]) for side in (0, 1))
    axis.plot(x, y, markevery=marked, **drawn)


def _relative(trace: Sequence[TracePoint]) -> Curve:
    """Flow time and error over that at the start, of the points that have both."""
    known = [
        (point.flow_time, point.l2_error)
        for point in trace
        if point.flow_time is not None and point.l2_error is not None
    ]
    time, error = np.array(known, dtype=float).reshape(-1, 2).T
    return time, error / error[0] if len(error) else error


def anytime(run: Run, rows: pd.DataFrame) -> Figure | None:
    """Error against fit seconds (left) and oracle calls (right), a line of panels a problem, a curve a seed.

    The squared error where the exact map is known, else the energy distance; None where no estimator left a trace.
    """
    records = [run.find(planned).record for planned in run.plan.cells]
    traced = rows[[record is not None and len(record.trace) > 1 for record in records]]
    if traced.empty:
        return None
    rivals = row_order(traced["estimator"].unique())
    blocks = list(traced.groupby(["problem", "dim", "budget"], sort=False))
    figure, axes = panels(2 * len(blocks), (3.0, 2.5), columns=2 * min(2, len(blocks)))
    for (key, block), left, right in zip(blocks, axes[::2], axes[1::2], strict=True):
        known = any(point.l2_error is not None for index in block.index for point in _trace(records[index]))
        error = "l2_error" if known else "energy_distance"
        for name in rivals:
            own = [_trace(records[index]) for index in block.index[block["estimator"] == name]]
            if own:
                drawn = {**look(name, rivals), "markersize": 3, "linewidth": 1.2, "label": plain(name)}
                _plot(left, [_against(trace, "fit_seconds", error) for trace in own], 8, **drawn)
                _plot(right, [_against(trace, "oracle_calls", error) for trace in own], 8, **drawn)
        here = rows[(rows[["problem", "dim", "budget"]] == list(key)).all(axis=1) & rows["anchor"]]
        levels = here.groupby("estimator")[error].mean() if error in here else pd.Series(dtype=float)
        for axis, label in ((left, "fit seconds"), (right, "oracle calls")):
            for anchor, level in levels.items():
                if anchor != "truth" and level > 0:
                    axis.axhline(level, label=plain(str(anchor)), **look(str(anchor), rivals))
            axis.set_title(plain(f"{key[0]}, d = {key[1]}"))
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel(label)
        left.set_ylabel("squared $L^2$ error" if known else "energy distance")
        right.sharey(left)
    legend(figure, axes)
    return figure


def _trace(record: Record | None) -> Sequence[TracePoint]:
    return record.trace if record else ()


def _against(trace: Sequence[TracePoint], cost: str, error: str) -> Curve:
    return tuple(np.array([getattr(point, name) for point in trace], dtype=float) for name in (cost, error))
