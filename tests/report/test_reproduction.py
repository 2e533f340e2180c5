"""The script that sets runs beside the published figure, on rows whose answers are known."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "paper" / "reproduction.py"
SEEDS = 400


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reproduction", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduction"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduction"]


def rows(rng, means, rate=0.1):
    """Energy distances with the given means by scheme; seeds share most of the noise."""
    shared, parts = rng.normal(0, 0.01, SEEDS), []
    for (scheme, optimiser), mean in means.items():
        given = json.dumps({"scheme": scheme, "optimiser": optimiser, "learning_rate": rate})
        values = mean + shared + rng.normal(0, 0.001, SEEDS)
        parts.append(
            pd.DataFrame(
                {
                    "estimator": f"{scheme} {optimiser} {rate}",
                    "estimator_name": "published",
                    "estimator_parameters": given,
                    "seed": np.arange(SEEDS),
                    "energy_distance_v": values,
                    "uvp": 5.0,
                    "fit_cpu_seconds": 1.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_paired_differences_are_sharper_than_the_noise_that_seeds_share(script, rng):
    found = script.paired(rows(rng, {("implicit", "adam"): 0.02, ("descent", "adam"): 0.021}))
    low, high = (float(part) for part in found["from the first"][1].split("(")[1].rstrip(")").split(".."))
    # A standard error of 0.001 (2 / 400)^1/2 = 7e-5 paired, where unpaired means would have 7e-4.
    assert 0.0007 < low < 0.001 < high < 0.0013
    assert found["n_ok/n_planned"].tolist() == ["400/400", "400/400"]


def test_means_agree_with_the_reported_ones_or_do_not(script, rng):
    reported = {(method.scheme, method.optimiser): method.mean for method in script.METHODS}
    found = script.agreement(rows(rng, reported)).set_index("method")
    assert set(found["agree"]) == {"yes"}
    apart = {**reported, ("explicit", "adam"): 0.0194 + 0.01}  # ten standard errors of theirs
    assert script.agreement(rows(rng, apart)).set_index("method")["agree"]["explicit"] == "no"


def test_the_rate_with_the_lowest_mean_is_chosen_and_a_failure_is_infinite(script, rng):
    parts = [rows(rng, {("explicit", "adam"): mean}, rate) for rate, mean in ((0.01, 0.03), (0.02, 0.02), (0.05, 0.01))]
    parts[2].loc[7, "energy_distance_v"] = np.nan
    found = script.rates(pd.concat(parts, ignore_index=True))
    assert found.set_index("learning rate")["chosen"].to_dict() == {0.01: "", 0.02: "yes", 0.05: ""}
    assert found.set_index("learning rate")["failed"][0.05] == 1


def test_means_are_marked_where_they_are_and_the_seeds_beyond_the_axis_counted(script, rng):
    reported = {(method.scheme, method.optimiser): method.mean for method in script.METHODS}
    data = rows(rng, reported)
    data["energy_distance_v"] = data["energy_distance_v"].abs()  # no distance is negative, and some of these are
    sgd = data["estimator"] == "descent sgd 0.1"
    data.loc[data.index[sgd][0], "energy_distance_v"] = 0.9
    figure = script.histograms(data)
    for axes, (method, own) in zip(figure.axes, script.values_of(data), strict=True):
        marked = [line.get_xdata()[0] for line in axes.lines]
        assert marked == pytest.approx([own["energy_distance_v"].mean(), method.mean])
        assert max(marked) < axes.get_xlim()[1] < 0.9
        shown = SEEDS - (method.optimiser == "sgd")
        assert sum(bar.get_height() for bar in axes.patches) == shown
        assert ("; 1 seed beyond" in axes.get_title(loc="left")) == (method.optimiser == "sgd")
