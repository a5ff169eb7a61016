"""Whether what computes can still be believed.

After some faults (an illegal access, an uncorrectable memory error) a GPU's context answers on, with garbage. Only a new process
gets a new context: from that moment nothing is answered, and this process ends, for the launcher or the kubelet to start another.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from service.logs import EXIT_DEVICE_LOST

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("candor.device")
# Those who wait are told; nothing is drained, since nothing can be answered.
_LAST_WORDS_S = 0.5


class Device:
    """What all models of a process compute on."""

    def __init__(self, end: Callable[[int], object] = os._exit) -> None:
        """Believe it. `end` ends the process at once: a broken context may hang whoever closes it in good order."""
        self._end = end
        self._lock = threading.Lock()
        self.is_lost = False

    def lose(self, reason: object) -> None:
        """Believe nothing any more, say why, once, and end the process in a moment. May be called from any thread."""
        with self._lock:
            if self.is_lost:
                return
            self.is_lost = True
        logger.critical("the device is lost, and this process ends: %s", " ".join(str(reason).split()))
        timer = threading.Timer(_LAST_WORDS_S, self._end, (EXIT_DEVICE_LOST,))
        timer.daemon = True
        timer.start()
