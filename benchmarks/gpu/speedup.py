"""How much sooner a fit ends on a GPU than on the CPU, per estimator and size, from two runs of the same cells.

python benchmarks/gpu/speedup.py RUN_GPU RUN_CPU [--out FOLDER]

Each is a run, or a folder of runs that are read as one. Cells are paired by their key; the intervals are those of
`mongebench compare`, of the mean log-ratio over seeds, all of them together at 95 %. Seconds are those of the fit,
compilation excluded, which stands beside them. Where the CPU budget ended one of two fits after fewer steps, the CPU's
seconds are those that the GPU's steps would have taken there. Both runs have to be of one machine: a ratio of two
machines says nothing of the GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mongebench.report.figures import style
from mongebench.report.tables.compare import CLOCK, compare
from mongebench.report.tables.results import IDENTITY_COLUMNS
from mongebench.run.reading import Run, read_run
from mongebench.run.record import Record, Status

ROW = ["estimator", "problem"]
SIZE = ["dim", "n_source"]


def read(path: Path) -> Run:
    """A run, or all runs of a folder as one."""
    inside = sorted(plan.parent for plan in path.glob("*/plan.json"))
    return read_run(*(inside or [path]))


def speedups(
    gpu: pd.DataFrame, cpu: pd.DataFrame, on_gpu: Mapping[str, Record], on_cpu: Mapping[str, Record]
) -> pd.DataFrame:
    """One row per place: `gpu` and `cpu` seconds, `speedup` with `low` and `high`, `at_least`, and what stands beside.

    Parameters
    ----------
    gpu, cpu
        `Run.frame` of each run.
    on_gpu, on_cpu
        The records of each run by the key of their cell.
    """
    gpu, cpu = (_one_column(rows) for rows in (gpu, cpu))
    ours, theirs = (
        cpu["key"].map({key: record.learned.get("n_steps_") for key, record in records.items()}).astype(float)
        for records in (on_gpu, on_cpu)
    )
    cpu["fit_seconds"] *= (ours / theirs).where(theirs > 0).fillna(1.0)
    # The clocks differ, on purpose: `compare` must not see that they do.
    found = compare(*(rows.drop(columns=[*CLOCK], errors="ignore") for rows in (gpu, cpu)), metric="fit_seconds")
    found = found.rename(columns={"before": "gpu", "after": "cpu", "ratio": "speedup"})

    gpu["peak_mib"] = gpu["key"].map({key: (record.gpu_peak_bytes or np.nan) / 2**20 for key, record in on_gpu.items()})
    gpu["cpu_compile"] = gpu["key"].map(cpu.set_index("key")["compile_seconds"])
    gpu["cpu_status"] = gpu["key"].map(cpu.set_index("key")["status"])
    gpu["limit"] = gpu["key"].map({key: record.manifest.time_limit for key, record in on_cpu.items()}).astype(float)
    gpu["device"] = gpu.get("device", pd.Series(dtype=object)).fillna("")
    beside = gpu.groupby(IDENTITY_COLUMNS, sort=False).agg(
        n_source=("n_source", "first"),
        device=("device", "max"),
        gpu_compile=("compile_seconds", "mean"),
        cpu_compile=("cpu_compile", "mean"),
        peak_mib=("peak_mib", "max"),
        gpu_alone=("fit_seconds", "mean"),
        limit=("limit", "first"),
        gpu_status=("status", lambda column: ", ".join(sorted(set(column)))),
        cpu_status=("cpu_status", lambda column: ", ".join(sorted(set(column.dropna())))),
    )
    found = found.merge(beside, on=IDENTITY_COLUMNS)
    killed = (found["cpu_status"] == Status.TIMEOUT) & found["gpu_alone"].notna()
    found["at_least"] = (found["limit"] / found["gpu_alone"]).where(killed)
    found["gpu"] = found["gpu"].fillna(found["gpu_alone"])
    return found.sort_values([*ROW, *SIZE], ignore_index=True)


def _one_column(rows: pd.DataFrame) -> pd.DataFrame:
    """The fit seconds of either device under one name, which no cell has two of."""
    if "gpu_fit_seconds" in rows:
        rows = rows.assign(fit_seconds=rows["fit_seconds"].fillna(rows["gpu_fit_seconds"]))
    return rows


def pays(found: pd.DataFrame) -> list[str]:
    """A sentence per row: the size from which on the whole interval is above 1 at every size that was measured."""
    said = []
    for (estimator, problem), places in found[found["device"] != "cpu"].groupby(ROW, sort=False):
        places = places[places["low"].notna() | places["at_least"].notna()]
        name = f"{estimator} on {problem}"
        if places.empty:
            said.append(f"{name}: no size was measured on both.")
            continue
        above = (places["low"] > 1) | (places["at_least"] > 1)
        from_here_on = above[::-1].cummin()[::-1]
        if from_here_on.any():
            first = places[from_here_on].iloc[0]
            said.append(f"{name}: a GPU pays from {_size(first)} on.")
        else:
            said.append(f"{name}: a GPU is not shown to pay up to {_size(places.iloc[-1])}.")
    return said


def _size(place: pd.Series) -> str:
    drawn = "unlimited draws" if np.isinf(place["n_source"]) else f"n = {place['n_source']:.0f}"
    return f"d = {place['dim']}, {drawn}"


def _ratio(place: pd.Series) -> str:
    if np.isfinite(place["at_least"]):
        return f"> {place['at_least']:.3g}"
    if np.isnan(place["speedup"]):
        return "not measured"
    interval = f" ({place['low']:.3g} .. {place['high']:.3g})" if np.isfinite(place["low"]) else ""
    return f"{place['speedup']:.3g}{interval}"


def table(found: pd.DataFrame) -> str:
    """The places as text."""
    pairs = found["n_paired"].astype(str) + "/" + found["n_planned"].astype(str)
    shown = pd.DataFrame(
        {
            "estimator": found["estimator"],
            "problem": found["problem"],
            "size": found.apply(_size, axis=1),
            "GPU s": found["gpu"],
            "CPU s": found["cpu"],
            "speed-up (95 %)": found.apply(_ratio, axis=1),
            "compile GPU s": found["gpu_compile"],
            "compile CPU s": found["cpu_compile"],
            "GPU peak MiB": found["peak_mib"],
            "pairs": pairs,
            "on the GPU": found["gpu_status"],
            "on the CPU": found["cpu_status"],
        }
    )
    return shown.to_string(index=False, float_format=lambda number: f"{number:.3g}", na_rep="")


def draw(found: pd.DataFrame, path: Path) -> None:
    """Speed-up against d (unlimited draws) and against n, with the intervals."""
    found = found[found["speedup"].notna() & (found["device"] != "cpu")]
    unlimited = np.isinf(found["n_source"])
    figure, axes = style.panels(2, (4.5, 3.5), columns=2, sharey=True)
    names = list(found["estimator"].unique())
    for axis, size, places in zip(axes, SIZE, (found[unlimited], found[~unlimited]), strict=True):
        for estimator, own in places.groupby("estimator", sort=False):
            low, high = own["low"].fillna(own["speedup"]), own["high"].fillna(own["speedup"])
            reach = np.abs(np.array([own["speedup"] - low, high - own["speedup"]]))
            looks = style.look(estimator, names)
            axis.errorbar(own[size], own["speedup"], yerr=reach, label=style.plain(estimator), capsize=2, **looks)
        axis.axhline(1, color=style.QUIET, linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="d, unlimited draws" if size == "dim" else "n")
    axes[0].set_ylabel("CPU seconds / GPU seconds")
    style.legend(figure, axes)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gpu", type=Path, metavar="RUN_GPU")
    parser.add_argument("cpu", type=Path, metavar="RUN_CPU")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of speedup.txt and speedup.png")
    given = parser.parse_args()
    gpu, cpu = read(given.gpu), read(given.cpu)
    records = [{record.cell.key: record for record in run.records} for run in (gpu, cpu)]
    found = speedups(gpu.frame(), cpu.frame(), *records)
    devices = sorted(set(found["device"]) - {"", "cpu"})
    threads = sorted({record.provenance.threads for record in records[1].values()})
    lines = [
        f"GPU: {', '.join(devices)}; CPU threads: {', '.join(map(str, threads))}; compilation excluded."
        if devices
        else "No fit of RUN_GPU computed on a GPU: the ratios below are of two runs on a CPU, and no speed-up.",
        "",
        table(found),
        "",
        *pays(found),
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "speedup.txt").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("\n".join(lines))
    if devices:
        draw(found, given.out / "speedup.png")


if __name__ == "__main__":
    main()
