"""Every error mongebench raises on purpose: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MongebenchError(Exception):
    """Base class; the command line shows its message without a traceback."""


class InvalidInput(MongebenchError, ValueError):
    """Data of the wrong shape, type or content (NaN, too few points, another dimension)."""


class InvalidParameter(MongebenchError, ValueError):
    """A parameter that does not exist, or a value it cannot take."""


class UnknownName(MongebenchError, KeyError):
    """A name under which nothing is registered."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class PluginError(MongebenchError):
    """A plugin cannot be imported, or two of them claim one name."""


class CannotBeMade(PluginError, InvalidParameter):
    """A plugin whose own code raised something with the parameters it was given: its mistake, or theirs."""


class HarmfulPlugin(PluginError):
    """A plugin that ends the process that imports or builds it, or holds it up."""


class ExperimentError(MongebenchError):
    """An experiment file that cannot be planned."""


class ContractViolation(MongebenchError):
    """An estimator breaks the contract of `MapEstimator`: wrong shape, changed input, `fit` not returning self."""


class UnrealValues(ContractViolation, InvalidInput):
    """A map that returned something other than real numbers: complex ones, text, dates, masked or missing entries."""


class OracleNotDeclared(ContractViolation):
    """An estimator asked for what its `needs` does not declare."""


class OracleUnavailable(MongebenchError):
    """The problem cannot answer: it has no density, no potential, no sampler or no exact map."""


class BudgetExceeded(MongebenchError):
    """An estimator asked for more draws than the cell's budget allows."""


class NotSavable(MongebenchError, TypeError):
    """A fitted estimator cannot be written without pickle, or its map is not its own."""


class NoInverse(MongebenchError, NotImplementedError):
    """An estimator that declares no inverse map was asked for one."""


class NotConverged(MongebenchError, RuntimeError):
    """A solver stopped before its own criterion was met, so that its answer would be silently wrong."""


class Diverged(MongebenchError):
    """Raised by an iterative estimator that sees its own iteration blow up; recorded as `diverged`."""


def one_of(given: str, valid: Iterable[str], kind: str) -> str:
    """Sentence for an unknown name: closest match first, then all valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {kind} {given!r}.{hint} Valid: {', '.join(names) or '(none)'}."
