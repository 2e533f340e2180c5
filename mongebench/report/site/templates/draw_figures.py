"""Draws the figures beside this script again, from the records in records.zip: PNG, SVG and PDF.

Needs `pip install mongebench`. Unpacked, records.zip is the directory of a run: `mongebench table`, `mongebench show`
and the others read it.
"""

import tempfile
import zipfile
from pathlib import Path

from mongebench.report.figures import printed
from mongebench.run.store import RunDirectory

folder = Path(__file__).resolve().parent
with tempfile.TemporaryDirectory() as run:
    with zipfile.ZipFile(folder / "records.zip") as archive:
        archive.extractall(run)
    printed.draw(RunDirectory(run), folder)
