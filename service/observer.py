"""What can be told of a request from outside, once it is answered: a line of the access log, a span. Both are off by default.

Of what the caller sends nothing is kept but a trace id in its own form; routes are templates, as in the metrics.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from service import access, stopwatch
from service.lines import bounded
from service.logs import key_id, request_id
from service.stopwatch import STAGES, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.settings import Settings
    from service.tracing import Tracer

# W3C Trace Context, section 3.2; a later version may have more behind it.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_PROPAGATED = (b"traceparent", b"tracestate")


@dataclass
class Seen:
    """One request.

    Attributes:
        route: Its template; None where there is no such route.
        method: As it is counted: what HTTP does not know is `other`.
        client: The address that asked.
        sent: Of the caller's headers those that continue a trace.
        status: None until an answer has begun.
        bytes_in: Of the body that were read.
        bytes_out: Of the answer's body.
        model: `name:N`, where a model answered.
        trace_id: The caller's, or that of a span of our own.
    """

    route: str | None
    method: str
    client: str
    sent: dict[str, str]
    started: float
    watch: Stopwatch = field(default_factory=Stopwatch)
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    model: str | None = None
    trace_id: str | None = None

    def __post_init__(self) -> None:
        """Take the trace id that the caller sent, if it is one."""
        if found := _TRACEPARENT.fullmatch(self.sent.get("traceparent", "")):
            self.trace_id = found[1]

    def take(self, message: Message) -> None:
        """Look at a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.model = dict(message.get("headers", ())).get(b"x-model-version", b"").decode("latin-1") or None
        self.bytes_out += len(message.get("body", b""))


class Observer:
    """Looks at requests while others answer them."""

    def __init__(self, write: Callable[[bytes], object] | None, tracer: Tracer | None) -> None:
        """Take what is told: lines of the access log, spans, or both."""
        self._write = write
        self._tracer = tracer

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Have `app` answer a request, and tell of it."""
        seen = _begin(scope)
        stopwatch.current.set(seen.watch)
        span = None if self._tracer is None else self._tracer.begin(seen)

        async def counted() -> Message:
            message = await receive()
            seen.bytes_in += len(message.get("body", b""))
            return message

        async def forward(message: Message) -> None:
            seen.take(message)
            await send(message)

        try:
            await app(scope, counted, forward)
        finally:
            if span is not None and self._tracer is not None:
                self._tracer.end(span, seen)
            if self._write is not None:
                self._write(line(seen))

    def close(self) -> None:
        """Send what spans there are; it takes a moment, and no longer where nobody receives them."""
        if self._tracer is not None:
            self._tracer.close()


def make_observer(settings: Settings) -> Observer | None:
    """As the settings say; None where nothing is to be told."""
    tracer = None
    if settings.traces is not None:
        # Only here: OpenTelemetry's exporter is not imported where nobody wants spans.
        tracer = importlib.import_module("service.tracing").Tracer(settings.traces, settings.traces_share)
    write = _to_stderr if settings.access_log else None
    return None if tracer is None and write is None else Observer(write, tracer)


def line(seen: Seen) -> bytes:
    """The line of a request that was answered."""
    told: dict[str, Any] = {
        "time": datetime.now(UTC),
        "request_id": request_id.get(),
        "trace_id": seen.trace_id,
        "route": seen.route,
        "method": seen.method,
        "status": seen.status,
        "duration_ms": _ms(time.monotonic() - seen.started),
        "bytes_in": seen.bytes_in,
        "bytes_out": seen.bytes_out,
        "key": key_id.get(),
        "client": bounded(seen.client),
    }
    stretches = seen.watch.read()
    if seen.model is not None or stretches:
        told["model"] = seen.model
        told["images"] = max((stretch.images for stretch in stretches.values()), default=0)
        for stage in STAGES:
            stretch = stretches.get(stage)
            told[f"{stage}_ms"] = None if stretch is None else _ms(stretch.ended - stretch.started)
    return to_json(told) + b"\n"


def _begin(scope: Scope) -> Seen:
    found = access.find(scope["method"], scope["path"])
    method = scope["method"] if scope["method"] in _METHODS else "other"
    client = scope.get("client")
    sent = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PROPAGATED}
    return Seen(None if found is None else found.template, method, str(client[0]) if client else "", sent, time.monotonic())


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _to_stderr(data: bytes) -> None:
    # In one piece: another process writes there too.
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
