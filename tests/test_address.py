"""One variable says where the project lives, and every file that names it says the same."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from mongebench.core.address import REPOSITORY

ROOT = Path(__file__).resolve().parents[1]
NAMING = ["mongebench/core/address.py", "CITATION.cff", "asv.conf.json", "pyproject.toml", "docs/your_ci.md"]
"""Files that have to name it; the README and other pages may."""


def named(text: str) -> set[str]:
    """Addresses in a text: of GitHub, of the action."""
    found = re.findall(r"(?:github\.com/|uses: |REPOSITORY = \")([\w.-]+/mongebench)\b", text)
    return set(found)


def test_every_file_names_the_one_address() -> None:
    pages = [ROOT / "README.md", ROOT / "action.yml", *sorted((ROOT / "docs").glob("*.md"))]
    for path in (*(ROOT / name for name in NAMING), *pages):
        found = named(path.read_text(encoding="utf-8"))
        assert found <= {REPOSITORY}, path
        assert found or path in pages


def test_the_citation_has_an_author_and_an_address_by_its_schema() -> None:
    """Of the citation file format, of which check-jsonschema carries a copy."""
    command = ["check_jsonschema", "--builtin-schema", "vendor.citation-file-format", str(ROOT / "CITATION.cff")]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'website: "https://github.com/{REPOSITORY}"' in text
    assert f'repository-code: "https://github.com/{REPOSITORY}"' in text


def test_another_address_is_put_everywhere_at_once(tmp_path) -> None:
    copied = [*NAMING, "README.md", "Makefile"]
    for name in copied:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = ["make", "-s", "address", "REPOSITORY=someone/other"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for name in copied:
        text, before = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, ROOT))
        assert REPOSITORY not in text, name
        assert text.count("someone/other") == before.count(REPOSITORY), name
