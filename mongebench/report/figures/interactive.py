"""The interactive figures of the report, as data: what `templates/site.js` hands to plotly.

A chart has one or more horizontal axes, views (one is shown at a time) and series that belong to a view; the reader
chooses axis and view. A view either belongs to one axis, or its series have values for all of them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mongebench.report.figures.style import look
from mongebench.report.rates.flows import TracedFlow, along, fits, together
from mongebench.report.rates.inequalities import KL_CONVEX, MAP, MAP_BY_KL, Inequality
from mongebench.report.tables.leaderboard import PLACE
from mongebench.report.tables.results import aggregate, number, row_order
from mongebench.run.record import Record, TracePoint
from mongebench.run.sketch import Sketch

CURVE = 60
"""Points of a trace that are kept: a page stays small, and no eye tells more on one curve."""
CURVES = 240
"""Traces on one page; beyond, some are left out, and the caption says so."""
CLOUD = 250
"""Points of a cloud that are kept, of `sketch.POINTS`."""
ERRORS = {"uvp": "UVP (%)", "energy_distance": "energy distance"}
CHOICES = {
    "mmd_squared": "MMD^2",
    "energy_distance": "energy distance",
    "cosine": "cosine",
    "fit_seconds": "fit seconds",
}
"""What a reader may put on the vertical axis in place of the error that the board counts."""
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
_DASHES = {"-": "solid", ":": "dot", "-.": "dashdot", "--": "dash"}
_ANCHORS = {"truth": "star-open", "identity": "circle-open", "mean_shift": "diamond-open", "bures": "square-open"}
_GREY, _BLACK = "#737373", "#111111"
BLUE, RED = "#56B4E9", "#D55E00"
LABELLED = 16
"""Points of a view up to which each has its name beside it."""
LOWEST = 1e-8
"""Of the start's squared error: no line of the theory is drawn below it."""
VISIBLE = 1e-6
"""Share of the smallest error from which on a floor is drawn."""

Chart = dict[str, Any]
Look = dict[str, str]
"""plotly's colour, symbol and dash."""
Looks = Callable[[str], Look]
Values = Iterable[float | None]


def rounded(values: Values) -> list[float | None]:
    """Five significant digits, and None for NaN and infinity, which JSON has not."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.5g}") for v in values]


def looks(estimators: Sequence[str], anchors: Sequence[str]) -> Looks:
    """Estimator -> its look: the same on every page, and as in the printed figures."""
    rivals = [name for name in row_order(estimators) if name not in anchors]

    def of(name: str) -> Look:
        drawn = look(name, rivals)
        if drawn["marker"]:
            return {"colour": str(drawn["color"]), "symbol": _SYMBOLS.get(str(drawn["marker"]), "x"), "dash": "solid"}
        return {"colour": _GREY, "symbol": _ANCHORS.get(name, "x-open"), "dash": _DASHES[drawn["linestyle"]]}

    return of


class _Drawing:
    """A chart in the making: views are numbered in the order in which they come up."""

    def __init__(self, name: str, title: str, axes: dict[str, str], y_type: str = "log", **more: Any) -> None:
        self.chart: Chart = {
            "name": name,
            "title": title,
            "caption": "",
            "x": [{"label": label, "type": type_} for label, type_ in axes.items()],
            "y_type": y_type,
            "views": [],
            "series": [],
            **more,
        }
        self._numbers: dict[tuple[str, int | None], int] = {}

    def view(self, label: str, y: str, axis: int | None = None) -> int:
        """The number of a view of one axis, or of all; `y` is its vertical axis's label."""
        if (label, axis) not in self._numbers:
            self._numbers[label, axis] = len(self._numbers)
            self.chart["views"].append({"label": label, "y": y, "axis": axis})
        return self._numbers[label, axis]

    def add(self, view: int, name: str, look: Look, x: Values, y: Values, **more: Any) -> None:
        """A series of a view with one horizontal axis."""
        self.add_against(view, name, look, [x], y, **more)

    def add_against(
        self,
        view: int,
        name: str,
        look: Look,
        axes: Sequence[Values],
        y: Values,
        error: Values | None = None,
        **more: Any,
    ) -> None:
        """A series with values for all horizontal axes."""
        series = {"view": view, "name": name, "x": [rounded(values) for values in axes], "y": rounded(y), **look}
        if error is not None:
            series["error"] = rounded(error)
        self.chart["series"].append({"mode": "lines+markers", **series, **more})

    def keep_axes_with_values(self) -> None:
        """Drop the horizontal axes that no series has a value for: a reader would begin with an empty chart."""
        series = self.chart["series"]
        known = [any(value is not None for one in series for value in one["x"][k]) for k in range(len(self.chart["x"]))]
        for one in (self.chart, *series) if any(known) else ():
            one["x"] = list(itertools.compress(one["x"], known))

    def finished(self, caption: str) -> Chart | None:
        """None where there is nothing to see."""
        return self.chart | {"caption": caption} if self.chart["series"] else None


def _loss(own: pd.DataFrame) -> pd.Series:
    """The error, what is below the floor at the floor: a logarithmic axis holds it."""
    return own["mean"].clip(lower=own["floor"].fillna(-np.inf))


def with_choices(places: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The places of a frame with the means of what a reader may choose, in columns of the names of `CHOICES`."""
    index = ["problem", "dim", "budget", "estimator"]
    for metric in [name for name in CHOICES if name in rows and name not in places]:
        means = aggregate(rows, metric).set_index(index)["mean"].rename(metric)
        places = places.join(means, on=index)
    return places


def errors(places: pd.DataFrame, look_of: Looks) -> Chart | None:
    """Error against dimension, against the smaller of the two sample sizes, and against fit seconds.

    A view holds the estimators of one tier and the anchors. Without the exact map, whose rounding errors would take up
    most of a logarithmic axis.
    """
    axes = {"dimension d": "log", "n, the smaller of the two budgets": "log", "fit seconds": "log"}
    drawing = _Drawing("error", "Error", axes)
    drawing.chart["choices"] = [label for name, label in CHOICES.items() if name in places]
    places = places[places["estimator"] != "truth"]
    sizes = places[["n_source", "n_target"]].min(axis=1)
    for axis, x, view in ((0, places["dim"].astype(float), ["problem", "budget"]), (1, sizes, ["problem", "dim"])):
        for label, block in _views(places.assign(x=x)[np.isfinite(x)], view):
            if block["x"].nunique() > 1:
                _curves(drawing, block.sort_values("x"), label, axis, look_of)
    measured = places[(places["n_ok"] > 0) & (places["fit_seconds"] > 0)]
    for label, block in _views(measured, PLACE):
        if len(block) > 1:
            _pareto(drawing, block, label, 2, look_of)
    known = {view["axis"] for view in drawing.chart["views"]}
    names = [name for axis, name in enumerate(("dimension", "n", "seconds")) if axis in known]
    drawing.chart["title"] += f" against {', '.join(names[:-1])}{' or ' if names[1:] else ''}{''.join(names[-1:])}"
    return drawing.finished(
        "Mean over what was measured, with standard errors as in the results. Anchors are grey; the floor is what the "
        "exact map would show. Seconds are of the CPU, without compilation, and there a line joins the estimators that "
        "no other beats in both."
    )


def _views(places: pd.DataFrame, columns: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The places that agree in these columns, a tier with the anchors at a time."""
    for _, block in places.groupby(columns, sort=False):
        for tier in block.loc[~block["anchor"], "tier"].unique():
            yield f"{_place(block, columns)}, knowing {tier}", block[block["anchor"] | (block["tier"] == tier)]


def _curves(drawing: _Drawing, block: pd.DataFrame, label: str, axis: int, look_of: Looks) -> None:
    """A curve for each estimator over the column `x`, and the floor."""
    index = drawing.view(label, ERRORS[block["metric"].iloc[0]], axis)
    for estimator in row_order(block["estimator"]):
        own = block[(block["estimator"] == estimator) & (block["n_ok"] > 0)]
        if len(own):
            error = own["standard_error"]
            drawing.add(index, estimator, look_of(estimator), own["x"], _loss(own), error=error, chosen=_chosen(own))
    floors = block.groupby("x")["floor"].max()
    if floors.max() > VISIBLE * block["mean"].min():
        drawing.add(index, "floor", _line(_BLACK, "dot"), floors.index, floors, mode="lines")


def _pareto(drawing: _Drawing, block: pd.DataFrame, label: str, axis: int, look_of: Looks) -> None:
    """A point for each estimator, and the front."""
    index = drawing.view(label, ERRORS[block["metric"].iloc[0]], axis)
    seconds, found = block["fit_seconds"].tolist(), _loss(block).tolist()
    best = front(seconds, found)
    steps = ([values[k] for k in best] for values in (seconds, found))
    drawing.add(index, "Pareto front", _line(_GREY, "solid"), *steps, mode="lines", shape="hv")
    mode = "markers+text" if len(block) <= LABELLED else "markers"
    columns = [block["standard_error"].tolist(), *_chosen(block)]
    for k, name in enumerate(block["estimator"]):
        error, *chosen = ([column[k]] for column in columns)
        drawing.add(index, name, look_of(name), [seconds[k]], [found[k]], error=error, chosen=chosen, mode=mode)


def _chosen(own: pd.DataFrame) -> list[list[float | None]]:
    return [rounded(own[name]) for name in CHOICES if name in own]


def _line(colour: str, dash: str) -> Look:
    return {"colour": colour, "symbol": "circle", "dash": dash}


def _place(block: pd.DataFrame, columns: list[str]) -> str:
    first = block.iloc[0]
    return ", ".join(f"d = {first[name]}" if name == "dim" else str(first[name]) for name in columns)


def front(seconds: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Indices of the Pareto front, fastest first: those that no other beats in both."""
    found: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda k: (seconds[k], errors[k])):
        if not found or errors[index] < errors[found[-1]]:
            found.append(index)
    return found


def anytime(traced: Sequence[tuple[dict[str, Any], Record]], look_of: Looks) -> Chart | None:
    """Error along each fit, against flow time, oracle calls and seconds; `traced`: (row of the frame, its record)."""
    axes = {"flow time t": "linear", "oracle calls": "log", "fit seconds": "log"}
    drawing = _Drawing("anytime", "Error along the fit", axes)
    kept = _fair(traced, lambda one: (one[0]["dim"], one[0]["budget"]), lambda one: one[0]["seed"])
    for row, record in kept:
        trace = _thinned(record.trace)
        known = any(point.l2_error is not None for point in trace)
        timed = not np.isnan(row["wall_seconds"])
        label = "squared L2 error" if known else "energy distance"
        drawing.add_against(
            drawing.view(f"d = {row['dim']}, {row['budget']}", label),
            row["estimator"],
            look_of(row["estimator"]),
            [
                [point.flow_time for point in trace],
                [point.oracle_calls for point in trace],
                [point.fit_seconds if timed else None for point in trace],
            ],
            [point.l2_error if known else point.energy_distance for point in trace],
            note=f"seed {row['seed']}",
        )
    drawing.keep_axes_with_values()
    caption = "One curve per seed. Schemes that follow no flow have no flow time."
    return drawing.finished(f"{caption}{_left_out(len(traced) - len(kept))}")


Item = TypeVar("Item")


def _fair(items: Sequence[Item], view: Callable[[Item], Hashable], seed: Callable[[Item], int]) -> list[Item]:
    """At most `CURVES` of them, early seeds first, each view in turn; in the order in which they came."""
    before: Counter[Hashable] = Counter()
    turns = []
    for item in items:
        turns.append((seed(item), before[view(item), seed(item)]))
        before[view(item), seed(item)] += 1
    kept = sorted(range(len(items)), key=lambda k: turns[k])[:CURVES]
    return [items[k] for k in sorted(kept)]


def _left_out(count: int) -> str:
    return f" Left out, later seeds first: {count} curves." if count else ""


def _thinned(trace: Sequence[TracePoint]) -> list[TracePoint]:
    """At most `CURVE` points, the first and the last among them."""
    if len(trace) <= CURVE:
        return list(trace)
    return [trace[k] for k in np.linspace(0, len(trace) - 1, CURVE).round().astype(int)]


def rate(found: Sequence[TracedFlow], look_of: Looks, inequality: Inequality) -> Chart | None:
    """What an inequality of one quantity observes, over that at the start, against flow time, with its lines.

    A line per estimator, the median over seeds; thin lines are its lowest and highest seed.
    """
    of_map = inequality is MAP
    title = "Rate of the map" if of_map else "Rate of KL"
    drawing = _Drawing("rate" if of_map else "rate-kl", title, {"flow time t": "linear"})
    label = "|T_t - T*|^2 / |T_0 - T*|^2" if of_map else "(D_t - D*) / (D_0 - D*)"
    known = [flow for flow in found if along(flow.trace, inequality.observed)]
    ends: dict[tuple[int, float], float] = {}
    ratios: dict[int, float] = {}
    for (problem, dim, name, steps), seeds in fits(known).items():
        index = drawing.view(f"{problem}, d = {dim}", label)
        for traces, dash, note in (
            ([flow.trace for flow in seeds], "solid", steps),
            ([flow.refinement or () for flow in seeds], "dot", "half the step"),
        ):
            curves = [curve for trace in traces if (curve := along(trace, inequality.observed))]
            if not curves:
                continue
            time, band = together(curves)
            kept = np.unique(np.linspace(0, len(time) - 1, min(len(time), CURVE)).round().astype(int))
            low, middle, high = band[:, kept]
            look = look_of(name) | {"dash": dash}
            if len(curves) > 1 and dash == "solid":
                every = np.union1d(np.arange(0, len(kept), 2), len(kept) - 1)  # of two thin lines, a page has thousands
                for edge, words in ((low, "lowest seed"), (high, "highest seed")):
                    drawing.add(index, name, look, time[kept[every]], edge[every], mode="lines", width=0.6, note=words)
            drawing.add(index, name, look, time[kept], middle, mode="lines", note=note)
            convexity = seeds[0].planned.strong_convexity
            if convexity is not None:
                ends[index, convexity] = max(ends.get((index, convexity), 0.0), float(time[-1]))
        start = seeds[0].trace[0]
        if start.l2_error and start.kl and start.kl_se is not None:
            ratios[index] = start.kl / start.l2_error
    for (index, convexity), end in ends.items():
        lines = [(inequality, 1.0)]
        if of_map and index in ratios:
            lines.append((MAP_BY_KL, ratios[index]))
        if convexity == 0:
            lines = [] if of_map or index not in ratios else [(KL_CONVEX, 1 / ratios[index])]
        time = np.union1d(np.linspace(0, end, CURVE)[1:], np.geomspace(end / 1e4, end, CURVE))  # for either scale
        own = [y for one in drawing.chart["series"] if one["view"] == index for y in one["y"] if y and y > 0]
        lowest = max(min(own, default=1.0) / 10, LOWEST)  # a long flow's line would take up the whole axis
        for one, factor in lines:
            if one.speaks_of(convexity):
                name = f"theory: {one.line}, lambda = {number(convexity)}".replace(
                    "lambda", "\N{GREEK SMALL LETTER LAMDA}"
                )
                line = factor * np.exp(one.of_flow(time, convexity))
                line[line < lowest] = np.nan
                drawing.add(index, name, _line(_BLACK, "dash" if one.own else "dashdot"), time, line, mode="lines")
    return drawing.finished(
        "One line per fit: the median over its seeds, with thin lines for the lowest and the highest; dotted at half "
        "the step. Dashed: the bounds of the theory, which the curves may not cross."
    )


def clouds(sketched: Iterable[tuple[dict[str, Any], Sketch]], dim: int, look_of: Looks) -> Chart | None:
    """What maps do on the line (d = 1) or in the plane (d = 2); `sketched`: (row of the frame, its sketch)."""
    label, y = ("x", "T(x)") if dim == 1 else ("first coordinate", "second coordinate")
    drawing = _Drawing(f"clouds-{dim}", f"Pictures, d = {dim}", {label: "linear"}, "linear", square=dim == 2)
    for row, sketch in sketched:
        index = drawing.view(f"{row['estimator']}, {row['budget']}", y)
        x, pushed, target = (points[:CLOUD].astype(float).T for points in (sketch.x, sketch.pushed, sketch.y))
        if dim == 1:
            drawing.add(index, row["estimator"], look_of(row["estimator"]), x[0], pushed[0], mode="markers")
            continue
        for name, points, colour in (
            ("target", target, "#B0B0B0"),
            ("source", x, BLUE),
            ("pushed source", pushed, RED),
        ):
            drawing.add(index, name, _line(colour, "solid"), points[0], points[1], mode="markers")
    what = "The map's graph" if dim == 1 else "Points of the source, of the target, and of the source pushed by the map"
    return drawing.finished(f"{what}; the first seed.")
