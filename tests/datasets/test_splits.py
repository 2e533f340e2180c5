"""Which families serve to choose settings, and which to be measured on."""

from dataclasses import replace

from typer.testing import CliRunner

import mongebench as mb
from mongebench.cli import app
from mongebench.plugins import split_of

TUNE = {"rings", "ridges", "factors"}


def test_every_family_has_a_split() -> None:
    assert {name for name in mb.problems() if split_of(name) is mb.Split.TUNE} == TUNE
    assert mb.problem("rings", dim=3, seed=5).split is mb.Split.TUNE
    assert mb.problem("gaussian").split == "test"


def test_the_split_is_no_part_of_the_identity() -> None:
    problem = mb.problem("gaussian", dim=2)
    assert replace(problem, split=mb.Split.TUNE).digest == problem.digest


def test_the_command_line_shows_it() -> None:
    shown = CliRunner().invoke(app, ["list", "problems"]).output
    assert {line.split()[0] for line in shown.splitlines() if line.split()[-1:] == ["tune"]} == TUNE
    assert "split: tune" in CliRunner().invoke(app, ["show", "ridges"]).output
    assert "split: test" in CliRunner().invoke(app, ["show", "radial"]).output
