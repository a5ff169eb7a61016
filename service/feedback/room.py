"""How much may be kept, and what goes to make room: the oldest images without a label.

A label is somebody's work, so what has one stays until it is deleted by hand. It counts, though: where labelled images alone
fill the room, nothing more is kept, and a full disk is nobody's surprise.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.feedback.store import Entry, FeedbackStore, Reference

# Where labelled images fill the room, how often it is tried again.
_AGAIN_S = 10.0
# More than is needed is removed at once, a twentieth: a full store would be listed at every image otherwise.
_SLACK = 20
_DAY_S = 86_400


@dataclass(frozen=True)
class Bounds:
    """What may be kept of all models together."""

    count: int
    size_bytes: int
    days: float


@dataclass(frozen=True)
class _Load:
    count: int
    size_bytes: int

    def __add__(self, other: _Load) -> _Load:
        return _Load(self.count + other.count, self.size_bytes + other.size_bytes)

    def __sub__(self, other: _Load) -> _Load:
        return _Load(self.count - other.count, self.size_bytes - other.size_bytes)


class Room:
    """Counts what is kept, and evicts. Safe from several threads; other processes are seen when everything is listed."""

    def __init__(self, store: FeedbackStore, bounds: Bounds, now: Callable[[], float] = time.time) -> None:
        """Count nothing yet.

        Args:
            store: What is counted.
            bounds: What it may hold.
            now: Seconds since 1970.
        """
        self._store = store
        self._bounds = bounds
        self._now = now
        self._lock = threading.Lock()
        self._held = _Load(0, 0)
        self._swept_at: float | None = None
        # Whether the last listing found no room for what came: what has a label fills all of it.
        self._is_stuck = False

    def make(self, size_bytes: int) -> tuple[bool, int]:
        """Make room for one image and take it; answer whether there is room, and how many went for it."""
        coming = _Load(1, size_bytes)
        with self._lock:
            evicted = self._sweep(coming) if self._is_due(coming) else 0
            if not self._fits(coming):
                return False, evicted
            self._held += coming
            return True, evicted

    def sweep(self) -> int:
        """Count everything again, let go of what is too old or too much, and answer how many that was."""
        with self._lock:
            return self._sweep(_Load(0, 0))

    def _is_due(self, coming: _Load) -> bool:
        """Whether to list everything: it never was, or room is needed, unless there was none a moment ago."""
        if self._swept_at is None:
            return True
        is_long_ago = not 0 <= self._now() - self._swept_at < _AGAIN_S
        return not self._fits(coming) and (is_long_ago or not self._is_stuck)

    def _fits(self, more: _Load, slack: int = 0) -> bool:
        """Whether there is room for more; with a slack, for a part of all that there is beside it."""
        count, size = self._bounds.count, self._bounds.size_bytes
        spare = _Load(count // slack, size // slack) if slack else _Load(0, 0)
        after = self._held + more + spare
        return after.count <= count and after.size_bytes <= size

    def _sweep(self, coming: _Load) -> int:
        # Before what they point to: an image that is kept meanwhile keeps its own.
        references = self._store.references()
        kept = {model: self._store.entries(model) for model in self._store.models()}
        labelled = {model: self._store.labelled(model) for model in kept}
        everything = [(entry, model) for model, entries in kept.items() for entry in entries]
        self._held = sum((_Load(1, entry.size_bytes) for entry, _ in everything), start=_Load(0, 0))
        waiting = sorted((one for one in everything if one[0].id not in labelled[one[1]]), key=lambda one: one[0].at_ms)
        going = waiting[: self._too_many([entry for entry, _ in waiting], coming)]
        gone = [entry for entry, model in going if self._store.evict(model, entry)]
        self._held -= sum((_Load(1, entry.size_bytes) for entry in gone), start=_Load(0, 0))
        self._drop(references, {entry.id for entry, _ in everything} - {entry.id for entry in gone})
        self._swept_at, self._is_stuck = self._now(), not self._fits(coming)
        return len(gone)

    def _too_many(self, waiting: Sequence[Entry], coming: _Load) -> int:
        """How many of the oldest have to go: too old, and as many more as what comes needs, if that is of any use."""
        oldest_ms = (self._now() - self._bounds.days * _DAY_S) * 1000
        expired = sum(entry.at_ms < oldest_ms for entry in waiting)
        # What there would be room for after the oldest 0, 1, 2 … are gone.
        loads = list(accumulate((_Load(-1, -entry.size_bytes) for entry in waiting), initial=coming))
        if self._fits(loads[expired]) or not self._fits(loads[-1]):
            return expired
        return next((number for number in range(expired, len(loads)) if self._fits(loads[number], _SLACK)), len(waiting))

    def _drop(self, references: Sequence[Reference], kept: set[str]) -> None:
        """Of requests whose image is gone, and of the oldest where there are more than images may be."""
        newest = sorted(references, key=lambda one: one.at_ms, reverse=True)
        self._store.drop_references(
            one for number, one in enumerate(newest) if one.id not in kept or number >= self._bounds.count
        )
