"""The pages: links that resolve, nothing from a network, names that cannot harm, sizes that a browser opens at once."""

import json
import re
import runpy
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mongebench import cli
from mongebench.metrics.base import Value
from mongebench.report.figures import interactive
from mongebench.report.rates.inequalities import KL, MAP, MAP_BY_KL
from mongebench.report.site import pages, texts
from mongebench.report.tables import results
from mongebench.run.reading import Held, Run, read_run
from mongebench.run.record import Facts, Record, Status
from mongebench.run.store import Found, Invocation, Plan, PlannedCell, RunDirectory

from ..conftest import MANIFEST, PROVENANCE, TIMES, cell, exponential, report, sketch

HOSTILE = '"><img src=x onerror=alert(1)><b>'
REASON = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[dict] = []
        self.text = ""
        self._within = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = dict(attrs).get("type") or tag

    def handle_endtag(self, tag) -> None:
        self._within = ""

    def handle_data(self, data) -> None:
        if self._within == "application/json":
            self.data.append(json.loads(data))
        else:
            self.text += data


def parsed(folder: Path) -> dict[Path, Page]:
    found = {path: Page(path) for path in folder.glob("*.html")}
    assert found
    return found


def check_links(folder: Path) -> None:
    found = parsed(folder)
    for path, page in found.items():
        targets = [
            (name, value) for _, attrs in page.elements for name, value in attrs.items() if name in ("href", "src")
        ]
        assert targets
        for _, target in targets:
            if target == "data:,":
                continue
            assert not re.match(r"[a-z]+:|//|/", target), target
            name, _, fragment = target.partition("#")
            goal = folder / name if name else path
            assert goal.is_file(), target
            if fragment:
                assert fragment in {attrs.get("id") for _, attrs in found[goal].elements}, target


def check_harmless(folder: Path) -> None:
    for page in parsed(folder).values():
        for tag, attrs in page.elements:
            assert tag not in ("img", "b", "iframe", "object")
            assert not any(name.startswith("on") or name == "style" for name in attrs)
            if tag == "script":
                assert attrs.get("type") == "application/json" or attrs["src"].startswith("assets/")


def test_every_link_resolves_and_nothing_comes_from_a_network(real: Path) -> None:
    check_links(real / "site")
    check_harmless(real / "site")
    assets = real / "site" / "assets"
    for name in ("site.js", "site.css"):
        assert not re.search(
            r"https?:|fetch|XMLHttpRequest|import\(|url\(|@import|innerHTML", (assets / name).read_text("utf-8")
        )
    assert (assets / "plotly.min.js").stat().st_size > 1e6


def test_every_page_has_a_title_a_heading_a_language_and_labels(real: Path) -> None:
    for page in parsed(real / "site").values():
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == tags.count("title") == tags.count("main") == 1
        assert ("html", {"lang": "en"}) in page.elements
        assert all(attrs["scope"] for tag, attrs in page.elements if tag == "th")
        assert all(attrs.get("aria-label") for _, attrs in page.elements if attrs.get("role") in ("img", "region"))


def test_the_front_page_counts_and_ranks_what_the_frame_has(real: Path) -> None:
    rows = read_run(real / "run").frame()
    measured = rows["status"].isin([Status.OK, Status.AT_FLOOR]).sum()
    front = Page(real / "site" / "index.html")
    unsupported = (rows["status"] == Status.UNSUPPORTED).sum()
    said = f"{measured}/{len(rows) - unsupported} supported cells were measured, {unsupported} are unsupported"
    assert said in " ".join(front.text.split())
    assert "Linear map between sample Gaussians" in front.text  # the card of an estimator says what it is
    assert "rank 1 of 1" in front.text
    assert "sorting is the only estimator that serves all shared places" in front.text
    assert "over 2 fits of one instance, plus evaluation points" in front.text
    assert "4 unsupported" in front.text
    (data,) = [one for one in front.data if "rows" in one]
    assert sum(row[13] for row in data["rows"]) == measured
    assert sum(row[14] for row in data["rows"]) == len(rows)
    summary = results.aggregate(rows, "uvp")
    shown = sorted(row[9] for row in data["rows"] if row[9] is not None)
    assert shown == pytest.approx(sorted(summary["mean"].dropna()), rel=1e-4)


def test_pages_of_problems_and_estimators_say_what_they_are(real: Path) -> None:
    problem = Page(real / "site" / "problem-gaussian.html")
    for words in ("closed form", "the exact map is a formula", "Dowson and Landau"):
        assert words in problem.text, words
    names = {one["name"] for one in problem.data if "series" in one}
    assert names == {"clouds-1", "clouds-2", "error"}
    estimator = Page(real / "site" / "estimator-sorting.html")
    for words in ("Monotone map", "Santambrogio", "extrapolation", "one dimension only", "gaussian (d = 2)"):
        assert words in estimator.text, words


def test_the_command_of_a_result_runs_that_result_alone(real: Path) -> None:
    (data,) = [one for one in Page(real / "site" / "index.html").data if "rows" in one]
    words = shlex.split(data["rows"][5][19])
    assert words[:2] == ["mongebench", "run"]
    said = CliRunner().invoke(cli.app, [*words[1:], "--dry-run", "--out", str(real / "other")])
    assert "1 cells planned" in said.output


def redrawn(folder: Path) -> list[str]:
    """The names of the figures that the script draws again, each as it was."""
    before = {path: path.read_bytes() for path in folder.glob("*.png")}
    for path in before:
        path.unlink()
    runpy.run_path(str(folder / "draw_figures.py"))
    assert {path: path.read_bytes() for path in folder.glob("*.png")} == before
    return sorted(path.stem for path in before)


def test_the_script_draws_the_same_figures_again(real: Path) -> None:
    assert redrawn(real / "site" / "downloads") == ["clouds", "error", "summary"]


@pytest.fixture
def hostile(write_run):
    entries = [(cell(HOSTILE, seed=seed, tau=0.1, steps=20), exponential(2.0, 0.1)) for seed in (0, 1)]
    run = write_run([*entries, (cell("late", problem={"name": HOSTILE}), None), (cell("broken"), [])])
    for record in list(run.records()):
        if record.cell.estimator.name == "broken":
            run.write(record.model_copy(update={"status": Status.ERROR, "reason": REASON, "metrics": {}}))
        else:
            run.write(record, sketch())
    return run


def test_names_and_reasons_are_text_and_nothing_else(hostile, tmp_path) -> None:
    report(hostile.path, "--out", tmp_path / "site")
    check_links(tmp_path / "site")
    check_harmless(tmp_path / "site")
    front = Page(tmp_path / "site" / "index.html")
    assert HOSTILE in front.text
    assert REASON in front.text
    assert any(REASON in one["texts"] for one in front.data if "rows" in one)


def test_flows_have_a_page_with_the_line_of_the_theory(hostile, tmp_path) -> None:
    report(hostile.path, "--out", tmp_path / "site")
    page = Page(tmp_path / "site" / "rates.html")
    assert "of those that the inequality applies to" in page.text
    for inequality in (MAP, MAP_BY_KL, KL):
        assert texts.greek(inequality.formula) in page.text
        assert inequality.source in page.text
    assert page.text.count("2/2") == 1  # of the map: these records know no KL
    assert page.text.count("0/2") == 2
    (chart,) = [one for one in page.data if one.get("name") == "rate"]
    assert redrawn(tmp_path / "site" / "downloads") == ["anytime", "clouds", "error", "rate"]
    (theory,) = [one for one in chart["series"] if one["name"].startswith("theory")]
    assert theory["y"][-1] == pytest.approx(pytest.approx(0.0183156, rel=1e-3))
    anytime = [
        one for path in (tmp_path / "site").glob("problem-*") for one in Page(path).data if one.get("name") == "anytime"
    ]
    assert [axis["label"] for axis in anytime[0]["x"]] == ["flow time t", "oracle calls", "fit seconds"]


def test_a_chart_does_not_begin_with_an_axis_that_nothing_is_known_along(write_run, tmp_path) -> None:
    points = [point.model_copy(update={"flow_time": None}) for point in exponential(2.0, 0.1)]
    report(write_run([(cell("sinkhorn"), points)]).path, "--out", tmp_path / "site")
    (page,) = (tmp_path / "site").glob("problem-*")
    (anytime,) = [one for one in Page(page).data if one.get("name") == "anytime"]
    assert [axis["label"] for axis in anytime["x"]] == ["oracle calls", "fit seconds"]
    for one in anytime["series"]:
        assert one["x"][0] == [point.oracle_calls for point in points]
        assert len(one["x"]) == 2


def test_several_runs_are_one_and_the_later_record_holds(write_run, tmp_path) -> None:
    first = write_run([(cell("flow"), exponential(2.0, 0.1)), (cell("only_first"), [])]).path.rename(tmp_path / "first")
    second = write_run([(cell("flow"), exponential(4.0, 0.1)), (cell("late"), None)]).path
    rows = read_run(first, second).frame().set_index("estimator")
    assert list(rows.index) == ["flow", "only_first", "late"]
    assert rows.loc["flow", "uvp"] == pytest.approx(300 * 2.718281828 ** (-8))
    # A plan without its record does not hide the record of another run.
    assert read_run(second, first).frame().set_index("estimator").loc["flow", "status"] == "ok"


def test_a_folder_that_cannot_be_made_is_answered_with_a_sentence(write_run, tmp_path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    run = write_run([(cell("bures"), [])])
    with pytest.raises(pages.RunError, match="Cannot make the folder"):
        pages.build(read_run(run.path), tmp_path / "file" / "site")


def test_the_front_is_whoever_nobody_beats_in_both() -> None:
    assert interactive.front([3.0, 1.0, 2.0, 4.0], [1.0, 3.0, 5.0, 1.0]) == [1, 0]


def test_of_many_curves_each_view_keeps_some_and_early_seeds_go_first() -> None:
    items = [(view, seed) for view in range(100) for seed in range(5)]
    kept = interactive._fair(items, lambda item: item[0], lambda item: item[1])
    assert len(kept) == interactive.CURVES
    assert {view for view, seed in kept if seed == 0} == set(range(100))
    assert {seed for _, seed in kept} == {0, 1, 2}


def many(count: int) -> Run:
    """A run of that many records in memory, each with a trace, an eighth of them failed."""
    planned, records, trace = [], {}, exponential(2.0, 0.02)
    for index in range(count):
        problem = {"condition": index % 10, "dim": 2 ** (1 + index // 1000)}
        parameters = {"width": index // 20 % 10, "tau": 0.1, "units": 64, "family": "ridge"}
        made = cell(f"flow_{index % 20}", seed=index // 200 % 5, problem=problem, **parameters)
        facts = Facts(
            tier="source sampler + target potential",
            anchor=False,
            dim=made.problem.parameters["dim"],
            strong_convexity=1.0,
            truth_tier="closed_form",
        ).model_dump()
        failed = index % 8 == 0
        planned.append(PlannedCell(cell=made, manifest=MANIFEST, **facts))
        records[made.key] = Record(
            cell=made,
            manifest=MANIFEST,
            **facts,
            status=Status.ERROR if failed else Status.OK,
            reason=f"Cell {index} failed: {'because ' * 100}" if failed else "",
            metrics={} if failed else {"uvp": Value(1.0 + index % 7, 0.1, 1e-9), "l2_error": Value(0.01, 0.001, 1e-11)},
            times=TIMES,
            trace=trace,
            provenance=PROVENANCE,
        )
    plan, nowhere = Plan(invocation=Invocation(experiment="many"), cells=planned), RunDirectory("many")
    held = [Held(one, Found(records[one.cell.key]), plan, nowhere) for one in planned]
    return Run("many", [plan], {one.planned.cell.key: one for one in held})


@pytest.mark.long
def test_ten_thousand_records_are_pages_below_five_megabytes(tmp_path, benchmark) -> None:
    """All pages and figures, and each long reason once at most; `--benchmark-timer=time.process_time` says how fast."""
    benchmark.pedantic(pages.build, (many(10_000), tmp_path / "site"), rounds=1)
    check_links(tmp_path / "site")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "site").glob("*.html")}
    assert max(sizes.values()) < 5e6, sizes
    front = Page(tmp_path / "site" / "index.html")
    assert "8750/10000 supported cells" in front.text
    assert "1050 more reasons" in front.text
