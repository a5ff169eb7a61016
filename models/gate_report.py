"""What the gate said of a candidate: a value that is JSON in the registry, and sentences for people."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from models.aliases import FILE_MODE, FOLDER_MODE
from models.artifact import write_synced
from models.frozen import Frozen, parse_json
from models.manifest import Name, Sha256, canonical_json

if TYPE_CHECKING:
    from pathlib import Path


class Check(Frozen):
    """One thing that was looked at: what it came to, with its numbers, in one sentence.

    Attributes:
        name: Which check.
        passed: Whether it holds; one that is not required may fail without harm.
        is_required: Whether the verdict hangs on it.
        candidate: The candidate's number, where there is one.
        production: The number of what is in production, or of knowing no image; where there is one.
        bound: What the candidate's number was held against, where that is one number.
        sentence: For a person.
    """

    name: str
    passed: bool
    is_required: bool
    candidate: float | None
    production: float | None
    bound: float | None
    sentence: str


class GateReport(Frozen):
    """The verdict on a version, and why. `reasons` are the sentences of what was required and does not hold."""

    schema_version: Literal[1]
    name: Name
    candidate: int = Field(ge=1)
    production: int | None
    verdict: Literal["promote", "reject"]
    at: datetime
    holdout_sha256: Sha256 | None
    images: int = Field(ge=0)
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys."""
        return canonical_json(self)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a report.

        Raises:
            ManifestError: If a key is missing, unknown or out of range.
        """
        return parse_json(cls, data, "gate.{}".format)

    def write(self, folder: Path) -> None:
        """Write it as `<candidate>.json`; a later judgement takes the place of an earlier one."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        file = folder / f"{self.candidate}.json"
        write_synced(file, self.to_bytes())
        file.chmod(FILE_MODE)

    @classmethod
    def read(cls, folder: Path, version: int) -> Self | None:
        """What was written of a version; None where nothing was.

        Raises:
            ManifestError: If it is not valid.
        """
        try:
            return cls.parse((folder / f"{version}.json").read_bytes())
        except FileNotFoundError:
            return None

    def lines(self) -> list[str]:
        """The report in words: the verdict, then every check."""
        against = f"{self.name}:{self.production}" if self.production is not None else "nothing in production"
        first = f"{self.verdict} {self.name}:{self.candidate} (against {against}, on {self.images} held-out images)"
        marks = {True: "ok  ", False: "FAIL"}
        return [first, *(f"  {marks[check.passed] if check.is_required else 'note'} {check.sentence}" for check in self.checks)]
