"""The door to an object store (S3, Google Cloud Storage, Azure Blob Storage): objects and names below one prefix.

Owns how long a call may take, what a store that does not answer is called, and that it is then left alone for a moment, so that
of many who ask only one waits for it. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from models.errors import ArtifactError, RefusedError, RegistryError, SettingsError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from obstore.store import ClientConfig, RetryConfig

logger = logging.getLogger("candor.registry")
URL = re.compile(r"(s3|gs|az)://[^/\s?#]+(/[^\s?#]*)?")
# A small object, or a page of names, is there by then. Who does not serve waits longer: a pause of the store is to cost no work.
_ANSWER_S, _PATIENT_ANSWER_S = 3, 10
# Who waits two minutes asks every few seconds: where nobody listens an attempt takes no time, and ten are over in three seconds.
_RETRIES, _PATIENT_RETRIES = 2, 1000
_PATIENT_S, _MOST_BETWEEN_S = 120, 5
# A file may take long, but not without a byte of it coming.
_STALL_S, _FILE_S = 5, 600
# After a failure nobody asks for so long; then one does, and the others wait for what it finds.
PAUSE_S = 2.0
_TOGETHER = 8
_CHUNK_BYTES = 2**20
# Cards, aliases and reports have far fewer.
_MOST_BYTES = 2**24
_PROBE = ".created-once"
# In what the library says of a name with an empty part, or with `..` in it.
_IN_QUOTES = re.compile(r'Path "([^"]*)"')
_NO_CERTIFICATES = "the system has no certificates to know a server by; install ca-certificates, or set SSL_CERT_FILE"


class ObjectStore:
    """See the module. Paths are relative to the URL, with slashes."""

    def __init__(self, url: str, *, is_patient: bool = False) -> None:
        """Name the bucket and the prefix; nothing is asked yet.

        Args:
            url: Such as `s3://bucket/prefix`. Credentials and the like come from the environment, as the store's own tools
                read it.
            is_patient: Whether to wait out a store that is away for a minute or two: for who trains, not for who serves.

        Raises:
            SettingsError: If the URL, or what the environment says of it, is no good.
        """
        self.url = url.rstrip("/")
        self._pause_s = 0.0 if is_patient else PAUSE_S
        self._is_away = False
        self._until = 0.0
        self._lock = threading.Lock()
        answer_s = _PATIENT_ANSWER_S if is_patient else _ANSWER_S
        retries = _PATIENT_RETRIES if is_patient else _RETRIES
        patience = timedelta(seconds=_PATIENT_S if is_patient else _ANSWER_S)
        self._small = self._client(retries, patience, timeout=f"{answer_s}s")
        self._down = self._client(retries, patience, timeout=f"{_FILE_S}s", read_timeout=f"{_STALL_S}s")
        self._up = self._client(retries, patience, timeout=f"{_FILE_S}s")

    def read(self, path: str) -> bytes | None:
        """All of an object, which is a small one; None where there is none.

        Raises:
            RegistryError: If it has more bytes than anything that is read into memory.
            UnreachableError: If the store does not answer, or refuses; so with every method below.
        """
        with self._asking(), contextlib.suppress(FileNotFoundError):
            found = self._small.get(path)
            if (size := found.meta["size"]) > _MOST_BYTES:
                raise RegistryError(f"{self.url}/{path} has {size} bytes, expected at most {_MOST_BYTES}; look at who wrote it")
            return bytes(found.bytes())
        return None

    def exists(self, path: str) -> bool:
        """Whether there is an object."""
        with self._asking(), contextlib.suppress(FileNotFoundError):
            self._small.head(path)
            return True
        return False

    def write(self, path: str, data: bytes) -> None:
        """Make an object, or replace it.

        Raises:
            RefusedError: If the credentials do not allow it; so with `create`, `remove` and `upload`.
        """
        with self._asking(is_write=True):
            self._small.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Make an object; false where there is one. Of any number who do it at once, one makes it."""
        try:
            with self._asking(is_write=True):
                self._small.put(path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def create_own(self, path: str, data: bytes) -> bool:
        """As `create`, of bytes that nobody else writes: an object that has them is ours, and only the answer was lost."""
        return self.create(path, data) or self.read(path) == data

    def require_exclusive(self) -> None:
        """Refuse a store that overwrites what was to be created exclusively.

        Raises:
            SettingsError: If it does.
        """
        self.create(_PROBE, b"")
        if self.create(_PROBE, b""):
            raise SettingsError(
                f"{self.url} overwrites an object that was to be created only if it is not there; a registry needs a store that "
                "heeds If-None-Match, as S3 does"
            )

    def remove(self, paths: Iterable[str]) -> None:
        """Remove objects; what is not there is gone already."""
        for path in paths:
            with self._asking(is_write=True), contextlib.suppress(FileNotFoundError):
                self._small.delete(path)

    def folders(self, path: str) -> list[str]:
        """The names below `path` that have objects below them; one request for each thousand.

        Raises:
            RegistryError: If the name of one cannot be a path; so with `files`.
        """
        with self._asking():
            found = self._small.list_with_delimiter(path or None)["common_prefixes"]
        return [name.rpartition("/")[2] for name in found]

    def files(self, path: str) -> dict[str, datetime]:
        """The objects below `path`, as paths below it, with when each was written."""
        with self._asking():
            found = [entry for page in self._small.list(f"{path}/") for entry in page]
        return {entry["path"].removeprefix(f"{path}/"): entry["last_modified"] for entry in found}

    def upload(self, folder: Path, path: str, names: Iterable[str]) -> None:
        """Write files below `folder` as objects below `path`, several at a time; one that is there is replaced."""
        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="upload") as pool:
            for _ in pool.map(partial(self._upload, folder, path), names):
                pass

    def download(self, path: str, names: Iterable[str], folder: Path) -> None:
        """Read objects below `path` into files below `folder`, several at a time.

        Raises:
            ArtifactError: If one is missing.
        """
        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="download") as pool:
            for _ in pool.map(partial(self._download, folder, path), names):
                pass

    def _upload(self, folder: Path, path: str, name: str) -> None:
        with self._asking(is_write=True):
            self._up.put(f"{path}/{name}", folder / name)

    def _download(self, folder: Path, path: str, name: str) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as target, self._asking():
            try:
                parts = self._down.get(f"{path}/{name}").stream(min_chunk_size=_CHUNK_BYTES)
            except FileNotFoundError as err:
                raise ArtifactError(f"{self.url}/{path}/{name} is missing") from err
            for part in parts:
                target.write(part)

    @contextlib.contextmanager
    def _asking(self, *, is_write: bool = False) -> Iterator[None]:
        """Around each call: refuse at once where the store has just failed, and note how this one ends."""
        with self._lock:
            if time.monotonic() < self._until:
                raise UnreachableError(f"{self.url} could not be reached a moment ago")
            if self._is_away and self._pause_s:
                # Whoever comes now asks alone.
                self._until = time.monotonic() + self._pause_s + _ANSWER_S
        try:
            yield
        except AlreadyExistsError:
            self._note(is_away=False)
            raise
        except InvalidPathError as err:
            self._note(is_away=False)
            stranger = _IN_QUOTES.search(str(err))
            what = f"an object named {stranger[1]}" if stranger else str(err).partition("\n")[0]
            raise RegistryError(f"{self.url} has {what}, which cannot be a path; remove it with the store's own tools") from err
        except (PermissionDeniedError, UnauthenticatedError) as err:
            # Of this one object: whether the others can be asked for is as it was.
            self._note(is_away=self._is_away)
            if is_write:
                raise RefusedError(f"{self.url} may not be written to with these credentials: {_reason(err)}") from err
            raise UnreachableError(f"{self.url} refuses to be read: {_reason(err)}") from err
        except (BaseError, FileNotFoundError) as err:
            self._note(is_away=True, why=_reason(err))
            raise UnreachableError(f"{self.url} cannot be reached: {_reason(err)}") from err
        except BaseException:
            # The disk's, say: the store answered.
            self._note(is_away=False)
            raise
        else:
            self._note(is_away=False)

    def _note(self, *, is_away: bool, why: str = "") -> None:
        with self._lock:
            was_away, self._is_away = self._is_away, is_away
            self._until = time.monotonic() + self._pause_s if is_away else 0.0
        if is_away and not was_away:
            logger.warning("%s cannot be reached: %s", self.url, why)
        elif was_away and not is_away:
            logger.info("%s can be reached again", self.url)

    def _client(self, retries: int, patience: timedelta, **timeouts: str) -> Any:
        try:
            return from_url(self.url, **patience_of(retries, patience, **timeouts))
        except BaseError as err:
            reason = _NO_CERTIFICATES if "No CA certificates" in str(err) else str(err).partition("\n")[0]
            raise SettingsError(f"{self.url} cannot be used as a registry: {reason}") from err


def patience_of(retries: int, patience: timedelta, **timeouts: str) -> dict[str, Any]:
    """How obstore is to ask: how often, for how long in all, and how long each time (its own words, such as `timeout`)."""
    # Whoever writes http:// into AWS_ENDPOINT_URL has decided it; without this it would be an error of the library's.
    options: ClientConfig = {"allow_http": True, "connect_timeout": f"{_ANSWER_S}s", **timeouts}  # type: ignore[typeddict-item]
    retrying: RetryConfig = {
        "max_retries": retries,
        "retry_timeout": patience,
        "backoff": {"max_backoff": timedelta(seconds=_MOST_BETWEEN_S)},
    }
    return {"client_options": options, "retry_config": retrying}


def _reason(error: Exception) -> str:
    """The line of the library's message that a person needs."""
    return str(error).partition("\n")[0].partition(": <?xml")[0]
