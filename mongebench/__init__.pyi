from .check.certificate import certify
from .core.errors import (
    BudgetExceeded,
    ContractViolation,
    Diverged,
    InvalidInput,
    InvalidParameter,
    MongebenchError,
    NoInverse,
    NotConverged,
    NotSavable,
    OracleNotDeclared,
    OracleUnavailable,
    PluginError,
    UnknownName,
)
from .core.estimator import Claim, MapEstimator, ProblemInfo, Support, Trace
from .core.measure import Source, Target
from .core.oracle import Oracle
from .core.problem import Problem, Split, TruthTier
from .metrics import evaluate
from .metrics.base import Value, metric
from .plugins import estimator, estimators, metrics, problem, problems
from .run.cell import fit, run_cell
from .run.reading import Run, read_run
from .run.record import Record, Status
from .saved import load, save
from .selection.choose import Selection, select
from .selection.diagnosis import Diagnosis, diagnose

__version__: str
__all__ = [
    "BudgetExceeded",
    "Claim",
    "ContractViolation",
    "Diagnosis",
    "Diverged",
    "InvalidInput",
    "InvalidParameter",
    "MapEstimator",
    "MongebenchError",
    "NoInverse",
    "NotConverged",
    "NotSavable",
    "Oracle",
    "OracleNotDeclared",
    "OracleUnavailable",
    "PluginError",
    "Problem",
    "ProblemInfo",
    "Record",
    "Run",
    "Selection",
    "Source",
    "Split",
    "Status",
    "Support",
    "Target",
    "Trace",
    "TruthTier",
    "UnknownName",
    "Value",
    "certify",
    "diagnose",
    "estimator",
    "estimators",
    "evaluate",
    "fit",
    "load",
    "metric",
    "metrics",
    "problem",
    "problems",
    "read_run",
    "run_cell",
    "save",
    "select",
]
