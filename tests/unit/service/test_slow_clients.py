"""Clients that are slow, silent, or gone, over real sockets; every time that the service gives them is made short here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from service import budget, http
from tests.support.guarded import Engine, listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

HEAD_S = BODY_S = READ_S = 0.4
# What a test machine may be late by.
SLACK_S = 5.0
HEAD = b"POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
Address = tuple[str, int]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", HEAD_S)
    monkeypatch.setattr(http, "READ_S", READ_S)
    monkeypatch.setattr(budget, "BODY_S", BODY_S)
    monkeypatch.setattr(budget, "BODY_BYTES_PER_S", 1000)


class Reader:
    """An application that reads a body whole, waits as long as it is told to, and answers how much it was."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.cancelled: list[str] = []
        self.hung_up: list[int] = []
        self.wait_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, is_more = 0, True
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.hung_up.append(size)
                return
            size += len(message.get("body", b""))
            is_more = message.get("more_body", False)
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.cancelled.append(scope["path"])
            raise
        self.answered.append(scope["path"])
        text = str(size).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@pytest.fixture
def app() -> Reader:
    return Reader()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = Engine(tmp_path)
    engine.budget.__init__(10_000_000)  # type: ignore[misc]
    return engine


@pytest.fixture
def address(app: Reader, engine: Engine) -> Iterator[Address]:
    with listening(app, engine) as address:
        yield address


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=SLACK_S)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SLACK_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    "sent", [b"", b"P", b"POST /classify HT", HEAD[:-2]], ids=["silent", "a byte", "a line", "all but its end"]
)
def test_who_does_not_end_a_head_is_let_go(address: Address, sent: bytes) -> None:
    with connect(address) as connection:
        started = time.monotonic()
        connection.sendall(sent)
        assert rest(connection) == b""
        assert HEAD_S * 0.8 < time.monotonic() - started < HEAD_S + SLACK_S


def test_head_that_trickles_is_not_waited_for_longer(address: Address) -> None:
    with connect(address) as connection:
        connection.settimeout(HEAD_S / 10)
        connection.sendall(b"GET /")
        sent = 0
        while sent < 40:
            try:
                connection.sendall(b"G")
                sent += 1
                if not connection.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert 5 < sent < 30


@pytest.mark.parametrize("piece", [b"x-a: b\r\n", b"x"], ids=["many headers", "one header"])
def test_head_without_end_is_refused_when_it_is_too_large(address: Address, piece: bytes) -> None:
    block, sent = piece * 4096, 0
    with connect(address) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(HEAD[:-2])
            while sent < 100 * http.HEAD_BYTES:
                connection.sendall(block)
                sent += len(block)
        # What lies in the system's buffers is not in the service's memory.
        assert sent < 100 * http.HEAD_BYTES


def test_head_of_almost_64_kib_is_taken(address: Address) -> None:
    with connect(address) as connection:
        for _ in range(3):
            connection.sendall(HEAD[:-2] + b"x-a: " + b"b" * (http.HEAD_BYTES - 1000) + b"\r\n\r\n" + b"x" * 1000)
            answer = connection.recv(65536)
            assert answer.endswith(b"1000"), answer


def test_connection_may_rest_between_requests_but_not_within_the_next_head(address: Address) -> None:
    with connect(address) as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"x" * 1000)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(HEAD_S * 1.5)
        connection.sendall(HEAD[:20])
        assert rest(connection) == b""


@pytest.mark.parametrize("sent", [b"", b"x" * 100], ids=["nothing", "a part"])
def test_body_that_stops_is_a_408_that_closes(address: Address, app: Reader, engine: Engine, sent: bytes) -> None:
    with connect(address) as connection:
        started = time.monotonic()
        connection.sendall(HEAD + sent)
        answer = rest(connection)
        assert BODY_S * 0.8 < time.monotonic() - started < BODY_S + SLACK_S
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"upload_stalled" in answer
    assert f"{len(sent)} bytes of the body came in" in answer.decode()
    assert b"connection: close" in answer
    assert app.answered == []
    assert 'candor_requests_total{method="POST",route="/classify",status="408"} 1.0' in engine.metrics.render().decode()
    # Its bytes are given back: all that may be in memory fits again.
    engine.budget.take(10_000_000)


def test_body_that_trickles_is_let_go_and_one_that_keeps_pace_is_not(address: Address) -> None:
    """At 1000 bytes a second and 0.4 s for nothing."""
    with connect(address) as slow, connect(address) as steady:
        slow.sendall(HEAD)
        steady.sendall(HEAD)
        for _ in range(10):
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"x" * 2)
            steady.sendall(b"x" * 100)
            time.sleep(0.09)
        assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
        # Nine tenths of a second, which is longer than the 0.4 s for a body of nothing.
        assert steady.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_answer_may_take_longer_than_the_body(address: Address, app: Reader) -> None:
    app.wait_s = BODY_S * 2
    with connect(address) as connection:
        connection.sendall(HEAD + b"x" * 1000)
        assert connection.recv(65536).endswith(b"1000")


def test_many_slow_ones_at_once_do_not_hold_up_the_others(address: Address) -> None:
    silent = [connect(address) for _ in range(50)]
    heads = [connect(address) for _ in range(50)]
    bodies = [connect(address) for _ in range(50)]
    for connection in heads:
        connection.sendall(HEAD[:30])
    for connection in bodies:
        connection.sendall(HEAD + b"x")
    with connect(address) as connection:
        started = time.monotonic()
        connection.sendall(HEAD + b"x" * 1000)
        assert connection.recv(65536).endswith(b"1000")
        assert time.monotonic() - started < HEAD_S
    answers = [rest(connection) for connection in (*silent, *heads, *bodies)]
    assert answers[:100] == [b""] * 100
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[100:])
    for connection in (*silent, *heads, *bodies):
        connection.close()


def test_inference_that_nobody_waits_for_is_ended_and_counted(address: Address, app: Reader, engine: Engine) -> None:
    app.wait_s = 60
    with connect(address) as connection:
        connection.sendall(HEAD + b"x" * 1000)
        time.sleep(0.2)
        assert app.cancelled == []
    until(lambda: app.cancelled)
    shown = engine.metrics.render().decode()
    assert 'candor_shed_total{reason="disconnected"} 1.0' in shown
    assert 'candor_requests_total{method="POST",route="/classify",status="499"} 1.0' in shown
    assert "candor_in_flight 0.0" in shown
    engine.budget.take(10_000_000)


def test_many_who_hang_up_at_any_moment_leave_nothing_behind(address: Address, app: Reader, engine: Engine) -> None:
    app.wait_s = 0.05

    def ask(number: int) -> None:
        for turn in range(20):
            with connect(address) as connection:
                connection.sendall(HEAD + b"x" * 1000)
                time.sleep((number * 20 + turn) % 37 * 0.003)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: "candor_in_flight 0.0" in engine.metrics.render().decode())
    engine.budget.take(10_000_000)
    engine.budget.give_back(10_000_000)
    with connect(address) as connection:
        connection.sendall(HEAD + b"x" * 1000)
        assert connection.recv(65536).endswith(b"1000")


def test_change_goes_on_when_its_caller_is_gone(address: Address, app: Reader) -> None:
    """What was begun is done: a caller that lost its connection asks what became of it."""
    app.wait_s = 0.3
    with connect(address) as connection:
        connection.sendall(HEAD.replace(b"/classify", b"/models/birds/promote") + b"x" * 1000)
        time.sleep(0.1)
    until(lambda: app.answered)
    assert app.cancelled == []


def test_who_hangs_up_within_a_body_is_noticed_at_once(address: Address, app: Reader) -> None:
    with connect(address) as connection:
        connection.sendall(HEAD + b"x" * 10)
        time.sleep(0.05)
    until(lambda: app.hung_up)
    assert app.hung_up == [10]


LARGE = 20_000_000


async def generous(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer more than the system's buffers hold, piece by piece."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(LARGE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(20):
        await send({"type": "http.response.body", "body": bytes(LARGE // 20), "more_body": number < 19})


def ask_for_much(address: Address) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.settimeout(SLACK_S)
    connection.connect(address)
    connection.sendall(b"GET /models HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return connection


def test_answer_that_nobody_reads_is_given_up(engine: Engine) -> None:
    with listening(generous, engine) as address:
        connections = [ask_for_much(address) for _ in range(5)]
        time.sleep(READ_S / 2)
        assert "candor_in_flight 5.0" in engine.metrics.render().decode()
        until(lambda: "candor_in_flight 0.0" in engine.metrics.render().decode())
        for connection in connections:
            assert len(rest(connection)) < LARGE
            connection.close()


def test_answer_that_is_read_slowly_is_sent_to_its_end(engine: Engine) -> None:
    with listening(generous, engine) as address, ask_for_much(address) as connection:
        started, size = time.monotonic(), 0
        while size < LARGE:
            size += len(connection.recv(500_000))
            time.sleep(READ_S / 50)
        assert time.monotonic() - started > READ_S
