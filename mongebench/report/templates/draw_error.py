"""Draws error.png, error.svg and error.pdf from results.parquet, all in the folder of this script.

Needs `pip install mongebench`. The other printed figures need the run's records: `mongebench figures RUN`.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from mongebench.report.figures import error_overview, save
from mongebench.report.style import STYLE

folder = Path(__file__).resolve().parent
with plt.rc_context(STYLE):
    figure = error_overview(pd.read_parquet(folder / "results.parquet"))
if figure is not None:
    save(figure, "error", folder)
