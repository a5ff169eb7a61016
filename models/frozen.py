"""The base of every value that is written into an artifact, and how such files are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ManifestError, describe

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bound=BaseModel)


class Frozen(BaseModel):
    """A value: immutable, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


EXPORT_AGAIN = "export it again with training, or use the candor that wrote it"


def parse_json(kind: type[T], data: bytes, name: Callable[[str], str], advice: str = EXPORT_AGAIN) -> T:
    """Read a file that candor wrote.

    Args:
        kind: What it holds.
        data: Its bytes.
        name: A field's path (`temperature.value`) to how errors call it (`confidence.temperature.value`).
        advice: What to do, for the last line of the error; empty where there is nothing to say.

    Raises:
        ManifestError: If a key is missing, unknown or out of range.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as err:
        raise ManifestError(f"{describe(err, name)}\n{advice}".rstrip("\n")) from err
