"""Figures of traces: against flow time with the lines of the theory, and against seconds and oracle calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mongebench.report.figures.style import QUIET, few, legend, look, panels, plain, rivals_of
from mongebench.report.rates.flows import SCHEMES, TracedFlow, along, fits, flows, together
from mongebench.report.rates.inequalities import KL_CONVEX, MAP, MAP_BY_KL, PROPOSITION
from mongebench.report.rates.noise import Vector
from mongebench.report.tables.results import row_order
from mongebench.run.reading import Run
from mongebench.run.record import Record, TracePoint
from mongebench.run.store import RunError

Curve = tuple[np.ndarray, ...]
"""x and y."""
LOWEST, HIGHEST = 1e-8, 30.0
"""Of the start's value: nothing further down or up is drawn."""
TITLE = 44
"""Characters of a line of a panel's title."""
BLACK: dict[str, Any] = {"color": "black", "linewidth": 0.9}
BOUND, IMPLICIT, BY_KL = (BLACK | {"linestyle": style} for style in ("--", (0, (1, 1)), "-."))
WEAKER = {"color": QUIET, "linewidth": 0.9, "linestyle": (0, (9, 3))}
"""The lines of the theory. The weakest is grey: by its dashes alone it would pass for another."""


def rate(run: Run) -> Figure | None:
    """Squared error over that at the start, against flow time: a panel per problem, with the lines of the theory.

    A line per estimator, the median over seeds, in the band from the lowest to the highest. None where no estimator of
    the run follows a flow.
    """
    return _rates(run, "l2_error", r"$|T_t - T^*|^2 \; / \; |T_0 - T^*|^2$")


def rate_kl(run: Run) -> Figure | None:
    """The same of KL; None where the records do not tell it."""
    return _rates(run, "kl", r"$(D_t - D^*) \; / \; (D_0 - D^*)$")


def _rates(run: Run, field: str, label: str) -> Figure | None:
    try:
        found = [flow for flow in flows(run) if along(flow.trace, field)]
    except RunError:
        return None
    if not found:
        return None
    blocks, title = few([(key, list(block)) for key, block in groupby(found, key=_place)])
    rivals = rivals_of(run.frame())
    figure, axes = panels(len(blocks), (3.4, 2.9))
    for axis, (place, block) in zip(axes, blocks, strict=True):
        convexity = block[0].planned.strong_convexity
        shown = "" if convexity is None else rf", $\lambda$ = {convexity:.3g}"
        axis.set_title(fill(plain(place), TITLE) + shown)
        against_flow_time(axis, block, rivals, field)
        axis.set_ylabel(label)
    legend(figure, axes, title)
    return figure


def _place(flow: TracedFlow) -> str:
    return f"{flow.problem}, d = {flow.planned.dim}"


def against_flow_time(axis: Axes, block: Sequence[TracedFlow], rivals: list[str], field: str) -> None:
    """The curves of one problem, the lines that they may not cross, and the known floor."""
    lowest, end = 1.0, 0.0
    for (_, _, name, _), seeds in fits(block).items():
        colour = look(name, rivals)["color"]
        coarse = [curve for flow in seeds if (curve := along(flow.trace, field))]
        fine = [curve for flow in seeds if (curve := along(flow.refinement or (), field))]
        time, (low, middle, high) = together(coarse)
        axis.plot(time, middle, color=colour, linewidth=1.2, label=plain(name))
        if len(coarse) > 1:
            axis.fill_between(time, low, high, color=colour, alpha=0.2, linewidth=0)
        if fine:
            times, (_, median, _) = together(fine)
            axis.plot(times, median, ":", color=colour, linewidth=1.2)
            axis.plot([], [], ":", color=QUIET, label="at half the step")
        lowest, end = min(lowest, np.min(low[low > 0], initial=1.0)), max(end, time[-1])
    floors = [flow.floor / flow.trace[0].l2_error for flow in block if flow.trace[0].l2_error]
    floor = max(floors, default=0.0) if field == "l2_error" else 0.0
    highest, theory = _theory(axis, block, field, end)
    # A long flow's line underflows: two decades below the curves say as much.
    bottom = max(min(lowest, max(theory, lowest / 100)), floor, LOWEST) / 2
    if floor > bottom:
        axis.axhspan(bottom, floor, color="0.9", zorder=0, label="floor")
    axis.set_yscale("log")
    axis.minorticks_off()  # see `anytime`
    axis.set_ylim(bottom, 1.5 * min(highest, HIGHEST))
    axis.set_xlim(left=0)
    axis.set_xlabel("flow time t")


def _theory(axis: Axes, block: Sequence[TracedFlow], field: str, end: float) -> tuple[float, float]:
    """Draw the lines; the highest value at the start, and the lowest at the end, 1 among both."""
    convexity = block[0].planned.strong_convexity
    if convexity is None or not 0 <= convexity < np.inf or not end > 0:
        return 1.0, 1.0
    starts = [flow.trace[0] for flow in block if along(flow.trace, "kl") and along(flow.trace, "l2_error")]
    ratio = np.median([point.l2_error / point.kl for point in starts]) if starts else np.nan  # type: ignore[operator]
    time = np.linspace(0, end, 200)[1:]
    tau = max((flow.steps[0] for flow in block if flow.planned.cell.estimator.name in SCHEMES), default=end)
    steps = np.full(round(end / tau), tau)
    lines: list[tuple[str, Any, Vector, Vector]] = []
    if convexity == 0 and field == "kl":
        lines = [(r"$W_2^2 / (2 t)$", BOUND, time, ratio * np.exp(KL_CONVEX.of_flow(time, 0.0)))]
    elif convexity > 0:
        lines = [(r"$e^{-2\lambda t}$", BOUND, time, np.exp(MAP.of_flow(time, convexity)))]
        if len(steps) > 1:
            own = np.exp(MAP.of_steps(steps, convexity))
            lines.append((r"$(1 + \lambda\tau)^{-2k}$, implicit", IMPLICIT, np.cumsum(steps), own))
    if convexity > 0 and field == "l2_error":
        by_kl = np.exp(MAP_BY_KL.of_flow(time, convexity)) / ratio
        lines.append((r"$(4/\lambda)\, e^{-2\lambda t} (D_0 - D^*)$, v3", BY_KL, time, by_kl))
        if len(steps) > 1:
            weaker = np.exp(PROPOSITION.of_steps(steps, convexity))
            lines.append((r"$(1 + \lambda^2\tau^2/4)^{-k}$, implicit, v3", WEAKER, np.cumsum(steps), weaker))
    for label, style, times, line in lines:
        if np.isfinite(line).all():
            axis.plot(times, line, label=label, **style)
    seen = [line for _, _, _, line in lines if line[-1] <= HIGHEST]  # none that leaves the panel, or is not known
    return max([1.0, *(line[0] for line in seen)]), min([1.0, *(line[-1] for line in seen)])


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


def anytime(run: Run, rows: pd.DataFrame) -> Figure | None:
    """Error against fit seconds (left) and oracle calls (right), a line of panels per problem, a curve per seed.

    The squared error where the exact map is known, else the energy distance; None where no estimator left a trace, or
    the frame has no times.
    """
    records = [run.find(planned).record for planned in run.plan.cells]
    traced = rows[[record is not None and len(record.trace) > 1 for record in records]].dropna(subset="wall_seconds")
    if traced.empty:
        return None
    rivals = rivals_of(rows)
    blocks, title = few(list(traced.groupby(["problem", "dim", "budget"], sort=False)), each=2)
    figure, axes = panels(2 * len(blocks), (3.0, 2.5), columns=2 * min(2, len(blocks)))
    for (key, block), left, right in zip(blocks, axes[::2], axes[1::2], strict=True):
        known = any(point.l2_error is not None for index in block.index for point in _trace(records[index]))
        error = "l2_error" if known else "energy_distance"
        for name in row_order(block["estimator"]):
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
            axis.minorticks_off()  # over many decades they blacken the axis, and take half the time of drawing it
            axis.set_xlabel(label)
        left.set_ylabel("squared $L^2$ error" if known else "energy distance")
        right.sharey(left)
    legend(figure, axes, title)
    return figure


def _trace(record: Record | None) -> Sequence[TracePoint]:
    return record.trace if record else ()


def _against(trace: Sequence[TracePoint], cost: str, error: str) -> Curve:
    return tuple(np.array([getattr(point, name) for point in trace], dtype=float) for name in (cost, error))
