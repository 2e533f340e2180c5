"""Text from elsewhere (records, plugins, libraries), made fit to be shown or kept: it steers nothing, and it ends."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\ufffd"
_STEERING = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of Unicode that move a cursor or begin an escape sequence, that no encoding has, that break a line."""
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of the text around it."""


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` with every character that could steer a terminal replaced by U+FFFD, but for those to `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        REPLACEMENT
        if character not in keep and (character in _DIRECTIONS or unicodedata.category(character) in _STEERING)
        else character
        for character in text
    )


def on_one_line(text: str) -> str:
    """As `printable`, with line breaks and tabs replaced too: what stands in a line stays in it."""
    return printable(text, keep="")


def counted(count: int, noun: str) -> str:
    """`1 place`, `2 places`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def bounded(text: str, most: int) -> str:
    """`text` as UTF-8 can hold it, of at most so many characters; how many were cut stands at its end."""
    if len(text) > most:
        # Cut so far that the note fits too: what is bounded once is not changed by being bounded again.
        cut = len(text) - most + len(note := " ... ({} characters were cut)") + len(str(len(text)))
        text = text[: len(text) - cut] + note.format(cut)
    return text.encode("utf-8", "replace").decode("utf-8")
