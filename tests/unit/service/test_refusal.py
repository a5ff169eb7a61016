"""A flood is refused by its heads: over real sockets, with uvicorn's own server."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from service.backlog import Backlog
from service.budget import Budget
from service.errors import UnknownModelError
from service.http import protocol
from service.metrics import Metrics
from service.refusal import refuse
from tests.support.guarded import Engine as GuardedEngine
from tests.support.guarded import listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JPEG = (b"content-type", b"image/jpeg")


class Engine:
    """What a refusal uses of an engine: one model, and a queue of two."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.backlog = Backlog(2, 10, self.metrics)
        self.observer = None
        self.is_closing = False
        self.device = SimpleNamespace(is_lost=False)

    def expect(self, reference: str | None) -> None:
        if reference not in (None, "cats"):
            raise UnknownModelError("there is none")
        self.backlog.check("cats")


@pytest.fixture
def full() -> Any:
    engine = Engine()
    engine.backlog.enter("cats", 2)
    return engine


def test_with_room_nothing_is_refused() -> None:
    assert refuse(Engine(), b"POST", b"/classify", [JPEG]) is None  # type: ignore[arg-type]


def test_refusal_is_a_problem_with_an_id_and_is_counted(full: Any) -> None:
    answer = refuse(full, b"POST", b"/classify?model=cats&top_k=3", [JPEG, (b"x-request-id", b"mine")])
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 429 Too Many Requests"
    assert {b"x-request-id: mine", b"retry-after: 1", f"content-length: {len(body)}".encode()} <= set(lines)
    assert (json.loads(body)["code"], json.loads(body)["status"]) == ("queue_full", 429)
    shown = full.metrics.render().decode()
    assert 'candor_requests_total{method="POST",route="/classify",status="429"} 1.0' in shown
    assert 'candor_shed_total{reason="queue_full"} 1.0' in shown


@pytest.mark.parametrize(
    ("method", "target", "headers", "changes"),
    [
        (b"GET", b"/classify", [JPEG], {}),
        (b"POST", b"/retrain", [JPEG], {}),
        (b"POST", b"/classify", [(b"content-type", b"multipart/form-data; boundary=x")], {}),
        (b"POST", b"/classify", [(b"content-type", b"application/json")], {}),
        (b"POST", b"/classify?model=dogs", [JPEG], {}),
        (b"POST", b"/classify", [JPEG], {"observer": SimpleNamespace()}),
        (b"POST", b"/classify", [JPEG], {"is_closing": True}),
        (b"POST", b"/classify", [JPEG], {"device": SimpleNamespace(is_lost=True)}),
    ],
)
def test_what_its_head_does_not_decide_takes_the_usual_way(
    full: Any, method: bytes, target: bytes, headers: Any, changes: dict[str, Any]
) -> None:
    for name, value in changes.items():
        setattr(full, name, value)
    assert refuse(full, method, target, headers) is None
    assert full.metrics.registry.get_sample_value("candor_shed_total", {"reason": "queue_full"}) == 0


# --- on the wire


async def length(scope: Any, receive: Any, send: Any) -> None:
    """Answer how long the body is."""
    count, more = 0, True
    while more:
        message = await receive()
        count, more = count + len(message.get("body", b"")), message.get("more_body", False)
    said = str(count).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@contextmanager
def serving(home: Path, full: Any) -> Iterator[tuple[str, int]]:
    engine = GuardedEngine(home)
    engine.budget = Budget(10**6)
    with listening(length, engine, protocol(lambda *head: refuse(full, *head))) as address:
        yield address


def test_connection_is_kept_and_its_next_request_answered(tmp_path: Path, full: Any) -> None:
    with serving(tmp_path, full) as (host, port):
        connection = http.client.HTTPConnection(host, port, timeout=10)
        for _ in range(3):
            connection.request("POST", "/classify", b"x" * 300_000, {"content-type": "image/jpeg"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["code"]) == (429, "queue_full")
        full.backlog.leave("cats", 2)
        connection.request("POST", "/classify", b"x" * 300_000, {"content-type": "image/jpeg"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"300000")
        connection.close()


def test_connection_that_is_to_be_closed_is_closed(tmp_path: Path, full: Any) -> None:
    with (
        serving(tmp_path, full) as address,
        socket.create_connection(address, timeout=10) as connection,
    ):
        connection.sendall(b"POST /classify HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close" in received.partition(b"\r\n\r\n")[0]


def test_requests_sent_at_once_are_answered_in_their_order(tmp_path: Path, full: Any) -> None:
    refused = b"POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx"
    good = b"POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    with (
        serving(tmp_path, full) as address,
        socket.create_connection(address, timeout=10) as connection,
    ):
        connection.sendall(refused + good + refused + good)
        received = b""
        while received.count(b"HTTP/1.1 ") < 4 and (part := connection.recv(65536)):
            received += part
    # The one behind a request that is being answered takes the usual way: answers keep the order of the requests.
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"429", b"200", b"200", b"200"]
