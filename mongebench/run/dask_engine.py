"""The engine for several machines: dask.distributed hands batches out, and nothing else.

A worker starts the same child processes as the local engine and waits for them: estimators never run in a worker, so
one that crashes, hangs or hoards memory cannot take a worker with it. Where the worker sees the run's directory, its
children write there; where it does not, they write beside the worker and the records travel back as JSON.

A worker that is lost loses the cells in flight alone. Its batch is halved and handed out again, so that a cell that
keeps losing its worker is soon by itself, and can be told.

A worker runs nothing with other code, or other versions of libraries, than the plan was made with: it compares both
before each batch, and the run stops with what differs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mongebench.core.errors import MongebenchError
from mongebench.run.batch import Progress, run_batch
from mongebench.run.build import Builder
from mongebench.run.child import Job
from mongebench.run.engine import batches
from mongebench.run.measurement import failed
from mongebench.run.planned import Places, code, forget_code, here, places
from mongebench.run.record import PlannedCell, Record, State, Status
from mongebench.run.store import RunDirectory, RunStopped, write_atomically

POLL_SECONDS = 0.2
LOSSES = 3
"""Times a batch of one cell may lose its worker (after as many tries as the scheduler allows each)."""
REFILL_SECONDS = 10.0
"""Between two looks whether this machine's own cluster still has its workers."""
PATIENCE = 60.0
"""Seconds without a scheduler, or without a worker, before the run gives up."""


@dataclass
class DaskEngine:
    """Runs cells in child processes of dask workers, one at a time for each of a worker's threads.

    Attributes
    ----------
    job
        What all batches share: everything but the cells.
    on_progress
        Called when a batch has ended, for each of its cells.
    scheduler
        Address of a running scheduler; None starts `job.conditions.workers` workers on this machine.
    """

    job: Job
    on_progress: Progress
    scheduler: str | None = None

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """See `Engine`."""
        directory = RunDirectory(self.job.run_directory)
        mark = directory.path / f".shared-{uuid.uuid4().hex}"  # who finds it there may write there
        write_atomically(mark, "")
        try:
            with _client(self.scheduler, self.job.conditions.workers) as client:
                count = sum(client.nthreads().values())
                conditions = replace(self.job.conditions, workers=1 if self.job.conditions.exclusive else count)
                job = self.job.model_copy(update={"conditions": conditions})
                dispatch = _Dispatch(client, job, directory, mark.name, self.on_progress)
                try:
                    dispatch.run(batches(cells, count, conditions.seeds_together))
                finally:
                    dispatch.give_up()
        finally:
            mark.unlink(missing_ok=True)


@contextlib.contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A client of the scheduler at an address, or of a cluster of this machine's own."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MongebenchError('--engine dask needs dask.distributed: pip install "mongebench[dask]".') from None

    # What dask has to say of lost workers and schedulers is said here in a sentence.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        try:
            if scheduler is None:
                cluster = LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
                )
                stack.callback(cluster.close, timeout=10)
            client = Client(scheduler or cluster, set_as_default=False, timeout=10)
            stack.callback(client.close, timeout=5)
            client.wait_for_workers(1, timeout=PATIENCE)
            _refuse_who_cannot_import(client)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunStopped(
                f"No dask scheduler with a worker at {scheduler or 'this machine'}: {error}. Start one with "
                "`dask scheduler` and `dask worker ADDRESS`"
            ) from error
        yield client


def _refuse_who_cannot_import(client: Any, known: Container[str] = ()) -> None:
    """Raise `RunStopped` with the error of the scheduler, or of a worker not yet known, where it cannot import this.

    They are asked with a function that every Python has: a worker that cannot unpickle its task dies, and is but lost.
    """
    statement = f"import {__name__}"
    found: dict[str, Any] = {}
    try:
        client.run_on_scheduler(exec, statement)
    except Exception as error:
        found["scheduler"] = error
    if workers := [address for address in client.nthreads() if address not in known]:
        answers = client.run(exec, statement, workers=workers, on_error="return")
        found |= {f"worker {address}": answer for address, answer in answers.items()}
    for who, answer in found.items():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):  # one whose connection broke is lost
            raise RunStopped(
                f"The dask {who} cannot import mongebench: {type(answer).__name__}: {answer}. Install there what is "
                "installed here"
            )


class _Dispatch:
    """Batches on their way: in flight at the workers, lost, handed out again, recorded."""

    def __init__(self, client: Any, job: Job, directory: RunDirectory, mark: str, on_progress: Progress) -> None:
        self.client = client
        self.job = job
        self.directory = directory
        self.mark = mark
        self.on_progress = on_progress
        self.builder = Builder(job.base)
        self.in_flight: dict[Any, list[PlannedCell]] = {}
        self.losses: Counter[str] = Counter()
        self.well = self.filled = time.monotonic()
        self.workers = set(client.nthreads())
        """Addresses of those that can import what they run."""

    def run(self, waiting: Sequence[list[PlannedCell]]) -> None:
        """Leave a record for every cell, or raise `RunStopped`."""
        for batch in waiting:
            self._submit(batch)
        while self.in_flight:
            time.sleep(POLL_SECONDS)
            if not self._somebody_works():
                continue
            for future in [future for future in self.in_flight if future.status != "pending"]:
                self._take(future)

    def give_up(self) -> None:
        """Ask the workers to end what is still in flight."""
        with contextlib.suppress(Exception):  # whoever is asked may be gone
            self.client.cancel(list(self.in_flight), force=True)

    def _submit(self, batch: list[PlannedCell]) -> None:
        job = self.job.model_copy(update={"cells": batch})
        first = batch[0].cell  # all of a batch are of one estimator and problem
        where = places(first, self.builder.estimator(first.estimator))
        words = (job.model_dump_json(), self.mark, json.dumps(asdict(where)))
        future = self.client.submit(run_task, *words, key=f"mongebench-{uuid.uuid4().hex}", pure=False)
        self.in_flight[future] = batch

    def _somebody_works(self) -> bool:
        """Whether there is a scheduler with a worker. Raises `RunStopped` once `PATIENCE` is spent."""
        missing = "scheduler" if self.client.status != "running" else ""
        if not missing:
            try:
                workers = set(self.client.nthreads())
                if not workers <= self.workers:
                    _refuse_who_cannot_import(self.client, self.workers)
                    self.workers |= workers
                missing = "" if workers else "worker"
            except RunStopped:
                raise
            except Exception:  # the connection broke while it was asked
                missing = "scheduler"
        now = time.monotonic()
        if missing != "scheduler" and self.client.cluster is not None and now - self.filled > REFILL_SECONDS:
            # A nanny starts a lost worker again, unless it was lost while it started: then the nanny goes too.
            self.filled = now
            self.client.cluster.scale(self.job.conditions.workers)
        if not missing:
            self.well = now
        elif now - self.well > PATIENCE or self.client.status == "closed":
            raise RunStopped(f"The dask {missing} is lost, and did not come back; {self._left()} cells are left")
        return not missing

    def _left(self) -> int:
        return sum(len(self.directory.pending(batch)) for batch in self.in_flight.values())

    def _take(self, future: Any) -> None:
        """What became of a batch: its records, or another try."""
        from distributed import KilledWorker

        batch = self.in_flight.pop(future)
        if future.status == "finished":
            for sent in json.loads(future.result()):
                self._write(Record.model_validate_json(sent["record"]), sent["sketch"])
            self._believe(batch, future)
        elif future.status == "error" and not isinstance(error := future.exception(), KilledWorker):
            self.in_flight[future] = batch
            raise RunStopped(
                str(error)
                if isinstance(error, RunStopped)
                else f"A dask worker could not run a batch: {type(error).__name__}: {error}"
            )
        left = self.directory.pending(batch)
        keys = {planned.cell.key for planned in left}
        for planned in batch:
            if planned.cell.key not in keys:
                self.on_progress(planned.cell, "recorded")
        if len(batch) == 1 and left:
            self.losses.update(keys)
            if self.losses[batch[0].cell.key] >= LOSSES:
                reason = f"the dask worker was lost {LOSSES} times in this cell alone"
                self.directory.write(failed(batch[0], self.job.conditions, Status.CRASHED, reason))
                self.on_progress(batch[0].cell, "recorded")
                return
        half = -(-len(left) // 2)
        for part in (left[:half], left[half:]):
            if part:
                self._submit(part)

    def _believe(self, batch: list[PlannedCell], future: Any) -> None:
        """Raise `RunStopped` where a worker's child processes, against its word, ran other code than planned."""
        for planned in batch:
            if self.directory.find(planned).status is State.STALE:
                record = self.directory.find_any(planned.cell).record
                differences = planned.manifest.differences(record.manifest) if record else []
                (workers,) = self.client.who_has([future]).values()
                raise RunStopped(_refusal(", ".join(workers), differences))

    def _write(self, record: Record, sketch: str | None) -> None:
        # As RunDirectory.write: the sketch first, and its bytes as they came.
        if sketch is not None:
            write_atomically(self.directory.sketch_path(record.cell), base64.b64decode(sketch))
        write_atomically(self.directory.record_path(record.cell), record.model_dump_json(indent=1))


def run_task(job_json: str, mark: str, where_json: str | None = None) -> str:
    """On a worker: run a job's cells in child processes; the records as JSON where the run's directory is not seen.

    Parameters
    ----------
    job_json
        A `Job`.
    mark
        Name of a file that the run's directory holds, if this is it.
    where_json
        The `Places` of the code of the job's cells, to be compared with what is there on this machine; None where it
        is this process that planned them.

    Raises `RunStopped` where the code, or a library, is another here.
    """
    job = Job.model_validate_json(job_json)
    if where_json is not None:
        _compare(job.cells[0], Places(**json.loads(where_json)))
    with contextlib.ExitStack() as stack:
        shared = Path(job.run_directory, mark).exists()
        if not shared:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mongebench-records-"))
            job = job.model_copy(update={"run_directory": scratch})
        directory = RunDirectory(job.run_directory)
        directory.create()
        run_batch(job, lambda cell, event: None, _unwanted)
        done = [] if shared else [planned for planned in job.cells if directory.record_path(planned.cell).exists()]
        return json.dumps([_sent(directory, planned) for planned in done])


def _compare(planned: PlannedCell, where: Places) -> None:
    """Raise `RunStopped` where a cell was planned with other code or libraries than this worker has."""
    from distributed import get_worker

    forget_code()  # a worker outlives changes of its files, which its child processes see
    if differences := planned.manifest.code.differences(code(here(where))):
        raise RunStopped(_refusal(str(get_worker().address), differences))


def _refusal(worker: str, differences: Sequence[str]) -> str:
    return (
        f"The dask worker {worker} has other code: {'; '.join(differences)} (as planned -> as it has it). Give it the "
        "files and libraries of this machine"
    )


def _sent(directory: RunDirectory, planned: PlannedCell) -> dict[str, str | None]:
    sketch = directory.sketch_path(planned.cell)
    return {
        "record": directory.record_path(planned.cell).read_text(encoding="utf-8"),
        "sketch": base64.b64encode(sketch.read_bytes()).decode() if sketch.exists() else None,
    }


def _unwanted() -> bool:
    """Whether the task of this thread was cancelled: dask lets a running one run on."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"
