"""Figures of traces: against flow time with the lines of the theory, and against seconds and oracle calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mongebench.report.inequalities import KL, KL_CONVEX, MAP, MAP_BY_KL, PROPOSITION
from mongebench.report.rates import SCHEMES, Flow, flows
from mongebench.report.style import QUIET, legend, look, panels, plain
from mongebench.report.tables import row_order
from mongebench.run.record import Record, TracePoint
from mongebench.run.store import Readable, RunError

LOWEST = 1e-8
"""Of the start's value: nothing further down is drawn."""
TITLE = 44
"""Characters of a line of a panel's title."""


def rate(directory: Readable) -> Figure | None:
    """Squared error over that at the start, against flow time: a panel a problem, with the lines of the theory.

    A line an estimator, the median over seeds, in the band from the lowest to the highest. None where no estimator of
    the run follows a flow.
    """
    return _rates(directory, "l2_error", r"$|T_t - T^*|^2 \; / \; |T_0 - T^*|^2$")


def rate_kl(directory: Readable) -> Figure | None:
    """The same of KL; None where the records do not tell it."""
    return _rates(directory, "kl", r"$(D_t - D^*) \; / \; (D_0 - D^*)$")


def _rates(directory: Readable, field: str, label: str) -> Figure | None:
    try:
        found = [flow for flow in flows(directory) if _known(flow.trace, field)]
    except RunError:
        return None
    if not found:
        return None
    blocks = [(key, list(block)) for key, block in groupby(found, key=_place)]
    names = list(dict.fromkeys(flow.estimator for flow in found))
    figure, axes = panels(len(blocks), (3.4, 2.9))
    for axis, (place, block) in zip(axes, blocks, strict=True):
        axis.set_title(fill(plain(place), TITLE))
        _against_flow_time(axis, block, names, field)
        axis.set_ylabel(label)
    legend(figure, axes)
    return figure


def _place(flow: Flow) -> str:
    return f"{flow.problem}, d = {flow.planned.dim}"


def _known(trace: Sequence[TracePoint], field: str) -> list[tuple[float, float]]:
    """(flow time, value) of the points that have both, the start first; none without a start above 0."""
    timed = [point for point in trace if point.flow_time is not None and not (field == "kl" and point.kl_se is None)]
    known = [(float(p.flow_time or 0.0), float(getattr(p, field))) for p in timed if getattr(p, field) is not None]
    return known if known and known[0][1] > 0 else []


def _against_flow_time(axis: Axes, block: Sequence[Flow], names: list[str], field: str) -> None:
    lowest, end = 1.0, 0.0
    for (name, _), own in groupby(sorted(block, key=lambda flow: names.index(flow.estimator)), key=_fit):
        seeds = list(own)
        colour = look(name, names)["color"]
        coarse, fine = (
            [_known(trace or (), field) for trace in side] for side in zip(*map(_traces, seeds), strict=True)
        )
        for traces, drawn in ((coarse, {"label": plain(name)}), (fine, {"linestyle": ":"})):
            traces = [trace for trace in traces if trace]
            if traces:
                time, values = _together(traces)
                low, middle, high = np.quantile(values, (0, 0.5, 1), axis=0)
                axis.plot(time, middle, color=colour, linewidth=1.2, **drawn)
                if len(traces) > 1 and traces is not fine:
                    axis.fill_between(time, low, high, color=colour, alpha=0.2, linewidth=0)
                lowest, end = min(lowest, np.nanmin(middle[middle > 0], initial=1.0)), max(end, time[-1])
        if any(fine):
            axis.plot([], [], ":", color=QUIET, label="at half the step")
    floors = [flow.floor / flow.trace[0].l2_error for flow in block if flow.trace[0].l2_error]
    floor = max(floors, default=0.0) if field == "l2_error" else 0.0
    highest, theory = _theory(axis, block, field, end)
    # A long flow's line underflows: two decades below the curves say as much.
    bottom = max(min(lowest, max(theory, lowest / 100)), floor, LOWEST) / 2
    if floor > bottom:
        axis.axhspan(bottom, floor, color="0.9", zorder=0, label="floor")
    axis.set_yscale("log")
    axis.set_ylim(bottom, 1.5 * min(max(highest, 1.0), 30.0))
    axis.set_xlim(0, end or None)
    axis.set_xlabel("flow time t")


def _fit(flow: Flow) -> tuple[str, str]:
    """What the seeds and instances of one fit have in common."""
    return flow.estimator, " ".join(f"{step:.3g}" for step in flow.steps)


def _traces(flow: Flow) -> tuple[Sequence[TracePoint], Sequence[TracePoint]]:
    return flow.trace, flow.refinement or ()


def _together(traces: Sequence[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) times of the longest trace, and (traces, n) values over those at the start; NaN where a trace has ended."""
    time = np.array(max(traces, key=lambda trace: trace[-1][0]))[:, 0]
    curves = [np.array(trace).T for trace in traces]
    return time, np.array([np.interp(time, own, values / values[0], right=np.nan) for own, values in curves])


def _theory(axis: Axes, block: Sequence[Flow], field: str, end: float) -> tuple[float, float]:
    """Draw the lines that the curves may not cross; the highest value at the start, and the lowest at the end."""
    convexity = block[0].planned.strong_convexity
    if convexity is None or not 0 <= convexity < np.inf or not end > 0:
        return 1.0, 1.0
    axis.text(0.97, 0.95, rf"$\lambda$ = {convexity:.3g}", transform=axis.transAxes, ha="right", va="top")
    starts = [flow.trace[0] for flow in block if _known(flow.trace, "kl") and _known(flow.trace, "l2_error")]
    ratio = float(np.median([point.l2_error / point.kl for point in starts])) if starts else np.nan
    time = np.linspace(0, end, 200)
    steps = [flow.steps[0] for flow in block if flow.planned.cell.estimator.name in SCHEMES and flow.steps]
    lines = []  # (inequality, label, style, factor on the line)
    if convexity > 0:
        lines.append((MAP if field == "l2_error" else KL, r"theory: $e^{-2\lambda t}$", "--", 1.0, "black"))
        if field == "l2_error" and starts:
            shown = r"theory of v3: $(4/\lambda)\, e^{-2\lambda t} (D_0 - D^*)$"
            lines.append((MAP_BY_KL, shown, "-.", 1 / ratio, "black"))
    elif field == "kl" and starts:
        lines.append((KL_CONVEX, r"theory: $W_2^2 / (2 t)$", (0, (5, 1)), ratio, "black"))
    lowest, highest = 1.0, 1.0
    for inequality, label, style, factor, colour in lines:
        line = factor * np.exp(inequality.of_flow(time[1:], convexity))
        axis.plot(time[1:], line, linestyle=style, color=colour, linewidth=1, label=label)
        lowest, highest = min(lowest, line[-1]), max(highest, line[0])
    if steps and convexity > 0:
        tau = max(steps)
        along = tau * np.arange(1, round(end / tau) + 1)
        own = np.exp((MAP if field == "l2_error" else KL).of_steps(np.diff(along, prepend=0.0), convexity))
        shown = r"of implicit steps: $(1 + \lambda\tau)^{-2k}$"
        axis.plot(along, own, color="black", linewidth=0.6, label=shown)
        if field == "l2_error":
            weaker = np.exp(PROPOSITION.of_steps(np.diff(along, prepend=0.0), convexity))
            shown = r"of v3: $(1 + \lambda^2\tau^2/4)^{-k}$"
            axis.plot(along, weaker, color=QUIET, linewidth=0.6, label=shown)
    return highest, lowest


def anytime(directory: Readable, rows: pd.DataFrame) -> Figure | None:
    """Error against fit seconds (left) and oracle calls (right), a line of panels a problem, a curve a seed.

    The squared error where the exact map is known, else the energy distance; None where no estimator left a trace.
    """
    records = [directory.read(planned) for planned in directory.plan().cells]
    traced = rows[[record is not None and len(record.trace) > 1 for record in records]]
    if traced.empty:
        return None
    rivals = row_order(traced["estimator"].unique())
    blocks = list(traced.groupby(["problem", "dim", "budget"], sort=False))
    figure, axes = panels(2 * len(blocks), (3.0, 2.5), columns=2 * min(2, len(blocks)))
    for (key, block), left, right in zip(blocks, axes[::2], axes[1::2], strict=True):
        known = any(point.l2_error is not None for index in block.index for point in _trace(records[index]))
        for name in rivals:
            for index in block.index[block["estimator"] == name]:
                _anytime_curves(left, right, _trace(records[index]), known, name, rivals)
        here = rows[(rows[["problem", "dim", "budget"]] == list(key)).all(axis=1) & rows["anchor"]]
        column = "l2_error" if known else "energy_distance"
        levels = here.groupby("estimator")[column].mean() if column in here else pd.Series(dtype=float)
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


def _anytime_curves(
    left: Axes, right: Axes, trace: Sequence[TracePoint], known: bool, name: str, rivals: Sequence[str]
) -> None:
    error = np.array([point.l2_error if known else point.energy_distance for point in trace], dtype=float)
    drawn = {**look(name, rivals), "markersize": 3, "markevery": max(1, len(trace) // 8), "linewidth": 1.2}
    left.plot([point.fit_seconds for point in trace], error, label=plain(name), **drawn)
    right.plot([point.oracle_calls for point in trace], error, label=plain(name), **drawn)
