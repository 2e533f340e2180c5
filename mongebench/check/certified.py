"""Verdicts on problems, and those that were reached before: a truth that drifts while its version stays is found.

`certified.json`, beside this file, holds one entry for each problem that was certified and recorded: what it was made
with, its version and digest, and each check with its value and tolerance. A problem whose digest is another one now,
at the same version, is no longer what records under that version say it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mongebench import plugins
from mongebench.check.certificate import Certificate, certify
from mongebench.core.errors import InvalidInput
from mongebench.core.problem import Problem
from mongebench.run.store import write_atomically

STORED = Path(__file__).with_name("certified.json")


@dataclass(frozen=True)
class Entry:
    """One problem as it was certified.

    Attributes
    ----------
    problem, parameters
        What `mongebench.problem` was called with, without the defaults.
    version, digest
        Of the problem, then.
    n, seed
        What `certify` was called with.
    checks
        Name -> (value, tolerance).
    """

    problem: str
    parameters: Mapping[str, Any]
    version: int
    digest: str
    n: int
    seed: int
    checks: Mapping[str, tuple[float, float]]

    @property
    def title(self) -> str:
        """What messages call it."""
        return " ".join([self.problem, *(f"{name}={json.dumps(value)}" for name, value in self.parameters.items())])

    def build(self) -> Problem:
        """The problem as it is made now."""
        return plugins.problem(self.problem, **self.parameters)

    def is_of(self, problem: Problem) -> bool:
        """Whether it speaks of this problem, at whatever version."""
        if self.problem != problem.name:
            return False
        plugin = plugins.find(plugins.DATASETS, self.problem)
        return plugins.completed(plugin, plugin.load(), self.parameters) == dict(problem.parameters)


@dataclass(frozen=True)
class Verdict:
    """What became of a problem's trial: `ok`, a sentence, and whether there is something to record."""

    ok: bool
    sentence: str
    new: bool = False


def stored(path: Path = STORED) -> list[Entry]:
    """The entries of a file, none where there is no file. Raises `InvalidInput`."""
    if not path.exists():
        return []
    try:
        return [Entry(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(f"{path} holds no certified problems: {error}") from error


def drift(problem: Problem, entry: Entry | None) -> Verdict:
    """Whether a problem is the one that was certified, without certifying it again."""
    if entry is None:
        return Verdict(True, "It was not recorded before.", new=True)
    if problem.version < entry.version:
        return Verdict(False, f"It has version {problem.version}, and version {entry.version} was certified before.")
    if problem.digest == entry.digest:
        return Verdict(True, f"Version {problem.version} and digest {problem.digest} are those recorded.")
    if problem.version == entry.version:
        return Verdict(
            False,
            f"Its digest is {problem.digest}, and {entry.digest} was certified at the same version {entry.version}: "
            "the problem has changed. Raise its `version`, or find what changed it.",
        )
    return Verdict(True, f"Version {problem.version} is new, version {entry.version} is recorded.", new=True)


def trial(problem: Problem, entry: Entry | None, *, n: int, seed: int) -> tuple[Certificate, Verdict]:
    """Every check of a problem, and the verdict on it."""
    certificate = certify(problem, n=n, seed=seed)
    drifted = drift(problem, entry)
    if certificate.ok:
        counted = f"{len(certificate.checks)} checks passed"
        return certificate, Verdict(
            drifted.ok, f"{'certified' if drifted.ok else 'CHANGED'}: {counted}. {drifted.sentence}", drifted.new
        )
    failed = f"{len(certificate.failed)} of {len(certificate.checks)} checks failed: {', '.join(certificate.failed)}."
    return certificate, Verdict(False, f"REFUSED: {failed} {drifted.sentence}")


def record(
    problem: Problem, given: Mapping[str, Any], certificate: Certificate, *, n: int, seed: int, path: Path
) -> None:
    """Keep a certificate that was passed, in place of an earlier one of the same problem.

    Raises `InvalidInput` for one that was not passed, or a file that cannot be written.
    """
    if not certificate.ok:
        raise InvalidInput(f"A certificate with failed checks is not recorded: {', '.join(certificate.failed)}.")
    checks = {check.name: (_rounded(check.value), _rounded(check.tolerance)) for check in certificate.checks}
    entry = Entry(problem.name, dict(given), problem.version, problem.digest, n, seed, checks)
    entries = [entry, *(other for other in stored(path) if not other.is_of(problem))]
    entries.sort(key=lambda one: one.title)
    try:
        write_atomically(path, json.dumps([vars(one) for one in entries], indent=1) + "\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}; name another with --file.") from error


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
