"""What one cell leaves: status, metrics, times by phase, oracle counts, trace, provenance.

A record is a JSON file of the schema below and nothing else: nothing is ever unpickled. Every planned cell leaves one,
whatever became of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mongebench.core.estimator import CPU_ALONE
from mongebench.core.text import bounded
from mongebench.metrics.base import Value
from mongebench.run.device import Device

SCHEMA_VERSION = 2
SLACK = 0.02
"""Share of the wall time by which the phases may miss it."""
PUT_OFF = 10.0
"""Times the fit that compilation may take before a record says so."""
NOTABLE = 1.0, 0.1
"""Seconds of compilation, and CPU seconds beside the clock, below which nothing is said."""
CHARACTERS, ENTRIES, BITS = 2000, 200, 1024
"""Most that a record keeps of a text, of warnings or of learned attributes, and of a whole number."""


class Status(StrEnum):
    """What became of a cell."""

    OK = "ok"
    AT_FLOOR = "at_floor"
    DIVERGED = "diverged"
    NONFINITE = "nonfinite"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED = "unsupported"
    MISSING_DEPENDENCY = "missing_dependency"
    CRASHED = "crashed"
    ERROR = "error"

    @property
    def measured(self) -> bool:
        """Whether the metrics count: the map was fitted, finite and of sane size."""
        return self in MEASURED

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


MEASURED = (Status.OK, Status.AT_FLOOR)
"""The statuses of cells whose metrics count."""


class State(StrEnum):
    """What is there of a planned cell, where it is no record that holds."""

    MISSING = "missing"
    STALE = "stale"
    UNREADABLE = "unreadable"

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


_MEANING: dict[Status | State, str] = {
    State.MISSING: "no record yet; run the experiment again",
    State.STALE: "made with other code or under other conditions than planned; run the experiment again",
    State.UNREADABLE: "its file is not a record of this cell; run the experiment again",
    Status.OK: "fitted and measured",
    Status.AT_FLOOR: "fitted and measured; the error is below what this many points can tell from zero",
    Status.DIVERGED: "the map is finite but far from the target, or the estimator saw its iteration blow up",
    Status.NONFINITE: "the map returned NaN or infinite values",
    Status.TIMEOUT: "killed at the time limit",
    Status.OUT_OF_MEMORY: "killed at the memory limit, or an allocation failed",
    Status.UNSUPPORTED: "the estimator does not serve this problem at this budget",
    Status.MISSING_DEPENDENCY: "a package the estimator needs is not installed",
    Status.CRASHED: "the process died",
    Status.ERROR: "the estimator raised an error or broke the contract",
}


def meaning(status: str) -> str:
    """Of a `Status` or a `State`, by its name."""
    return _MEANING[State(status) if status in list(State) else Status(status)]


class Model(BaseModel):
    """Base of everything that is written: frozen, strict about unknown keys, NaN and infinity kept as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Spec(Model):
    """A registered name with all its parameters."""

    name: str
    parameters: dict[str, Any] = {}

    @property
    def label(self) -> str:
        """`name(key=value, ...)`."""
        inside = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}({inside})" if inside else self.name


class Cell(Model):
    """One point of the grid: estimator x problem x budget x seed. `None` draws are unlimited."""

    estimator: Spec
    problem: Spec
    n_source: int | None
    n_target: int | None
    seed: int

    @property
    def label(self) -> str:
        """One line that tells this cell from all others."""
        return (
            f"{self.estimator.label} on {self.problem.label}, n={budget(self.n_source)}/{budget(self.n_target)}, "
            f"seed={self.seed}"
        )

    @property
    def key(self) -> str:
        """Content hash of the cell: the name of its record."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]


def budget(n: int | None) -> str:
    """A budget as people write it."""
    return "unlimited" if n is None else str(n)


class Code(Model):
    """What made a number: digests of the code (of its syntax, without comments and docstrings) and versions.

    `measurement_source` is that of mongebench's core, clock and measurement; `versions` are those of the libraries that
    the estimator imports, and of NumPy and SciPy.
    """

    estimator_source: str
    problem_source: str = ""
    metrics_source: str = ""
    measurement_source: str = ""
    versions: dict[str, str] = {}

    def differences(self, other: Code, ignored: Iterable[str] = ()) -> list[str]:
        """What `other` has in place of what this one has, a line a field: `versions.jax: 0.8 -> 0.9`."""
        return [f"{name}: {ours} -> {theirs}" for name, ours, theirs in _changes(self, other, set(ignored))]


def _changes(one: Code, other: Code, ignored: set[str]) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = one.model_dump(exclude=ignored), other.model_dump(exclude=ignored)
    for name in theirs:
        if isinstance(theirs[name], dict):
            for key in sorted({**ours[name], **theirs[name]}):
                pair = ours[name].get(key, "none"), theirs[name].get(key, "none")
                if pair[0] != pair[1]:
                    yield f"{name}.{key}", *pair
        elif ours[name] != theirs[name]:
            yield name, ours[name], theirs[name]


class Manifest(Code):
    """What a record depends on besides its cell: it is reused only while all of this is unchanged."""

    schema_version: int = SCHEMA_VERSION
    problem_digest: str
    evaluation_points: int
    threads: int
    time_limit: float | None = None
    cpu_budget: float | None = None
    memory_limit: int | None = None
    exclusive: bool = False
    device: Device = "cpu"
    repeats: int = 1

    @property
    def code(self) -> Code:
        """The part that is code."""
        return Code(**{name: getattr(self, name) for name in Code.model_fields})


class Facts(Model):
    """What tables group cells by, known before a cell runs; `framework` is what the estimator computes with."""

    tier: str
    anchor: bool
    framework: str = CPU_ALONE
    dim: int
    strong_convexity: float | None
    truth_tier: str
    setting: str = Field(default="", description="who chose the estimator's parameters: default, tuned or hand-set")
    split: str = Field(default="test", description="of the problem: test (shown on boards) or tune")


class PlannedCell(Facts):
    """A cell and what its record must have been made with."""

    cell: Cell
    manifest: Manifest


class Times(Model):
    """Seconds by phase; the first five add up to `wall`.

    `fit` leaves out compilation, the trace's own work and the drawing of samples, which is the problem's.
    `evaluate` holds the map's own time at the evaluation points (`transform`, at `transform_points` of them) and the
    metrics'. `fit_cpu` is the CPU time of the fit: of the process in `fit`, all threads together, compilation included,
    of the processes that the fit started, and `late_cpu`, what its threads and processes went on to use while the trace
    was scored and after it had returned. `other_cpu` is the process's CPU time in all other phases. Where several seeds
    were fitted `together` in one call, all but `transform` are equal shares of the call's. `fits` holds `fit` of each
    of the fits that an experiment's `repeats` asked for, the first, which all the other fields are of, among them; it
    is empty for one.
    """

    imports: float
    compile: float
    fit: float
    evaluate: float
    overhead: float
    wall: float
    fit_cpu: float
    transform: float
    transform_points: int | None = None
    late_cpu: float = 0.0
    other_cpu: float | None = None
    together: int = 1
    fits: list[float] = []

    @property
    def fit_median(self) -> float:
        """Seconds of a fit, the median over its repeats."""
        return statistics.median(self.fits or [self.fit])

    @property
    def fit_iqr(self) -> float | None:
        """Interquartile range of the seconds of the repeated fits; None for a single fit."""
        if len(self.fits) < 2:
            return None
        low, _, high = statistics.quantiles(self.fits, n=4, method="inclusive")
        return high - low

    @property
    def doubt(self) -> str:
        """Why these times cannot be true, if so."""
        phases = {name: getattr(self, name) for name in ("imports", "compile", "fit", "evaluate", "overhead")}
        numbers = {name: value for name, value in self if isinstance(value, (int, float))}
        numbers |= {f"fits[{index}]": seconds for index, seconds in enumerate(self.fits)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            if value < 0:
                return f"{name} is {value:.3g}: the clock went backwards"
        allowed = max(SLACK * self.wall, 1e-3)
        for name, value in phases.items():
            if value > self.wall + allowed:
                return f"{name} took {value:.6g} s of {self.wall:.6g} s"
        if abs(sum(phases.values()) - self.wall) > allowed:
            return f"the phases add up to {sum(phases.values()):.6g} s of {self.wall:.6g} s"
        if self.transform > self.together * (self.evaluate + allowed):
            return f"transform took {self.transform:.6g} s of {self.together * self.evaluate:.6g} s in evaluate"
        return ""

    @property
    def remarks(self) -> list[str]:
        """What `fit` does not show, a sentence each: compilation much longer than the fit, work beside the clock."""
        said = []
        if self.compile > max(PUT_OFF * self.fit, NOTABLE[0]):
            said.append(
                f"compilation took {self.compile:.3g} s, the fit {self.fit:.3g} s: what is computed while a function "
                "is traced counts as compilation"
            )
        if self.late_cpu > max(SLACK * self.fit_cpu, NOTABLE[1]):
            said.append(
                f"threads or processes of the fit used {self.late_cpu:.3g} CPU s while its clock stood still: fit_cpu "
                "holds them, fit does not"
            )
        return said


class TracePoint(Model):
    """One outer step of a fit.

    Attributes
    ----------
    iteration
        0 at the start.
    flow_time
        Sum of the steps tau; None for a scheme that follows no flow.
    oracle_calls
        Draws and evaluations so far.
    fit_seconds
        Seconds of the phase `fit` so far.
    l2_error
        Squared L2(mu0) error on the trace's evaluation points, length^2; None where T* is not known.
    l2_error_se, l2_ratio_se
        Standard errors, over the draw of those points, of `l2_error` and of its ratio to the start's (paired: both are
        means over the same points); None in records made before they were kept.
    energy_distance
        Between T#mu0 and gamma on the same points, U-statistic.
    kl
        KL(T#mu0 | gamma) in nats on the same points, where it is known: see `mongebench.run.trace`. In records without
        `kl_se` it is the fit's own objective, with the noise of its batches.
    kl_se, kl_ratio_se
        As those of `l2_error`.
    l2_to_kl_se, kl_to_l2_se
        Of the ratios of `l2_error` to the start's `kl`, and of `kl` to the start's `l2_error`.
    diagnostics
        What the fit says about itself.
    """

    iteration: int
    flow_time: float | None
    oracle_calls: int
    fit_seconds: float
    l2_error: float | None
    l2_error_se: float | None = None
    l2_ratio_se: float | None = None
    energy_distance: float | None = None
    kl: float | None = None
    kl_se: float | None = None
    kl_ratio_se: float | None = None
    l2_to_kl_se: float | None = None
    kl_to_l2_se: float | None = None
    diagnostics: dict[str, float] = {}


class Provenance(Model):
    """Where and with what a record was made; no host name, no user, no path.

    `workers` cells ran beside each other, unless `exclusive`: then no other of any run on the machine did, and the
    process was `pinned_to` these cores (where the system can). `device` is what the fit computed on: "cpu", or the name
    of a GPU that it took memory of, with its `driver`. `precision` holds the framework's flags for products of
    matrices, TF32 among them. `commit_unknown` says why a checkout's commit, or whether it is `dirty`, is not known; an
    installed package has none.
    """

    mongebench: str
    commit: str | None
    dirty: bool | None
    commit_unknown: str = ""
    python: str
    platform: str
    processor: str
    cores: int
    device: str
    driver: str | None = None
    dtype: str
    precision: dict[str, str] = {}
    threads: int
    workers: int
    versions: dict[str, str]
    exclusive: bool = False
    pinned_to: list[int] = []
    environment: dict[str, str]
    started_at: str


class Record(PlannedCell):
    """What one cell left.

    `peak_bytes` is the peak of the process's resident memory, `gpu_peak_bytes` that of its GPU's (None on the CPU). JAX
    cannot reset the latter: it is the largest of this cell and those before it in the same process. `attempts` is more
    than one where the process was killed from outside and the cell tried again.
    """

    status: Status
    reason: str = ""
    metrics: dict[str, Value] = {}
    times: Times | None = None
    compile_cache: Literal["none", "cold", "warm"] = "none"
    oracle_counts: dict[str, int] = {}
    learned: dict[str, float | int | str | bool] = Field(
        default={}, description="scalar learned attributes of the estimator, such as its number of iterations"
    )
    trace: list[TracePoint] = []
    warnings: list[str] = []
    peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    attempts: int = 1
    provenance: Provenance

    @model_validator(mode="after")
    def _no_impossible_times(self) -> Self:
        """A measured record whose times cannot be true is an error, wherever it comes from."""
        if self.times is not None and self.times.doubt and self.status.measured:
            reason = f"the times are not to be trusted: {self.times.doubt}"
            self.__dict__.update(status=Status.ERROR, reason=reason)  # frozen to everybody else
        return self

    @field_validator("reason")
    @classmethod
    def _bounded(cls, reason: str) -> str:
        return bounded(reason, CHARACTERS)

    @field_validator("warnings")
    @classmethod
    def _bounded_warnings(cls, given: list[str]) -> list[str]:
        kept = [bounded(text, CHARACTERS) for text in given[:ENTRIES]]
        return kept if len(given) <= ENTRIES else [*kept[:-1], f"{len(given) - ENTRIES + 1} more warnings were cut"]

    @field_validator("learned", mode="before")
    @classmethod
    def _bounded_learned(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        names = list(given) if len(given) <= ENTRIES else list(given)[: ENTRIES - 1]
        cut = {"...": f"{len(given) - len(names)} more were cut"} if len(names) < len(given) else {}
        return {bounded(str(name), CHARACTERS): _learned(given[name]) for name in names} | cut


def _learned(value: Any) -> Any:
    """A learned scalar as a record keeps it."""
    if isinstance(value, str):
        return bounded(value, CHARACTERS)
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"a whole number of {value.bit_length()} bits"
    return value
