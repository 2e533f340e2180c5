"""The formats of an export, apart from what writes them: the command line names them and loads nothing heavy."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """What `exports.write` can write."""

    CSV = "csv"
    PARQUET = "parquet"
    LATEX = "latex"
    MARKDOWN = "markdown"

    @property
    def suffix(self) -> str:
        """Of a file."""
        return {Format.LATEX: "tex", Format.MARKDOWN: "md"}.get(self, self.value)
