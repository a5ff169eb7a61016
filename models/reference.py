"""How a model is named by people: `birds`, or `birds:3`."""

from __future__ import annotations

import re

from models.errors import UnknownModelError
from models.manifest import NAME_PATTERN

_REFERENCE = re.compile(rf"({NAME_PATTERN[1:-1]})(?::([1-9][0-9]{{0,8}}))?")


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Split `name` or `name:N`.

    Raises:
        UnknownModelError: If it is neither.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UnknownModelError(
            f"{reference!r:.80} is not a model; write name or name:version, such as birds or birds:3, in small letters"
        )
    return match[1], int(match[2]) if match[2] else None
