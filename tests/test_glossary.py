"""One word, one meaning: words that docs/glossary.md gives to one thing are not used for another."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page != GLOSSARY)]
CODE = [file for room in ("mongebench", "estimators", "datasets") for file in sorted((ROOT / room).rglob("*.py"))]
FLOWS = [file for file in CODE if "flow" in file.relative_to(ROOT).parts]
REPORT = [file for file in CODE if "report" in file.relative_to(ROOT).parts]

RULES = [
    ("dual potential", r"[Kk]antorovich potential", PAGES + CODE),
    ("flow", r"^class Flow\b", REPORT),
    ("previous map", r"\b[Aa]nchor", FLOWS),
    ("nightly run", r"\b[Aa] night\b", PAGES + CODE),
    ("problem", r"\b[Dd]ataset\b(?!s[.:`/])", PAGES),
    ("exact coupling", r"exact (plan|transport plan)\b", PAGES + CODE),
]
"""(The word that is meant, what is not to be written for it, where.)"""


@pytest.mark.parametrize(("word", "instead", "where"), RULES, ids=[word for word, *_ in RULES])
def test_a_word_keeps_its_meaning(word, instead, where) -> None:
    assert where
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in where
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(instead, line)
    ]
    assert found == [], f"the glossary's word is {word!r}"


def test_the_glossary_has_every_word_of_the_rules() -> None:
    words = re.findall(r"^\| ([^|]+) \|", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    defined = {word.strip() for entry in words for word in re.sub(r"\$[^$]*\$", "", entry).split(",")}
    assert {word for word, *_ in RULES} <= defined
