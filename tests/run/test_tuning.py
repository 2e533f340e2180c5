"""Settings are chosen on problems that no board shows, by as many trials for everybody, and leave their records."""

from __future__ import annotations

from pathlib import Path

import pytest

from mongebench.core import parameters
from mongebench.core.errors import ExperimentError, InvalidParameter
from mongebench.run import settings, tuning
from mongebench.run.runner import Execution, Machinery
from mongebench.run.tuning import WORST, Tuning

PLUGIN = Path(__file__).with_name("practice.py")

EXPERIMENT = """
name = "practice"
time_limit = "30s"
evaluation_points = 500
[[estimators]]
name = "identity"
[[problems]]
name = "practice"
seed = [1, 2]
[budget]
n_source = 200
n_target = 200
"""


@pytest.fixture
def written(tmp_path):
    (tmp_path / "practice.toml").write_text(EXPERIMENT)
    return tmp_path


def search(folder, **changed):
    given = {"experiment": str(folder / "practice.toml"), "trials": 4, "plugins": (str(PLUGIN),)}
    return Tuning("stretched", folder / "run", machinery=Machinery(workers=1), **given | changed)


@pytest.mark.usefixtures("no_children")
def test_a_tuning_begins_with_the_defaults_finds_better_and_keeps_the_records_of_every_trial(written):
    found = search(written)
    trials = list(found.search(Execution.execute))
    assert len(trials) == 4
    assert trials[0].parameters == {}
    best = found.tuned(trials)
    # T(x) = t + c x against the best c: the wrong stretch by a factor s adds (s - 1)^2, so that nearer to 1 is better.
    working = [trial for trial in trials if not trial.failed]
    by_stretch = sorted(working, key=lambda trial: abs(trial.parameters.get("stretch", 2.0) - 1))
    assert best.parameters == by_stretch[0].parameters
    assert best.score < best.default_score == pytest.approx(trials[0].score, rel=1e-4)
    for trial in trials:
        assert (trial.failed == 2) == bool(trial.parameters.get("broken"))
        assert not trial.failed or trial.score == pytest.approx(WORST)
    cells = {planned.cell.key for planned in found._run().plan.cells}
    records = list(found._run().directory.records())
    assert {record.cell.key for record in records} == cells
    assert len(records) == 2 * (1 + len({str(trial.parameters) for trial in trials}))

    again = list(search(written).search(lambda run: pytest.fail("ran again") if run.pending else None))
    assert [trial.parameters for trial in again] == [trial.parameters for trial in trials]

    path = written / "tuned.toml"
    tuning.record("stretched", best, path)
    tuning.record("another", best, path)
    assert settings.read(path) == {"another": best, "stretched": best}


def test_no_setting_is_chosen_on_a_problem_that_boards_show(written):
    (written / "practice.toml").write_text(EXPERIMENT.replace('"practice"', '"gaussian"'))
    with pytest.raises(ExperimentError, match=r"problem gaussian.*which boards show"):
        next(search(written).search(Execution.execute))


def test_what_cannot_be_tuned_is_said(written):
    with pytest.raises(InvalidParameter, match="'bures' declares nothing to tune"):
        next(Tuning("bures", written / "run", str(written / "practice.toml")).search(Execution.execute))
    with pytest.raises(InvalidParameter, match="at least two trials"):
        next(search(written, trials=1).search(Execution.execute))


def test_tunable_parameters_of_every_estimator_exist_and_their_ranges_are_ranges():
    from mongebench import plugins

    found = 0
    for name in plugins.estimators():
        plugin = plugins.find(plugins.ESTIMATORS, name)
        cls = plugin.load()
        known = parameters.parameters_of(cls)
        for parameter, choice in cls.tunable.items():
            assert parameter in known, (name, parameter)
            found += 1
            if isinstance(choice, tuning.Range):
                assert 0 < choice.low < choice.high
            else:
                assert len(choice) > 1
    assert found > 20
