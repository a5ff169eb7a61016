"""A process that should not outlive the one that started it reads a pipe whose other end that one holds."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FLAG = "--with-parent"


def when_parent_ends(then: Callable[[], None]) -> None:
    """Call `then` in a thread when the parent is gone; without `--with-parent` there is none to wait for."""
    if FLAG not in sys.argv[1:]:
        return

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        then()

    threading.Thread(target=wait, name="parent", daemon=True).start()
