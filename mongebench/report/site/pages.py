"""The report: a folder of pages that open from disk, without a network, and that harmful names cannot harm.

Pages are rendered by jinja2, which escapes every text; what scripts show, they show as text. The only scripts are our
own and a copy of plotly's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mongebench.plugins import DATASETS, ESTIMATORS, SHOWN, available
from mongebench.report.figures import interactive, pictures, printed
from mongebench.report.figures.printed import inline
from mongebench.report.rates import flows
from mongebench.report.rates.flows import WORST_FIRST
from mongebench.report.rates.inequalities import INEQUALITIES, KL, MAP
from mongebench.report.rates.verdict import Verdict
from mongebench.report.site import texts
from mongebench.report.site.docstrings import paragraphs
from mongebench.report.tables import exports, leaderboard, leaderboard_text, results
from mongebench.report.tables.formats import Format
from mongebench.run.frame import notes
from mongebench.run.reading import Run
from mongebench.run.record import MEASURED, Record, Status, meaning
from mongebench.run.store import RunError, write_atomically

TRUTHS = {
    "closed_form": "the exact map is a formula",
    "by_construction": "the target is the source pushed by a known gradient of a convex function",
    "certified": "the exact map was computed numerically, with a bound on its own error",
    "none": "the exact map is unknown, and only distances between the pushed source and the target are measured",
}
WHY = 300
"""Characters of a reason that a page shows; the exports hold it whole."""
REASONS, VERDICTS = 200, 500
"""Lines of the table of failures and of that of rates."""


def build(
    run: Run, out: Path, figures: Sequence[Path] = (), progress: Callable[[str], None] = lambda sentence: None
) -> Path:
    """Write the report of some runs into a folder; its front page.

    Its printed figures are drawn, unless they are given as files. `progress` is told what is being done.

    Raises `RunError` where the folder cannot be made or written, or where one in it is a link: what that leads to is no
    part of the report.
    """
    try:
        for folder in (out, out / "assets", out / "downloads"):
            if folder != out and folder.is_symlink():
                raise RunError(f"{folder} is a link, and what it leads to would be overwritten; remove it.")
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make the folder {out}: {error.strerror}.") from error
    _Site(run, out, figures, progress).write()
    return out / "index.html"


class _Site:
    """One report in the making."""

    def __init__(self, run: Run, out: Path, figures: Sequence[Path], progress: Callable[[str], None]) -> None:
        self.run, self.out, self.figures, self.progress = run, out, figures, progress
        progress("Ranking the estimators")
        self.cells = {planned.cell.key: planned for planned in run.plan.cells}
        self.rows = run.frame()
        self.places = interactive.with_choices(leaderboard.places(self.rows), self.rows)
        self.board = leaderboard.board(self.rows)
        anchors = self.rows.loc[self.rows["anchor"], "estimator"].unique().tolist()
        self.look_of = interactive.looks(self.rows["estimator"].unique().tolist(), anchors)
        self.problems = _pages("problem", self.rows["problem"])
        self.estimators = _pages("estimator", self.rows["estimator_name"])
        try:
            self.flows = flows.flows(run)
        except RunError:  # no estimator here follows a flow
            self.flows = []
        self.environment = Environment(
            loader=PackageLoader("mongebench.report.site"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {
            "number": results.known_number,
            "paragraphs": paragraphs,
            "greek": texts.greek,
            "coded": texts.coded,
        }
        self.environment.globals |= {
            "problems": self.problems,
            "estimators": self.estimators,
            "has_rates": bool(self.flows),
            "hand_set": results.hand_set(self.rows),
            "spread": results.spread(self.rows),
            "recorded": len(run.records),
            "cells_planned": len(self.cells),
            "experiments": ", ".join(dict.fromkeys(Path(plan.invocation.experiment).stem for plan in run.plans)),
        }

    def write(self) -> None:
        """Every page and file."""
        self._assets()
        self.progress("Drawing the figures")
        downloads = self._downloads()
        self._page(
            "index.html",
            said=[*leaderboard_text.verdict(self.board, self.rows), *notes(self.rows)],
            n_ok=int(self.rows["status"].isin(MEASURED).sum()),
            n_supported=int((self.rows["status"] != Status.UNSUPPORTED).sum()),
            n_unsupported=int((self.rows["status"] == Status.UNSUPPORTED).sum()),
            cards=self._cards(),
            legend=leaderboard_text.legend(self.rows),
            boards=leaderboard_text.shown(self.board),
            data=self._data(self.places),
            charts=_drawn(interactive.errors(self.places, self.look_of)),
            failures=_failures(self.rows),
            downloads=downloads,
            facts={problem: self._facts(problem) for problem in self.problems},
        )
        for problem, page in self.problems.items():
            self._problem(problem, page)
        for estimator, page in self.estimators.items():
            self._estimator(estimator, page)
        if self.flows:
            self._rates()

    def _rates(self) -> None:
        """The verdicts, those that say something against a flow first."""
        verdicts = flows.frame(self.run)
        write_atomically(self.out / "downloads" / "rates.csv", verdicts.to_csv(index=False))
        spoken = verdicts["verdict"] != Verdict.NOT_APPLICABLE
        beyond, verdicts = verdicts[~spoken], verdicts[spoken]
        order = verdicts["verdict"].map({str(verdict): place for place, verdict in enumerate(WORST_FIRST)})
        shown = verdicts.loc[order.fillna(-1).sort_values(kind="stable").index[:VERDICTS]]
        self._page(
            "rates.html",
            verdicts=_dictionaries(shown),
            verdicts_of={
                str(verdict): verdict.meaning for verdict in WORST_FIRST if verdict in set(verdicts["verdict"])
            },
            counts={
                one: verdicts.loc[verdicts["inequality"] == one.name, "verdict"].value_counts().to_dict()
                for one in INEQUALITIES
                if one.name in set(verdicts["inequality"])
            },
            beyond=beyond["reason"].value_counts().to_dict(),
            spoken=len(verdicts),
            planned=len(verdicts) + len(beyond),
            horizon=self.run.plan.horizon,
            meanings={str(verdict): verdict.meaning for verdict in Verdict},
            charts=_drawn(
                interactive.rate(self.flows, self.look_of, MAP), interactive.rate(self.flows, self.look_of, KL)
            ),
        )

    def _page(self, template: str, page: str | None = None, **content: Any) -> None:
        self.progress(f"Writing {page or template}")
        text = self.environment.get_template(f"{template}.j2").render(page=page or template, **content)
        write_atomically(self.out / (page or template), text)

    def _assets(self) -> None:
        """Our script and style, and plotly's script from the installed package."""
        folder = self.out / "assets"
        own = resources.files("mongebench.report.site") / "templates"
        plotly = resources.files("plotly") / "package_data"
        for source in (own / "site.js", own / "site.css", plotly / "plotly.min.js"):
            write_atomically(folder / source.name, source.read_bytes())

    def _downloads(self) -> list[str]:
        """Tables and printed figures; their paths from the front page."""
        folder = self.out / "downloads"
        for format in Format:
            exports.write(self.rows, format, folder / f"results.{format.suffix}")
        for path in self.figures:
            write_atomically(folder / path.name, path.read_bytes())
        if not self.figures:
            printed.draw(self.run, folder)
        exports.archive(self.run, folder / "records.zip")
        script = resources.files("mongebench.report.site") / "templates" / "draw_figures.py"
        write_atomically(folder / script.name, script.read_bytes())
        return sorted(f"downloads/{path.name}" for path in folder.iterdir() if path.suffix != ".png")

    def _data(self, places: pd.DataFrame) -> dict[str, Any]:
        """What `site.js` makes tables and leaderboards of: each text once, rows of numbers and indices."""
        numbered: dict[str, int] = {}

        def index(text: str) -> int:
            return numbered.setdefault(text, len(numbered))

        rows = [
            [
                index(place["tier"]),
                index(place["estimator"]),
                index(self.estimators[place["estimator_name"]]),
                int(place["anchor"]),
                index(place["problem"]),
                index(self.problems[place["problem"]]),
                place["dim"],
                index(place["budget"]),
                index(place["metric"]),
                *interactive.rounded([place["mean"], place["fit_seconds"], place["ratio"], place["worst"]]),
                place["n_ok"],
                place["n_planned"],
                index(shown.text),
                index(shown.kind),
                index(", ".join(f"{count} {status}" for status, count in place["failures"].items())),
                index(_short(place["reason"])),
                self.run.invocation(self.cells[place["key"]].cell).command(self.cells[place["key"]].cell),
                *interactive.rounded([place["gpu_fit_seconds"], place["transform_seconds"]]),
                int(place["lost"]),
                int(place["against"]),
                int(place["specialist"]),
                int(place["counts"]),
                index(place["setting"]),
            ]
            for place, shown in ((place, results.Shown.of(place)) for place in _dictionaries(places))
        ]
        return {"texts": list(numbered), "rows": rows}

    def _facts(self, problem: str) -> dict[str, Any]:
        """What is known of a problem in all the dimensions it was run in."""
        own = self.rows[self.rows["problem"] == problem]
        convexity = own.groupby("dim")["strong_convexity"].first().dropna()
        return {
            "name": own["problem_name"].iloc[0],
            "truth": own["truth_tier"].iloc[0],
            "truth_means": TRUTHS.get(own["truth_tier"].iloc[0], ""),
            "dims": sorted(int(dim) for dim in own["dim"].unique()),
            "budgets": list(own["budget"].unique()),
            "convexity": dict(zip(convexity.index.tolist(), convexity.tolist(), strict=True)),
            "n_ok": int(own["status"].isin(MEASURED).sum()),
            "n_planned": len(own),
            "parameters": own["problem_parameters"].unique().tolist(),
        }

    def _cards(self) -> list[dict[str, Any]]:
        """What the front page says of each estimator: its equation, where it stands in its tier, and what failed."""
        found = []
        for name, page in self.estimators.items():
            lines = [line for line in self.board if line["estimator_name"] == name]
            own = self.rows[(self.rows["estimator_name"] == name) & (self.rows["status"] != Status.UNSUPPORTED)]
            line = lines[0]
            ranked = [one for one in self.board if one["tier"] == line["tier"] and one["group"] == "rival"]
            measured = int(own["status"].isin(MEASURED).sum())
            medians = self.places.loc[self.places["estimator_name"] == name, "ratio"]
            found.append(
                {
                    "name": SHOWN.get(name, name),
                    "page": page,
                    "what": _documentation(ESTIMATORS, name).partition("\n\n")[0],
                    "tier": "anchor, in every tier" if line["anchor"] else f"knows {line['tier']}",
                    "rank": f"rank {ranked.index(line) + 1} of {len(ranked)}" if line["group"] == "rival" else "",
                    "median": results.known_number(medians.median()),
                    "reference": line["reference"],
                    "failed": f"{len(own) - measured} of {len(own)} cells failed" if measured < len(own) else "",
                }
            )
        return found

    def _problem(self, problem: str, page: str) -> None:
        own, places = self.rows[self.rows["problem"] == problem], self.places[self.places["problem"] == problem]
        facts, look_of = self._facts(problem), self.look_of
        in_the_plane = [interactive.clouds(self._sketches(own[own["dim"] == dim]), dim, look_of) for dim in (1, 2)]
        self._page(
            "problem.html",
            page,
            problem=problem,
            facts=facts,
            documentation=_documentation(DATASETS, facts["name"]),
            data=self._data(places),
            recoloured=inline(recoloured) if (recoloured := pictures.recoloured(self.run, own)) else "",
            charts=_drawn(
                *in_the_plane,
                interactive.errors(places, look_of),
                interactive.anytime(self._traced(own), look_of),
            ),
        )

    def _sketches(self, rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], Any]]:
        """Of the first seed of each estimator and budget that has one."""
        seen = set()
        for estimator in results.row_order(rows["estimator"]):
            for row in _dictionaries(rows[rows["estimator"] == estimator]):
                place = (estimator, row["budget"])
                if place not in seen and (sketch := self.run.sketch(self.cells[row["key"]])) is not None:
                    seen.add(place)
                    yield row, sketch

    def _traced(self, rows: pd.DataFrame) -> list[tuple[dict[str, Any], Record]]:
        records = ((row, self.run.found[row["key"]].record) for row in _dictionaries(rows))
        return [(row, record) for row, record in records if record is not None and len(record.trace) > 1]

    def _estimator(self, name: str, page: str) -> None:
        own = self.rows[self.rows["estimator_name"] == name]
        places = self.places[self.places["estimator_name"] == name]
        labels = own.drop_duplicates("estimator_parameters")[["estimator", "estimator_parameters"]]
        self._page(
            "estimator.html",
            page,
            estimator=SHOWN.get(name, name),
            registered=name,
            tier=own["tier"].iloc[0],
            documentation=_documentation(ESTIMATORS, name),
            parameters=list(labels.itertuples(index=False, name=None)),
            boards=leaderboard_text.shown([line for line in self.board if line["estimator_name"] == name]),
            failures=_failures(own),
            data=self._data(places),
            charts=_drawn(interactive.errors(places, self.look_of)),
        )


def _dictionaries(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _drawn(*found: interactive.Chart | None) -> list[interactive.Chart]:
    return [chart for chart in found if chart is not None]


def _pages(kind: str, labels: Iterable[str]) -> dict[str, str]:
    """Label -> file name, safe in any file system and different for each."""
    pages: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        slug = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:60].lower() or "unnamed"
        taken = set(pages.values())
        name, count = f"{kind}-{slug}.html", 2
        while name in taken:
            name, count = f"{kind}-{slug}-{count}.html", count + 1
        pages[label] = name
    return pages


def _failures(rows: pd.DataFrame) -> dict[str, Any]:
    """Cells that were not measured, equal reasons together: the most frequent lines, and how many are left out."""
    failed = rows[~rows["status"].isin(MEASURED)]
    lines: list[dict[str, Any]] = [
        {
            "status": (status := str(group["status"].iloc[0])),
            "estimator": group["estimator"].iloc[0],
            "meaning": meaning(status),
            "where": ", ".join(
                f"{problem} (d = {', '.join(str(dim) for dim in sorted(block['dim'].unique()))})"
                for problem, block in group.groupby("problem", sort=False)
            ),
            "cells": len(group),
            "reason": _short(group["reason"].iloc[0]),
        }
        for _, group in failed.groupby(["status", "estimator", "reason"], sort=False)
    ]
    lines.sort(key=lambda line: -line["cells"])
    return {"lines": lines[:REASONS], "left_out": max(0, len(lines) - REASONS), "cells": len(failed)}


def _short(reason: str) -> str:
    return reason if len(reason) <= WHY else f"{reason[:WHY]} ..."


def _documentation(group: str, name: str) -> str:
    """The docstring of a registered name; empty where it is registered no more (a plugin of the run)."""
    plugin = available(group).get(name)
    return plugin.docstring() if plugin else ""
