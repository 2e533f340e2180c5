"""Engines: who runs the batches of child processes. Here the interface and the local engine; `dask_engine` has another.

Cells of one estimator on one problem family share a child, because starting one costs seconds; each still has its own
limits and its own record. Those of two frameworks do not: JAX and torch are never in one process.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mongebench.run.batch import Progress, run_batch
from mongebench.run.child import Job
from mongebench.run.record import PlannedCell

BATCHES_PER_WORKER = 4
"""A family of cells is cut into this many batches a worker, so that none idles long while another ends."""


class Engine(Protocol):
    """Runs planned cells somewhere; records are the same whichever does."""

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """Leave a record for every cell.

        Raises
        ------
        RunStopped
            Records cannot be written, or nobody is left to run cells. What was recorded stays.
        KeyboardInterrupt
            Goes on after the children were killed.
        """
        ...


def batches(cells: Sequence[PlannedCell], workers: int, seeds_together: int = 1) -> list[list[PlannedCell]]:
    """Cells that share a child: one estimator on one problem family, in the given order, no more than is good."""

    def family(planned: PlannedCell) -> tuple[str, str, str]:
        return planned.cell.estimator.name, planned.cell.problem.name, planned.framework

    size = -(-len(cells) // (BATCHES_PER_WORKER * workers))
    size = -(-size // seeds_together) * seeds_together
    found = []
    for _, group in itertools.groupby(sorted(cells, key=family), key=family):
        alike = list(group)
        found += [alike[start : start + size] for start in range(0, len(alike), size)]
    return found


@dataclass
class LocalEngine:
    """Runs cells in child processes of this one, `job.conditions.workers` at a time.

    Attributes
    ----------
    job
        What all batches share: everything but the cells.
    on_progress
        Called from the workers' threads.
    """

    job: Job
    on_progress: Progress

    def run(self, cells: Sequence[PlannedCell]) -> None:
        """See `Engine`."""
        conditions = self.job.conditions
        work: queue.SimpleQueue[list[PlannedCell]] = queue.SimpleQueue()
        for batch in batches(cells, conditions.workers, conditions.seeds_together):
            work.put(batch)
        stop = threading.Event()
        errors: list[BaseException] = []

        def worker(ended: threading.Event) -> None:
            try:
                while not stop.is_set():
                    batch = work.get_nowait()
                    run_batch(self.job.model_copy(update={"cells": batch}), self.on_progress, stop.is_set)
            except queue.Empty:
                pass
            except BaseException as error:
                errors.append(error)
                stop.set()
            finally:
                ended.set()

        # They are not joined: a thread counts as ended once a join of it was interrupted (Python 3.11).
        started: list[threading.Event] = []
        try:
            for _ in range(conditions.workers):
                ended = threading.Event()
                threading.Thread(target=worker, args=[ended], daemon=True).start()
                started.append(ended)
            while not _all_set(started):
                pass
        finally:
            stop.set()
            while True:
                # A second signal changes nothing: the children are being killed as it is, and their keepers would do
                # so if this process went away.
                with contextlib.suppress(KeyboardInterrupt):
                    if _all_set(started):
                        break
        if errors:
            raise errors[0]


def _all_set(events: Sequence[threading.Event]) -> bool:
    """Whether all are, after waiting for each at most a fifth of a second: a longer wait lets no signal through."""
    return all(event.wait(0.2) for event in events)
