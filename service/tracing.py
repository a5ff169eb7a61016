"""Spans of requests, sent to a collector by OpenTelemetry's own SDK: OTLP over HTTP. The one module that knows opentelemetry.

Spans wait in a queue of bounded length and are sent by a thread: where the collector is away or slow they are lost, and no
request is held up. Headers for the collector and attributes of the service are read from OpenTelemetry's own variables
(`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.lines import bounded
from service.logs import key_id, request_id
from service.rates import Bucket

if TYPE_CHECKING:
    from service.observer import Seen

_EXPORT_S = 5
# Until a service that ends no longer waits for its last spans to be sent.
_CLOSE_S = 2.0


class _Seldom(logging.Filter):
    """Lets a line through once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._bucket = Bucket(1)

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._bucket.take()


class Tracer:
    """One server span for each sampled request, and below it the stages that its images went through."""

    def __init__(self, collector: str, share: float) -> None:
        """Send to a collector; nothing is connected yet.

        Args:
            collector: Its address, without a path.
            share: Of the requests that come without a caller's decision, how many have a span.
        """
        # A collector that is away is said now and then, and not with every try.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Seldom())
        exporter = OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        resource = Resource.create({SERVICE_NAME: "candor"})
        self._provider = TracerProvider(ParentBasedTraceIdRatio(share), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("candor")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, seen: Seen) -> Span:
        """Begin the span of a request, below the caller's if there is one; it may be one that records nothing."""
        name = seen.method if seen.route is None else f"{seen.method} {seen.route}"
        span = self._tracer.start_span(name, self._propagator.extract(seen.sent), SpanKind.SERVER)
        if span.is_recording():
            seen.trace_id = format_trace_id(span.get_span_context().trace_id)
        return span

    def end(self, span: Span, seen: Seen) -> None:
        """Say what became of the request, and end its span."""
        if not span.is_recording():
            return
        self._add_stages(span, seen)
        attributes = {
            "http.request.method": seen.method if seen.method != "other" else "_OTHER",
            "http.route": seen.route,
            "http.response.status_code": seen.status,
            "http.request.body.size": seen.bytes_in,
            "http.response.body.size": seen.bytes_out,
            "url.scheme": "http",
            "client.address": bounded(seen.client),
            "candor.request_id": request_id.get(),
            "candor.key": key_id.get(),
            "candor.model": seen.model,
        }
        span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        if seen.status is None or seen.status >= 500:
            span.set_attribute("error.type", "cut_off" if seen.status is None else str(seen.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Send what waits, for a moment at most."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_CLOSE_S)

    def _add_stages(self, span: Span, seen: Seen) -> None:
        """Spans of the past, since their times are known only now."""
        epoch_ns = time.time_ns() - time.monotonic_ns()
        parent = set_span_in_context(span)
        for stage, stretch in seen.watch.read().items():
            child = self._tracer.start_span(
                stage,
                parent,
                attributes={"candor.images": stretch.images},
                start_time=epoch_ns + int(stretch.started * 1e9),
            )
            child.end(epoch_ns + int(stretch.ended * 1e9))
