"""Somebody else's code in this process: it may raise what it likes, but neither end the process nor be two of it.

What cannot be caught, such as a crash or a hang, is found by `run.trial`, in a process of its own, and
noted here, so that this process does not do it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mongebench.core.errors import HarmfulPlugin

OURS = "mongebench"
"""The distribution whose code is not somebody else's."""

harmful: dict[str, str] = {}
"""What must not be done in this process, as `guarded` calls it, and what it did in another one."""
listeners: list[Callable[[str], None]] = []
"""Told what is about to be done, and at its end nothing."""


@contextmanager
def guarded(what: str, origin: str) -> Iterator[None]:
    """Around code that `origin` brought. Raises `HarmfulPlugin` where it asks to end the process, or has ended one."""
    if origin == OURS:
        yield
        return
    if what in harmful:
        raise HarmfulPlugin(f"{what} {harmful[what]}.")
    process = os.getpid()
    _announce(what)
    try:
        with staying():
            yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise HarmfulPlugin(f"{what} raised {type(error).__name__}: {error}.") from error
    finally:
        if os.getpid() != process:  # a copy that os.fork made, which nobody waits for
            os._exit(0)
        _announce("")


@contextmanager
def staying() -> Iterator[None]:
    """Let `os._exit` raise `SystemExit` in this process, as `sys.exit` does; forks of it leave as ever."""
    leave, process = os._exit, os.getpid()
    inside = True

    def exit_(status: int) -> NoReturn:
        if inside and os.getpid() == process:
            raise SystemExit(status)
        leave(status)

    os._exit = exit_
    try:
        yield
    finally:
        os._exit, inside = leave, False


def _announce(what: str) -> None:
    for listener in listeners:
        listener(what)
