"""Tables on the terminal.

Whatever comes from plugins and records is shown as it stands: markup is escaped, and what would steer the terminal is
replaced in `show`, which everything goes through.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from inspect import Parameter
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mongebench.check import Check, Outcome, Result
from mongebench.core.errors import UnknownName, one_of
from mongebench.core.oracle import tier
from mongebench.core.parameters import Field, expectation, fields
from mongebench.core.text import printable
from mongebench.plugins import DATASETS, ESTIMATORS, KINDS, METRICS, available, find, split_of
from mongebench.report.rates.inequalities import INEQUALITIES
from mongebench.report.rates.verdict import Verdict
from mongebench.report.tables import leaderboard, leaderboard_text
from mongebench.report.tables.results import (
    NO_GPU,
    Block,
    Shown,
    blocks,
    circumstances,
    exponents,
    legend,
    number,
    untimed,
)
from mongebench.run.frame import FIT_COLUMNS, TIME_COLUMNS
from mongebench.run.record import MEASURED, Record, State, Status
from mongebench.selection.choose import Selection


def results(rows: pd.DataFrame, metric: str | None = None) -> RenderableType:
    """One table per tier, problem and budget: estimators down, dimensions across, fit seconds at the largest.

    Without `metric`: UVP where the exact map is known, the energy distance where it is not.
    """
    return Group(*(_block(block) for block in blocks(rows, metric)), legend(rows, metric))


def _block(block: Block) -> Table:
    table = Table(title=escape(block.title), title_justify="left", title_style="bold")
    table.add_column("estimator", no_wrap=True)  # it tells the rows apart; numbers fold at their spaces
    for dim in block.dims:
        table.add_column(f"d = {dim}", justify="right")
    lines = list(block.lines())
    on_gpu = any(gpu not in ("", NO_GPU) for _, _, _, gpu, _ in lines)  # a constant column would only take room
    for head in ("fit s", "GPU s", "transform s") if on_gpu else ("fit s", "transform s"):
        table.add_column(head, justify="right", style="dim")
    for name, shown, fit, gpu, transform in lines:
        seconds = (fit, gpu, transform) if on_gpu else (fit, transform)
        table.add_row(escape(name), *("" if cell is None else _cell(cell) for cell in shown), *seconds)
    if floors := block.floors():
        table.add_row("floor", *floors, style="dim")
    return table


def _cell(cell: Shown) -> str:
    style = {"failed": "yellow", "unsupported": "dim"}.get(cell.kind)
    text = f"[{style}]{cell.text}[/{style}]" if style else cell.text
    return f"{text} [dim]{cell.count}[/dim]"


def board(rows: pd.DataFrame) -> RenderableType:
    """The leaderboard, a table per tier; what a terminal has no room for is in an export and a report."""
    parts: list[RenderableType] = []
    for shown in leaderboard_text.shown(leaderboard.board(rows)):
        table = Table(title=escape(shown.title), title_justify="left", title_style="bold")
        for place in shown.FEW:
            table.add_column(escape(shown.headings[place]), no_wrap=place < 2, overflow="fold")
        for line in shown.lines:
            cells = shown.cells(line)
            table.add_row(*(escape(cells[place]) for place in shown.FEW))
        parts.append(table)
    return Group(*parts, escape(leaderboard_text.legend(rows)))


def costs(rows: pd.DataFrame, metric: str | None = None) -> RenderableType:
    """Fitted exponents in n: of fit seconds, on the CPU and on a GPU, or of one metric or time."""
    timed = metric is None or metric in TIME_COLUMNS
    if timed and (told := untimed(rows)):
        return told
    what = metric or "fit seconds"
    headings = (f"{metric or 'fit s'} at the largest n", "GPU s at it")
    columns = (metric,) if metric else FIT_COLUMNS
    found = [(column, row) for column in columns for row in exponents(rows, column).to_dict("records")]
    if not found:
        return f"No estimator was measured at three or more sizes: there is no exponent of {what} to fit."
    table = Table(title=f"{what} ~ n^exponent", title_justify="left", title_style="bold")
    for name in ("estimator", "problem", "d", "n", "exponent (95 %)", *headings[: len(columns)], "n_ok/n_planned"):
        table.add_column(name, justify="left" if name in ("estimator", "problem") else "right")
    elsewhere = {FIT_COLUMNS[1]: NO_GPU}
    for column, row in found:
        table.add_row(
            escape(row["estimator"]),
            escape(row["problem"]),
            str(int(row["dim"])),
            row["sizes"],
            f"{row['exponent']:.2f} ({row['low']:.2f} .. {row['high']:.2f})",
            *(number(row["largest"]) if own == column else elsewhere.get(own, "") for own in columns),
            f"{row['n_ok']}/{row['n_planned']}",
        )
    if not timed:
        return table
    excluded = "; compilation and the drawing of samples excluded" if what.startswith("fit") else ""
    return Group(table, f"{what} {circumstances(rows)}{excluded}")


def rates(rows: pd.DataFrame) -> RenderableType:
    """Verdicts of `flows.frame`: a table per problem, a row per flow and inequality over seeds; why; how many hold."""
    groups = [group for _, group in rows.groupby(["problem", "dim", "budget"], sort=False)]
    held = [inequality for inequality in INEQUALITIES if inequality.name in set(rows["inequality"])]
    return Group(
        *(_flows(group) for group in groups),
        _reasons(rows),
        _kept(groups, list(dict.fromkeys(rows["estimator"]))),
        "The inequalities, D = KL(T#mu0 | gamma), norms of L2(mu0), at every t up to the horizon:",
        *(escape(f"  {one.name}: {one.formula} ({one.source})") for one in held),
        "C: the factor on the right that the trace would need, the worst of its seeds, with a 95 % band over all "
        "points of that trace together (noise of batches and of evaluation points). rate: of e^{-rate t} fitted to the "
        "left, no part of the verdict; the mean over seeds. steps: in flow time; two where the same fit at half the "
        "step is in the run: then all is about the limit of short steps. Implicit steps without one are held against "
        "their own bound, (1 + lambda tau)^-2 per step in place of e^{-2 lambda tau}; where they break it for the map, "
        "it is said whether they keep the factor of proposition 3.1 (as reported of v3), (1 + lambda^2 tau^2 / 4)^-1.",
    )


def _flows(block: pd.DataFrame) -> Table:
    """Those of one problem."""
    convexity = block["strong_convexity"].iloc[0]
    known = "not known" if pd.isna(convexity) else f"{number(convexity)}, 2 lambda = {number(2 * convexity)}"
    horizon = block["horizon"].iloc[0]
    up_to = "the end of each trace" if pd.isna(horizon) else f"t = {number(horizon)}"
    title = escape(f"{_place(block)}\nlambda = {known}; up to {up_to}")
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("estimator", "steps", "inequality", "seeds", "rate", "C (95 %)", "verdicts"):
        table.add_column(column, justify="right" if column == "seeds" else "left", no_wrap=column == "verdicts")
    for _, flow in block.groupby(["estimator", "steps", "instance"], sort=False):
        for place, (name, own) in enumerate(flow.groupby("inequality", sort=False)):
            first = own.iloc[0]
            table.add_row(
                *((escape(first["estimator"]), first["steps"]) if place == 0 else ("", "")),
                escape(str(name)),
                str(len(own)),
                _mean_rate(own),
                _with_interval(_worst(own), "constant", "constant_low", "constant_high"),
                _verdicts(own["verdict"]),
            )
    return table


def _worst(own: pd.DataFrame) -> dict[str, Any]:
    """The row of the largest C; the first where there is none."""
    ordered = own.sort_values("constant", ascending=False, kind="stable") if "constant" in own else own
    return {str(name): value for name, value in ordered.iloc[0].items()}


def _mean_rate(own: pd.DataFrame) -> str:
    known = own["rate"].dropna() if "rate" in own else own["seed"].iloc[:0]
    return number(float(known.mean())) if len(known) else ""


def _with_interval(row: dict[str, Any], *names: str) -> str:
    if pd.isna(row.get(names[0])):
        return ""
    value, low, high = (number(row[name]) for name in names)
    return f"{value} ({low} .. {high})"


def _verdicts(found: pd.Series) -> str:
    """How many seeds have which; one word where all agree."""
    counts = Counter(found)
    words = [f"{verdict}{f' {count}' if len(counts) > 1 else ''}" for verdict, count in counts.most_common()]
    style = "default" if set(counts) == {str(Verdict.HOLDS)} else "yellow"
    return f"[{style}]{', '.join(words)}[/{style}]"


def _reasons(rows: pd.DataFrame) -> Table:
    """Why flows have their verdicts: for each of them, the sentence of its worst seed."""
    table = Table(title="why (of seeds with the same verdict, that with the largest C)", title_justify="left")
    table.title_style = "bold"
    for name in ("problem", "estimator", "inequality", "seeds", "reason"):
        table.add_column(name, overflow="fold", justify="right" if name == "seeds" else "left")
    one_flow = ["problem", "dim", "budget", "estimator", "steps", "instance", "inequality", "verdict"]
    for _, same in rows.groupby(one_flow, sort=False):
        row = _worst(same)
        place = f"{row['problem']}, d = {row['dim']}"
        said = row["reason"] if row["reason"].startswith(str(row["verdict"])) else f"{row['verdict']}: {row['reason']}"
        seeds = _ranges(sorted(set(same["seed"])))
        table.add_row(escape(place), escape(row["estimator"]), escape(row["inequality"]), seeds, escape(said))
    return table


def _ranges(whole: Sequence[int]) -> str:
    """0, 1, 2, 5 -> "0-2, 5"."""
    runs: list[list[int]] = []
    for one in whole:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _kept(groups: list[pd.DataFrame], names: list[str]) -> Table:
    """Traces that keep their bounds, problems and inequalities down, estimators across."""
    table = Table(
        title="traces that keep the bound, of those planned that it speaks of",
        title_justify="left",
        title_style="bold",
    )
    for name in ("problem", "inequality", *names):
        table.add_column(escape(name), justify="left" if name in ("problem", "inequality") else "right")
    for group in groups:
        for place, (inequality, own) in enumerate(group.groupby("inequality", sort=False)):
            spoken = own[own["verdict"] != Verdict.NOT_APPLICABLE]
            owned = [spoken.loc[spoken["estimator"] == name, "verdict"] for name in names]
            shown = [f"{(one == Verdict.HOLDS).sum()}/{len(one)}" if len(one) else "" for one in owned]
            table.add_row("" if place else escape(_place(group)), escape(str(inequality)), *shown)
    return table


def _place(block: pd.DataFrame) -> str:
    first = block.iloc[0]
    return f"{first['problem']}, d = {first['dim']}, {first['budget']}"


def status(rows: pd.DataFrame) -> RenderableType:
    """How many cells have which status, and the reasons of those that were not measured."""
    table = Table(title=f"{len(rows)} cells planned", title_justify="left", title_style="bold")
    for name in ("status", "cells", "meaning"):
        table.add_column(name, justify="right" if name == "cells" else "left")
    counts = Counter(rows["status"])
    for state in (*Status, *State):
        if counts[state]:
            table.add_row(str(state), str(counts[state]), state.meaning)
    failures = rows[~rows["status"].isin([*MEASURED, State.MISSING])]
    if failures.empty:
        return table
    reasons = Table(title="reasons", title_justify="left", title_style="bold")
    for name in ("status", "estimator", "problems", "cells", "reason"):
        reasons.add_column(name, overflow="fold")
    for key, group in failures.groupby(["status", "estimator", "reason"], sort=False):
        state, estimator, reason = (escape(str(part)) for part in key)
        reasons.add_row(state, estimator, escape(", ".join(group["problem"].unique())), str(len(group)), reason)
    return Group(table, reasons)


def record(found: Record) -> RenderableType:
    """One record, readable."""
    table = Table(title=escape(found.cell.label), title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("value", overflow="fold")
    table.add_row("status", escape(f"{found.status}: {found.reason or found.status.meaning}"))
    table.add_row("tier", escape(found.tier))
    for name, value in found.metrics.items():
        shown = f"{number(value.value)} ± {number(value.standard_error)}, floor {number(value.floor)}"
        table.add_row(escape(name), shown)
    if found.times:
        phases = found.times.model_dump(exclude={"fits", "transform_points"}, exclude_none=True)
        table.add_row("seconds", ", ".join(f"{name} {number(s)}" for name, s in phases.items()))
    if found.times and found.times.fit_iqr is not None:
        fits, median, spread = len(found.times.fits), number(found.times.fit_median), number(found.times.fit_iqr)
        table.add_row("repeats", f"{fits} fits, median {median} s, interquartile range {spread} s")
    for name, size in (("peak memory", found.peak_bytes), ("peak memory of the GPU", found.gpu_peak_bytes)):
        if size is not None:
            table.add_row(name, f"{size / 2**20:.0f} MiB")
    table.add_row("compile cache", found.compile_cache)
    for name, content in (("oracle counts", found.oracle_counts), ("learned", found.learned)):
        table.add_row(name, escape(", ".join(f"{key} {value}" for key, value in content.items())))
    for warning in found.warnings:
        table.add_row("warning", escape(warning))
    for name, value in found.provenance.model_dump().items():
        table.add_row(name, escape(str(value)))
    return table


def registered(name: str) -> RenderableType:
    """Documentation of an estimator, problem or metric: docstring, tier, parameters with their defaults."""
    groups = [group for group in KINDS if name in available(group)]
    if not groups:
        names = [other for group in KINDS for other in available(group)]
        raise UnknownName(one_of(name, names, "name"))
    parts: list[RenderableType] = []
    for group in groups:
        plugin = find(group, name)
        found = plugin.load()
        facts = [f"{KINDS[group]} {name}, from {plugin.origin}"]
        if group == ESTIMATORS:
            facts.append(f"tier with these defaults: {tier(found().needs)}")
            facts.append(f"claims: {', '.join(sorted(found.claims)) or 'none'}")
            facts.append(f"map back: {'inverse_transform' if found.invertible else 'none'}")
        if group == DATASETS:
            facts.append(f"split: {split_of(name)}")
        if group == METRICS:
            facts.append(f"unit: {found.unit or 'none'}; {found.direction} is better; needs T*: {found.needs_truth}")
        else:
            facts += [_parameter(name, field) for name, field in fields(found).items()]
        parts.append(Text("\n".join([*facts, "", inspect.getdoc(found) or ""])))
    return Group(*parts)


def _parameter(name: str, field: Field) -> str:
    """`name = default: what it may be`."""
    default = "" if field.default is Parameter.empty else f" = {field.default!r}"
    return f"{name}{default}" + ("" if field.adapter is None else f": {expectation(field.annotation)}")


def checks(name: str, results: Sequence[Result]) -> RenderableType:
    """How each check of an estimator ended; of those that failed also why it matters and how to mend it."""
    table = Table(title=escape(name), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("says")
    colours = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}
    for result in results:
        says = result.reason
        if result.outcome is Outcome.FAILED:
            says += f"\nWhy: {result.check.why}\nHow to fix: {result.check.mend}"
        table.add_row(result.check.name, Text(result.outcome, colours[result.outcome]), escape(says))
    counts = Counter(result.outcome for result in results)
    return Group(table, f"{len(results)} checks: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome))


def selection(found: Selection) -> RenderableType:
    """The table of a selection: what each estimator lacks to the best one, and how sure that is."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("estimator", no_wrap=True)
    for column in ("behind, %", "first in", "energy distance", "its floor", "pairs turned, %", "fit s"):
        table.add_column(column, justify="right", no_wrap=column.startswith("behind"))
    for place, row in enumerate(found.table.to_dict("records")):
        if row["reason"]:
            table.add_row(row["estimator"], escape(row["reason"]))
            continue
        table.add_row(
            row["estimator"],
            f"{row['excess']:.3g} +- {row['excess_se']:.2g}" if place else "0",
            f"{row['best_share']:.0%}",
            f"{row['energy_distance']:.3g}",
            f"{row['energy_distance_floor']:.3g}",
            f"{100 * row['monotonicity_violation']:.2g}",
            f"{row['seconds']:.2g}",
        )
    told = (
        "Behind: how far the held-out semi-dual value is below the best, in percent of the target's variance, "
        "+- its standard error."
    )
    return Group(table, told)


def catalogue(checks: Iterable[Check]) -> RenderableType:
    """What each check asks, why, and how to mend what fails it."""
    parts = [
        Text.assemble((check.name, "bold"), f"\n  {check.what}\n  Why: {check.why}\n  How to fix: {check.mend}\n")
        for check in checks
    ]
    return Group(*parts)


class _Printable:
    """What is shown, without the control characters that texts in it may hold: the console's own styles come later."""

    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def show(renderable: RenderableType) -> None:
    """Print to standard output."""
    Console().print(_Printable(renderable))
