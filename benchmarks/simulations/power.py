"""What `compare` and the gates of a night find, and how often they are wrong, on the records of the nightly run.

python benchmarks/simulations/power.py [RUNS] prints both tables; with --write it puts them into docs/protocol.md. A run
is repeated by code whose errors scatter and is as good on average; then a tenth of its places (for `compare`), or all
(for the gates), have a known factor more error. How the repetition scatters is one of three:

    exchanged    the records themselves: of two seeds of each instance one is the run before and one the run after, by
                 lot; no model, but other draws, which a comparison of one plan shares: the hardest case
    estimators   log errors correlated over fits as those of two different estimators of the run are, in the median
    same code    correlated by 0.9: an assumption, for the same method with other random numbers

"Before" is Student's t on paired differences under Bonferroni, and gates at the recorded mean plus four standard
errors, which the rules of today have replaced.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mongebench.report import gates
from mongebench.report.tables import results
from mongebench.report.tables.compare import Change, compare
from mongebench.report.tables.results import IDENTITY_COLUMNS
from mongebench.run.reading import read_run

ROOT = Path(__file__).resolve().parents[2]
PAGE, ARCHIVE = ROOT / "docs" / "protocol.md", ROOT / "results" / "nightly.zip"
FACTORS = (1.0, 1.2, 1.5, 2.0)
WORSE = 0.1
"""Share of the places that a comparison has to find."""
SAME_CODE = 0.9
FITS = (3, 5)
"""Fits a place, of one instance each."""
NEEDED = [
    *(*IDENTITY_COLUMNS, "key", "status", "seed", "instance", "problem_digest", "evaluation_points"),
    *("uvp", "uvp_se", "uvp_floor", "tier", "anchor"),
]
Frame = pd.DataFrame
Pair = Callable[[np.random.Generator], tuple[Frame, Frame]]


def measured(archive: Path = ARCHIVE) -> Frame:
    """What was measured of everybody but the anchors."""
    rows = read_run(archive).frame()
    return rows.loc[(rows["status"] == "ok") & ~rows["anchor"], NEEDED].reset_index(drop=True)


def alike(rows: Frame) -> float:
    """Median correlation of the log errors of two estimators over the fits of an instance."""
    found: list[float] = []
    for _, own in rows.groupby("problem", sort=False):
        logs = np.log(own.pivot_table(index=["instance", "seed"], columns="estimator", values="uvp"))
        logs = logs - logs.groupby("instance").transform("mean")
        logs = logs.loc[:, logs.var() > 0]
        found += logs.corr(min_periods=5).to_numpy()[np.triu_indices(logs.shape[1], 1)].tolist()
    return float(np.nanmedian(found))


def few(rows: Frame, fits: int) -> Frame:
    """So many fits per place: one of each of the first instances, or the first seeds of the one instance there is."""
    spots = rows.drop_duplicates(["problem", "instance", "seed"]).sort_values(["problem", "seed", "instance"])
    kept = spots.groupby("problem").head(fits)[["problem", "instance", "seed"]]
    return rows.merge(kept, on=["problem", "instance", "seed"])


def repeated(rows: Frame, together: float) -> Pair:
    """The run, and as new code of equal quality might repeat it: correlated with it over the fits of each place."""
    place = rows.groupby(IDENTITY_COLUMNS, sort=False).ngroup()
    within = rows.groupby([place, rows["instance"]], sort=False)["uvp"].transform(lambda own: np.log(own).std())
    over = np.log(rows["uvp"]).groupby(place).transform("std")
    scatter = np.sqrt((within**2).groupby(place).transform("mean")).fillna(over)

    def draw(rng: np.random.Generator) -> tuple[Frame, Frame]:
        noise = np.exp(np.sqrt(2 * (1 - together)) * scatter * rng.normal(size=len(rows)))
        return rows, rows.assign(uvp=rows["uvp"] * noise)

    return draw


def exchanged(rows: Frame) -> Pair:
    """Of two seeds of an instance, which all estimators share, one is before and one after."""
    spot = [*IDENTITY_COLUMNS, "instance"]
    own = rows[rows.groupby(spot, sort=False)["seed"].transform("size") == 2]
    own = own.assign(key=own[spot].astype(str).agg("|".join, axis=1))
    pairs = own[["problem", "instance"]].drop_duplicates().reset_index(drop=True)

    def draw(rng: np.random.Generator) -> tuple[Frame, Frame]:
        lots = pairs.assign(lot=rng.integers(2, size=len(pairs)))
        later = own.merge(lots, on=["problem", "instance"])["lot"].to_numpy() == own["seed"].to_numpy()
        return own[~later], own[later].set_index("key").loc[own.loc[~later, "key"]].reset_index()

    return draw


def situations(rows: Frame) -> Iterator[tuple[str, Pair]]:
    """Title -> what draws a pair of runs."""
    yield "two seeds of an instance exchanged, 5 instances a place", exchanged(rows)
    for what, together in ((f"correlation {alike(rows):.2g}, as of two estimators", alike(rows)), (None, SAME_CODE)):
        title = what or f"correlation {SAME_CODE:g}, the same code"
        for fits in FITS:
            yield f"{title}, {fits} fits per place", repeated(few(rows, fits), together)


def changed_before(first: Frame, second: Frame) -> np.ndarray:
    """Which places Student's t on paired differences calls changed under Bonferroni, in the order of the frames."""
    difference = second["uvp"].to_numpy() - first["uvp"]
    own = difference.groupby([first[name] for name in IDENTITY_COLUMNS], sort=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = own.mean() / own.sem()
    changed: np.ndarray = 2 * stats.t.sf(t.abs(), own.size() - 1) * len(t) < 0.05
    return changed


def tried(pair: Pair, factor: float, runs: int, seed: int) -> Frame:
    """A row per run: the share of worse places found before and after; for factor 1, whether anything was claimed."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        first, second = pair(rng)
        place = first.groupby(IDENTITY_COLUMNS, sort=False).ngroup()
        chosen = rng.random(place.max() + 1) < WORSE
        chosen[rng.integers(len(chosen))] = True
        grown = np.where(chosen[place], factor, 1.0)
        second = second.assign(uvp=second["uvp"].to_numpy() * grown)
        before = changed_before(first, second)
        change = compare(first, second)["change"]
        if factor == 1:
            found.append((before.any(), change.isin([Change.WORSE, Change.BETTER]).any()))
        else:
            found.append((before[chosen].mean(), (change == Change.WORSE).to_numpy()[chosen].mean()))
    return pd.DataFrame(found, columns=["before", "after"], dtype=float)


def gates_tried(rows: Frame, together: float | None, factor: float, runs: int, seed: int) -> Frame:
    """A row per run: the share of gates that break before and after, and of those of an estimator's places together."""
    rng = np.random.default_rng(seed)
    recorded = gates.record(rows)
    summary = results.aggregate(rows, "uvp")
    high = summary["mean"] + np.maximum(4 * summary["standard_error"].fillna(0), 0.1 * summary["mean"])
    old = summary[IDENTITY_COLUMNS].assign(metric="uvp", recorded=summary["mean"], n=summary["n_ok"], high=high)
    several = int(recorded["estimator"].value_counts().gt(1).sum())
    found = []
    for _ in range(runs if together is not None else 1):
        second = rows if together is None else repeated(rows, together)(rng)[1]
        second = second.assign(uvp=factor * second["uvp"])
        broken = gates.judge(second, recorded).broken
        overall = sum(" together: " in sentence for sentence in broken)
        shares = (len(broken) - overall) / len(recorded), overall / several
        found.append((len(gates.judge(second, old).broken) / len(old), *shares))
    return pd.DataFrame(found, columns=["before", "after", "together"])


def percent(*shares: float) -> str:
    return ", ".join(f"{100 * share:.3g} %" for share in shares)


def compare_table(rows: Frame, runs: int) -> list[list[str]]:
    """Lines of cells, the heading first."""
    lines = [["noise", "false claims", *(f"{factor:g} times" for factor in FACTORS[1:])]]
    for number, (title, pair) in enumerate(situations(rows)):
        shares = [tried(pair, factor, runs, 10 * number + k).mean() for k, factor in enumerate(FACTORS)]
        lines.append([title, *(percent(*share) for share in shares)])
    return lines


def gates_table(rows: Frame, runs: int) -> list[list[str]]:
    """Lines of cells, the heading first."""
    lines = [["noise", *(f"{factor:g} times" for factor in FACTORS)]]
    for number, together in enumerate((None, SAME_CODE, alike(rows))):
        title = "none: the same numbers" if together is None else f"correlation {together:.2g}"
        shares = [gates_tried(rows, together, factor, runs, 10 * number + k).mean() for k, factor in enumerate(FACTORS)]
        lines.append([title, *(percent(*share) for share in shares)])
    return lines


def page(lines: list[list[str]]) -> str:
    """A table of Markdown."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---|" + "---:|" * (len(lines[0]) - 1), *body])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="?", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="Put the tables into docs/protocol.md.")
    asked = parser.parse_args()
    rows = measured()
    tables = {"compare": page(compare_table(rows, asked.runs)), "gates": page(gates_table(rows, asked.runs // 10))}
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        print(f"{name}\n{table}\n")
        block = rf"(<!-- power: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(block, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
        if asked.write and not count:
            sys.exit(f"{PAGE} has no place for the table of {name}.")
    if asked.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
