"""Docstrings in the pieces that pages show."""

from mongebench.report.site.docstrings import paragraphs

DOCSTRING = """One line.

A paragraph of
two lines.

    T(x) = x,
        indented

More.

Parameters
----------
first, second
    Of both,
    in two lines.
third : int
    With a type.

Raises
------
ValueError
    Never.

References
----------
Somebody 2020, A title
over two lines.
"""


def test_every_piece_is_told_from_the_others() -> None:
    assert paragraphs(DOCSTRING) == [
        ("text", "One line."),
        ("text", "A paragraph of two lines."),
        ("formula", "T(x) = x,\n    indented"),
        ("text", "More."),
        ("heading", "Parameters"),
        ("item", "first, second"),
        ("description", "Of both, in two lines."),
        ("item", "third"),
        ("description", "With a type."),
        ("heading", "Raises"),
        ("item", "ValueError"),
        ("description", "Never."),
        ("heading", "References"),
        ("text", "Somebody 2020, A title over two lines."),
    ]
    assert paragraphs("") == []
