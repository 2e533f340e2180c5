"""The error of an iterative solver that ran out of iterations."""

from __future__ import annotations

from mongebench.errors import MongebenchError


class NotConverged(MongebenchError, RuntimeError):
    """A solver that stopped before its own criterion was met: its answer would be wrong without saying so."""
