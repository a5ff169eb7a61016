"""SIGTERM: at once where nothing would be lost, after the step where a checkpoint can be taken."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from training.errors import Preempted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Stop:
    """Whether this process was asked to end. One for a process, since signals are."""

    def __init__(self) -> None:
        """Nobody has asked."""
        self.requested = False
        self._is_deferred = False

    def listen(self) -> None:
        """Take SIGTERM from here on. Call it in the main thread."""
        signal.signal(signal.SIGTERM, self._asked)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a request is only noted, for the loop to look at between its steps."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def never_mind(self) -> None:
        """From here on there is nothing left to stop: the result is published."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._is_deferred:
            raise Preempted
