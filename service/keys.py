"""The keys that callers show: who has which scopes, by the sha256 of the token. A token itself is never kept.

    {"keys": [{"id": "ci", "sha256": "…", "scopes": ["predict", "train"], "created": "2026-01-01T00:00:00Z"}]}

A token is 32 random bytes, so its hash cannot be guessed and needs no salt; what the file tells is who may do what.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from models.artifact import sync
from models.errors import SettingsError, describe
from service.access import SCOPES, KeyScope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("candor.keys")
TOKEN_PREFIX = "candor_"  # noqa: S105 - what every token begins with, so that scanners of leaked secrets know it
_TOKEN_BYTES = 32
_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
# A key file that is written again is noticed within this time.
LOOK_S = 1.0
_Signature = tuple[int, int, int]


class Key(BaseModel):
    """One key: `admin` may do everything, any other scope only what it names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=_ID_PATTERN)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[KeyScope, ...], Field(min_length=1)]
    created: AwareDatetime

    @property
    def granted(self) -> frozenset[KeyScope]:
        """The scopes that it has in effect."""
        return frozenset(SCOPES if "admin" in self.scopes else self.scopes)


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _check_unique(self) -> KeyFile:
        for field in ("id", "sha256"):
            values = [getattr(key, field) for key in self.keys]
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"two keys have the {field} {repeated[0]!r:.80}, expected one; revoke one of them")
        return self


class Keyring:
    """The keys of a file, read again when it is another one. Belongs to the event loop, so there is no lock."""

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            SettingsError: If it cannot be read, anybody may write it, or it is malformed.
        """
        self._path = path
        self._now = now
        self._looked = now()
        # Before it is read: what is written in between is then noticed later, and not missed.
        self._signature = _signature(path)
        self._keys = _by_digest(read_keys(path))

    def find(self, token: bytes) -> Key | None:
        """The key whose token it is; None if there is none."""
        if self._now() - self._looked >= LOOK_S:
            self._look()
        digest = hashlib.sha256(token).hexdigest()
        # Where a hash is found or not tells nothing of a token: nobody can choose a hash.
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.sha256, digest) else None

    def _look(self) -> None:
        """Take over what the file says now; one that is no good changes nothing and is logged once."""
        self._looked = self._now()
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            keys = read_keys(self._path)
        except SettingsError as err:
            logger.error("the keys stay as they were: %s", err)
            return
        self._keys = _by_digest(keys)
        logger.info("read %d keys from %s", len(keys.keys), self._path)


def read_keys(path: Path) -> KeyFile:
    """Read a key file.

    Raises:
        SettingsError: If it cannot be read, anybody may write it, or it is malformed.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except OSError as err:
        raise SettingsError(
            f"CANDOR_KEYS={path} cannot be read ({err.strerror}); make it with: python -m service keys create --scope predict"
        ) from err
    if mode & stat.S_IWOTH:
        raise SettingsError(f"CANDOR_KEYS={path} may be written by anybody (mode {mode & 0o777:o}); chmod o-w it")
    try:
        return KeyFile.model_validate_json(data)
    except ValidationError as err:
        # The first finding: pydantic has one for each key, and one sentence is what is logged.
        finding = describe(err, lambda field: field or "the file").splitlines()[0]
        raise SettingsError(f"CANDOR_KEYS={path} is not a key file: {finding}") from err


def create_key(path: Path, scopes: tuple[KeyScope, ...], key_id: str | None = None) -> tuple[Key, str]:
    """Make a key and put it into the file, which is made if it is not there.

    Args:
        path: The file.
        scopes: What the key may do.
        key_id: How it is called; None for a name by its first scope.

    Returns:
        The key, and its token, which is nowhere else.

    Raises:
        SettingsError: If the name is taken or malformed, or the file cannot be read or written.
    """
    name = f"{scopes[0]}-{secrets.token_hex(3)}" if key_id is None else key_id
    if not re.fullmatch(_ID_PATTERN.strip("^$"), name):
        raise SettingsError(f"id is {name!r:.80}, expected 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit")
    token = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    digest = hashlib.sha256(token.encode()).hexdigest()
    key = Key(id=name, sha256=digest, scopes=scopes, created=datetime.now(UTC).replace(microsecond=0))
    with _locked(path):
        keys = read_keys(path).keys if path.exists() else ()
        if any(known.id == name for known in keys):
            raise SettingsError(
                f"there is a key {name!r} in {path}; choose another --id, and revoke the old one when it is unused"
            )
        _write(path, KeyFile(keys=(*keys, key)))
    return key, token


def revoke_key(path: Path, key_id: str) -> None:
    """Take a key out of the file.

    Raises:
        SettingsError: If there is no such key, or the file cannot be read or written.
    """
    with _locked(path):
        keys = read_keys(path).keys
        rest = tuple(key for key in keys if key.id != key_id)
        if len(rest) == len(keys):
            known = ", ".join(key.id for key in keys) or "none"
            raise SettingsError(f"there is no key {key_id!r:.80} in {path}; there are: {known}")
        _write(path, KeyFile(keys=rest))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once must not lose a key: a lock of the folder, which is there while the file is replaced.

    Raises:
        SettingsError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
    except OSError as err:
        raise SettingsError(
            f"CANDOR_KEYS={path} cannot be written ({err.strerror}); a mounted secret is changed where it is kept"
        ) from err


def _write(path: Path, keys: KeyFile) -> None:
    """Replace the file at once, mode 0600, still its owner's: whoever serves may not be whoever makes keys."""
    # A link stays one.
    target = path.resolve()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(keys.model_dump_json(indent=2).encode() + b"\n")
            file.flush()
            if target.exists() and os.geteuid() == 0:
                os.fchown(file.fileno(), target.stat().st_uid, target.stat().st_gid)
            os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink()
            raise
    sync(target.parent)


def _by_digest(keys: KeyFile) -> dict[str, Key]:
    return {key.sha256: key for key in keys.keys}


def _signature(path: Path) -> _Signature | None:
    """What tells one content of the file from another; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
