"""What is known of the request that is being answered, for every line that is written about it."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
# The key that was shown; None where none was needed.
key_id: ContextVar[str | None] = ContextVar("key_id", default=None)
