"""Token buckets: how often something may happen. Belongs to the event loop, so there is no lock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Bucket:
    """A minute's worth at once, and then as fast as it fills."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        """Start full."""
        self._most = float(per_minute)
        self._per_second = per_minute / 60
        self._now = now
        self._left = self._most
        self._counted = now()

    def take(self) -> float:
        """Take one; 0 if there was one, else the seconds until there is."""
        now = self._now()
        self._left = min(self._most, self._left + (now - self._counted) * self._per_second)
        self._counted = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second


class Buckets:
    """A bucket for each key; there are as many as there are keys, since only a key that exists has one."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        """Start with none."""
        self._per_minute = per_minute
        self._now = now
        self._buckets: dict[str, Bucket] = {}

    def take(self, key: str) -> float:
        """As `Bucket.take`, of the key's own."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._per_minute, self._now)
        return bucket.take()
