"""The syntax tree of Python text, read by one thread at a time."""

from __future__ import annotations

import ast
import threading

# CPython 3.11 counts the depth of the tree it is building in one place for all threads, and two threads that build at
# once end in a SystemError (github.com/python/cpython/issues/106905).
_ONE = threading.RLock()


def tree_of(text: str | bytes) -> ast.Module:
    """As `ast.parse`, and raising what it raises."""
    with _ONE:
        try:
            return ast.parse(text)
        except SystemError:  # a thread of somebody else's parsed meanwhile
            return ast.parse(text)
