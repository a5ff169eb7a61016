"""The load generator counts what it sends and what comes back: against a real server on loopback."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from benchmarks import load

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def answering(answer: bytes, after_s: float = 0.0) -> Iterator[str]:
    """Answer every request the same; an empty answer closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        try:
            while connection.recv(65536):
                time.sleep(after_s)
                if not answer:
                    break
                connection.sendall(answer)
        except OSError:
            pass
        finally:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connections.append(listener.accept()[0])
            except OSError:
                return
            threading.Thread(target=serve, args=(connections[-1],), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("answer", [GOOD, CHUNKED])
def test_closed_loop_has_as_many_in_flight_as_clients_and_no_more(answer: bytes) -> None:
    with answering(answer, 0.05) as url:
        found = load.closed(url, [load.post("/x", b"body", {})], clients=4, seconds=1, warm_s=0.2)
    # Four clients, each answered after 50 ms: eighty a second, less what the machine takes.
    assert 40 <= found.good_per_s <= 80
    assert 50 <= found.percentile_ms(50) < 100
    assert set(found.statuses) == {200}


def test_rate_is_kept_whatever_the_answers_take() -> None:
    with answering(BUSY, 0.2) as url:
        found = load.at_rate(url, [load.post("/x", b"", {})], per_s=100, seconds=1, connections=100)
    assert 70 <= found.statuses[429] <= 130
    assert found.percentile_ms(50, 429) >= 200


def test_what_finds_no_connection_is_said_and_not_hidden() -> None:
    with answering(GOOD, 0.5) as url:
        found = load.at_rate(url, [load.post("/x", b"", {})], per_s=100, seconds=1, connections=5)
    assert found.statuses[-1] > 50
    assert found.statuses[200] <= 15


def test_connections_that_break_are_counted() -> None:
    with answering(b"") as url:
        found = load.closed(url, [load.post("/x", b"", {})], clients=2, seconds=0.5, warm_s=0)
    assert found.statuses[0] > 0
    assert found.statuses[200] == 0
