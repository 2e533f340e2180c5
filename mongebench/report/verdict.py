"""What a run says, in sentences: who leads and how surely, what the largest dimension shows, and the measured rates."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mongebench.report.rates import flows
from mongebench.report.rates.inequalities import MAP
from mongebench.report.rates.verdict import Verdict
from mongebench.report.tables import leaderboard, leaderboard_text
from mongebench.report.tables.results import aggregate, number
from mongebench.run.reading import Run
from mongebench.run.store import RunError


def sentences(run: Run, rows: pd.DataFrame) -> list[str]:
    """Of a run and its frame: the board's verdict, the largest dimension of each family, the rates."""
    return [*leaderboard_text.verdict(leaderboard.board(rows), rows), *_largest_dimensions(rows), *_rates(run)]


def _largest_dimensions(rows: pd.DataFrame) -> Iterator[str]:
    """Where a family was measured in several dimensions: the lowest error of each tier, and that of doing nothing."""
    if "uvp" not in rows:
        return
    for (problem, budget), block in rows[rows["uvp"].notna()].groupby(["problem", "budget"], sort=False):
        dim = block["dim"].max()
        if block["dim"].nunique() == 1:
            continue
        there = aggregate(block[block["dim"] == dim], "uvp").sort_values("mean")
        spread = aggregate(block[block["dim"] == dim], "mmd_squared").set_index("estimator")
        best = [own.iloc[0] for _, own in there[~there["anchor"]].groupby("tier", sort=False)]
        said = [
            f"{one['estimator']} ({one['tier']}) has UVP {_with_error(one)} %{_also(spread.loc[one['estimator']])}"
            for one in best
        ]
        if not best:
            continue
        idle = there[there["estimator"] == "identity"]
        nothing = f"; doing nothing has UVP {_with_error(idle.iloc[0])} %" if len(idle) else ""
        yield f"Lowest errors on {problem} in d = {dim} ({budget}): {'; '.join(said)}{nothing}."


def _also(line: pd.Series) -> str:
    return "" if pd.isna(line["mean"]) else f" and MMD^2 {_with_error(line)}"


def _with_error(line: pd.Series) -> str:
    error = "" if pd.isna(line["standard_error"]) else f" ± {number(line['standard_error'])}"
    return f"{number(line['mean'])}{error}"


def _rates(run: Run) -> Iterator[str]:
    """For each problem that the theorem speaks of: how many flows keep e^{-2 lambda t}, and the fitted rates."""
    try:
        found = flows.frame(run)
    except RunError:  # no estimator here follows a flow
        return
    found = found[(found["inequality"] == MAP.name) & (found["verdict"] != Verdict.NOT_APPLICABLE)]
    for (problem, dim), own in found.groupby(["problem", "dim"], sort=False):
        lam = float(own["strong_convexity"].iloc[0])
        kept = own["verdict"] == Verdict.HOLDS
        fitted = own["rate"].dropna() if "rate" in own else own["dim"][:0]
        if fitted.empty:
            continue
        spread = " to ".join(dict.fromkeys(number(end) for end in (fitted.min(), fitted.max())))
        worst = own.sort_values("constant_high").iloc[-1]
        top, low, high = (number(worst[name]) for name in ("constant", "constant_low", "constant_high"))
        yield (
            f"{problem}, d = {dim}: {kept.sum()} of {len(own)} flows keep {MAP.formula} up to their horizon. The "
            f"measured rate is {spread}, where 2 lambda is {number(2 * lam)}; the curve closest to the line, that of "
            f"{worst['estimator']}, reaches {top} ({low} .. {high}, 95 %) of the bound."
        )
