from .core.errors import (
    BudgetExceeded,
    ContractViolation,
    Diverged,
    InvalidInput,
    InvalidParameter,
    MongebenchError,
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
from .plugins import estimator, estimators, problem, problems
from .run.cell import fit, run_cell
from .run.record import Record, Status
from .saved import load, save
from .selection.choose import Selection, select

__version__: str
__all__ = [
    "BudgetExceeded",
    "Claim",
    "ContractViolation",
    "Diverged",
    "InvalidInput",
    "InvalidParameter",
    "MapEstimator",
    "MongebenchError",
    "NotConverged",
    "NotSavable",
    "Oracle",
    "OracleNotDeclared",
    "OracleUnavailable",
    "PluginError",
    "Problem",
    "ProblemInfo",
    "Record",
    "Selection",
    "Source",
    "Split",
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
    "load",
    "problem",
    "problems",
    "run_cell",
    "save",
    "select",
]
