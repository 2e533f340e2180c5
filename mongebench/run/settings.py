"""Where an estimator's parameters come from: its defaults, a tuning on problems that no board shows, or a hand.

A tuned setting is what `mongebench tune` found on the tuning split (`Problem.split`) and wrote into a file of tuned
settings: the packaged one beside the estimators, or one that an experiment names. Its form, in TOML:

    [w2_dual]
    experiment = "tuning"           # where it was tuned, and how it did there
    trials = 8
    score = 0.31                    # geometric mean of error / the identity's error
    default_score = 0.42
    cpu_seconds = 260.0             # that all trials' fits took
    parameters = { learning_rate = 0.02, width = 64 }
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import to_jsonable_python

from mongebench.core.errors import ExperimentError, PluginError, one_of
from mongebench.plugins import ESTIMATORS, completed, find
from mongebench.run.record import Model, Spec

PACKAGED = Path(__file__).parents[1] / "estimators" / "tuned.toml"


class Setting(StrEnum):
    """Who chose the parameters of an estimator."""

    DEFAULT = "default"
    TUNED = "tuned"
    HAND_SET = "hand-set"

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


_MEANING = {
    Setting.DEFAULT: "the estimator's defaults",
    Setting.TUNED: "chosen by `mongebench tune` on problems that no board shows",
    Setting.HAND_SET: "set by hand in the experiment, possibly with knowledge of the problems it is measured on",
}


class Tuned(Model):
    """One tuned setting, and how it was found."""

    experiment: str
    trials: int = Field(ge=1)
    score: float
    default_score: float
    cpu_seconds: float
    parameters: dict[str, Any]


def read(path: Path = PACKAGED) -> dict[str, Tuned]:
    """The tuned settings of a file, by the estimator's name; none where there is no such file.

    Raises `ExperimentError` where the file is not of the form above.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return {}


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> dict[str, Tuned]:
    del changed  # a file that was written again is read again
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: Tuned.model_validate(entry) for name, entry in content.items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is not TOML: {error}.") from None
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(map(str, item["loc"]))
        raise ExperimentError(f"{path} holds no tuned settings: {place}: {item['msg']}.") from None


def parameters(name: str, setting: str, tuned: Mapping[str, Tuned]) -> dict[str, Any]:
    """What an experiment's `setting = "default"` or `"tuned"` stands for.

    Raises `ExperimentError` on another word, and where the estimator was never tuned.
    """
    choices = (Setting.DEFAULT, Setting.TUNED)
    if setting not in choices:
        raise ExperimentError(one_of(str(setting), choices, f"setting of estimator {name!r}"))
    if setting == Setting.DEFAULT:
        return {}
    if name not in tuned:
        raise ExperimentError(
            f"Estimator {name!r} has no tuned setting; tuned are: {', '.join(sorted(tuned)) or '(none)'}. "
            f"`mongebench tune {name}` finds one."
        )
    return dict(tuned[name].parameters)


def setting_of(spec: Spec, tuned: Mapping[str, Tuned]) -> Setting:
    """Who chose the parameters of an estimator; those of one that cannot be imported count as set by hand."""
    try:
        plugin = find(ESTIMATORS, spec.name)
        defaults = completed(plugin, plugin.load(), {})
    except (ImportError, PluginError):
        return Setting.DEFAULT if not spec.parameters else Setting.HAND_SET
    if _alike(spec.parameters, defaults):
        return Setting.DEFAULT
    found = tuned.get(spec.name)
    return Setting.TUNED if found and _alike(spec.parameters, defaults | found.parameters) else Setting.HAND_SET


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """As JSON has them: a tuple among the defaults is a list in a plan."""
    return bool(to_jsonable_python(one) == to_jsonable_python(other))
