"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from models.settings import PREFIX
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


def test_operations_lists_every_setting_with_its_default() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = dict(re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \| (.*?) \|", text, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        expected[PREFIX + name.upper()] = default
    assert listed == expected


def test_every_linked_file_exists() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links {target}"


def test_every_verb_that_the_readme_names_is_in_the_makefile() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)) <= verbs
