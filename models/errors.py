"""Every error that the contract raises, in one tree.

    ContractError
    ├── SettingsError            an environment variable is unknown or malformed
    ├── ManifestError            a manifest is not what this version of candor reads
    ├── ArtifactError            an artifact directory is incomplete, altered, or refused
    ├── DatasetError             a folder of images cannot be trained on
    ├── NoSpaceError             the disk is full, or would be
    ├── StoreError
    │   ├── UnknownDatasetError  no such data set, or version of it
    │   └── DatasetInUseError    a job uses what should be deleted
    ├── RecipeError              a recipe is unknown, contradictory or out of range
    ├── HoldoutError             the images that candidates are judged on cannot be read
    ├── RegistryError
    │   ├── UnknownModelError    no such name, version or alias
    │   ├── ConflictError        somebody else wrote first
    │   ├── InUseError           a version is needed, and cannot be deleted
    │   ├── UnreachableError     the object store does not answer, or refuses to be read
    │   ├── RefusedError         the object store's credentials do not allow to write
    │   └── NothingToRollBackError
    └── ImageError
        ├── EmptyImageError
        ├── UnsupportedFormatError
        ├── UnreadableImageError
        └── ImageTooLargeError

Messages say what is wrong, what was got, what was expected and what to do, in that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import ValidationError


class ContractError(Exception):
    """Base of everything that `models` raises on purpose."""


class SettingsError(ContractError):
    """An environment variable is unknown or malformed."""


class ManifestError(ContractError):
    """A manifest is not what this version of candor reads."""


class ArtifactError(ContractError):
    """An artifact directory is incomplete, altered, or refused."""


class DatasetError(ContractError):
    """A folder of images cannot be trained on."""


class NoSpaceError(ContractError):
    """The disk is full, or would be."""


class StoreError(ContractError):
    """Base of what the store of data sets refuses."""


class UnknownDatasetError(StoreError):
    """No such data set, or version of it."""


class DatasetInUseError(StoreError):
    """A job uses what should be deleted."""


class RecipeError(ContractError):
    """A recipe is unknown, contradictory or out of range."""


class HoldoutError(ContractError):
    """The images that candidates are judged on cannot be read, or not be fixed."""


class RegistryError(ContractError):
    """Base of what the registry refuses."""


class UnknownModelError(RegistryError):
    """No such name, version or alias."""


class ConflictError(RegistryError):
    """Somebody else wrote first; read again and decide again."""


class InUseError(RegistryError):
    """A version is in production, the candidate, or what a rollback goes back to."""


class UnreachableError(RegistryError):
    """The registry's object store does not answer, or refuses to be read; or its folder is gone. It may be another moment."""


class RefusedError(RegistryError):
    """The registry's object store may not be written to with these credentials; to try again is no use."""


class NothingToRollBackError(RegistryError):
    """No earlier production version is on record."""


class ImageError(ContractError):
    """Base of what decoding refuses. Always the caller's fault."""


class EmptyImageError(ImageError):
    """There are no bytes."""


class UnsupportedFormatError(ImageError):
    """The bytes are not an image in a format that is accepted."""


class UnreadableImageError(ImageError):
    """The header is an image's, and the rest is not."""


class ImageTooLargeError(ImageError):
    """The header declares more pixels than the limit."""


def describe(error: ValidationError, name: Callable[[str], str]) -> str:
    """Turn pydantic's findings into one line each, all at once, named as the user wrote them.

    Args:
        error: The findings.
        name: A field's path (`preprocessing.crop_ratio`) to what the user wrote (`manifest.preprocessing.crop_ratio`).
    """
    lines = []
    for finding in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in finding["loc"])
        field = name(path) if finding["loc"] else name("").rstrip("._")
        # What concerns the whole value would repeat all of it.
        hidden = finding["type"] in {"missing", "extra_forbidden"} or not finding["loc"]
        got = "" if hidden else f", got {finding['input']!r:.80}"
        message = "is not a known key" if finding["type"] == "extra_forbidden" else finding["msg"]
        lines.append(f"{field}: {message.removeprefix('Value error, ')}{got}")
    return "\n".join(lines)
