from .errors import (
    BudgetExceeded,
    ContractViolation,
    Diverged,
    InvalidInput,
    InvalidParameter,
    MongebenchError,
    OracleNotDeclared,
    OracleUnavailable,
    PluginError,
    UnknownName,
)
from .estimator import MapEstimator, ProblemInfo, Support, Trace
from .measure import Source, Target
from .metrics import evaluate
from .oracle import Oracle
from .plugins import estimator, estimators, problem, problems
from .problem import Problem, TruthTier
from .run.cell import fit, run_cell
from .run.record import Record, Status

__version__: str
__all__ = [
    "BudgetExceeded",
    "ContractViolation",
    "Diverged",
    "InvalidInput",
    "InvalidParameter",
    "MapEstimator",
    "MongebenchError",
    "Oracle",
    "OracleNotDeclared",
    "OracleUnavailable",
    "PluginError",
    "Problem",
    "ProblemInfo",
    "Record",
    "Source",
    "Status",
    "Support",
    "Target",
    "Trace",
    "TruthTier",
    "UnknownName",
    "estimator",
    "estimators",
    "evaluate",
    "fit",
    "problem",
    "problems",
    "run_cell",
]
