"""What mkdocs asks for at build time: pages filled from the code, results and experiments beside the pages.

A page asks with a line `<!-- generated: NAME -->`, where NAME is a function of `GENERATED`: what a docstring, a
registry or the schema says is written there and nowhere else. Whatever is registered where the site is built is on its
pages, other people's estimators too, so all of it is escaped.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import html
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mongebench as mb
from mongebench import plugins as registry
from mongebench.check import CHECKS
from mongebench.core.oracle import tier
from mongebench.core.parameters import parameters_of
from mongebench.core.problem import Split
from mongebench.plugins import DATASETS, ESTIMATORS, METRICS, SHOWN, Plugin, available, split_of
from mongebench.report.site.docstrings import paragraphs
from mongebench.report.tables import leaderboard
from mongebench.run import settings
from mongebench.run.record import Record, Status

DOCS = Path(__file__).resolve().parent

Links = dict[str, str]
"""What stands in backticks -> where it is explained."""


def inline(text: str, links: Links) -> str:
    """Escaped text, with what is in backticks as code, linked where it is explained."""

    def code(match: re.Match[str]) -> str:
        shown = f"<code>{match[1]}</code>"
        return f'<a href="{links[match[1]]}">{shown}</a>' if match[1] in links else shown

    return re.sub(r"`([^`]+)`", code, html.escape(text))


def documentation(docstring: str, links: Links, level: int = 3) -> str:
    """A docstring as HTML; headings of its sections are of that level."""
    parts = []
    for kind, content in paragraphs(docstring):
        if kind == "heading":
            parts.append(f"<h{level}>{html.escape(content)}</h{level}>")
        elif kind == "formula":
            parts.append(f"<pre><code>{html.escape(content)}</code></pre>")
        elif kind == "item":
            parts.append(f'<p class="item"><code>{html.escape(content)}</code></p>')
        elif kind == "description":
            parts.append(f'<p class="description">{inline(content, links)}</p>')
        else:
            parts.append(f"<p>{inline(content, links)}</p>")
    return "\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Rows of HTML cells."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def heading(level: int, name: str) -> str:
    """With an anchor that is the name itself; Markdown, because the table of contents is made of such."""
    return f"{'#' * level} `{name}` {{#{name}}}"


def signature(kind: str, name: str, function: Callable[..., Any]) -> str:
    """How it is made, with all its defaults."""
    lines = [
        f"    {key}," if parameter.default is inspect.Parameter.empty else f"    {key}={parameter.default!r},"
        for key, parameter in parameters_of(function).items()
    ]
    call = "\n".join([f"mb.{kind}(", f'    "{name}",', *lines, ")"]) if lines else f'mb.{kind}("{name}")'
    return f"<pre><code>{html.escape(call)}</code></pre>"


def loaded(plugin: Plugin) -> Any:
    """What is registered, or None where what it needs is not installed."""
    try:
        return plugin.load()
    except (ImportError, mb.PluginError):
        return None


def modules_of(package: str) -> dict[str, str]:
    """Module -> docstring, of those of our package that say more than one line."""
    found = {}
    root = Path(mb.__file__).parent / package
    for path in sorted(root.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if "\n" in text and path != root / "__init__.py":
            found[path.parent.name if path.stem == "__init__" else path.stem] = text
    return found


def estimators() -> str:
    """A table, a section each, and the base classes that parameters are documented at."""
    plugins, modules = available(ESTIMATORS), modules_of("estimators")
    classes = {name: loaded(plugin) for name, plugin in plugins.items()}
    bases: dict[str, type] = {}
    for cls in (cls for cls in classes.values() if cls is not None and issubclass(cls, mb.MapEstimator)):
        own = cls.__mro__[1 : cls.__mro__.index(mb.MapEstimator)]
        bases |= {base.__name__: base for base in own if base.__doc__ and base not in classes.values()}
    links = _links(plugins, modules, bases)
    rows, sections = [], []
    for name, plugin in plugins.items():
        cls = classes[name]
        if cls is None:
            sees, facts, call = "not known here", "<p>What it needs is not installed where this page was made.</p>", ""
        else:
            sees = tier(cls().needs)
            claims = ", ".join(claim.replace("_", " ") for claim in sorted(cls.claims)) or "nothing"
            depends = ", by default" if isinstance(inspect.getattr_static(cls, "needs", None), property) else ""
            also = f" In tables: <code>{SHOWN[name]}</code>, which is understood everywhere." if name in SHOWN else ""
            anchor = " An anchor." if cls.anchor else ""
            facts = f"<p>May see: {sees}{depends}. Claims: {claims}.{anchor}{also}</p>"
            call = signature("estimator", name, cls)
        rows.append([_link(name), html.escape(sees), inline(plugin.summary(), links)])
        sections.append(_section(name, facts, call, documentation(plugin.docstring(), links)))
    shared = [
        f"{heading(3, name)}\n\n{documentation(inspect.getdoc(base) or '', links, 4)}" for name, base in bases.items()
    ]
    head = table(("name", "may see", "what it is"), rows)
    return "\n\n".join([head, *sections, "## What several share", *shared, *_behind(modules, links)])


def problems() -> str:
    """A table with what is known of each at its defaults, and a section each."""
    plugins, modules = available(DATASETS), modules_of("datasets")
    links = _links(plugins, modules)
    rows, sections = [], []
    for name, plugin in plugins.items():
        family = loaded(plugin)
        known = ["not known here"] * 3
        if family is not None:
            try:
                problem = mb.problem(name)
                convexity = "not known" if problem.strong_convexity is None else f"{problem.strong_convexity:.3g}"
                offers = ", ".join(oracle.replace("_", " ") for oracle in problem.info(None, None).offers)
                known = [problem.truth_tier.replace("_", " "), convexity, ", ".join(sorted(offers.split(", ")))]
            except mb.InvalidParameter:  # it has no defaults: data of the user's own
                known = ["as its files have it", "not known", "what its files hold"]
        call = signature("problem", name, family) if family else ""
        split = split_of(name) if family else "not known here"
        rows.append([_link(name), inline(plugin.summary(), links), *known[:2], split])
        facts = f"<p>At its defaults: truth {known[0]}, lambda {known[1]}; it offers {known[2]}.</p>"
        sections.append(_section(name, facts, call, documentation(plugin.docstring(), links)))
    head = table(("name", "what it is", "truth", "lambda at the defaults", "split"), rows)
    return "\n\n".join([head, *sections, *_behind(modules, links)])


def metrics() -> str:
    """A table, and a section each."""
    plugins, modules = available(METRICS), modules_of("metrics")
    links = _links(plugins, modules)
    rows, sections = [], []
    for name, plugin in plugins.items():
        metric = loaded(plugin)
        facts = (
            ["?", "?", "?"]
            if metric is None
            else [
                html.escape(metric.unit) or "none",
                f"{metric.direction} is better",
                "yes" if metric.needs_truth else "no",
            ]
        )
        rows.append([_link(name), inline(plugin.summary(), links), *facts])
        sections.append(_section(name, documentation(plugin.docstring(), links)))
    head = table(("name", "what it measures", "unit", "direction", "needs T*"), rows)
    return "\n\n".join([head, *sections, *_behind(modules, links)])


def checks() -> str:
    """What `mongebench check` asks."""
    rows = [
        (f"<code>{one.name}</code>", *(inline(text, {}) for text in (one.what, one.why))) for one in CHECKS.values()
    ]
    return table(("check", "what must hold", "why"), rows)


def statuses() -> str:
    """What may become of a cell."""
    return table(("status", "meaning"), [(f"<code>{status}</code>", html.escape(status.meaning)) for status in Status])


def schema() -> str:
    """The models that a record consists of, the record first."""
    models: dict[str, type] = {"Record": Record}
    parts: list[str] = []
    while len(parts) < len(models):
        name, model = list(models.items())[len(parts)]
        annotations = {
            key: value
            for base in reversed(model.__mro__)
            for key, value in inspect.get_annotations(base, eval_str=True).items()
        }
        fields = getattr(model, "model_fields", None) or {field.name: field for field in dataclasses.fields(model)}
        for kind in (annotations[field] for field in fields):
            models |= {found.__name__: found for found in _inside(kind) if found.__module__.startswith("mongebench")}
        docstring = inspect.getdoc(model) or ""
        links = {other: f"#{other}" for other in models}
        told = _descriptions(docstring)
        rows = [
            (f"<code>{field}</code>", inline(_type(annotations[field]), {}), inline(told.get(field, ""), links))
            for field in fields
        ]
        text = documentation(docstring.partition("\nAttributes\n")[0], links)
        parts.append("\n\n".join([heading(3, name), text, table(("field", "type", ""), rows)]))
    return "\n\n".join(parts)


def _descriptions(docstring: str) -> dict[str, str]:
    pieces = paragraphs(docstring)
    return {
        name: text
        for (kind, names), (following, text) in itertools.pairwise(pieces)
        if kind == "item" and following == "description"
        for name in names.split(", ")
    }


def _inside(annotation: Any) -> list[type]:
    """The structured types in an annotation."""
    if inspect.isclass(annotation) and (dataclasses.is_dataclass(annotation) or hasattr(annotation, "model_fields")):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _inside(argument)]


def _type(annotation: Any) -> str:
    shown = annotation.__name__ if inspect.isclass(annotation) and not typing.get_args(annotation) else str(annotation)
    return f"`{re.sub(r'(?:[a-z_]+[.])+', '', shown)}`"


def _links(plugins: dict[str, Plugin], modules: dict[str, str], bases: Iterable[str] = ()) -> Links:
    """Registered things are found by their names and those of their classes."""
    links = {name: f"#module-{name}" for name in modules} | {name: f"#{name}" for name in [*bases, *plugins]}
    return links | {plugin.attribute: f"#{plugin.name}" for plugin in plugins.values()}


def _link(name: str) -> str:
    return f'<a href="#{html.escape(name)}"><code>{html.escape(name)}</code></a>'


def _section(name: str, *parts: str) -> str:
    return "\n\n".join([heading(2, name), *(part for part in parts if part)])


def _behind(modules: dict[str, str], links: Links) -> list[str]:
    """The mathematics that docstrings refer to."""
    told = [f"### {name} {{#module-{name}}}\n\n{documentation(text, links, 4)}" for name, text in modules.items()]
    return ["## What stands behind them", *told] if told else []


def splits() -> str:
    """Which families are for tuning and which for boards."""
    families: dict[Split, list[str]] = {split: [] for split in Split}
    for name in available(DATASETS):
        families[split_of(name)].append(name)
    uses = {
        Split.TUNE: "choosing defaults, rules and settings; no board shows it",
        Split.TEST: "the boards; no setting and no default is chosen on it",
    }
    rows = [
        (
            f"<code>{split}</code>",
            uses[split],
            ", ".join(f"<code>{html.escape(name)}</code>" for name in families[split]),
        )
        for split in reversed(Split)
    ]
    return table(("split", "what it is for", "families"), rows)


def tuned() -> str:
    """The packaged tuned settings."""
    rows = [
        (
            f"<code>{html.escape(name)}</code>",
            html.escape(", ".join(f"{key}={value}" for key, value in found.parameters.items()) or "the defaults"),
            f"{found.score:.3g}",
            f"{found.default_score:.3g}",
            str(found.trials),
            f"{found.cpu_seconds:.0f}",
        )
        for name, found in settings.read().items()
    ]
    return table(("estimator", "tuned setting", "score", "of the defaults", "trials", "CPU s"), rows) if rows else ""


def rule() -> str:
    """How the board is ordered, as the code says it."""
    return html.escape(leaderboard.RULE)


def api() -> str:
    """Every public name: how it is called, and its docstring."""
    # Two packages are, called, the lists of what is registered in them.
    public = {name: getattr(registry if name in vars(registry) else mb, name) for name in sorted(mb.__all__)}
    links = {name: f"#{name}" for name in public} | {f"mongebench.{name}": f"#{name}" for name in public}
    rows, sections = [], []
    for name, thing in public.items():
        docstring = inspect.getdoc(thing) or ""
        rows.append([_link(name), inline(docstring.partition("\n")[0], links)])
        called = "" if inspect.isclass(thing) else _called(f"mb.{name}", thing)
        sections.append(_section(name, called, documentation(docstring, links), *_methods(thing, links)))
    return "\n\n".join([table(("name", "what it is"), rows), *sections])


def _called(name: str, function: Callable[..., Any]) -> str:
    """Its parameters and their defaults; what they are is in the docstring."""
    asked = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in asked.parameters.values()]
    shown = asked.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    return f"<pre><code>{html.escape(f'{name}{shown}')}</code></pre>"


def _methods(thing: Any, links: Links) -> list[str]:
    """Of a class of ours, what it defines itself."""
    if not inspect.isclass(thing):
        return []
    own = {
        name: member
        for name, member in vars(thing).items()
        if not name.startswith("_") and inspect.getdoc(member) and (inspect.isfunction(member) or _is_property(member))
    }
    return [
        f"### `{thing.__name__}.{name}` {{#{thing.__name__}.{name}}}\n\n"
        + ("" if _is_property(member) else _called(f".{name}", member) + "\n\n")
        + documentation(inspect.getdoc(member) or "", links, 4)
        for name, member in own.items()
    ]


def _is_property(member: Any) -> bool:
    return isinstance(member, (property, functools.cached_property))


FILLED = (estimators, problems, metrics, checks, statuses, schema, splits, tuned, rule, api)
GENERATED = {function.__name__: function for function in FILLED}


def fill(markdown: str) -> str:
    """A page with what it asks for."""
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda found: GENERATED[found[1]](), markdown, flags=re.MULTILINE)


def on_config(config: Any) -> Any:
    """A page that another change brings joins the navigation with it."""
    if (DOCS / "engine.md").exists():
        config.nav.insert(-3, {"Run on a cluster": "engine.md"})
    return config


def on_files(files: Any, config: Any) -> Any:
    """The curated results and the experiments are pages' neighbours."""
    from mkdocs.structure.files import File

    top = DOCS.parent
    for path in sorted([*(top / "results").glob("*.*"), *(top / "benchmarks" / "experiments").glob("*.toml")]):
        if path.suffix in (".txt", ".png", ".csv", ".zip", ".toml"):
            files.append(File.generated(config, path.relative_to(top).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill what is generated; what lies above docs/ in the repository lies beside the pages in the site."""
    return fill(markdown).replace("](../", "](")
