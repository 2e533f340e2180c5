"""Docstrings in pieces, as the pages of a report and of the documentation show them."""

from __future__ import annotations

import re

from docstring_parser.numpydoc import DEFAULT_SECTIONS, NumpydocParser, ParamSection

CLASS_ATTRIBUTES = ParamSection("Class attributes", "class_attribute")
PARSER = NumpydocParser()
PARSER.add_section(CLASS_ATTRIBUTES)
HEADINGS = {section.key: section.title for section in (CLASS_ATTRIBUTES, *reversed(DEFAULT_SECTIONS))}
"""The first title of each key."""


def paragraphs(docstring: str) -> list[tuple[str, str]]:
    """A docstring in pieces: ("heading", text), ("formula", lines) for what is indented, ("item", text) for a name
    that a description follows, ("description", text), ("text", paragraph)."""
    first = PARSER.titles_re.search(docstring)
    pieces, heading = _prose(docstring[: first.start()] if first else docstring), ""  # the parser loses indentation
    for part in PARSER.parse(docstring).meta:
        if HEADINGS[part.args[0]] != heading:
            heading = HEADINGS[part.args[0]]
            pieces.append(("heading", heading))
        name = getattr(part, "arg_name", None) or getattr(part, "type_name", None)
        if name:
            pieces.append(("item", name))
        if part.description:
            pieces.append(("description" if name else "text", _in_a_line(part.description.splitlines())))
    return pieces


def _prose(text: str) -> list[tuple[str, str]]:
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", text) if block.strip()]
    return [
        ("formula", "\n".join(line[4:] for line in lines))
        if all(line.startswith("    ") for line in lines)
        else ("text", _in_a_line(lines))
        for lines in blocks
    ]


def _in_a_line(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
