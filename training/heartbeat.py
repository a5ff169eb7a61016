"""A sign of life for whoever started this process: a file whose time is renewed every second.

Started before torch is imported, which takes seconds. A thread of its own, so that a long step does not look like death;
code that hangs and holds the interpreter does.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INTERVAL_S = 1.0


@contextlib.contextmanager
def heartbeat(file: Path | None) -> Iterator[None]:
    """Touch `file` now, and every second within; None does nothing.

    Raises:
        OSError: If it cannot be touched at all. Later failures are passed over: no sign of life is worth the run.
    """
    if file is None:
        yield
        return
    file.touch()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(INTERVAL_S):
            with contextlib.suppress(OSError):
                file.touch()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
