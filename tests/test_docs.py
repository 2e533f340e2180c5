"""What the documentation is filled with and quotes: registered names, the schema, measured numbers."""

import importlib.util
import re
from pathlib import Path

import pytest

import mongebench as mb
from mongebench.check import CHECKS
from mongebench.run.record import Record, Status

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("estimators", mb.estimators),
        ("problems", mb.problems),
        ("metrics", mb.metrics),
        ("api", lambda: sorted(mb.__all__)),
    ],
)
def test_a_page_has_whatever_is_registered(hooks, page, names) -> None:
    filled = hooks.fill((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert "<!-- generated" not in filled
    sections = re.findall(r"^## `(\w+)` \{#\1\}$", filled, flags=re.MULTILINE)
    assert sections == names()
    defined = re.findall(r"\{#([\w-]+)\}$", filled, flags=re.MULTILINE)
    assert len(defined) == len(set(defined))
    assert set(re.findall(r'href="#([\w-]+)"', filled)) <= set(defined)


def test_parameters_that_a_base_class_documents_can_be_found(hooks) -> None:
    filled = hooks.estimators()
    assert '<a href="#Stepwise"><code>Stepwise</code></a>' in filled
    assert "### `Stepwise` {#Stepwise}" in filled
    assert '<p class="item"><code>learning_rate</code></p>' in filled


def test_other_packages_are_escaped_and_those_that_cannot_be_imported_are_kept(hooks, tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(
        "import mongebench as mb\n\nclass Mine(mb.MapEstimator):\n"
        '    """A <script>alert(1)</script> of mine."""\n\n    needs = frozenset()\n\n'
        "    def __init__(self, a='</code><b>'):\n        self.a = a\n\n"
        "    def fit(self, source, target, *, seed=0, trace=None):\n        return self\n\n"
        "    def transform(self, X):\n        return X\n"
    )
    mine = hooks.Plugin("mine", hooks.ESTIMATORS, str(path), "Mine", "mine")
    broken = hooks.Plugin("broken", hooks.ESTIMATORS, "no_such_package_at_all", "Broken", "theirs")
    monkeypatch.setattr(hooks, "available", lambda group: {"broken": broken, "mine": mine})
    filled = hooks.estimators()
    assert "<script>" not in filled
    assert "<b>" not in filled
    assert "&lt;script&gt;" in filled
    assert "## `broken` {#broken}" in filled
    assert "not installed" in filled


def test_the_schema_is_whole(hooks) -> None:
    filled = hooks.schema()
    for field in Record.model_fields:
        assert f"<code>{field}</code>" in filled
    for model in ("Cell", "Spec", "Manifest", "Value", "Times", "TracePoint", "Provenance"):
        assert f"### `{model}` {{#{model}}}" in filled
    assert "Sum of the steps tau" in filled  # what TracePoint says of a field
    assert all(f"<code>{status}</code>" in hooks.statuses() for status in Status)
    assert all(f"<code>{check}</code>" in hooks.checks() for check in CHECKS)


def test_the_parts_of_a_docstring(hooks) -> None:
    docstring = (
        "Solve a < b for `x`.\n\n    y = A x\n\nParameters\n----------\na\n    Left of *all*.\nb, c\n    Right.\n\n"
        "References\n----------\nSomebody 1900."
    )
    assert hooks.documentation(docstring, {"x": "#x"}).splitlines() == [
        '<p>Solve a &lt; b for <a href="#x"><code>x</code></a>.</p>',
        "<pre><code>y = A x</code></pre>",
        "<h3>Parameters</h3>",
        '<p class="item"><code>a</code></p>',
        '<p class="description">Left of *all*.</p>',
        '<p class="item"><code>b, c</code></p>',
        '<p class="description">Right.</p>',
        "<h3>References</h3>",
        "<p>Somebody 1900.</p>",
    ]


MEASURED = re.compile(r"`([\w()=., ]+)` ([0-9.]+ (?:± [0-9.]+(?:e-[0-9]+)?|\([0-9.]+ \.\. [0-9.]+\)))")
"""An estimator with its parameters, a number, and its standard error or interval."""


@pytest.mark.parametrize("name", ["choose", "reproduce"])
def test_numbers_are_those_of_the_file_that_their_row_cites(name) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and "](../results/" in line]
    assert rows
    for row in rows:
        cited = "\n".join((ROOT / "results" / file).read_text() for file in re.findall(r"results/(\w+\.txt)", row))
        quoted = MEASURED.findall(row)
        assert quoted, row
        assert row.count("±") == sum("±" in number for _, number in quoted), f"a number without its estimator: {row}"
        for estimator, number in quoted:
            lines = [line for line in cited.splitlines() if f"│ {estimator} " in line]
            assert any(f" {number} " in line for line in lines), f"{estimator} {number} is not in what this row cites"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), f"{page.name} links to {target}"
