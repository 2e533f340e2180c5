"""Texts as the pages show them: names as code, formulas with their letters."""

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
