"""The access log: what a line says of a request, and what a caller cannot make it say."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from service import stopwatch
from service.logs import key_id, request_id
from service.observer import Observer, make_observer
from service.settings import Settings
from service.stopwatch import Stopwatch

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PLAIN = {
    "time", "request_id", "trace_id", "route", "method", "status", "duration_ms", "bytes_in", "bytes_out", "key", "client",
}  # fmt: skip
OF_IMAGES = {"model", "images", "decode_ms", "queue_ms", "inference_ms"}


async def classify(scope: Scope, receive: Receive, send: Send) -> None:
    request_id.set("r1")
    key_id.set("shop")
    await receive()
    watch = stopwatch.current.get()
    assert watch is not None
    for started in (1.0, 1.5):
        watch.note("decode", started, started + 0.25)
        watch.note("inference", 2.0, 2.125)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-model-version", b"birds:3")]})
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    await send({"type": "http.response.body", "body": b"678"})


def observe(app: Any, *, method: str = "POST", path: str = "/classify", client: str = "10.1.2.3", **headers: str) -> Any:
    lines: list[bytes] = []
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": sent, "client": (client, 9)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"image", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    async def ask() -> None:
        await Observer(lines.append, None).answer(app, scope, receive, send)

    try:
        asyncio.run(ask())
    finally:
        (line,) = lines
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        told.append(json.loads(line))
    return told[-1]


told: list[dict[str, Any]] = []


def test_a_line_says_who_asked_for_what_what_came_of_it_and_where_the_time_went() -> None:
    line = observe(classify, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    assert line.keys() == PLAIN | OF_IMAGES
    assert line["duration_ms"] >= 0
    del line["time"], line["duration_ms"]
    assert line == {
        "request_id": "r1",
        "trace_id": TRACE,
        "route": "/classify",
        "method": "POST",
        "status": 200,
        "bytes_in": 5,
        "bytes_out": 8,
        "key": "shop",
        "client": "10.1.2.3",
        "model": "birds:3",
        "images": 2,
        # from the first image's start to the last one's end
        "decode_ms": 750.0,
        "queue_ms": None,
        "inference_ms": 125.0,
    }


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})


@pytest.mark.parametrize("path", ["/nowhere\n{}", "/etc/passwd", "/models/a/b/c/d"])
def test_a_path_is_never_told_and_a_route_is_its_template(path: str) -> None:
    line = observe(nothing, path=path, method="BREW\n")
    assert line.keys() == PLAIN
    assert (line["route"], line["method"], line["status"]) == (None, "other", 404)
    assert path not in json.dumps(line)
    assert observe(nothing, path="/models/secret", method="GET")["route"] == "/models/{name}"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "rubbish",
        f"00-{TRACE}",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7-01\n",
        "x" * 100_000,
    ],
)
def test_what_is_no_trace_context_is_not_told(sent: str) -> None:
    assert observe(nothing, traceparent=sent)["trace_id"] is None


def test_a_client_that_a_proxy_made_up_is_escaped_and_bounded() -> None:
    line = observe(nothing, client='"},\n{"forged": "' + "x" * 100_000)
    assert line["client"].startswith('"},\n{"forged')
    assert len(json.dumps(line)) < 1000


def test_a_request_that_was_cut_off_has_a_line_too() -> None:
    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        observe(cut)
    assert told[-1]["status"] is None


def test_stages_are_read_from_the_first_start_to_the_last_end() -> None:
    watch = Stopwatch()
    watch.note("queue", 3.0, 4.0)
    watch.note("queue", 1.0, 2.0)
    assert {stage: (stretch.started, stretch.ended, stretch.images) for stage, stretch in watch.read().items()} == {
        "queue": (1.0, 4.0, 2)
    }


def test_both_are_off_by_default(tmp_path: Path) -> None:
    assert make_observer(Settings(home=tmp_path)) is None
    assert make_observer(Settings(home=tmp_path, access_log=True)) is not None
