"""The blocks of docs/kubernetes.md: commands, and files that a reader puts into a folder of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from tests.support.server import ROOT

GUIDE = ROOT / "docs" / "kubernetes.md"
_HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# deploy/(?P<name>[\w.-]+)(?:, a (?P<kind>patch|resource))?(?: with (?P<overlay>overlays/\w+))?\n")


@dataclass
class Section:
    """What stands below one heading.

    Attributes:
        title: The heading.
        commands: Blocks of shell.
        whole: Kustomizations that stand for themselves.
        patches: Files by name.
        resources: Files by name.
        other: YAML that is no Kubernetes object.
        overlay: What patches and resources are for.
    """

    title: str
    commands: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    patches: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    overlay: str = "overlays/cpu"

    def add(self, language: str, text: str) -> None:
        """Sort a block in, by what its first line says."""
        found = _FILE.match(text)
        if language == "sh":
            self.commands.append(text)
        elif found is None:
            self.other.append(text)
        elif found["kind"] is None:
            self.whole.append(text)
        else:
            {"patch": self.patches, "resource": self.resources}[found["kind"]][found["name"]] = text
            self.overlay = found["overlay"] or self.overlay

    @property
    def extra(self) -> str:
        """The lines of a kustomization that name the files."""
        more = [f"  - {name}\n" for name in self.resources]
        if self.patches:
            more += ["patches:\n", *(f"  - path: {name}\n" for name in self.patches)]
        return "".join(more)


@cache
def sections() -> tuple[Section, ...]:
    """Every section with blocks in it, in order."""
    text = GUIDE.read_text()
    starts = [*_HEADING.finditer(text)]
    found = []
    for heading, following in zip(starts, [*starts[1:], None], strict=True):
        section = Section(heading[1])
        for language, block in _BLOCK.findall(text[heading.end() : following.start() if following else len(text)]):
            section.add(language, block)
        found.append(section)
    return tuple(section for section in found if section != Section(section.title))
