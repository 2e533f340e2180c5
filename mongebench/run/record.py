"""What one cell leaves: status, metrics, times by phase, oracle counts, trace, provenance.

A record is a JSON file of the schema below and nothing else: nothing is ever unpickled. Every planned cell leaves one,
whatever became of it.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mongebench.metrics.base import Value
from mongebench.run.device import CPU_ALONE, Device

SCHEMA_VERSION = 2
SLACK = 0.02
"""Share of the wall time by which the phases may miss it."""


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
        return self in (Status.OK, Status.AT_FLOOR)

    @property
    def meaning(self) -> str:
        """A sentence for tables and reports."""
        return _MEANING[self]


_MEANING = {
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


class Manifest(Model):
    """What a record depends on besides its cell: it is reused only while all of this is unchanged."""

    schema_version: int = SCHEMA_VERSION
    problem_digest: str
    estimator_source: str
    evaluation_points: int
    threads: int
    time_limit: float | None = None
    memory_limit: int | None = None
    exclusive: bool = False
    device: Device = "cpu"
    repeats: int = 1
    metrics_source: str = Field(default="", description="hash of the plugin files that bring metrics; empty without")


class Facts(Model):
    """What tables group cells by, known before a cell runs; `framework` is what the estimator computes with."""

    tier: str
    anchor: bool
    framework: str = CPU_ALONE
    dim: int
    strong_convexity: float | None
    truth_tier: str


class PlannedCell(Facts):
    """A cell and what its record must have been made with."""

    cell: Cell
    manifest: Manifest


class Times(Model):
    """Seconds by phase; the first five add up to `wall`.

    `fit` leaves out compilation, the trace's own work and the drawing of samples, which is the problem's.
    `evaluate` holds the map's own time at the evaluation points (`transform`) and the metrics'; `fit_cpu` is the
    process's CPU time in `fit`, all threads together, compilation included. Where several seeds were fitted `together`
    in one call, all but `transform` are equal shares of the call's. `fits` holds `fit` of each of the fits that an
    experiment's `repeats` asked for, the first, which all the other fields are of, among them; it is empty for one.
    """

    imports: float
    compile: float
    fit: float
    evaluate: float
    overhead: float
    wall: float
    fit_cpu: float
    transform: float
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
        phases = (self.imports, self.compile, self.fit, self.evaluate, self.overhead)
        if min(phases) < 0:
            return f"a phase took {min(phases):.3g} s: the clock went backwards"
        if abs(sum(phases) - self.wall) > max(SLACK * self.wall, 1e-3):
            return f"the phases add up to {sum(phases):.6g} s of {self.wall:.6g} s"
        return ""


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
        KL(T#mu0 | gamma) in nats, where the fit's objective tells it: see `trace.kl_offset`, also for its noise.
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
    diagnostics: dict[str, float] = {}


class Provenance(Model):
    """Where and with what a record was made; no host name, no user, no path.

    `workers` cells ran beside each other, unless `exclusive`: then no other of any run on the machine did, and the
    process was `pinned_to` these cores (where the system can). `device` is what the fit computed on: "cpu", or the name
    of a GPU that it took memory of, with its `driver`. `precision` holds the framework's flags for products of
    matrices, TF32 among them.
    """

    mongebench: str
    commit: str | None
    dirty: bool | None
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
    cannot reset the latter: it is the largest of this cell and those before it in the same process.
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
    provenance: Provenance
