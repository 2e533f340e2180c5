"""Texts as the pages show them: docstrings in pieces, names as code, formulas with their letters."""

from __future__ import annotations

import re

from markupsafe import Markup, escape


def greek(text: str) -> str:
    """Formulas with lambda and tau as symbols."""
    return re.sub(r"\b(lambda|tau)(?![\w=])", lambda found: _GREEK[found[1]], text)


_GREEK = {"lambda": "\N{GREEK SMALL LETTER LAMDA}", "tau": "\N{GREEK SMALL LETTER TAU}"}


def coded(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def paragraphs(docstring: str) -> list[tuple[str, str]]:
    """A docstring in pieces: ("heading", text), ("formula", lines) for what is indented, ("item", text) for a name
    that a description follows, ("text", paragraph)."""
    pieces: list[tuple[str, str]] = []
    described = False
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.splitlines()
        if len(lines) > 1 and re.fullmatch(r"-{3,}", lines[1].strip()):
            pieces.append(("heading", lines[0]))
            lines, described = lines[2:], True
        if all(line.startswith("    ") for line in lines) and not described:
            pieces.append(("formula", "\n".join(line[4:] for line in lines)))
        elif described:
            for line in lines:
                if not line.startswith("    "):
                    pieces.append(("item", line))
                elif pieces[-1][0] == "description":
                    pieces[-1] = ("description", f"{pieces[-1][1]} {line.strip()}")
                else:
                    pieces.append(("description", line.strip()))
        elif lines:
            pieces.append(("text", " ".join(line.strip() for line in lines)))
    return pieces
