"""asv's dashboard of all imported commits, made to open from disk and without a network.

As asv publishes it, its front page loads ten files from three servers, and reads its data by requests that a browser
refuses to a page from disk. Here it gets copies of those files, and its data a second time as a script.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from mongebench.run.provenance import repository
from mongebench.run.store import RunError, write_atomically

_OUTSIDE = re.compile(r'(<script|<link rel="stylesheet") (src|href)="https?://[^"]*/([^"/]+)"[^>]*>')
_FIRST = '<script src="vendor/files.js"></script><script src="vendor/offline.js"></script>'


def require() -> None:
    """Raise `RunError` where asv is not installed."""
    if importlib.util.find_spec("asv") is None:
        raise RunError("The dashboard is made by asv, which is not installed: pip install 'asv>=0.6.4,<0.7'.")


def begin(path: Path) -> None:
    """Write a configuration for the repository that its folder is in. Raises `RunError` where that is in none."""
    top = repository(path.resolve().parent)
    if top is None:
        folder = path.resolve().parent
        raise RunError(f"There is no {path}, and none can be written: {folder} is not in a git repository.")
    content = {
        "version": 1,
        "project": top.name,
        "repo": os.path.relpath(top, path.resolve().parent),
        "branches": ["HEAD"],
        "dvcs": "git",
        "results_dir": "results/asv",
        "html_dir": "results/html",
        "env_dir": ".asv/env",
    }
    write_atomically(path, json.dumps(content, indent=4) + "\n")


def configuration(path: Path) -> dict[str, Any]:
    """An asv.conf.json with its paths from here. Raises `RunError`."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}.") from None
    defaults = {
        "results_dir": "results",
        "html_dir": "html",
        "benchmark_dir": "benchmarks",
        "env_dir": "env",
        "repo": ".",
    }
    folder = path.resolve().parent
    if not isinstance(found, dict):
        raise RunError(f"{path} is not a configuration of asv: expected a JSON object.")
    return found | {key: str(folder / found.get(key, default)) for key, default in defaults.items()}


def publish(found: dict[str, Any]) -> Path:
    """Run `asv publish` on a `configuration` and make its pages whole; the front page. Raises `RunError`."""
    require()
    out = Path(found["html_dir"])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "asv.conf.json")
        file.write_text(json.dumps(found), encoding="utf-8")
        command = [sys.executable, "-m", "asv", "publish", "--no-pull", "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise RunError(f"asv publish failed: {said[-1] if said else 'without a word'}")
    make_offline(out)
    return out / "index.html"


def make_offline(folder: Path) -> None:
    """Put copies in place of what the pages of `folder` load from a network, and their data into a script.

    Raises `RunError` where asv loads something there is no copy of.
    """
    vendor = folder / "vendor"
    vendor.mkdir(exist_ok=True)
    copies = {file.name: file for file in (resources.files("mongebench.report.asv") / "vendor").iterdir()}
    for file in copies.values():
        (vendor / file.name).write_bytes(file.read_bytes())

    def local(found: re.Match[str]) -> str:
        tag, attribute, name = found.groups()
        known = [copy for copy in (name, name.replace(".min.", ".")) if copy in copies]
        if not known:
            raise RunError(f"asv's dashboard loads {name}, which mongebench has no copy of: install asv>=0.6.4,<0.7.")
        return f'{tag} {attribute}="vendor/{known[0]}">'

    front = folder / "index.html"
    page = _OUTSIDE.sub(local, front.read_text(encoding="utf-8"))
    jquery = re.search(r'<script src="vendor/jquery-[^>]*></script>', page)
    if jquery is None:
        raise RunError("asv's dashboard loads no jQuery any more: install asv>=0.6.4,<0.7.")
    drawing = folder / "graphdisplay.js"
    if drawing.exists():
        # A point at the right edge counts: of one commit alone there is no other, and its axes would not hold it.
        drawing.write_text(drawing.read_text(encoding="utf-8").replace("x >= right", "x > right"), encoding="utf-8")
    front.write_text(page[: jquery.end()] + _FIRST + page[jquery.end() :], encoding="utf-8")
    data = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.json")}
    (vendor / "files.js").write_text(f"window.files = {json.dumps(data)};\n", encoding="utf-8")
