"""Experiment file -> plan: a TOML grid, checked key by key, spanned into cells.

    name = "example"
    time_limit = "90s"
    seeds = 3
    [[estimators]]
    name = ["bures", "exact"]
    [[estimators]]
    name = "entropic"
    epsilon = [0.02, 0.05]          # a list anywhere spans the grid
    [[problems]]
    name = "gaussian"
    dim = [2, 8, 32]
    [budget]
    n_source = [500, 2000]
    n_target = [500, 2000]          # paired with n_source, not crossed; "unlimited" draws, or "all" of a file

`seeds_together = 25` lets estimators that can (the flows) fit up to so many seeds of a cell in one compiled call; their
records say so, and show equal shares of its times. `repeats = 5` fits each cell five times in all, with the same seed:
records and tables show the median of the fit seconds and their interquartile range, and the map that is measured is
the first fit's. A problem may carry a `budget` of its own, in place of the common
one, and `parameters` of all estimators on it, in place of theirs: `parameters = { family = "quadratic" }`; those under
the name of an estimator are its own: `parameters.flow_newton = { units = 64 }`, and a list of tables there makes a row
of each. `estimators` of a problem names those that run on it, in place of all. `gates` names a file, relative to this
one, of the largest errors that `mongebench nightly` lets pass.

An estimator without parameters has its defaults. `setting = "tuned"` in its place asks for what `mongebench tune` found
on problems that no board shows, and `setting = ["default", "tuned"]` for a row of each; `tuned` names a file of tuned
settings, relative to this one, in place of the packaged one. Parameters that are set by hand on a problem of the test
split mark the experiment as hand-set on every page. An estimator or a problem may carry `seeds` of its own, in place of
the common ones; where both do, the problem's count. `cpu_budget = "10s"` is the CPU time that a fit may take: an
iterative estimator is asked to stop there, and keeps the map that it has reached.
`horizon = 2.0` is the flow time up to which `mongebench rate` holds the flows of the run against the theory; without
it, up to their ends.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from mongebench.core.errors import ExperimentError, PluginError, one_of
from mongebench.experiments import packaged
from mongebench.plugins import ANCHORS, DATASETS, ESTIMATORS, SHOWN, completed, find
from mongebench.run import settings
from mongebench.run.build import Builder
from mongebench.run.record import Cell, Spec
from mongebench.run.store import Declaration

MOST_CELLS = 1_000_000
"""Of a grid: counted before it is spanned."""
_DURATION = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
Size = Annotated[ByteSize, Field(ge=1 << 20)]
"""Bytes, as "512MiB", "4GiB", or a bare number."""
_OF_THE_ENTRY = ("budget", "parameters", "seeds", "estimators")
"""Keys of [[problems]] that are no parameters of the problem."""


def duration(given: Any) -> float:
    """Seconds of "90s", "10m", "3h", or of a bare number. Raises `ValueError`."""
    if isinstance(given, (int, float)) and not isinstance(given, bool) and given > 0:
        return float(given)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", given) if isinstance(given, str) else None
    if match is None or match[2] not in _DURATION or float(match[1]) <= 0:
        raise ValueError(f'{given!r} is not a duration; write "90s" or "10m" (units: {", ".join(_DURATION)})')
    return float(match[1]) * _DURATION[match[2]]


def _as_list(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


Draws = Annotated[int, Field(ge=1)] | Literal["unlimited", "all"]


Seeds = Annotated[int, Field(ge=1)] | Annotated[list[int], Field(min_length=1)]
_SEEDS: TypeAdapter[int | list[int]] = TypeAdapter(Seeds)


class Budget(BaseModel):
    """Draws allowed from each side, paired: "unlimited" ones, or "all" that a point cloud has to fit from."""

    model_config = ConfigDict(extra="forbid", strict=True)
    n_source: Annotated[list[Draws], BeforeValidator(_as_list)] = [1000]
    n_target: Annotated[list[Draws], BeforeValidator(_as_list)] = [1000]

    @model_validator(mode="after")
    def _paired(self) -> Budget:
        if len(self.n_source) != len(self.n_target):
            raise ValueError(
                f"n_source has {len(self.n_source)} values and n_target {len(self.n_target)}; they are paired, "
                "not crossed"
            )
        return self

    def pairs(self, problem: Spec, base: Path) -> list[tuple[int | None, int | None]]:
        """(n_source, n_target) on a problem, None for unlimited. Raises `ExperimentError` for "all" of no cloud."""
        sizes: tuple[int | None, ...] = (None, None)
        if "all" in (*self.n_source, *self.n_target):
            built = Builder(base).problem(problem)
            sizes = (built.source.size, built.target.size)

        def draws(given: int | str, size: int | None, name: str) -> int | None:
            if given == "all" and size is None:
                raise ExperimentError(
                    f'{name} = "all" asks for every point of a file, and {problem.label} is drawn without end; give a '
                    'number, or "unlimited" for fresh draws.'
                )
            return size if given == "all" else None if given == "unlimited" else int(given)

        return [
            (draws(a, sizes[0], "n_source"), draws(b, sizes[1], "n_target"))
            for a, b in zip(self.n_source, self.n_target, strict=True)
        ]


class Experiment(BaseModel):
    """A declared grid."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=100)]
    estimators: Annotated[list[dict[str, Any]], Field(min_length=1)]
    problems: Annotated[list[dict[str, Any]], Field(min_length=1)]
    budget: Budget = Budget()
    seeds: Seeds = 1
    evaluation_points: Annotated[int, Field(ge=2)] = 10_000
    time_limit: Annotated[float, BeforeValidator(duration)] = 600.0
    memory_limit: Size = ByteSize(4 << 30)
    threads: Annotated[int, Field(ge=1)] = 1
    seeds_together: Annotated[int, Field(ge=1)] = 1
    repeats: Annotated[int, Field(ge=1)] = 1
    cpu_budget: Annotated[float | None, BeforeValidator(duration)] = None
    gates: str | None = None
    horizon: Annotated[float, Field(gt=0)] | None = None
    tuned: str | None = None
    _declaration: Declaration = PrivateAttr(default=Declaration(text="", base="."))

    @property
    def declaration(self) -> Declaration:
        """What it was read from."""
        return self._declaration

    @property
    def base(self) -> Path:
        """The folder relative paths among the parameters are resolved against: the experiment file's."""
        return Path(self._declaration.base)

    @property
    def tuned_settings(self) -> dict[str, settings.Tuned]:
        """What `setting = "tuned"` stands for, by the estimator's name."""
        return settings.read(self.base / self.tuned if self.tuned else settings.PACKAGED)

    def named(self) -> set[str]:
        """The estimators this experiment names."""
        return {str(name) for entry in self.estimators for name in _as_list(entry.get("name", []))}

    def problem_names(self) -> set[str]:
        """The problems this experiment names."""
        return {str(name) for entry in self.problems for name in _as_list(entry.get("name", []))}

    def cells(self) -> list[Cell]:
        """The grid: estimators x problems x budgets x seeds, each cell once, problems in the outer loop.

        Raises `ExperimentError` where it has more than `MOST_CELLS`, before any is made.
        """
        if (count := self._count()) > MOST_CELLS:
            raise ExperimentError(
                f"The grid of {self.name} has {count} cells; at most {MOST_CELLS} can be planned. Shorten its lists "
                "(or seeds), or make several experiments of it."
            )
        cells: dict[str, Cell] = {}
        tuned = self.tuned_settings
        for entry in self.problems:
            own = {key: value for key, value in entry.items() if key not in _OF_THE_ENTRY}
            budget = _budget_of(entry) if "budget" in entry else self.budget
            given, asked = _parameters_of(entry, self.named()), _estimators_of(entry, self.named())
            spanned = [(problem, budget.pairs(problem, self.base)) for problem in _span(own, DATASETS)]
            for (problem, pairs), common in itertools.product(spanned, self.estimators):
                seeds = self._seeds_of(common, entry)
                bare = {key: value for key, value in common.items() if key != "seeds"}
                for changed in _changed(bare, given, asked):
                    for estimator in _span(changed, ESTIMATORS, tuned):
                        for (n_source, n_target), seed in itertools.product(pairs, seeds):
                            cell = Cell(
                                estimator=estimator, problem=problem, n_source=n_source, n_target=n_target, seed=seed
                            )
                            cells.setdefault(cell.key, cell)
        return list(cells.values())

    def give_seeds(self, seeds: int) -> None:
        """Seeds 0 .. `seeds` - 1 for every cell, in place of what the file says."""
        self.seeds = seeds
        for entry in (*self.estimators, *self.problems):
            entry.pop("seeds", None)

    def _seeds_of(self, *entries: dict[str, Any]) -> Sequence[int]:
        """The seeds of the last entry that has some, or the common ones."""
        seeds: Any = self.seeds
        for entry in entries:
            seeds = entry.get("seeds", seeds)
        try:
            checked = _SEEDS.validate_python(seeds, strict=True)
        except ValidationError as error:
            raise ExperimentError(f"{entries[0].get('name')!r}: seeds: {error.errors()[0]['msg']}.") from None
        return range(checked) if isinstance(checked, int) else checked

    def _count(self) -> int:
        """Cells of the grid, a cell that is written twice counted twice."""
        count = 0
        for entry in self.problems:
            own = {key: value for key, value in entry.items() if key not in _OF_THE_ENTRY}
            pairs = len((_budget_of(entry) if "budget" in entry else self.budget).n_source)
            given, asked = _parameters_of(entry, self.named()), _estimators_of(entry, self.named())
            for common in self.estimators:
                bare = {key: value for key, value in common.items() if key != "seeds"}
                rows = sum(_size(changed) for changed in _changed(bare, given, asked))
                seeds = self._seeds_of(common, entry)
                count += _size(own) * rows * pairs * (seeds.stop if isinstance(seeds, range) else len(seeds))
        return count


def _size(entry: dict[str, Any]) -> int:
    """Combinations of an entry's lists."""
    return math.prod(len(_as_list(value)) for value in entry.values())


def _budget_of(entry: dict[str, Any]) -> Budget:
    try:
        return Budget.model_validate(entry["budget"])
    except ValidationError as error:
        raise ExperimentError(f"problem {entry.get('name')!r}: {_first(error, 'budget')}") from None


def _parameters_of(entry: dict[str, Any], estimators: set[str]) -> dict[str, Any]:
    given = entry.get("parameters", {})
    if not isinstance(given, dict) or "name" in given:
        raise ExperimentError(
            f"problem {entry.get('name')!r}: parameters must be a table of parameters of the estimators, such as "
            f'{{ family = "quadratic" }}; got {given!r}.'
        )
    for name, value in given.items():
        if _is_own(value) and name not in estimators:
            raise ExperimentError(f"problem {entry.get('name')!r}: " + one_of(name, estimators, "estimator here"))
    return given


def _estimators_of(entry: dict[str, Any], known: set[str]) -> list[str] | None:
    """The names that a problem asks for; None for all."""
    if "estimators" not in entry:
        return None
    asked: list[str] = _as_list(entry["estimators"])
    for name in asked:
        if name not in known:
            raise ExperimentError(f"problem {entry.get('name')!r}: " + one_of(str(name), known, "estimator here"))
    return asked


def _changed(common: dict[str, Any], given: dict[str, Any], asked: list[str] | None) -> Iterator[dict[str, Any]]:
    """An entry of estimators with a problem's parameters in place of its own, for each name and each table of its."""
    shared = {key: value for key, value in given.items() if not _is_own(value)}
    for name in _as_list(common.get("name", "")):
        if asked is not None and name not in asked:
            continue
        for own in _as_list(given.get(str(name), {})):
            yield common | ({"name": name} if name else {}) | shared | own


def _is_own(value: Any) -> bool:
    """Whether a value among a problem's parameters is what one estimator is given there: a table, or several."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _span(
    entry: dict[str, Any], group: str, tuned: Mapping[str, settings.Tuned] = MappingProxyType({})
) -> Iterator[Spec]:
    """All combinations of an entry's lists, with the parameters that were left out at their defaults."""
    kind = "estimators" if group == ESTIMATORS else "problems"
    if "name" not in entry:
        raise ExperimentError(f"[[{kind}]] needs a name; got only {', '.join(entry) or 'an empty table'}.")
    keys = list(entry)
    for values in itertools.product(*(_as_list(entry[key]) for key in keys)):
        chosen = dict(zip(keys, values, strict=True))
        plugin = find(group, str(chosen.pop("name")))
        if group == ESTIMATORS and "setting" in chosen:
            chosen = settings.parameters(plugin.name, chosen.pop("setting"), tuned) | chosen
        try:
            complete = completed(plugin, plugin.load(), chosen)
        except (ImportError, PluginError):
            complete = chosen  # cannot be checked; its cells will say why it cannot be imported
        yield Spec(name=plugin.name, parameters=complete)


def path_of(name_or_path: str) -> Path:
    """The file of the experiment of that name, or that file. Raises `ExperimentError` where there is none."""
    known = packaged()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ExperimentError(f"No file {name_or_path}. " + one_of(name_or_path, known, "experiment"))
    return path


def read(name_or_path: str) -> Experiment:
    """The experiment of that name, or of that file. Raises `ExperimentError` naming the key and the valid values."""
    path = path_of(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}.") from None
    return declared(Declaration(text=text, base=str(path.resolve().parent)), str(path))


def declared(declaration: Declaration, path: str) -> Experiment:
    """The experiment of a file's text; `path` is what messages call it. Raises as `read` does."""
    try:
        content = tomllib.loads(declaration.text)
    except (ValueError, RecursionError) as error:  # of numbers too long for Python, and of brackets too deep, too
        raise ExperimentError(f"{path} is not TOML: {error}.") from None
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise ExperimentError(f"{path}: {_first(error)}") from None
    experiment._declaration = declaration
    return experiment


def _first(error: ValidationError, prefix: str = "") -> str:
    item = error.errors()[0]
    place = ".".join(str(part) for part in (prefix, *item["loc"]) if part != "")
    if item["type"] == "extra_forbidden":
        model = Budget if (item["loc"][0] == "budget" and len(item["loc"]) > 1) or prefix == "budget" else Experiment
        return one_of(str(item["loc"][-1]), model.model_fields, "key")
    if item["type"].startswith("byte_size"):
        return f'{place}: {item["input"]!r} is not a size; write "512MiB" or "4GiB".'
    return f"{place}: {item['msg'].removeprefix('Value error, ')}."


def _names(cell: Cell) -> list[str]:
    name = cell.estimator.name
    return [name, SHOWN.get(name, name), cell.problem.name]


def _place(cell: Cell) -> tuple[str, int | None, int | None]:
    return cell.problem.label, cell.n_source, cell.n_target


def select(cells: list[Cell], pattern: str | None) -> list[Cell]:
    """The cells whose estimator or problem matches a shell pattern; if none does, those whose label does or has it.

    Beside estimators that match, the anchors on the same problems stay: a number without them says little. A cell's
    key, or its whole label, selects it alone.

    Raises `ExperimentError` if there is none at all.
    """
    if pattern is None:
        return cells
    named = [any(fnmatch.fnmatchcase(name, pattern) for name in _names(cell)) for cell in cells]
    there = {_place(cell) for cell, matches in zip(cells, named, strict=True) if matches}
    by_name = [
        cell
        for cell, matches in zip(cells, named, strict=True)
        if matches or (cell.estimator.name in ANCHORS and _place(cell) in there)
    ]
    exactly = [cell for cell in cells if pattern in (cell.key, cell.label)]  # "seed=1" is in "seed=10" too
    chosen = (
        by_name
        or exactly
        or [cell for cell in cells if pattern in cell.label or fnmatch.fnmatchcase(cell.label, pattern)]
    )
    if not chosen:
        names = {cell.estimator.name for cell in cells} | {cell.problem.name for cell in cells}
        raise ExperimentError(f"--only {pattern!r} matches no cell; names here: {', '.join(sorted(names))}.")
    return chosen
