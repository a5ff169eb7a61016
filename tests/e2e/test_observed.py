"""The access log and the spans of the real service; the collector is a real server, or there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.pictures import picture
from tests.support.server import ROOT, environment, free_port, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from tests.support.server import Server

pytestmark = pytest.mark.e2e
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PNG = {"content-type": "image/png"}


def lines(server: Server) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_the_access_log_has_a_line_for_each_request(tiny_home: Path) -> None:
    with serve(tiny_home, run="serve", access_log="true") as server, server.client() as client:
        sent = {**PNG, "traceparent": f"00-{TRACE}-{CALLER}-00", "x-request-id": "mine"}
        image = picture("red")
        answer = client.post("/classify", content=image, headers=sent)
        both = client.post("/classify", files=[("images", ("a", image)), ("images", ("b", b"no image"))])
        assert client.get("/models/no-such-model").status_code == 404
        assert client.get("/no/such/route").status_code == 404
    assert (answer.status_code, both.status_code) == (200, 200)
    one, several, model, route = [line for line in lines(server) if line["route"] != "/readyz"]
    assert one["request_id"] == "mine"
    assert one["trace_id"] == TRACE
    assert (one["route"], one["method"], one["status"], one["client"]) == ("/classify", "POST", 200, "127.0.0.1")
    assert (one["bytes_in"], one["bytes_out"]) == (len(image), len(answer.content))
    assert (one["model"], one["images"]) == ("colours:1", 1)
    parts = [float(str(one[name])) for name in ("decode_ms", "queue_ms", "inference_ms")]
    assert all(part > 0 for part in parts)
    assert sum(parts) < float(str(one["duration_ms"]))
    assert (several["images"], several["trace_id"]) == (2, None)
    assert (model["route"], model["status"]) == ("/models/{name}", 404)
    assert (route["route"], route["status"]) == (None, 404)
    assert "no-such-model" not in server.log.read_text()


def test_nothing_is_told_unless_it_is_asked_for(tiny: Server) -> None:
    with tiny.client() as client:
        assert client.get("/models").status_code == 200
    assert lines(tiny) == []


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def spans(received: list[ExportTraceServiceRequest]) -> list[Span]:
    return [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Span) -> dict[str, object]:
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        assert kind is not None
        found[attribute.key] = getattr(attribute.value, kind)
    return found


def test_spans_continue_the_callers_trace_and_come_only_where_it_was_sampled(tiny_home: Path) -> None:
    with collector() as (address, received):
        with serve(tiny_home, run="serve", traces=address, traces_share=0) as server, server.client() as client:
            for number, flag in enumerate(("00", "01")):
                sent = {**PNG, "traceparent": f"00-{TRACE}-{CALLER}-{flag}", "x-request-id": f"r{number}"}
                assert client.post("/classify", content=picture("red"), headers=sent).status_code == 200
            assert client.post("/classify", content=picture("red"), headers=PNG).status_code == 200
        # What ends sends what it has.
        found = {span.name: span for span in spans(received)}
    assert len(spans(received)) == 4
    assert found.keys() == {"POST /classify", "decode", "queue", "inference"}
    root = found["POST /classify"]
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.kind) == (TRACE, CALLER, 2)
    told = attributes(root)
    assert told["candor.request_id"] == "r1"
    assert told["http.request.method"] == "POST"
    assert told["http.route"] == "/classify"
    assert told["http.response.status_code"] == 200
    assert told["candor.model"] == "colours:1"
    ends = [root.start_time_unix_nano]
    for stage in ("decode", "queue", "inference"):
        child = found[stage]
        assert (child.trace_id.hex(), child.parent_span_id) == (TRACE, root.span_id)
        assert ends[-1] - 1_000_000 <= child.start_time_unix_nano <= child.end_time_unix_nano
        ends.append(child.end_time_unix_nano)
    assert ends[-1] <= root.end_time_unix_nano + 1_000_000
    (resource,) = {attribute.value.string_value for attribute in received[0].resource_spans[0].resource.attributes} & {"candor"}
    assert resource == "candor"


def test_a_collector_that_is_away_holds_up_no_request_and_no_end(tiny_home: Path) -> None:
    with serve(tiny_home, run="serve", traces=f"http://127.0.0.1:{free_port()}", traces_share=1) as server:
        with server.client() as client:
            slowest = 0.0
            for _ in range(100):
                started = time.monotonic()
                assert client.post("/classify", content=picture("red"), headers=PNG).status_code == 200
                slowest = max(slowest, time.monotonic() - started)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 8
    assert slowest < 1
    said = server.log.read_text()
    assert "Traceback" not in said
    assert said.count("Failed to export") <= 1


def test_no_exporter_is_imported_where_nobody_wants_spans(tmp_path: Path) -> None:
    code = (
        "import sys, service.app, service.settings as s, service.engine as e; e.Engine(s.read_settings());"
        "print([n for n in sys.modules if n == 'service.tracing' or n.startswith('opentelemetry.exporter')])"
    )
    env = {**environment(tmp_path), "BENTOML_HOME": str(tmp_path / "bento")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
