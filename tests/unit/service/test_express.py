"""What a connection carries by itself: on the wire, with uvicorn's own server, and which requests those are."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from service.admission import Admission
from service.backlog import Backlog
from service.budget import Budget
from service.errors import UnknownModelError
from service.express import Express, carry
from service.http import Answer, protocol
from service.inputs import BodyLimits
from service.metrics import Metrics
from tests.support import guarded
from tests.support.guarded import read

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

HEAD = b"POST /classify HTTP/1.1\r\nhost: localhost\r\n"
JPEG = (b"content-type", b"image/jpeg")
LENGTH = (b"content-length", b"4")


class Engine:
    """What decides which way a request takes: one model, bodies of 1,000 bytes."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.backlog = Backlog(2, 10, self.metrics)
        self.budget = Budget(10_000)
        self.body_limits = BodyLimits(1000, 1000, 4)
        self.observer = None
        self.is_closing = False
        self.device = SimpleNamespace(is_lost=False)
        settings = SimpleNamespace(host="127.0.0.1", allowed_hosts=(), allow_unauthenticated=None, mutations_per_minute=1)
        self.admission = Admission(settings, None, self.metrics)  # type: ignore[arg-type]

    def expect(self, reference: str | None) -> None:
        if reference not in (None, "cats"):
            raise UnknownModelError("there is none")
        self.backlog.check("cats")

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def taken(engine: Engine, target: bytes = b"/classify", *headers: tuple[bytes, bytes], method: bytes = b"POST") -> Any:
    scope = {"headers": [(b"host", b"localhost"), *headers], "server": ("127.0.0.1", 3000)}
    return carry(engine, method, target, scope)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [b"/classify", b"/classify?top_k=3&model=cats&raw=1", b"/classify?model="])
@pytest.mark.parametrize("kind", [JPEG, (b"content-type", b"application/octet-stream"), (b"x-request-timeout-ms", b"20")])
def test_one_image_of_known_length_is_carried(target: bytes, kind: tuple[bytes, bytes]) -> None:
    engine = Engine()
    express = taken(engine, target, kind, LENGTH)
    assert isinstance(express, Express)
    assert engine.value("candor_in_flight") == 1
    express.abandon()
    assert engine.value("candor_in_flight") == 0
    assert engine.value("candor_requests_total", route="/classify", method="POST", status="499") == 1


@pytest.mark.parametrize(
    ("method", "target", "headers", "changes"),
    [
        (b"GET", b"/classify", [JPEG, LENGTH], {}),
        (b"POST", b"/explain-confidence", [JPEG, LENGTH], {}),
        (b"POST", b"/classify/", [JPEG, LENGTH], {}),
        (b"POST", b"/classify", [JPEG], {}),
        (b"POST", b"/classify", [JPEG, (b"transfer-encoding", b"chunked")], {}),
        (b"POST", b"/classify", [JPEG, (b"content-length", b"0")], {}),
        (b"POST", b"/classify", [JPEG, (b"content-length", b"1001")], {}),
        (b"POST", b"/classify", [JPEG, (b"content-length", b"0" * 5000 + b"4")], {}),
        (b"POST", b"/classify?a#&trust=false", [JPEG, LENGTH], {}),
        (b"POST", b"/classify", [JPEG, LENGTH, (b"expect", b"100-continue")], {}),
        (b"POST", b"/classify", [JPEG, LENGTH, (b"x-request-timeout-ms", b"soon")], {}),
        (b"POST", b"/classify", [LENGTH, (b"content-type", b"application/json")], {}),
        (b"POST", b"/classify", [LENGTH, (b"content-type", b"multipart/form-data; boundary=x")], {}),
        (b"POST", b"/classify?model=dogs", [JPEG, LENGTH], {}),
        (b"POST", b"/classify?top_k=0", [JPEG, LENGTH], {}),
        (b"POST", b"/classify?colour=red", [JPEG, LENGTH], {}),
        (b"POST", b"/classify?model=" + b"x" * 300, [JPEG, LENGTH], {}),
        (b"POST", b"/classify", [JPEG, LENGTH], {"observer": SimpleNamespace()}),
        (b"POST", b"/classify", [JPEG, LENGTH], {"is_closing": True}),
        (b"POST", b"/classify", [JPEG, LENGTH], {"device": SimpleNamespace(is_lost=True)}),
    ],
)
def test_what_is_out_of_the_ordinary_takes_the_usual_way(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], changes: dict[str, Any]
) -> None:
    engine = Engine()
    for name, value in changes.items():
        setattr(engine, name, value)
    assert taken(engine, target, *headers, method=method) is None
    assert engine.value("candor_in_flight") == 0


def test_who_may_not_ask_is_told_before_the_body() -> None:
    engine = Engine()
    answer = taken(engine, b"/classify", JPEG, LENGTH, (b"origin", b"https://elsewhere.example"), (b"x-request-id", b"mine"))
    assert isinstance(answer, Answer)
    assert answer.data.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"\r\nx-request-id: mine\r\n" in answer.data
    assert engine.value("candor_in_flight") == 0
    assert engine.value("candor_requests_total", route="/classify", method="POST", status="403") == 1


def test_body_that_finds_no_room_is_refused_and_takes_none() -> None:
    engine = Engine()
    engine.budget = Budget(5)
    express = taken(engine, b"/classify", JPEG, (b"content-length", b"8"))
    assert express.add(b"abcd") is None
    assert express.add(b"efgh").data.startswith(b"HTTP/1.1 429 ")
    engine.budget.take(5)
    # It stands at its connection until the next one comes.
    assert vars(express)["_parts"] == []


def test_full_queue_is_counted_once() -> None:
    engine = Engine()
    engine.backlog.enter("cats", 2)
    answer = taken(engine, b"/classify?model=null", JPEG, LENGTH)
    assert answer.data.startswith(b"HTTP/1.1 429 ")
    assert engine.value("candor_shed_total", reason="queue_full") == 1
    assert engine.value("candor_in_flight") == 0


# --- on the wire


class Carried:
    """A request that says what becomes of it, and answers how long its body was."""

    def __init__(self) -> None:
        self.context = contextvars.copy_context()
        self.parts: list[bytes] = []
        self.ended: list[str] = []
        self.wait_s = 0.0
        self.patience_s = 60.0
        self.most = 10**9
        self.closes = False
        self.fails = False

    def _end(self, how: str) -> Answer:
        self.ended.append(how)
        said = f"{how} {sum(map(len, self.parts))}".encode()
        return Answer(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said), closes=self.closes)

    def add(self, part: bytes) -> Answer | None:
        self.parts.append(part)
        return self._end("full") if sum(map(len, self.parts)) > self.most else None

    def left_s(self) -> float:
        return self.patience_s

    def stalled(self) -> Answer:
        return self._end("stalled")

    async def answer(self) -> Answer:
        await asyncio.sleep(self.wait_s)
        if self.fails:
            raise ZeroDivisionError
        return self._end("answered")

    def abandon(self) -> None:
        self.ended.append("abandoned")


async def usual(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, and say that this was the usual way."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"usual"})


def connected(home: Path, carried: Carried) -> AbstractContextManager[socket.socket]:
    """A connection to a service that carries what goes to `/classify`."""
    way = protocol(lambda *_: None, lambda method, target, scope: carried if target == b"/classify" else None)
    return guarded.connected(home, usual, way)


def ended(carried: Carried) -> list[str]:
    until = time.monotonic() + 10
    while not carried.ended and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0.05)
    return carried.ended


def test_body_comes_in_parts_and_the_connection_is_kept(tmp_path: Path) -> None:
    carried = Carried()
    with connected(tmp_path, carried) as connection:
        for _ in range(2):
            carried.parts.clear()
            connection.sendall(HEAD + b"content-length: 200000\r\n\r\n" + b"x" * 100_000)
            time.sleep(0.05)
            connection.sendall(b"x" * 100_000)
            received = read(connection, b"answered 200000")
            assert b"\r\ndate: " in received
            assert b"connection: close" not in received
    assert carried.ended == ["answered", "answered"]


@pytest.mark.parametrize("way", ["it says so", "HTTP/1.0", "the caller says so"])
def test_connection_that_ends_with_its_answer_says_so(tmp_path: Path, way: str) -> None:
    carried = Carried()
    carried.closes = way == "it says so"
    head = HEAD.replace(b"1.1", b"1.0") if way == "HTTP/1.0" else HEAD
    more = b"connection: close\r\n" if way == "the caller says so" else b""
    with connected(tmp_path, carried) as connection:
        connection.sendall(head + more + b"content-length: 1\r\n\r\nx")
        received = read(connection, b"never")
    assert received.endswith(b"answered 1")
    assert b"\r\nconnection: close\r\n" in received


def test_requests_sent_at_once_are_answered_in_their_order(tmp_path: Path) -> None:
    carried = Carried()
    carried.wait_s = 0.1
    other = HEAD.replace(b"/classify", b"/v2/models/cats/infer") + b"content-length: 2\r\n\r\n{}"
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 1\r\n\r\nx" + other + HEAD + b"content-length: 1\r\n\r\nx")
        received = b""
        while received.count(b"HTTP/1.1 ") < 3 and (part := connection.recv(65536)):
            received += part
    # One that comes while another is answered takes the usual way, which keeps them in order.
    assert [part.rpartition(b"\r\n")[2] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"answered 1", b"usual", b"usual"]


def test_upgrade_behind_a_request_does_not_begin_it_again(tmp_path: Path) -> None:
    carried = Carried()
    carried.wait_s = 0.2
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n\r\n"
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 1\r\n\r\nx" + b"GET / HTTP/1.1\r\nhost: localhost\r\n" + upgrade)
        assert ended(carried) == ["answered"]
        time.sleep(0.3)
    assert carried.ended == ["answered"]


def test_connection_that_ends_does_not_wait_for_the_next_head(tmp_path: Path) -> None:
    carried = Carried()
    carried.wait_s, carried.closes = 0.1, True
    with connected(tmp_path, carried) as connection:
        began = time.monotonic()
        connection.sendall(HEAD + b"content-length: 1\r\n\r\nx" + HEAD)
        assert read(connection, b"never").endswith(b"answered 1")
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("sent", [b"", b"x", b"xx"])
def test_who_hangs_up_is_not_answered(tmp_path: Path, sent: bytes) -> None:
    """Before the body, within it, and while it is answered."""
    carried = Carried()
    carried.wait_s = 5
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 2\r\n\r\n" + sent)
        time.sleep(0.1)
        connection.close()
        assert ended(carried) == ["abandoned"]


def test_who_hangs_up_at_once_is_abandoned_too(tmp_path: Path) -> None:
    """The connection may be gone before the first instruction of what would answer."""
    carried = Carried()
    carried.wait_s = 5
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 2\r\n\r\nxx")
        connection.close()
        assert ended(carried) == ["abandoned"]


def test_body_that_stalls_is_answered_and_the_connection_ends(tmp_path: Path) -> None:
    carried = Carried()
    carried.patience_s, carried.closes = 0.3, True
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 2\r\n\r\nx")
        began = time.monotonic()
        time.sleep(0.1)
        carried.patience_s = 0.0
        received = read(connection, b"stalled 1")
        assert 0.2 < time.monotonic() - began < 5
        assert b"connection: close" in received
        assert connection.recv(10) == b""
        # The rest is not waited for, as it is behind other answers.
        assert time.monotonic() - began < 5
    assert carried.ended == ["stalled"]


def test_body_that_grows_too_large_is_answered_and_its_rest_passed_over(tmp_path: Path) -> None:
    carried = Carried()
    carried.most = 1000
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        assert b"full " in read(connection, b"full")
        assert carried.ended == ["full"]
        connection.sendall(HEAD.replace(b"/classify", b"/v2/models/cats/infer") + b"content-length: 2\r\n\r\n{}")
        assert b"usual" in read(connection, b"usual")


def test_what_fails_ends_its_connection(tmp_path: Path) -> None:
    carried = Carried()
    carried.fails = True
    with connected(tmp_path, carried) as connection:
        connection.sendall(HEAD + b"content-length: 1\r\n\r\nx")
        assert connection.recv(10) == b""
    assert carried.ended == ["abandoned"]
