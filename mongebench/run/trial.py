"""Somebody else's code tried in a process of its own, before this one imports it to plan a run.

A plugin that ends the process, crashes it or holds it up when it is imported, or when its estimators and problems are
made, would do so to the whole run; here it is an error of its own cells. What it raises is no matter of this: whoever
plans is told the same.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from pathlib import Path

from mongebench import foreign, plugins
from mongebench.run.batch import Child, ending
from mongebench.run.child import Line
from mongebench.run.experiment import Experiment
from mongebench.run.store import Declaration, Invocation, RunDirectory

LIMIT = 60.0
"""Seconds that one import, or the making of one estimator or problem, may take."""


def trial(invocation: Invocation, declared: Experiment) -> None:
    """Note in `foreign.harmful` what of a run's plugins cannot be done in this process."""
    packages = {
        plugin.origin
        for group, names in ((plugins.ESTIMATORS, declared.named()), (plugins.DATASETS, declared.problem_names()))
        for plugin in plugins.available(group).values()
        if plugin.name in names and not plugins.is_file(plugin.module)
    }
    if not invocation.plugins and packages <= {foreign.OURS}:
        return
    asked = {"invocation": invocation.model_dump(), "declaration": declared.declaration.model_dump()}
    while (found := _one(json.dumps(asked | {"harmful": foreign.harmful}))) is not None:
        if found[0] in foreign.harmful:
            return
        foreign.harmful.update([found])


@functools.cache  # a file is imported once per process: whoever plans the same again, as a tuning does, imports nothing
def _one(request: str) -> tuple[str, str] | None:
    """Try all that is not known to be harmful; the first thing that turns out to be, and what it did."""
    with tempfile.TemporaryDirectory(prefix="mongebench-") as scratch:
        file = Path(scratch, "request.json")
        file.write_text(request, encoding="utf-8")
        child = Child(file, dict(os.environ), "mongebench.run.trial")
        doing, since = "", time.monotonic()
        try:
            while child.code is None:
                for message in child.messages():
                    if "ended" in message:
                        return None
                    doing, since = message.get("at", doing), time.monotonic()
                if doing and time.monotonic() - since > LIMIT:
                    return doing, f"took longer than {LIMIT:g} s"
        finally:
            child.kill()
    return (doing, f"harmed the process that tried it, which {ending(child.code)}") if doing else None


def main(request_file: str, status: int, nonce: str) -> None:
    """In the process of its own: import the plugins, and make their estimators and problems."""
    from mongebench.run.runner import Execution

    line = Line(status, nonce)
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    foreign.harmful.update(request["harmful"])
    foreign.listeners.append(lambda what: line.say(at=what))
    run = Execution(
        Invocation.model_validate(request["invocation"]),
        RunDirectory("."),
        tried=True,
        declaration=Declaration.model_validate(request["declaration"]),
    )
    cells = run.cells
    theirs = {
        group: {name for name, plugin in plugins.available(group).items() if plugin.origin != foreign.OURS}
        for group in (plugins.ESTIMATORS, plugins.DATASETS)
    }
    for cell in cells:
        if cell.estimator.name in theirs[plugins.ESTIMATORS]:
            run.estimator(cell.estimator)
        if cell.problem.name in theirs[plugins.DATASETS]:
            run.problem(cell.problem)
    line.say(ended=True)
