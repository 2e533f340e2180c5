"""While an estimator learns or maps, a problem answers through the views that `fit` was given, and in no other way.

`closed` shuts a problem's other doors for the code inside: its exact map, the samples of its measures, building one.
`opened` lets the core, a metered view or the trace of whoever watches the fit through again. Both hold for the thread
that enters them (and asyncio's tasks); closing `everywhere`, from the main thread, holds for all other threads too,
so that a fit gains nothing by starting one.

This stops what is done by mistake and what is done plainly. Code in the same process can get around anything Python
has: the checks `knows_no_problem_by_name` and `keeps_nothing_between_fits` look at results instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mongebench.core.errors import OracleNotDeclared

_here: ContextVar[bool] = ContextVar("mongebench_closed", default=False)
_everywhere = 0
"""How many times the main thread has closed the doors for all threads."""


def is_closed() -> bool:
    """Whether this thread runs an estimator's code."""
    return _here.get()


@contextmanager
def closed(close: bool = True, *, everywhere: bool = False) -> Iterator[None]:
    """Refuse what a problem knows to the code inside; nothing changes where `close` is false."""
    global _everywhere
    shut_all = close and everywhere and threading.current_thread() is threading.main_thread()
    before = _here.set(close or _here.get())
    _everywhere += shut_all
    try:
        yield
    finally:
        _everywhere -= shut_all
        _here.reset(before)


@contextmanager
def opened(open: bool = True) -> Iterator[None]:
    """Let the code inside ask a problem again; nothing changes where `open` is false."""
    before = _here.set(_here.get() and not open)
    try:
        yield
    finally:
        _here.reset(before)


def watched(trace: Callable[..., bool]) -> Callable[..., bool]:
    """The trace of whoever watches a fit, who may compare with the exact map; the maps it is handed may not."""

    def call(map: Callable[[Any], Any], **told: Any) -> bool:
        mapped = _closing(map)
        if hasattr(map, "log_det"):
            mapped.log_det = _closing(map.log_det)  # type: ignore[attr-defined]
        with opened():
            return trace(mapped, **told)

    return call


def _closing(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def called(x: Any) -> Any:
        with closed():
            return function(x)

    return called


def refuse(what: str) -> None:
    """Raise `OracleNotDeclared` where the doors are closed to this thread."""
    if _here.get():
        raise OracleNotDeclared(
            f"{what} was asked for while an estimator learns or maps. It learns from the views that fit is given: "
            "declare the oracle in `needs`, and ask source and target."
        )
    if _everywhere and threading.current_thread() is not threading.main_thread():
        raise OracleNotDeclared(
            f"{what} was asked for by another thread while the main thread fits an estimator. If the thread is the "
            "fit's, ask source and target in it; if it is not, ask before the fit or after it."
        )
