"""The interactive figures of the report, as data: what `templates/site.js` hands to plotly.

A chart has views (one is shown at a time, chosen by the reader), series that belong to a view, and one or more x-axes
that all its series have values for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from mongebench.report.rates import Flow
from mongebench.report.style import look
from mongebench.report.tables import number, row_order
from mongebench.run.record import Record, TracePoint
from mongebench.run.sketch import Sketch

CURVE = 60
"""Points of a trace that are kept: a page stays small, and no eye tells more on one curve."""
CURVES = 240
"""Traces on one page; beyond, the later seeds are left out, and the caption says so."""
CLOUD = 250
"""Points of a cloud that are kept, of `sketch.POINTS`."""
ERRORS = {"uvp": "UVP (%)", "energy_distance": "energy distance"}
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
_DASHES = {"-": "solid", ":": "dot", "-.": "dashdot", "--": "dash"}
_GREY, _BLACK = "#737373", "#111111"

Chart = dict[str, Any]
Looks = Callable[[str], dict[str, str]]


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Four significant digits, as JSON has no NaN and no infinity."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.4g}") for v in values]


def looks(estimators: Sequence[str], anchors: Sequence[str]) -> Looks:
    """Estimator -> plotly's colour, symbol and dash, the same on every page, the same as in the printed figures."""
    rivals = [name for name in row_order(estimators) if name not in anchors]

    def of(name: str) -> dict[str, str]:
        drawn = look(name, rivals)
        dash = _DASHES[drawn.get("linestyle", "-")] if name not in rivals else "solid"
        colour = _GREY if name not in rivals else str(drawn["color"])
        return {"colour": colour, "symbol": _SYMBOLS.get(str(drawn["marker"]), "x"), "dash": dash}

    return of


@dataclass
class _Views:
    """Numbers the views of a chart in the order in which they come up."""

    found: dict[str, dict[str, str]]

    def index(self, label: str, y: str = "") -> int:
        self.found.setdefault(label, {"label": label, "y": y})
        return list(self.found).index(label)


def _chart(
    name: str, title: str, caption: str, axes: list[tuple[str, str]], y_type: str, views: _Views, series: list[Any]
) -> Chart | None:
    """None where there is nothing to draw."""
    if not series:
        return None
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "x": [{"label": label, "type": type_} for label, type_ in axes],
        "y_type": y_type,
        "views": list(views.found.values()),
        "series": series,
    }


def _loss(own: pd.DataFrame) -> pd.Series:
    """The error, what is below the floor at the floor: a logarithmic axis holds it."""
    return own["mean"].clip(lower=own["floor"].fillna(-np.inf))


def by_dimension(places: pd.DataFrame, look_of: Looks) -> Chart | None:
    """Error against dimension."""
    return _against(
        places,
        look_of,
        ("dimension", "Error against dimension", "dimension d"),
        ["problem", "budget"],
        lambda rows: rows["dim"].astype(float),
    )


def by_samples(places: pd.DataFrame, look_of: Looks) -> Chart | None:
    """Error against the smaller of the two sample sizes."""
    return _against(
        places,
        look_of,
        ("samples", "Error against n", "n, the smaller of the two budgets"),
        ["problem", "dim"],
        lambda rows: rows[["n_source", "n_target"]].min(axis=1),
    )


def _against(
    places: pd.DataFrame,
    look_of: Looks,
    words: tuple[str, str, str],
    view: list[str],
    abscissa: Callable[[pd.DataFrame], pd.Series],
) -> Chart | None:
    """A curve an estimator, in each view where there are two values of x or more."""
    name, title, label = words
    views, series = _Views({}), []
    places = places.assign(x=abscissa(places))
    for key, block in places[np.isfinite(places["x"])].groupby(view, sort=False):
        if block["x"].nunique() < 2:
            continue
        index = views.index(_place(dict(zip(view, key, strict=True))), ERRORS[block["metric"].iloc[0]])
        for estimator in row_order(block["estimator"]):
            own = block[(block["estimator"] == estimator) & (block["n_ok"] > 0)].sort_values("x")
            if len(own):
                series.append(_series(index, estimator, [own["x"]], _loss(own), look_of, own["standard_error"]))
        series += _floor(index, block)
    caption = (
        "Mean over the measured seeds, with standard errors; anchors are grey, the floor is what a perfect map shows."
    )
    return _chart(name, title, caption, [(label, "log")], "log", views, series)


def _floor(index: int, block: pd.DataFrame) -> list[dict[str, Any]]:
    """The floor as a line, where it is worth seeing: within six decades of the smallest error."""
    floors = block.groupby("x")["floor"].max()
    smallest = block.loc[block["estimator"] != "truth", "mean"].min()
    if not floors.notna().any() or not floors.max() > 1e-6 * smallest:
        return []
    look_of = {"colour": _BLACK, "symbol": "line-ew", "dash": "dot"}
    return [_series(index, "floor", [floors.index], floors, lambda _: look_of, mode="lines")]


def _series(
    index: int,
    name: str,
    x: Sequence[Iterable[float | None]],
    y: Iterable[float | None],
    look_of: Looks,
    error: Iterable[float | None] | None = None,
    **more: Any,
) -> dict[str, Any]:
    drawn = {"view": index, "name": name, "x": [rounded(values) for values in x], "y": rounded(y), **look_of(name)}
    return drawn | ({} if error is None else {"error": rounded(error)}) | {"mode": "lines+markers"} | more


def _place(key: dict[str, Any]) -> str:
    return ", ".join(f"d = {value}" if name == "dim" else str(value) for name, value in key.items())


def front(seconds: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Indices of the Pareto front, fastest first: whoever no other beats in both."""
    found: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda k: (seconds[k], errors[k])):
        if not found or errors[index] < errors[found[-1]]:
            found.append(index)
    return found


def pareto(places: pd.DataFrame, look_of: Looks) -> Chart | None:
    """Error against fit seconds, with the front of those that no other beats in both."""
    views, series = _Views({}), []
    measured = places[(places["n_ok"] > 0) & (places["fit_seconds"] > 0) & (places["estimator"] != "truth")]
    for key, block in measured.groupby(["problem", "dim", "budget"], sort=False):
        index = views.index(
            _place(dict(zip(["problem", "dim", "budget"], key, strict=True))), ERRORS[block["metric"].iloc[0]]
        )
        seconds, errors = block["fit_seconds"].tolist(), _loss(block).tolist()
        best = front(seconds, errors)
        line = {"colour": "#999999", "symbol": "circle", "dash": "solid"}
        series.append(
            _series(
                index,
                "Pareto front",
                [[seconds[k] for k in best]],
                [errors[k] for k in best],
                lambda _, line=line: line,
                mode="lines",
                shape="hv",
            )
        )
        for row, error in zip(block.to_dict("records"), errors, strict=True):
            name, spread = str(row["estimator"]), [row["standard_error"]]
            series.append(_series(index, name, [[row["fit_seconds"]]], [error], look_of, spread, mode="markers"))
    caption = "Mean fit seconds, compilation excluded. The line joins those that no other beats in both."
    return _chart("pareto", "Error against seconds", caption, [("fit seconds", "log")], "log", views, series)


def anytime(traced: Sequence[tuple[dict[str, Any], Record]], look_of: Looks) -> Chart | None:
    """Error along each fit, against flow time, oracle calls and seconds; `traced`: (row of the frame, its record)."""
    kept = sorted(traced, key=lambda one: one[0]["seed"])[:CURVES]
    views, series = _Views({}), []
    for row, record in kept:
        trace = _thinned(record.trace)
        known = any(point.l2_error is not None for point in trace)
        index = views.index(_place({name: row[name] for name in ("dim", "budget")}), _TRACED[known])
        name = str(row["estimator"])
        axes = [
            [point.flow_time for point in trace],
            [float(point.oracle_calls) for point in trace],
            [point.fit_seconds for point in trace],
        ]
        errors = [point.l2_error if known else point.energy_distance for point in trace]
        series.append(_series(index, name, axes, errors, look_of, note=f"seed {row['seed']}"))
    left_out = f" {len(traced) - len(kept)} curves of later seeds are left out." if len(traced) > len(kept) else ""
    caption = f"One curve a seed. Schemes that follow no flow have no flow time.{left_out}"
    axes_of = [("flow time t", "linear"), ("oracle calls", "log"), ("fit seconds", "log")]
    return _chart("anytime", "Error along the fit", caption, axes_of, "log", views, series)


_TRACED = {True: "squared L2 error", False: "energy distance"}


def _thinned(trace: Sequence[TracePoint]) -> list[TracePoint]:
    """At most `CURVE` points, the first and the last among them."""
    if len(trace) <= CURVE:
        return list(trace)
    return [trace[k] for k in np.linspace(0, len(trace) - 1, CURVE).round().astype(int)]


def rate(found: Sequence[Flow], look_of: Looks) -> Chart | None:
    """Squared error over that at the start, against flow time, with the line of the theory."""
    views, series = _Views({}), []
    shown = [flow for flow in found if any(point.l2_error for point in flow.trace)][:CURVES]
    for place, block in groupby(shown, key=lambda flow: f"{flow.problem}, d = {flow.planned.dim}"):
        index, end = views.index(place, "|T_t - T*|^2 / |T_0 - T*|^2"), 0.0
        for flow in block:
            for trace, dash, note in ((flow.trace, "solid", ""), (flow.refinement or (), "dot", ", half the step")):
                points = [(p.flow_time, p.l2_error) for p in _thinned(trace) if p.flow_time is not None and p.l2_error]
                if points:
                    times, errors = zip(*points, strict=True)
                    ratio = [error / errors[0] for error in errors]
                    end = max(end, times[-1])
                    note = f"seed {flow.planned.cell.seed}{note}"
                    own = _series(index, flow.estimator, [times], ratio, look_of, note=note)
                    series.append(own | {"dash": dash})
        convexity = flow.planned.strong_convexity
        if convexity is not None and 0 < convexity < math.inf:
            times = np.linspace(0, end, 40)
            line = {"colour": _BLACK, "symbol": "circle", "dash": "dash"}
            name = f"theory: e^(-2 lambda t), lambda = {number(convexity)}"
            theory = np.exp(-2 * convexity * times)
            series.append(_series(index, name, [times], theory, lambda _, line=line: line, mode="lines"))
    caption = "One curve a fit; dotted where the same fit was made at half the step. The dashed line is the theory's."
    return _chart("rate", "Rate of the flows", caption, [("flow time t", "linear")], "log", views, series)


def clouds(sketched: Iterable[tuple[dict[str, Any], Sketch]], look_of: Looks) -> Chart | None:
    """What a map does, in the plane or on the line: `sketched` are (row of the frame, its sketch) of one dimension."""
    views, series, dim = _Views({}), [], 2
    for row, sketch in sketched:
        dim = sketch.x.shape[1]
        index = views.index(f"{row['estimator']}, {row['budget']}", "T(x)" if dim == 1 else "second coordinate")
        series += list(_cloud(index, sketch, look_of, str(row["estimator"])))
    what = "The map's graph." if dim == 1 else "Points of the source, of the target, and the source pushed by the map."
    label = "x" if dim == 1 else "first coordinate"
    chart = _chart(
        f"clouds-{dim}", f"Pictures, d = {dim}", f"{what} First seed.", [(label, "linear")], "linear", views, series
    )
    return chart if chart is None else chart | {"square": True}


def _cloud(index: int, sketch: Sketch, look_of: Looks, estimator: str) -> Iterator[dict[str, Any]]:
    x, pushed, y = (points[:CLOUD].astype(float).T for points in (sketch.x, sketch.pushed, sketch.y))
    if len(x) == 1:
        yield _series(index, estimator, [x[0]], pushed[0], look_of, mode="markers")
        return
    for name, points, colour in (
        ("target", y, "#B0B0B0"),
        ("source", x, "#56B4E9"),
        ("pushed source", pushed, "#D55E00"),
    ):
        drawn = {"colour": colour, "symbol": "circle", "dash": "solid"}
        yield _series(index, name, [points[0]], points[1], lambda _, drawn=drawn: drawn, mode="markers")
