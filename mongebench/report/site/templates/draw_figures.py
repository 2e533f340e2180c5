"""Draws the figures beside this script again, from the records in records.zip: PNG, SVG and PDF.

Needs `pip install mongebench`. Unpacked, records.zip is the directory of a run: `mongebench table`, `mongebench show`
and the others read it.
"""

from pathlib import Path

import mongebench as mb
from mongebench.report.figures import printed

folder = Path(__file__).resolve().parent
printed.draw(mb.read_run(folder / "records.zip"), folder)
