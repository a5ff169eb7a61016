"""How many images are being answered, how long the next one would wait, and who may still come in.

A queue that takes longer to work off than anybody waits only makes every answer late, so it is bounded by time as well as by
number: by how fast images were answered lately. When it is full, a model that has less than its share of it is let in all the
same, so that a flood for one does not shut out the others. Belongs to the event loop, so there is no lock.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from service.errors import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.metrics import Metrics

# What is answered within it is answered at once.
_MOMENT_S = 0.0005
# Of each answer in the mean time between answers: the last fifty or so count.
_WEIGHT = 0.02
# So many may always be there: of one alone it cannot be seen how fast they are answered.
_LEAST = 2.0


class Backlog:
    """See the module."""

    def __init__(self, limit: int, wait_s: float, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            limit: Images.
            wait_s: Seconds that the images before a new one may take.
            metrics: Where depth and refusals are shown.
            clock: Seconds.
        """
        self._limit = limit
        self._wait_s = wait_s
        self._metrics = metrics
        self._clock = clock
        self._images: Counter[str] = Counter()
        self._total = 0
        # Seconds an image while more than one is answered; None until that was seen.
        self._pace_s: float | None = None
        self._last: float | None = None
        # Since then.
        self._answers = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing is let in but what has less than its share."""
        return self._total >= self._bound()

    def check(self, model: str, images: int = 1) -> None:
        """Refuse what would wait too long, before anything is done for it.

        Raises:
            QueueFullError: If it would.
        """
        bound = self._bound()
        if self._total < bound and self._total + images <= self._limit:
            return
        share = bound / len(self._images.keys() | {model})
        if self._images[model] < share and self._images[model] + images <= self._limit:
            return
        self._metrics.shed.labels(QueueFullError.code).inc()
        raise QueueFullError(f"{self._total} images wait, and at most {bound:.0f} may; try again")

    def enter(self, model: str, images: int) -> None:
        """Count images in.

        Raises:
            QueueFullError: As `check`.
        """
        self.check(model, images)
        self._images[model] += images
        self._add(images)

    def leave(self, model: str, images: int) -> None:
        """Count images out, whatever became of them."""
        self._images[model] -= images
        if not self._images[model]:
            del self._images[model]
        self._add(-images)
        if not self._total:
            # Until the next answer nobody waits.
            self._last = None
            self._answers = 0

    def answered(self) -> None:
        """Learn from an image that was answered how fast that goes, if others were waiting all the while.

        A batch is answered at one moment, and counts as its images. A pause longer than anybody may wait, such as that of a
        stopped process, says no more than that it was long.
        """
        now = self._clock()
        self._answers += 1
        if self._last is not None:
            if now - self._last < _MOMENT_S:
                return
            pace_s = min(now - self._last, self._wait_s) / self._answers
            weight = 1 - (1 - _WEIGHT) ** self._answers
            self._pace_s = pace_s if self._pace_s is None else self._pace_s + weight * (pace_s - self._pace_s)
        self._answers = 0
        self._last = now if self._total > 1 else None

    def _bound(self) -> float:
        """Images that may wait."""
        return self._limit if not self._pace_s else min(self._limit, max(_LEAST, self._wait_s / self._pace_s))

    def _add(self, images: int) -> None:
        self._total += images
        self._metrics.queue_depth.set(self._total)
