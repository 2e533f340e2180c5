"""Errors of a run on one clock: `python benchmarks/simulations/geometry.py RUN --seconds 2 5 10 --figure PNG`.

The clock of a trace is the wall's; its seconds are scaled by the fit's CPU seconds over its wall seconds, so that a
shared machine tells the same as a quiet one. The table has, for each problem and number of seconds, the median over
seeds of UVP (%) of every estimator and, where there is plain descent, of Adam's error over that of the best of the
others. Of Adam, which decays over
its own length, only the end of a fit counts: the longest one that ended in time.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

SLACK = 1.1
"""A fit that is asked to stop ends with the step that it is in."""
ALSO_STEPS = {"enot"}
"""What experiments run for several numbers of steps that are no lengths of one curve."""
Curve = list[tuple[float, float]]


def curve(record: dict[str, Any]) -> Curve:
    """(CPU seconds, UVP in percent) along one fit; UVP at the end is the record's."""
    trace, times = record["trace"], record["times"]
    pace = times["fit_cpu"] / (times["fit"] + times["compile"])  # compilation is counted, and left out
    scale = record["metrics"]["uvp"]["value"] / max(trace[-1]["l2_error"], 1e-300)
    return [(point["fit_seconds"] * pace, point["l2_error"] * scale) for point in trace]


def read(runs: list[Path]) -> dict[str, dict[str, list[Curve]]]:
    """problem -> estimator -> a curve of each fit."""
    found: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(file for run in runs for file in (run / "cells").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] in ("ok", "at_floor") and record["trace"]:
            cell = record["cell"]
            dim = cell["problem"]["parameters"].get("dim", record["dim"])
            name, steps = cell["estimator"]["name"], cell["estimator"]["parameters"].get("steps")
            label = f"{name}, {steps}" if name in ALSO_STEPS else name
            found[f"{cell['problem']['name']}, d = {dim}"][label].append(curve(record))
    return found


def reached(curves: list[Curve], seconds: float, *, whole: bool) -> float:
    """Median over fits of UVP after so many seconds; of whole fits, the longest that ended by then."""
    if whole:
        ended = [fit for fit in curves if fit[-1][0] <= SLACK * seconds]
        longest = max(map(len, ended), default=0)
        return float(np.median([fit[-1][1] for fit in ended if len(fit) == longest])) if ended else np.nan
    values = [[uvp for at, uvp in fit if at <= SLACK * seconds] for fit in curves]
    return float(np.median([uvps[-1] for uvps in values if uvps])) if any(values) else np.nan


def _by_dimension(problem: tuple[str, Any]) -> tuple[str, int]:
    name, _, dim = problem[0].partition(", d = ")
    return name, int(dim)


def main() -> None:
    """Print the table, and draw the figure where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seconds", nargs="+", type=float, default=(2.0, 5.0, 10.0))
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    found = read(arguments.runs)
    names = sorted({name for curves in found.values() for name in curves})
    descent = f"{'Adam / best':>14}" if "euclidean" in names else ""
    print(f"{'problem':<20}{'CPU s':>6}" + "".join(f"{name:>18}" for name in names) + descent)
    for problem, curves in sorted(found.items(), key=_by_dimension):
        for seconds in arguments.seconds:
            values = {name: reached(curves[name], seconds, whole=name == "euclidean") for name in names}
            flows = [value for name, value in values.items() if name != "euclidean" and np.isfinite(value)]
            ratio = values.get("euclidean", np.nan) / min(flows) if flows else np.nan
            cells = "".join(f"{values[name]:>18.3g}" for name in names)
            print(f"{problem:<20}{seconds:>6.0f}{cells}" + (f"{ratio:>14.3g}" if descent else ""))
    if arguments.figure:
        draw(found, arguments.figure)


def draw(found: dict[str, dict[str, list[Curve]]], path: Path) -> None:
    """One panel per problem, one line per fit."""
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.5 * columns, 3 * rows), layout="constrained", squeeze=False)
    names = sorted({name for curves in found.values() for name in curves})
    for axis, (problem, curves) in zip(axes.flat, sorted(found.items(), key=_by_dimension), strict=False):
        for colour, name in enumerate(names):
            for number, fit in enumerate(curves.get(name, [])):
                seconds, errors = np.array(fit).T
                axis.loglog(
                    seconds[1:], np.maximum(errors[1:], 1e-12), color=f"C{colour}", label=name if not number else None
                )
        axis.set(title=problem, xlabel="CPU seconds", ylabel="UVP (%)")
        axis.set_xlim(left=0.5)
    known = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known))
    for axis in list(axes.flat)[len(found) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
