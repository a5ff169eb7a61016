"""How many bytes of request bodies may be in memory at once. Belongs to the event loop, so there is no lock."""

from __future__ import annotations

from service.errors import QueueFullError


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
