"""Report and dashboard in a browser that has no network: opened from disk, filtered, drawn, without an error.

`make browser` installs what this needs; `pytest -m browser` runs it. Screenshots are kept in SCREENSHOTS, if set.
"""

import functools
import http.server
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mongebench import cli

from ..conftest import history, report
from .test_site import HOSTILE, hostile  # noqa: F401

pytestmark = pytest.mark.browser
# A fresh Chromium looks for updates and components; it finds no network, and says so.
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
DRAWN = ".main-svg .scatterlayer path"


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: make browser", exc_type=ImportError)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium: make browser"
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, as whom containers run; it opens only what these tests wrote.
        browser = playwright.chromium.launch(
            executable_path=program, args=[*QUIET, "--disable-component-update"], chromium_sandbox=os.getuid() != 0
        )
        yield browser
        browser.close()


class Tab:
    """A page whose complaints are kept, and whose requests to anything but its own origin are refused."""

    def __init__(self, browser, origin: str, **options) -> None:
        self.complaints: list[str] = []
        self.context = browser.new_context(**options)
        self.context.route("**/*", lambda route: self._ask(route, origin))
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)  # of a wait, not of what is tested: 10 s were too few on a busy machine
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )

    def _ask(self, route, origin: str) -> None:
        if route.request.url.startswith((origin, "data:", "blob:")):
            route.continue_()
        else:
            self.complaints.append(f"asked for {route.request.url}")
            route.abort()

    def close(self, name: str, *, whole: bool = True) -> None:
        """A picture, and nothing to complain of."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)
        self.context.close()
        assert self.complaints == []


@pytest.fixture
def open_tab(chromium):
    return functools.partial(Tab, chromium)


def draw_all(page) -> int:
    """Scroll to every figure, as a reader would, and wait until it is drawn; how many there are."""
    charts = page.locator("figure.chart")
    for index in range(charts.count()):
        charts.nth(index).scroll_into_view_if_needed()
        charts.nth(index).locator(DRAWN).first.wait_for(state="attached")
    return charts.count()


def chooser(page, label: str, within: str = "#filters"):
    return page.locator(f"{within} label", has_text=label).locator("select")


def test_the_report_filters_sorts_and_draws(real: Path, open_tab) -> None:
    tab = open_tab("file:", offline=True)
    page = tab.page
    page.goto((real / "site" / "index.html").as_uri())
    rows = page.locator("#results tbody tr")
    assert rows.count() == 16
    chooser(page, "dimension").select_option("2")
    assert rows.count() == 8
    assert "8 of 8 results shown; 12/16 of their cells" in page.locator("#shown").inner_text()
    chooser(page, "estimator").select_option("bures")
    assert rows.count() == 2
    chooser(page, "dimension").select_option("")
    page.get_by_role("button", name="fit s").click()
    assert page.locator("#results th[aria-sort=ascending]").inner_text() == "fit s"
    assert draw_all(page) == 1
    tab.close("report")


def test_every_page_of_the_report_draws_its_figures(real: Path, open_tab) -> None:
    drawn = {}
    for path in sorted((real / "site").glob("*.html")):
        tab = open_tab("file:", offline=True)
        tab.page.goto(path.as_uri())
        drawn[path.stem] = draw_all(tab.page)
        tab.close(f"report-{path.stem}")
    # The error against what the reader chooses; before it, on the problem's page, its clouds in d = 1 and 2.
    assert {page: count for page, count in drawn.items() if count} == {
        "index": 1,
        "problem-gaussian": 3,
        "estimator-sorting": 1,
    }


def test_a_phone_shows_the_report_without_scrolling_sideways(real: Path, open_tab) -> None:
    tab = open_tab("file:", offline=True, viewport={"width": 390, "height": 844})
    tab.page.goto((real / "site" / "index.html").as_uri())
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close("report-phone")


def test_what_is_chosen_holds_for_all_figures_and_is_kept_in_the_address(real: Path, open_tab) -> None:
    tab = open_tab("file:", offline=True, viewport={"width": 1400, "height": 900})
    page = tab.page
    page.goto((real / "site" / "problem-gaussian.html").as_uri())
    draw_all(page)
    error, line = (page.locator("figure.chart", has=page.locator(f"#{name}-title")) for name in ("error", "clouds-1"))

    def drawn(figure, selector: str) -> list[str]:
        return figure.locator(f".main-svg {selector}").all_text_contents()

    assert drawn(error, ".xtitle") == ["dimension d"]
    assert drawn(error, ".ytitle") == ["UVP (%)"]
    against = chooser(error, "against", ".choices")
    assert against.locator("option").all_inner_texts() == [
        "dimension d",
        "n, the smaller of the two budgets",
        "fit seconds",
    ]
    for label in ("n, the smaller of the two budgets", "fit seconds"):
        against.select_option(label=label)
        assert drawn(error, ".xtitle") == [label]
    chooser(error, "show", ".choices").select_option(index=1)
    assert "Pareto front" in drawn(error, ".legendtext")
    chooser(page, "quantity", "#shared").select_option("cosine")
    assert drawn(error, ".ytitle") == ["cosine"]
    assert "Pareto front" not in drawn(error, ".legendtext")  # that of the error
    assert drawn(line, ".ytitle") == ["T(x)"]
    before = error.locator(".scatterlayer .trace").count()
    page.locator("#shared summary").click()
    page.locator("#shared label", has_text="bures").click()
    # In the legend of one figure, by the mouse: it leaves all of them.
    error.locator(".legendtoggle").nth(drawn(error, ".legendtext").index("identity")).click()
    page.wait_for_function("location.hash.includes('hide=identity')")
    assert not page.locator("#shared label", has_text="identity").locator("input").is_checked()
    assert error.locator(".scatterlayer .trace").count() == before - 2
    view, address = drawn(error, ".annotation-text"), page.url
    assert "quantity=cosine" in address
    tab.close("chosen")

    again = open_tab("file:", offline=True, viewport={"width": 1400, "height": 900})
    again.page.goto(address)
    draw_all(again.page)
    figure = again.page.locator("figure.chart", has=again.page.locator("#error-title"))
    assert drawn(figure, ".annotation-text") == view
    assert (drawn(figure, ".xtitle"), drawn(figure, ".ytitle")) == (["fit seconds"], ["cosine"])
    again.page.locator("#shared summary").click()
    unchecked = again.page.locator("#shared label:has(input:not(:checked))")
    assert sorted(unchecked.all_inner_texts()) == ["bures", "identity"]
    again.close("chosen-again")


def fitted(folder: Path) -> Path:
    """The page of `mongebench fit`, of points in three dimensions; one estimator there is unsupported."""
    rng = np.random.default_rng(0)
    for name, shift in (("before", 0.0), ("after", 1.0)):
        points = rng.normal(shift, 1.0, (60, 3))
        np.savetxt(folder / f"{name}.csv", points, delimiter=",", header="height,weight,age", comments="")
    files = ("--source", str(folder / "before.csv"), "--target", str(folder / "after.csv"))
    asked = ("--estimator", "identity,bures,sorting", "--out", str(folder / "selection"))
    done = CliRunner().invoke(cli.app, ["fit", *files, *asked])
    assert done.exit_code == 0, done.output
    return folder / "selection" / "index.html"


def test_axe_finds_nothing_that_keeps_a_reader_out(real: Path, hostile, tmp_path, open_tab) -> None:  # noqa: F811
    """Every kind of page with its figures drawn, for a light and a dark system, at a desk and on a phone."""
    from axe_playwright_python.sync_playwright import Axe

    report(hostile.path, "--out", tmp_path / "site")
    kinds = ["index", "rates", "problem-gaussian", "estimator-broken"]
    own = fitted(tmp_path)
    pages = [real / "site" / "index.html", *(tmp_path / "site" / f"{kind}.html" for kind in kinds), own]
    found = []
    for path in pages:
        tab = open_tab("file:", offline=True)
        tab.page.goto(path.as_uri())
        for width, scheme in itertools.product((1400, 390), ("light", "dark")):
            tab.page.set_viewport_size({"width": width, "height": 844})
            tab.page.emulate_media(color_scheme=scheme)
            draw_all(tab.page)
            assert path != own or tab.page.evaluate("document.documentElement.scrollWidth") <= width
            # Its preload asks for the style sheet once more, which a browser refuses to a page from disk.
            said = Axe().run(tab.page, options={"resultTypes": ["violations"], "preload": False})
            if said.violations_count:
                found.append(f"{path.name}, {width} px, {scheme}: {said.generate_report()}")
        tab.close(f"axe-{path.parent.name}-{path.stem}")
    assert not found, "\n".join(found)


def test_hostile_names_are_shown_and_do_nothing(hostile, tmp_path, open_tab) -> None:  # noqa: F811
    report(hostile.path, "--out", tmp_path / "site")
    for name, figures in (("index", 0), ("rates", 1), ("problem-gaussian", 2)):
        tab = open_tab("file:", offline=True)
        tab.page.goto((tmp_path / "site" / f"{name}.html").as_uri())
        assert draw_all(tab.page) == figures
        assert HOSTILE in tab.page.locator("body").inner_text()
        assert tab.page.locator("img, b").count() == 0
        tab.close(f"hostile-{name}")


@pytest.fixture(params=["disk", "server"])
def dashboard(request, tmp_path, write_run) -> Iterator[str]:
    """The address of asv's pages of two commits."""
    history(tmp_path / "checkout", write_run)
    pages = tmp_path / "checkout" / "html"
    if request.param == "disk":
        yield (pages / "index.html").as_uri()
        return
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(pages))
    handler.func.log_message = lambda *words: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


def test_the_dashboard_shows_both_commits(dashboard: str, open_tab) -> None:
    scheme = dashboard.partition("index")[0] if dashboard.startswith("http") else "file:"
    tab = open_tab(scheme)
    page = tab.page
    page.goto(dashboard)
    # All six: asv complains of a curve that comes when its page is no longer shown.
    page.wait_for_function("document.querySelectorAll('.benchmark-container canvas.flot-overlay').length == 6")
    page.locator(".benchmark-container", has_text="track_uvp").click()
    page.locator("#main-graph canvas").first.wait_for()
    legend = page.locator("#main-graph .legendLabel")
    assert legend.all_inner_texts() == ["estimator-flow", "estimator-late"]
    page.locator("#graphdisplay-navigation").get_by_text("late", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#main-graph .legendLabel').length < 2")
    page.get_by_text("log scale", exact=True).click()
    page.get_by_text("Benchmark list").click()
    row = page.locator("#summarylist-body tr", has_text="track_uvp").filter(has_text="flow")
    row.wait_for()
    assert "98.2%" in row.inner_text()
    page.locator("#nav").get_by_text("Regressions").click()
    page.locator("#regressions-body").wait_for(state="attached")
    # A picture of the whole page resizes the window, and asv draws again what is not shown.
    tab.close(f"dashboard-{scheme[:4]}", whole=False)
