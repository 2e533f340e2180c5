"""The page of a selection: which estimator, how sure that is, and what its map does to the points."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mongebench.core.tablefile import Table
from mongebench.report.figures.printed import inline
from mongebench.report.figures.selection import moved_most, pairs
from mongebench.run.store import write_atomically
from mongebench.selection.choose import Selection


def build(found: Selection, source: Table, target: Table, names: tuple[str, str], out: Path) -> Path:
    """Write the page, one file that needs no network, into a folder; its path.

    `names` are those of the two files; the page leaves out their folders, which may be somebody's own.
    """
    called = [str(name) for name in source.frame().columns]
    pushed = found.best.transform(source.points)
    environment = Environment(
        loader=PackageLoader("mongebench.report.site"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    content = environment.get_template("selection.html.j2").render(
        selection=found,
        rows=found.table.to_dict("records"),
        source=Path(names[0]).name,
        target=Path(names[1]).name,
        pairs=inline(pairs(source.points, pushed, target.points, called)),
        moved=inline(moved_most(source.points, pushed, target.points, called)),
    )
    path = out / "index.html"
    write_atomically(path, content.encode("utf-8"))
    return path
