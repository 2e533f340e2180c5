"""Verdicts: what is recorded is what is built now, and a problem that drifts at one version is found."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli
from mongebench.check import certified

ENTRIES = certified.stored()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.title)
def test_recorded_problems_have_not_changed(entry) -> None:
    """The slow half, the checks themselves, is `mongebench certify` in .ci/run."""
    verdict = certified.drift(entry.build(), entry)
    assert verdict.ok, verdict.sentence
    assert "are those recorded" in verdict.sentence, "record the new version: mongebench certify ... --record"
    assert all(value <= tolerance for value, tolerance in entry.checks.values())


def test_every_family_is_recorded_that_claims_something_and_needs_no_files_from_elsewhere() -> None:
    assert {entry.problem for entry in ENTRIES} >= set(mb.problems()) - {"files", "colour", "sbibm", "korotin"}


def certify(*words: str):
    return CliRunner().invoke(cli.app, ["certify", *words])


def test_a_verdict_is_printed_recorded_and_compared(tmp_path) -> None:
    file = tmp_path / "certified.json"
    words = ("factors", "dim=2", "count=1", "-n", "200", "--file", str(file))
    first = certify(*words, "--record")
    assert first.exit_code == 0
    assert "certified: 19 checks passed. It was not recorded before.\nrecorded: " in first.output
    assert "before. --record keeps this." in certify(*words[:-1], str(tmp_path / "other.json")).output
    again = certify(*words)
    assert "digest" in again.output
    assert "are those recorded" in again.output
    everything = certify("--file", str(file))
    assert everything.exit_code == 0
    assert everything.output.startswith("factors dim=2 count=1: certified: 19 checks passed.")

    (entry,) = json.loads(file.read_text(encoding="utf-8"))
    assert entry["version"] == 1
    for change, said in (
        ({"digest": "0" * 16}, "Raise its `version`"),
        ({"version": 2}, "version 2 was certified before"),
    ):
        file.write_text(json.dumps([entry | change]), encoding="utf-8")
        for changed in (certify(*words), certify(*words, "--record"), certify("--file", str(file))):
            assert changed.exit_code == 1
            assert said in changed.output
        assert json.loads(file.read_text(encoding="utf-8")) == [entry | change]  # what has changed is not recorded
    file.write_text(json.dumps([entry | {"version": 0, "digest": "0" * 16}]), encoding="utf-8")
    raised = certify(*words, "--record")  # version 1 now
    assert raised.exit_code == 0
    assert json.loads(file.read_text(encoding="utf-8")) == [entry]


def test_a_wrong_truth_is_refused() -> None:
    problem = mb.problem("gaussian", dim=2)
    wrong = dataclasses.replace(problem, truth=lambda x: problem.truth(x) + 0.5)
    certificate, verdict = certified.trial(wrong, None, n=1000, seed=0)
    assert verdict.sentence.startswith("REFUSED: ")
    assert not verdict.new  # nothing to record
    assert "pushforward_mean" in certificate.failed
    with pytest.raises(mb.InvalidInput, match="failed checks is not recorded"):
        certified.record(wrong, {}, certificate, n=1000, seed=0, path=certified.STORED)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["nothing"], "Unknown problem 'nothing'"),
        (["gaussian", "dim"], "NAME=VALUE"),
        (["gaussian", "dim=two"], "dim must be a whole number"),
        (["--file", "nowhere.json"], "no recorded problem"),
    ],
)
def test_mistakes_are_a_sentence(words, answer) -> None:
    found = certify(*words)
    assert found.exit_code != 0
    assert answer in str(found.exception)


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "other.json").write_text("[{}]", encoding="utf-8")
    with pytest.raises(mb.InvalidInput, match="holds no certified problems"):
        certified.stored(tmp_path / "other.json")
