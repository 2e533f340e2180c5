"""Somebody else's rows for a board: a zip file that a maintainer can check by measuring a part of it again.

    plan.json, cells/         the run, of the submitted estimators alone: every planned cell, whatever became of it
    plugins/                  their source, as it was run
    submission.json           digests of the source, and of installed packages their versions

A zip file is `submitted` until the mark beside it says that this very file was verified. The mark is written by whoever
keeps the board, never by what is in the zip file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mongebench import plugins
from mongebench.report.tables.exports import pack
from mongebench.run import sources
from mongebench.run.provenance import current_commit
from mongebench.run.reading import Run, digest_of, mark_of, read_run
from mongebench.run.record import Model, Record
from mongebench.run.runner import Execution
from mongebench.run.store import SUBMISSION, Declaration, RunDirectory, RunError, replacing, write_atomically

METRICS = ("uvp", "energy_distance")
"""What is compared: the first that both records have, which is what boards count."""
FOLDER = "plugins"
OTHERWISE = frozenset({"time_limit", "memory_limit", "versions", "measurement_source", "metrics_source", "device"})
"""Fields of a manifest that may differ on another machine: what they change, the errors show."""


class Submission(Model):
    """What is submitted: `plugins`, the SHA-256 of each file of source; `requirements`, of installed packages."""

    estimators: tuple[str, ...]
    plugins: dict[str, str]
    requirements: tuple[str, ...]


def submit(directory: RunDirectory, out: Path) -> Submission:
    """Write the zip file of a run's submission: of all cells of estimators that are not mongebench's own.

    Raises
    ------
    RunError
        Where no such estimator is in the run, a cell of one has no record, or its code is no longer what was run.
    """
    planned = Execution.again(directory)
    plan = planned.plan
    cells = [one for one in plan.cells if not plugins.is_ours(one.cell.estimator.name)]
    if not cells:
        raise RunError(f"{directory.path} has no estimator of your own: run one with --plugin FILE.py or a package.")
    stale = [(one.cell.label, reason) for one in cells if (reason := directory.why_rerun(one))]
    if stale:
        label, reason = stale[0]
        raise RunError(f"{len(stale)} of {len(cells)} cells would run again; run them first. {label}: {reason}.")
    names = tuple(dict.fromkeys(one.cell.estimator.name for one in cells))
    files = [Path(path) for path in planned.invocation.plugins]
    source = {name: content for path in files for name, content in _source(path).items()}
    given = tuple(f"{FOLDER}/{path.name}" for path in files)
    origins = {plugins.find(plugins.ESTIMATORS, name).origin for name in names} - {str(path) for path in files}
    found = Submission(
        estimators=names,
        plugins={name: hashlib.sha256(content).hexdigest() for name, content in source.items()},
        requirements=tuple(sorted(f"{name}=={importlib.metadata.version(name)}" for name in origins)),
    )
    run = read_run(directory.path)
    experiment = Path(run.plan.invocation.experiment).name
    invocation = run.plan.invocation.model_copy(update={"experiment": experiment, "plugins": given, "against": None})
    with replacing(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        pack(run, run.plan.model_copy(update={"cells": cells, "invocation": invocation}), packed, given)
        for name, content in source.items():
            packed.writestr(name, content)
        packed.writestr(SUBMISSION, found.model_dump_json(indent=1))
    return found


def _source(path: Path) -> dict[str, bytes]:
    """A plugin file, and the files beside it that it imports, by their names in the zip file."""
    found = {}
    for file in (path, *sources.files(str(path)).values()):
        if file.is_relative_to(path.parent):
            found[f"{FOLDER}/{file.relative_to(path.parent).as_posix()}"] = file.read_bytes()
    return found


@dataclass(frozen=True)
class Checked:
    """A cell that was measured again: `label`, `said` in words, and whether it `agrees`."""

    label: str
    said: str
    agrees: bool


@dataclass(frozen=True)
class Verification:
    """What was found: `faults` of the zip file, each of which fails it, and the cells that were measured again."""

    submission: Submission
    faults: list[str]
    checked: list[Checked]
    planned: int

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the submission."""
        return not self.faults and bool(self.checked) and all(one.agrees for one in self.checked)


def opened(path: Path) -> Submission:
    """What a zip file says that it submits. Raises `RunError`."""
    if not path.is_file():
        raise RunError(f"There is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            return Submission.model_validate_json(archive.read(SUBMISSION))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        why = f"it holds no {SUBMISSION}" if isinstance(error, KeyError) else error
        raise RunError(f"{path} is not a submission as `mongebench submit` writes them: {why}.") from None


def verify(path: Path, share: float = 0.1, tolerance: float = 0.05, seed: int | None = None) -> Verification:
    """Measure a random share of a submission's cells again, here, and compare. This runs the code in the zip file.

    Parameters
    ----------
    path
        Of `submit`.
    share
        Of its cells, rounded up.
    tolerance
        Share by which the error of a cell, lifted to its floor, may differ.
    seed
        Of the choice; by default nobody can know it beforehand.

    Raises
    ------
    RunError
        A file that is not a submission, or one whose packages are not installed.
    """
    submission = opened(path)
    run = read_run(path)
    with zipfile.ZipFile(path) as archive, TemporaryDirectory(prefix="mongebench-verify-") as scratch:
        archive.extractall(scratch)
        faults = [*_foreign(run, submission, archive.namelist()), *_faults(run, submission, Path(scratch))]
        again = _again(run, submission, Path(scratch))
        keys = [planned.cell.key for planned in run.plan.cells]
        theirs = {cell.key for cell in again.cells if cell.estimator.name in submission.estimators}
        if missing := len(theirs - {*keys}):
            faults.append(f"{missing} cells that its experiment plans are not in it.")
        known = [key for key in keys if key in theirs and run.found[key].record is not None]
        chosen = np.random.default_rng(seed).permutation(known)[: math.ceil(share * len(known))]
        checked = []
        if len(chosen):
            again = _again(run, submission, Path(scratch), frozenset(chosen.tolist()))
            again.execute()
            recorded = {record.cell.key: record for record in run.records}
            checked = [_compared(one, recorded[one.cell.key], tolerance) for one in again.directory.records()]
    return Verification(submission, faults, checked, len(keys))


def _foreign(run: Run, submission: Submission, members: list[str]) -> list[str]:
    """Members of a zip file that `submit` does not write, two of one name, and sketches that a report cannot draw."""
    packed_as, found = RunDirectory(""), []
    sketches = {packed_as.sketch_path(planned.cell).as_posix(): planned for planned in run.plan.cells}
    records = {packed_as.record_path(planned.cell).as_posix() for planned in run.plan.cells}
    for name, count in Counter(members).items():
        if name not in {"plan.json", SUBMISSION, *records, *sketches, *submission.plugins}:
            found.append(f"{name} does not belong in a submission.")
        if count > 1:
            found.append(f"{name} is in it {count} times.")
        if name in sketches and run.sketch(sketches[name]) is None:
            found.append(f"{name} is not a complete sketch of its cell.")
    return found


def _faults(run: Run, submission: Submission, folder: Path) -> list[str]:
    """What is wrong before anything is run."""
    found = []
    present = {path.relative_to(folder).as_posix(): path for path in (folder / FOLDER).rglob("*") if path.is_file()}
    for name in sorted({*present, *submission.plugins}):
        if name not in present or digest_of(present[name]) != submission.plugins.get(name):
            found.append(f"{name} is not what {SUBMISSION} says.")
    if lost := sum(one.record is None for one in run.found.values()):
        found.append(f"{lost} of {len(run.found)} planned cells have no record that holds.")
    return found


def _again(run: Run, submission: Submission, folder: Path, chosen: frozenset[str] | None = None) -> Execution:
    """The same experiment with the source that was submitted. Raises `RunError` where a package is missing."""
    text = run.plan.declaration.text if run.plan.declaration else ""
    files = tuple(str(folder / name) for name in run.plan.invocation.plugins)
    for requirement in submission.requirements:
        name, _, version = requirement.partition("==")
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            raise RunError(f"It was measured with {requirement}, here is {installed}: pip install '{requirement}'.")
    return Execution(
        run.plan.invocation.model_copy(update={"plugins": files}),
        RunDirectory(folder / "again"),
        declaration=Declaration(text=text, base=str(folder)),
        chosen=chosen,
    )


def _compared(ours: Record, theirs: Record, tolerance: float) -> Checked:
    label = ours.cell.label
    if differs := theirs.manifest.differences(ours.manifest, OTHERWISE):
        return Checked(label, f"made with something else: {'; '.join(differs)}", False)
    if not (ours.status.measured and theirs.status.measured):
        return Checked(label, f"recorded {theirs.status}, found {ours.status}", ours.status == theirs.status)
    metric = next((name for name in METRICS if name in ours.metrics and name in theirs.metrics), None)
    if metric is None:
        return Checked(label, f"neither record has {' or '.join(METRICS)}", False)
    floor = max(ours.metrics[metric].floor or 0.0, np.finfo(float).tiny)
    recorded, found = (max(one.metrics[metric].value, floor) for one in (theirs, ours))
    agrees = abs(math.log(found / recorded)) <= math.log1p(tolerance)
    return Checked(label, f"{metric} recorded {recorded:.6g}, found {found:.6g}", agrees)


def mark(path: Path, found: Verification, share: float, tolerance: float) -> Path:
    """Write that this very zip file was verified; the file, beside it."""
    content = {
        "sha256": digest_of(path),
        "cells": [one.label for one in found.checked],
        "of": found.planned,
        "share": share,
        "tolerance": tolerance,
        "mongebench": importlib.metadata.version("mongebench"),
        "commit": current_commit(),
    }
    write_atomically(mark_of(path), json.dumps(content, indent=1) + "\n")
    return mark_of(path)
