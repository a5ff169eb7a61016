"""Keeping what is served, behind everybody's back: whoever answers a request hands its images over and waits for nothing.

A thread writes. What it cannot write in time, for want of room or because the disk fails, is dropped and counted; a request
never learns of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.feedback.room import Room
    from service.feedback.served import Served
    from service.feedback.store import FeedbackStore
    from service.metrics import Metrics

P = ParamSpec("P")
logger = logging.getLogger("candor.feedback")
# What may wait for the disk: it is in memory beside the bodies of the requests that are being answered.
MOST_WAITING = 1000
MOST_WAITING_BYTES = 64 * 2**20
# Others write there too, and time passes: how often everything is listed.
SWEEP_S = 600.0
_LOG_S = 60.0
_CLOSE_S = 5.0


class Keeper:
    """A bounded queue and the thread that empties it."""

    def __init__(self, store: FeedbackStore, room: Room, metrics: Metrics, *, is_on: bool) -> None:
        """Start nothing yet.

        Args:
            store: Where images go.
            room: How many may.
            metrics: Where outcomes are counted.
            is_on: Whether anything is kept. What was kept before grows old all the same.
        """
        self.is_on = is_on
        self._store = store
        self._room = room
        self._metrics = metrics
        self._waiting: deque[Served] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._logged_at = -_LOG_S
        # It may hang with its disk, and must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)

    def start(self) -> None:
        """Begin to write, and to let go of what is too old."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, within a few seconds, and stop."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def offer(self, served: Served) -> None:
        """Hand over an image; it is dropped where too much waits already. Returns at once."""
        if not self.is_on:
            return
        with self._changed:
            size = self._waiting_bytes + len(served.data)
            is_taken = len(self._waiting) < MOST_WAITING and size <= MOST_WAITING_BYTES
            if is_taken:
                self._waiting.append(served)
                self._waiting_bytes = size
                self._changed.notify()
        if not is_taken:
            self._metrics.feedback.labels("dropped").inc()

    def _work(self) -> None:
        sweep_at = time.monotonic()
        while True:
            if time.monotonic() >= sweep_at:
                sweep_at = time.monotonic() + SWEEP_S
                self._guarded(self._sweep)
            served = self._next(sweep_at - time.monotonic())
            if served is not None and not self._guarded(self._keep, served):
                self._metrics.feedback.labels("dropped").inc()
            if served is None and self._is_closing:
                return

    def _next(self, patience_s: float) -> Served | None:
        """What to write next; None where nothing came in time, or nothing more will."""
        with self._changed:
            if not self._waiting and not self._is_closing:
                self._changed.wait(max(0.0, patience_s))
            if not self._waiting:
                return None
            served = self._waiting.popleft()
            self._waiting_bytes -= len(served.data)
            return served

    def _keep(self, served: Served) -> None:
        image = served.sidecar()
        has_room, evicted = True, 0
        if not self._store.holds(image.model, image.id):
            has_room, evicted = self._room.make(image.size_bytes)
        self._metrics.feedback.labels("evicted").inc(evicted)
        if not has_room:
            self._metrics.feedback.labels("dropped").inc()
            return
        self._metrics.feedback.labels("kept" if self._store.keep(image, served.data) else "duplicate").inc()

    def _sweep(self) -> None:
        self._store.tidy()
        self._metrics.feedback.labels("evicted").inc(self._room.sweep())

    def _guarded(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Do something that may fail, as disks and networks do; false where it did. Said in the log once a minute."""
        try:
            call(*args, **kwargs)
        except Exception:
            if time.monotonic() - self._logged_at >= _LOG_S:
                self._logged_at = time.monotonic()
                logger.exception("images cannot be kept")
            return False
        return True
