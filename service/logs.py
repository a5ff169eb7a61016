"""How the service's processes log, and the id of the request that is being answered, for every line about it."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

# Settings that are no good; what another start would not change (sysexits' EX_UNAVAILABLE), and what only another start would
# (EX_IOERR).
EXIT_SETTINGS, EXIT_UNAVAILABLE, EXIT_DEVICE_LOST = 2, 69, 74
request_id: ContextVar[str] = ContextVar("request_id", default="-")
# The key that was shown; None where none was needed.
key_id: ContextVar[str | None] = ContextVar("key_id", default=None)


def configure() -> None:
    """Log to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
