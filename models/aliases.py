"""What the names of a registry point to: `aliases/<epoch>.json`, created exclusively; the highest epoch is current.

Owns the files and the moves between them, which are pure. The files are the history, and two writers cannot both win: who
was overtaken is told so. Knows versions only as numbers.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models import artifact
from models.errors import ConflictError, RegistryError, describe

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

HISTORY = 50
FOLDER_MODE, FILE_MODE = 0o755, 0o644


class Aliases(BaseModel):
    """What each alias of a name points to since `epoch`. `previous` holds earlier production versions, newest last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    epoch: int
    production: int | None = None
    candidate: int | None = None
    previous: tuple[int, ...] = ()
    action: str = ""
    at: datetime | None = None

    @classmethod
    def none(cls) -> Self:
        """The state before the first promotion."""
        return cls(epoch=0)

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, for people too."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    def promoted(self, version: int, action: str | None = None) -> Self:
        """With `version` in production; it is no candidate any more."""
        earlier = [v for v in (*self.previous, self.production) if v is not None and v != version]
        return self._next(
            action or f"promote {version}",
            production=version,
            candidate=None if self.candidate == version else self.candidate,
            previous=tuple(earlier[-HISTORY:]),
        )

    def rolled_back(self, present: Container[int]) -> Self | None:
        """With the newest earlier production version that is `present`; None where there is none."""
        earlier = [version for version in self.previous if version in present]
        if not earlier:
            return None
        return self._next(f"roll back from {self.production}", production=earlier[-1], previous=tuple(earlier[:-1]))

    def nominated(self, version: int | None) -> Self:
        """With `version`, or none, as the candidate."""
        action = f"withdraw {self.candidate}" if version is None else f"nominate {version}"
        return self._next(action, candidate=version)

    def noting(self, action: str) -> Self:
        """With everything where it is, so that who looked before is told to look again."""
        return self._next(action)

    def role_of(self, version: int, present: Container[int]) -> str | None:
        """Why a version is needed, in words; None where it is not."""
        if version == self.production:
            return "in production"
        if version == self.candidate:
            return "the candidate"
        target = self.rolled_back(present)
        return "what a rollback goes back to" if target is not None and target.production == version else None

    def _next(self, action: str, **changes: Any) -> Self:
        return self.model_copy(update={"epoch": self.epoch + 1, "action": action, "at": datetime.now(UTC), **changes})


def read_epochs(folder: Path) -> list[int]:
    """The epochs that there are, ascending."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return epochs_in(entry.name for entry in entries)


def read_newest(folder: Path) -> Aliases:
    """What the aliases point to now.

    Raises:
        RegistryError: If the newest file is not valid, or a copy of another epoch's.
    """
    epochs = read_epochs(folder)
    if not epochs:
        return Aliases.none()
    file = folder / f"{epochs[-1]}.json"
    return parse(file.read_bytes(), file, epochs[-1])


def parse(data: bytes, where: object, epoch: int) -> Aliases:
    """Read what the file, or the object, of an epoch says.

    Raises:
        RegistryError: If it is not valid, or a copy of another epoch's.
    """
    try:
        found = Aliases.model_validate_json(data)
    except ValidationError as err:
        raise RegistryError(f"{where} is not valid: {describe(err, 'aliases.{}'.format)}") from err
    if found.epoch != epoch:
        raise RegistryError(f"{where} is not valid: it says epoch {found.epoch}, expected {epoch}; copy it from a backup")
    return found


def append(folder: Path, name: str, aliases: Aliases) -> Aliases:
    """Create the epoch's file exclusively: written whole beside, then linked under a name that must be free.

    Raises:
        ConflictError: If somebody else created it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        artifact.write_synced(temporary, aliases.to_bytes())
        temporary.chmod(FILE_MODE)
        os.link(temporary, folder / f"{aliases.epoch}.json")
    except FileExistsError as err:
        raise overtaken(name) from err
    finally:
        temporary.unlink(missing_ok=True)
    artifact.sync(folder)
    return aliases


def overtaken(name: str) -> ConflictError:
    """What is said to whoever was not the first to move an alias."""
    return ConflictError(f"somebody else moved an alias of {name} meanwhile; look again and repeat")


def epochs_in(names: Iterable[str]) -> list[int]:
    """The epochs that files of these names are of, ascending."""
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if is_number(stem))


def is_number(text: str) -> bool:
    """Whether a file's or folder's name is a number as it is written here: `05` is another file than `5`."""
    return text.isdecimal() and str(int(text)) == text


def require_epoch(name: str, now: Aliases, expected: int | None) -> None:
    """Refuse to move what was moved since somebody looked.

    Raises:
        ConflictError: If the newest epoch is not the one that was expected.
    """
    if expected is not None and now.epoch != expected:
        raise ConflictError(
            f"the aliases of {name} are at epoch {now.epoch} ({now.action or 'never moved'}), expected {expected}; look again "
            "and repeat"
        )
