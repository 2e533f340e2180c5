"""A photograph as each map recolours it, between the source's own and the target's."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mongebench.report.figures.style import panels, plain
from mongebench.report.tables.results import row_order
from mongebench.run.reading import Run

CHANNELS = 3
"""Of a picture: the dimension of a problem that has one."""
COLUMNS = 4
"""Pictures beside each other, at most."""


def recoloured(run: Run, rows: pd.DataFrame) -> Figure | None:
    """The source's picture, that picture after the map of each estimator (its first seed that has one), the target's.

    `rows` are some of the run's. None where no problem among them has pictures.
    """
    planned = {planned.cell.key: planned for planned in run.plan.cells}
    shown: list[tuple[str, NDArray[Any]]] = []
    coloured = rows[rows["dim"] == CHANNELS]
    for (problem, budget), block in coloured.groupby(["problem", "budget"], sort=False):
        found: dict[str, tuple[NDArray[Any], dict[Any, Any]]] = {}
        for row in block.to_dict("records"):
            sketch = run.sketch(planned[row["key"]])
            if sketch is not None and sketch.pictures is not None:
                found.setdefault(row["estimator"], (sketch.pictures, row))
        if not found:
            continue
        (before, _, after), _ = next(iter(found.values()))
        shown.append((f"source\n{problem}\n{budget}", before))
        for name in row_order(found):
            pictures, row = found[name]
            shown.append((f"{name}\nenergy distance {row['energy_distance']:.2g}", pictures[1]))
        shown.append(("target", after))
    if not shown:
        return None
    figure, axes = panels(len(shown), (2.4, 2.1), columns=min(COLUMNS, len(shown)))
    for axis, (title, picture) in zip(axes, shown, strict=True):
        _show(axis, title, picture)
    return figure


def _show(axis: Axes, title: str, picture: NDArray[Any]) -> None:
    axis.imshow(picture)
    axis.set_title(plain(title), fontsize=8)
    axis.set_axis_off()
