"""What a connection may and may not do, on the wire: bodies behind an answer, fields behind a body, who reads slowly."""

from __future__ import annotations

import json
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from service import http
from service.http import protocol
from tests.support import guarded
from tests.support.guarded import read

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

HEAD = b"POST /classify HTTP/1.1\r\nhost: localhost\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy"


async def headers_of(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, and answer the headers as they are then."""
    while (await receive()).get("more_body"):
        pass
    said = json.dumps(sorted({name.decode() for name, _ in scope["headers"]})).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


def connected(home: Path, refuse: Any = lambda *head: None) -> AbstractContextManager[socket.socket]:
    return guarded.connected(home, headers_of, protocol(refuse))


def answered_early(connection: socket.socket, length: int) -> None:
    """Ask for what is not there, and read so before the body is sent."""
    connection.sendall(f"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n".encode())
    assert b" 404 " in read(connection, b"}")


def send_slowly(connection: socket.socket, part: bytes, times: int) -> None:
    for _ in range(times):
        connection.sendall(part)
        time.sleep(0.001)


def test_field_behind_the_body_is_none_of_the_head(tmp_path: Path) -> None:
    with connected(tmp_path) as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nauthorization: Bearer mine\r\n\r\n")
        assert b"authorization" not in read(connection, b"]")


@pytest.mark.parametrize("path", ["/classify", "/nowhere"])
def test_fields_behind_the_body_without_end_are_cut_off(tmp_path: Path, path: str) -> None:
    with connected(tmp_path) as connection:
        head = HEAD.replace(b"/classify", path.encode())
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken, as it comes
            send_slowly(connection, b"x-more: " + b"a" * 4000 + b"\r\n", 1000)


def test_body_that_never_ends_behind_an_answer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.3)
    with connected(tmp_path) as connection:
        answered_early(connection, 100)
        connection.sendall(b"x")
        began = time.monotonic()
        assert connection.recv(10) == b""
        assert time.monotonic() - began < 5


def test_body_that_ends_behind_an_answer_leaves_a_connection_that_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.3)
    with connected(tmp_path) as connection:
        answered_early(connection, 3)
        connection.sendall(b"xyz")
        time.sleep(0.6)
        connection.sendall(HEAD + b"content-length: 0\r\n\r\n")
        assert b" 200 " in read(connection, b"]")


def test_refusal_of_a_large_body_is_read_before_the_connection_closes(tmp_path: Path) -> None:
    with connected(tmp_path, lambda *head: BUSY) as connection:
        connection.sendall(HEAD + b"connection: close\r\ncontent-length: 20000000\r\n\r\n")
        connection.sendall(bytes(20_000_000))
        received = read(connection, b"never")
    assert received.startswith(b"HTTP/1.1 429 ")
    assert received.endswith(b"busy")


def test_who_asked_whether_to_send_the_body_gets_no_second_answer_on_that_connection(tmp_path: Path) -> None:
    with connected(tmp_path, lambda *head: BUSY) as connection:
        connection.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        assert b"connection: close" in read(connection, b"busy")


def test_upgrade_is_not_refused_by_its_head(tmp_path: Path) -> None:
    asked = SimpleNamespace(count=0)

    def refuse(*head: Any) -> bytes:
        asked.count += 1
        return BUSY

    with connected(tmp_path, refuse) as connection:
        upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAA\r\n\r\n"
        connection.sendall(HEAD.replace(b"POST", b"GET") + upgrade)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")
    assert asked.count == 0


def test_who_does_not_read_refusals_is_not_answered_without_end(tmp_path: Path) -> None:
    answers = SimpleNamespace(count=0)

    def refuse(*head: Any) -> bytes:
        answers.count += 1
        return b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4000\r\n\r\n" + b"x" * 4000

    with connected(tmp_path, refuse) as connection:
        connection.settimeout(1)
        request = HEAD + b"content-length: 0\r\n\r\n"
        with pytest.raises(TimeoutError):
            connection.sendall(request * 200_000)
    # What fits into the buffers of both ends, and not two hundred thousand.
    assert answers.count < 20_000
