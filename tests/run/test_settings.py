"""Who chose an estimator's parameters: told by code, and marked wherever a hand did."""

from __future__ import annotations

import pandas as pd
import pytest

from mongebench.core.errors import ExperimentError
from mongebench.plugins import ESTIMATORS, available, completed, find
from mongebench.report.tables.results import hand_set, legend
from mongebench.run import settings
from mongebench.run.experiment import Experiment, read
from mongebench.run.reading import read_run
from mongebench.run.record import Spec
from mongebench.run.runner import Execution
from mongebench.run.settings import Setting, Tuned
from mongebench.run.store import Invocation, RunDirectory

TUNED = {
    "entropic": Tuned(
        experiment="tuning", trials=3, score=0.2, default_score=0.3, cpu_seconds=1.0, parameters={"epsilon": 0.02}
    )
}


def entropic(**changed):
    plugin = find(ESTIMATORS, "entropic")
    return Spec(name="entropic", parameters=completed(plugin, plugin.load(), changed))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (entropic(), Setting.DEFAULT),
        (entropic(epsilon=0.02), Setting.TUNED),
        (entropic(epsilon=0.03), Setting.HAND_SET),
        (entropic(epsilon=0.02, folds=4), Setting.HAND_SET),
    ],
)
def test_a_setting_is_told_by_its_parameters(spec, expected):
    assert settings.setting_of(spec, TUNED) is expected


def test_every_estimator_has_its_defaults_by_default_in_a_plan_that_was_read_back():
    for name, plugin in available(ESTIMATORS).items():
        spec = Spec(name=name, parameters=completed(plugin, plugin.load(), {}))
        again = Spec.model_validate_json(spec.model_dump_json())
        assert settings.setting_of(spec, {}) is settings.setting_of(again, {}) is Setting.DEFAULT, name


def write(folder, text):
    path = folder / "one.toml"
    path.write_text(text)
    return path


TUNED_FILE = """
[entropic]
experiment = "tuning"
trials = 3
score = 0.2
default_score = 0.3
cpu_seconds = 1.0
parameters = { epsilon = 0.02 }
"""

ROWS = """
name = "one"
tuned = "tuned.toml"
[[estimators]]
name = "entropic"
setting = ["default", "tuned"]
[[estimators]]
name = "bures"
[[estimators]]
name = "entropic"
epsilon = 0.07
[[problems]]
name = "gaussian"
"""


def test_an_experiment_asks_for_defaults_and_tuned_settings_and_the_plan_says_which_is_which(tmp_path):
    (tmp_path / "tuned.toml").write_text(TUNED_FILE)
    run = Execution(Invocation(experiment=str(write(tmp_path, ROWS))), RunDirectory(tmp_path / "run"))
    found = [(planned.cell.estimator.parameters.get("epsilon"), planned.setting) for planned in run.plan.cells]
    assert found == [(0.05, "default"), (0.02, "tuned"), (None, "default"), (0.07, "hand-set")]
    run.directory.create()
    run.directory.write_plan(run.plan)
    rows = read_run(run.directory.path).frame()
    assert "entropic" in hand_set(rows)
    assert hand_set(rows) in legend(rows)


def test_an_estimator_that_was_never_tuned_is_an_error_that_says_how_to_tune_it(tmp_path):
    path = write(tmp_path, ROWS.replace('tuned = "tuned.toml"', 'tuned = "none.toml"'))
    with pytest.raises(ExperimentError, match=r"'entropic' has no tuned setting.*mongebench tune entropic"):
        read(str(path)).cells()
    with pytest.raises(ExperimentError, match=r"Unknown setting of estimator 'entropic' 'best'.*default, tuned"):
        read(str(write(tmp_path, ROWS.replace('["default", "tuned"]', '"best"')))).cells()


@pytest.mark.parametrize("text", ["[entropic", "[entropic]\ntrials = 0\n", "[entropic]\nworse = 1\n"])
def test_a_damaged_file_of_tuned_settings_is_named(tmp_path, text):
    path = tmp_path / "tuned.toml"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=r"tuned\.toml"):
        settings.read(path)


def test_the_packaged_tuned_settings_can_be_read_and_name_parameters_that_exist():
    for name, tuned in settings.read().items():
        plugin = find(ESTIMATORS, name)
        completed(plugin, plugin.load(), tuned.parameters)
        assert tuned.score <= tuned.default_score


@pytest.mark.parametrize(
    ("setting", "split", "anchor", "marked"),
    [
        ("hand-set", "test", False, True),
        ("hand-set", "tune", False, False),
        ("hand-set", "test", True, False),
        ("tuned", "test", False, False),
        ("default", "test", False, False),
    ],
)
def test_a_hand_on_a_problem_of_the_board_is_marked(setting, split, anchor, marked):
    rows = pd.DataFrame({"setting": [setting], "split": [split], "anchor": [anchor], "estimator_name": ["my_map"]})
    assert bool(hand_set(rows)) is marked
    if marked:
        assert "my_map" in hand_set(rows)


def test_seeds_of_an_estimator_and_of_a_problem_take_the_place_of_the_common_ones():
    grid = Experiment.model_validate(
        {
            "name": "one",
            "seeds": 2,
            "estimators": [{"name": "bures"}, {"name": "identity", "seeds": 3}],
            "problems": [{"name": "gaussian"}, {"name": "mixture", "seeds": [7]}],
        }
    )
    found = {}
    for cell in grid.cells():
        found.setdefault((cell.estimator.name, cell.problem.name), []).append(cell.seed)
    assert found == {
        ("bures", "gaussian"): [0, 1],
        ("identity", "gaussian"): [0, 1, 2],
        ("bures", "mixture"): [7],
        ("identity", "mixture"): [7],
    }
    grid.give_seeds(1)
    assert {cell.seed for cell in grid.cells()} == {0}


@pytest.mark.parametrize("seeds", [0, True, [], "three"])
def test_seeds_of_an_estimator_that_are_none_are_named(seeds):
    entries = [{"name": "bures", "seeds": seeds}]
    grid = Experiment.model_validate({"name": "one", "estimators": entries, "problems": [{"name": "gaussian"}]})
    with pytest.raises(ExperimentError, match=r"'bures': seeds"):
        grid.cells()
