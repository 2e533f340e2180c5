"""Standard output that a reader may close early, as `head` does, and a terminal that may know ASCII alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

PLAIN = str.maketrans({"\N{PLUS-MINUS SIGN}": "+-", "\N{HORIZONTAL ELLIPSIS}": "..."})


class _Forgiving:
    """A text stream that goes on in silence once nobody reads it, and writes what its encoding has not in ASCII."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._plain = not (stream.encoding or "utf-8").lower().startswith("utf")

    def write(self, text: str) -> int:
        if self._plain:
            encoding = self._stream.encoding
            text = text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._to_nobody()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._to_nobody()

    def _to_nobody(self) -> None:
        """The file itself: what is still buffered would fail again as Python ends."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # or click would write ASCII past this
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextmanager
def forgiving() -> Iterator[None]:
    """Within, a command that writes to a closed pipe does its work to the end, and ends with its own exit code."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Forgiving(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
