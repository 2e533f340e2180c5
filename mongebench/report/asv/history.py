"""A history for the dashboard: a fixed, cheap experiment, measured at earlier commits of this repository.

Each commit is checked out into a folder of its own and its own code runs the experiment, in this Python environment: no
package is installed. Its records are imported as any others are. A commit that cannot run it, because its command line
or its records are too different, is left out, and it is said why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mongebench.core.errors import MongebenchError
from mongebench.report.asv import export
from mongebench.run import experiment as experiments
from mongebench.run.reading import read_run
from mongebench.run.store import RunError

EXPERIMENT = "history"


def backfill(
    found: dict[str, Any], count: int, experiment: str = EXPERIMENT, machine: str | None = None
) -> Iterator[str]:
    """Measure the last `count` commits of the first parents' line that have no results yet; a sentence for each.

    Parameters
    ----------
    found
        asv's `dashboard.configuration`: `repo` and `results_dir`.
    count
        Commits to be in the history in the end, those that were measured before among them.
    experiment
        Name of an experiment, or its TOML file: today's, at every commit.
    machine
        As in `export.write`.

    Raises
    ------
    RunError
        Where `repo` is no git repository.
    """
    repository, results = Path(found["repo"]), Path(found["results_dir"])
    path = experiments.path_of(experiment).resolve()
    name = experiments.read(experiment).name
    for commit in _git(repository, "rev-list", "--first-parent", f"--max-count={count}", "HEAD").split():
        if any(results.glob(f"*/{commit[:8]}-{name}-*.json")):
            yield f"{commit[:8]}: measured before"
            continue
        with tempfile.TemporaryDirectory(prefix="mongebench-history-") as scratch:
            checkout, run = Path(scratch, "checkout"), Path(scratch, "run")
            _git(repository, "worktree", "add", "--detach", str(checkout), commit)
            try:
                why = _measure(checkout, path, run)
                if not why:
                    export.write(read_run(run), results, repository=repository, commit=commit, machine=machine)
                yield f"{commit[:8]}: {why or 'measured'}"
            except MongebenchError as error:  # records that today's code cannot read
                yield f"{commit[:8]}: left out, {error}"
            finally:
                _git(repository, "worktree", "remove", "--force", str(checkout))


def _measure(checkout: Path, experiment: Path, out: Path) -> str:
    """Run the experiment by the code of a checkout; why that failed, if so."""
    command = [sys.executable, "-m", "mongebench", "run", str(experiment), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    said = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else f"left out, exit code {done.returncode}: {said[-1] if said else 'no word'}"


def _git(repository: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise RunError(f"git {words[0]} failed in {repository.resolve()}: {said.strip()}") from None
    return done.stdout
