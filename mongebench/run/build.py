"""Specs -> objects: the estimators and problems that cells name, made once for all cells of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mongebench import plugins
from mongebench.core.errors import PluginError
from mongebench.core.estimator import MapEstimator
from mongebench.core.problem import Problem
from mongebench.run.record import Spec


class Builder:
    """Makes what specs name, each of them once: whoever plans a run, and whoever runs its cells.

    What cannot be imported is not tried again either. Estimators are shared, so that whoever fits one clones it.

    Parameters
    ----------
    base
        Folder that relative paths among the parameters of problems are resolved against.
    """

    def __init__(self, base: str | Path = ".") -> None:
        self._base = base
        self._made: dict[tuple[str, str], Any] = {}

    def problem(self, spec: Spec) -> Problem:
        """Raises what `mongebench.problem` raises, and `ImportError`."""
        problem: Problem = self._once("problem", spec, self._problem)
        return problem

    def estimator(self, spec: Spec) -> MapEstimator:
        """Raises what `mongebench.estimator` raises, and `ImportError`."""
        estimator: MapEstimator = self._once("estimator", spec, self._estimator)
        return estimator

    def _problem(self, spec: Spec) -> Problem:
        return plugins.problem(spec.name, base=self._base, **spec.parameters)

    def _estimator(self, spec: Spec) -> MapEstimator:
        return plugins.estimator(spec.name, **spec.parameters)

    def _once(self, kind: str, spec: Spec, make: Callable[[Spec], Any]) -> Any:
        key = kind, spec.model_dump_json()
        if key not in self._made:
            try:
                self._made[key] = make(spec)
            except (ImportError, PluginError) as error:
                self._made[key] = error.with_traceback(None)
        if isinstance(found := self._made[key], Exception):
            raise found
        return found
