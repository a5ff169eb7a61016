"""What the data does not allow: null in the artifact, with a reason that stands there too."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lacking(Exception):  # noqa: N818 - no error: the version is published without that part
    """A part cannot be fitted; the text says why."""


def attempt(part: str, make: Callable[[], T], unavailable: dict[str, str]) -> T | None:
    """What `make` gives; None where it lacks something, and `unavailable[part]` then says what."""
    try:
        return make()
    except Lacking as err:
        unavailable[part] = str(err)
        return None
