"""Lines that are appended to a file and never lost: on the disk when this returns, whole, and none torn by another's crash."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_MAX_TEXT = 200


def open_lines(path: Path, mode: int = 0o644) -> int:
    """A descriptor to append lines to; the folder and the file are made where they are missing. The caller closes it.

    Raises:
        OSError: If it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line, with its end, and sync it.

    Raises:
        OSError: If it could not be written whole.
    """
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        # A writer died, or the disk was full, within a line; the next one is not to be a part of it.
        line = b"\n" + line
    if os.write(descriptor, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def bounded(value: Any) -> Any:
    """A text cut short, and without half characters, which JSON has no way to say; anything else as it is."""
    return value[:_MAX_TEXT].encode(errors="backslashreplace").decode() if isinstance(value, str) else value
