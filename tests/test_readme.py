"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest

from mongebench import cli
from mongebench.run.experiment import Experiment

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {language} block"
    return found


def test_the_python_blocks_run(capsys) -> None:
    session, estimator = blocks("python")
    exec(compile(session, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "'uvp'" in said
    assert "ok 0." in said  # the status of the last record, and its UVP
    namespace: dict[str, object] = {}
    exec(compile(estimator, "README.md", "exec"), namespace)
    mine = namespace["MyMap"]()
    assert mine.fit([[0.0], [2.0]], [[1.0], [5.0]]).transform([[1.0]]).tolist() == [[3.0]]


def test_the_toml_block_is_a_valid_experiment() -> None:
    import tomllib

    (text,) = blocks("toml")
    declared = Experiment.model_validate(tomllib.loads(text))
    assert declared.named() == {"bures", "exact", "entropic"}


COMMANDS = [
    *("run", "check", "new-estimator", "list", "show", "table", "status", "why-rerun"),
    *("rate", "figures", "export", "compare", "report"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_exists_and_the_reverse(command: str) -> None:
    assert f"| `mongebench {command} " in README
    names = {found.name or found.callback.__name__ for found in cli.app.registered_commands}
    assert command in names
    assert len(names) == len(COMMANDS)
