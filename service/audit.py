"""Who changed what: one JSON line for each call that may change something, the refused ones too.

The line is on the disk before the answer is sent, so no change that a caller knows of lacks one. Whether it can be written is
tried before the change is made. A line holds names and numbers; no image, no token.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from models.artifact import sync
from service.errors import NotAuditedError
from service.lines import append_line, bounded, open_lines
from service.logs import key_id, request_id
from service.rates import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.access import Access

logger = logging.getLogger("candor.audit")
# Room for the lines of whatever may be under way at once.
_RESERVE_BYTES = 64 * 1024
_MODE = 0o600
# Refusals cost a caller nothing, and must not fill the disk.
REFUSALS_PER_MINUTE = 120
_noted: ContextVar[dict[str, Any] | None] = ContextVar("noted", default=None)


def note(**fields: str | int | None) -> None:
    """Add to the line of the call that is being answered, such as `from_version=1, to_version=2`; nothing where there is none."""
    noted = _noted.get()
    if noted is not None:
        noted.update(fields)


class Audit:
    """A file that is only ever appended to. It may be renamed at any time: the next line makes a new one."""

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path
        self._lock = threading.Lock()
        self.refusals = Bucket(REFUSALS_PER_MINUTE, now)
        self.left_out = 0

    def check(self) -> None:
        """Try whether a line could be written.

        Raises:
            OSError: If not.
        """
        descriptor = open_lines(self._path, _MODE)
        try:
            free = os.fstatvfs(descriptor)
            if free.f_bavail * free.f_frsize < _RESERVE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def write(self, action: str, target: str, result: str, **fields: Any) -> None:
        """Append one line, and return when it is on the disk.

        Args:
            action: What was asked for: method and route.
            target: What it was asked of.
            result: What became of it.
            fields: Whatever else is to be known.

        Raises:
            OSError: If it could not be written whole.
        """
        own = {"time": datetime.now(UTC), "action": action, "object": target, "result": result}
        line = {**own, **fields, **own}
        # JSON has no line break outside of its texts, and none but as \n within.
        data = to_json({name: bounded(value) for name, value in line.items()}) + b"\n"
        with self._lock:
            is_new = not self._path.exists()
            descriptor = open_lines(self._path, _MODE)
            try:
                append_line(descriptor, data)
            finally:
                os.close(descriptor)
            if is_new:
                sync(self._path.parent)


class Entry:
    """The line of one call, from its arrival to its answer. Written once, whatever happens."""

    def __init__(self, audit: Audit, access: Access, client: str, on_failure: Callable[[], None]) -> None:
        """Begin; from here on `note` adds to it. `on_failure` hears of it where the line cannot be written."""
        self._audit = audit
        self._access = access
        self._client = client
        self._on_failure = on_failure
        self._fields: dict[str, Any] = {}
        _noted.set(self._fields)
        self.is_open = True
        self.is_refused = False

    async def check(self) -> None:
        """See that the line can be written, before anything is changed.

        Raises:
            NotAuditedError: If not.
        """
        try:
            await asyncio.to_thread(self._audit.check)
        except OSError as err:
            raise self._failed(err) from err

    async def close(self, status: int) -> None:
        """Write the line of a call that is about to be answered.

        Raises:
            NotAuditedError: If it could not be written; the log then has it.
        """
        self.is_open = False
        if self.is_refused:
            if self._audit.refusals.take():
                self._audit.left_out += 1
                return
            if self._audit.left_out:
                self._fields["left_out"], self._audit.left_out = self._audit.left_out, 0
        try:
            await asyncio.to_thread(self._write, status)
        except OSError as err:
            raise self._failed(err) from err

    def abandon(self) -> None:
        """Write the line of a call that was cut off before its answer, at once: nobody waits any more."""
        if not self.is_open:
            return
        self.is_open = False
        try:
            self._write(None)
        except OSError as err:
            self._failed(err)

    def _write(self, status: int | None) -> None:
        action = f"{self._access.method} {self._access.template}"
        known = self._known(status)
        self._audit.write(action, self._target(), _result(status), **{**known, **self._fields, **known})

    def _target(self) -> str:
        return "/".join(self._access.parameters)

    def _known(self, status: int | None) -> dict[str, Any]:
        return {"status": status, "key": key_id.get(), "client": self._client, "request_id": request_id.get()}

    def _failed(self, err: OSError) -> NotAuditedError:
        """Log it with everything that the line would have said."""
        self._on_failure()
        about = {"action": self._access.template, "object": bounded(self._target()), **self._fields, **self._known(None)}
        logger.error("the audit log cannot be written (%s): %r", err.strerror, about)
        return NotAuditedError(f"the audit log cannot be written ({err.strerror}), and nothing is changed without it")


def _result(status: int | None) -> str:
    if status is None:
        return "cut off"
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"
