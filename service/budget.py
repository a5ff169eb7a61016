"""How many bytes of request bodies may be in memory at once, and how long a body may take to come.

Belongs to the event loop, so there is no lock.
"""

from __future__ import annotations

import time

from service.errors import QueueFullError, StalledError

# A body has so long to arrive, and a second more for each so many bytes of it: a slow line is waited for, a slow sender not.
BODY_S, BODY_BYTES_PER_S = 10.0, 2**16


class Budget:
    """A number of bytes that requests share."""

    def __init__(self, total_bytes: int) -> None:
        """Start with nothing taken."""
        self._total = total_bytes
        self._taken = 0

    def take(self, count: int) -> None:
        """Count bytes in.

        Raises:
            QueueFullError: If they do not fit beside what is there.
        """
        if self._taken + count > self._total:
            raise QueueFullError(f"{self._taken} bytes of requests are being answered, and at most {self._total} may; try again")
        self._taken += count

    def give_back(self, count: int) -> None:
        """Count bytes out."""
        self._taken -= count


class Arrival:
    """A body on its way, counted against a budget until its request is answered."""

    def __init__(self, budget: Budget | None) -> None:
        """Nothing of it is there yet; without a budget it is never in memory as a whole."""
        self._budget = budget
        self._since = time.monotonic()
        self._count = 0

    def add(self, count: int) -> None:
        """Count what came.

        Raises:
            QueueFullError: If the bodies of all requests together grow too large.
        """
        if self._budget is not None:
            self._budget.take(count)
        self._count += count

    def left_s(self) -> float:
        """How long its next part may take; 0 where that is over."""
        return max(0.0, self._since + BODY_S + self._count / BODY_BYTES_PER_S - time.monotonic())

    def stalled(self) -> StalledError:
        """What to say when that is over."""
        return StalledError(f"{self._count} bytes of the body came in {time.monotonic() - self._since:.0f} s")

    def give_back(self) -> None:
        """The request is answered, or nobody waits for it."""
        if self._budget is not None:
            self._budget.give_back(self._count)
            self._budget = None
