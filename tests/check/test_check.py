"""The checks themselves: each fails for the estimator that breaks just it, and none for those that are sound."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli, plugins
from mongebench.check import CHECKS, CheckFailed, Outcome, parametrize_with_checks, run_checks

FILE = Path(__file__).with_name("fakes.py")
fakes, cheats = plugins.import_file(FILE), plugins.import_file(FILE.with_name("cheats.py"))


def ended(estimator, outcome: Outcome) -> list[str]:
    return [result.check.name for result in run_checks(estimator, time_limit=0.5) if result.outcome is outcome]


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("Sound", ["keeps_within_the_budget", "maps_back"]),
        ("SoundBothWays", ["keeps_within_the_budget"]),
        ("SoundWithSampler", ["maps_back"]),
    ],
)
def test_sound_estimators_pass_everything(name, skipped) -> None:
    sound = getattr(fakes, name)()
    assert ended(sound, Outcome.FAILED) == []
    assert ended(sound, Outcome.SKIPPED) == skipped


def test_every_check_has_its_fake() -> None:
    assert list(fakes.FAKES) == list(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_fails_for_what_breaks_it_and_no_other_does(name) -> None:
    assert ended(fakes.FAKES[name](), Outcome.FAILED) == [name]


@pytest.mark.parametrize("cheat", cheats.CHEATS)
def test_what_knows_more_than_it_was_told_does_not_pass(cheat, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKES_FOLDER", str(tmp_path))
    assert ended(cheat(), Outcome.FAILED)


def test_what_was_made_before_the_fit_is_found_by_what_it_gains() -> None:
    """Neither the guard of a fit nor any look at the meter sees it."""
    assert "knows_no_problem_by_name" in ended(cheats.DrewBefore(), Outcome.FAILED)


def test_a_map_from_disk_is_the_same_everywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKES_FOLDER", str(tmp_path))
    assert ended(cheats.KeepsAMapOnDisk(), Outcome.FAILED) == ["keeps_nothing_between_fits"]


@pytest.mark.parametrize("cheat", cheats.GUARDED)
def test_what_a_problem_refuses_in_a_fit_is_an_error_in_its_record(cheat) -> None:
    record = mb.run_cell(fakes.PAIR, cheat(), n_source=60, n_target=60, evaluation_points=50)
    assert record.status == "error"
    assert "OracleNotDeclared" in record.reason


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_check_says_what_why_and_how_to_mend(check) -> None:
    assert check.function.__doc__.count("\n\n") == 2
    assert "Why: " in check.function.__doc__
    assert "How to fix: " in check.function.__doc__
    for text in (check.what, check.why, check.mend):
        assert text.endswith(".")
        assert not text.startswith(("Why", "Mend"))


@parametrize_with_checks([fakes.Sound(steps=4)])
def test_the_decorator_gives_a_test_a_check(estimator, check) -> None:
    check(estimator)


def test_called_alone_a_check_raises_its_sentence() -> None:
    with pytest.raises(CheckFailed, match=r"grad potential is .* off the map"):
        CHECKS["is_the_gradient_of_its_potential"](fakes.WrongPotential())


def test_what_an_estimator_raises_is_a_failure_in_one_sentence() -> None:
    class Raises(fakes.Sound):
        """Cannot be fitted."""

        def fit(self, source, target, *, seed=0, trace=None):
            raise ZeroDivisionError("no such luck")

    (result,) = run_checks(Raises(), ["keeps_shapes"])
    assert (result.outcome, result.reason) == (Outcome.FAILED, "ZeroDivisionError: no such luck")


def test_output_below_python_is_heard() -> None:
    class Shouts(fakes.Sound):
        """As a C library would."""

        def fit(self, source, target, *, seed=0, trace=None):
            import os

            os.write(1, b"iteration 1")
            return super().fit(source, target, seed=seed, trace=trace)

    (result,) = run_checks(Shouts(), ["says_nothing"])
    assert "iteration 1" in result.reason


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(mb.UnknownName, match="Did you mean 'keeps_shapes'"):
        run_checks(fakes.Sound(), ["keep_shapes"])


def test_the_readme_counts_right() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"runs {len(CHECKS)} named checks" in readme


def test_an_estimator_that_refuses_everything_does_not_pass() -> None:
    class Refuses(fakes.Sound):
        """Serves nobody."""

        def supports(self, problem):
            return mb.Support(False, "not today")

    assert ended(Refuses(), Outcome.FAILED) == ["answers_supports_honestly"]


@pytest.fixture
def _files_are_forgotten(monkeypatch):
    monkeypatch.setattr(plugins, "_from_files", {})


@pytest.mark.usefixtures("_files_are_forgotten")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["bures"], 0, "0 failed"),
        ([f"{FILE}:Sound"], 0, "0 failed"),
        (["sound", "--plugin", str(FILE)], 0, "0 failed"),
        ([f"{FILE}:Prints"], 1, "How to fix: remove the print"),
        (["--list"], 0, "repeats_itself"),
    ],
)
def test_the_command_line(words, code, says) -> None:
    result = CliRunner().invoke(cli.app, ["check", *words])
    assert result.exit_code == code, result.output
    assert says in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["burse"], "Did you mean 'bures'"),
        ([], "Give an estimator"),
        (["no.py"], "There is no plugin file"),
        ([f"{FILE}:Soundd"], "Did you mean 'Sound'"),
    ],
)
def test_targets_that_do_not_exist_are_usage(monkeypatch, capsys, words, says) -> None:
    monkeypatch.setattr("sys.argv", ["mongebench", "check", *words])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert says in capsys.readouterr().err
