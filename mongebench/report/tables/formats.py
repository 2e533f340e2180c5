"""Words that options of the command line may be, apart from what they choose: naming them loads nothing heavy."""

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


class FailOn(StrEnum):
    """What a comparison may be asked to fail on."""

    WORSE = "worse"
    CHANGED = "changed"
