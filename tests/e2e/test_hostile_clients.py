"""Clients that mean harm: bodies without end, in a million pieces, that lie about their length; connections that say nothing.

Each is refused soon and with a code, costs little memory, and others are answered meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import httpx
import numpy as np
import pytest

from service.budget import BODY_S
from service.http import HEAD_S
from tests.support.pictures import picture
from tests.support.processes import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.server import Server

pytestmark = pytest.mark.e2e
MIB = 2**20
# What memory may grow by. Allocators keep some of what they once had.
GROWTH_BYTES = 20 * MIB
SOON_S = 5.0
HEAD = "POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\n"


class Answer(NamedTuple):
    status: int
    code: str
    took_s: float


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def send(server: Server, head: str, parts: Iterable[bytes]) -> Answer:
    """Send until the other side has had enough, and read what it says."""
    started = time.monotonic()
    with connect(server) as connection:
        connection.sendall(f"{HEAD}{head}\r\n\r\n".encode())
        # What it no longer reads cannot be sent.
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in answer or b"}" not in answer:
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
    took_s = time.monotonic() - started
    assert answer, "the connection was closed without a word"
    body = answer.partition(b"\r\n\r\n")[2]
    return Answer(int(answer.split()[1]), json.loads(body[: body.index(b"}") + 1])["code"], took_s)


class Bystander:
    """A client that asks for small things all the while; how long each answer took, in seconds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.took_s: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert self.failures == []
        assert self.took_s

    def _ask(self) -> None:
        body = picture("green")
        with self._server.client() as client:
            # Once at least, however short that was what it stands beside.
            while not (self._stop.is_set() and self.took_s):
                for method, path, content in (("GET", "/livez", b""), ("POST", "/classify", body)):
                    started = time.monotonic()
                    try:
                        answer = client.request(method, path, content=content)
                    except httpx.HTTPError as err:
                        self.failures.append(repr(err))
                        continue
                    self.took_s.append(time.monotonic() - started)
                    if answer.status_code != 200:
                        self.failures.append(answer.text)
                time.sleep(0.01)


@pytest.fixture(autouse=True)
def _others_are_answered_and_memory_is_bounded(tiny: Server) -> Iterator[None]:
    """Around every test here."""
    with tiny.client() as client:
        for _ in range(20):
            client.post("/classify", content=picture("green"))
    before = resident_bytes(tiny.process.pid)
    with Bystander(tiny) as bystander:
        yield
    assert float(np.quantile(bystander.took_s, 0.99)) < 1.0
    until = time.monotonic() + 5
    while (grown := resident_bytes(tiny.process.pid) - before) > GROWTH_BYTES:
        assert time.monotonic() < until, f"{grown / MIB:.0f} MiB"
        time.sleep(0.1)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "multipart/form-data; boundary=x"])
def test_gigabyte_is_refused_by_its_declared_length(tiny: Server, kind: str) -> None:
    megabyte = b"x" * MIB
    answer = send(tiny, f"content-type: {kind}\r\ncontent-length: {2**30}", (megabyte for _ in range(1024)))
    assert answer[:2] == (413, "body_too_large")
    assert answer.took_s < SOON_S


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json"])
def test_gigabyte_in_chunks_is_refused_after_what_is_accepted(tiny: Server, kind: str) -> None:
    piece = chunk(b"x" * MIB)
    answer = send(tiny, f"content-type: {kind}\r\ntransfer-encoding: chunked", (piece for _ in range(1024)))
    assert answer[:2] == (413, "body_too_large")
    assert answer.took_s < SOON_S


def test_gigabyte_in_one_part_of_a_form_is_refused_after_what_is_accepted(tiny: Server) -> None:
    opening = b'--x\r\ncontent-disposition: form-data; name="images"; filename="a"\r\n\r\n'
    piece = chunk(b"x" * MIB)
    parts = (chunk(opening) if number == 0 else piece for number in range(1024))
    answer = send(tiny, "content-type: multipart/form-data; boundary=x\r\ntransfer-encoding: chunked", parts)
    assert answer[:2] == (413, "body_too_large")
    assert answer.took_s < SOON_S


def test_body_that_is_shorter_than_it_says_is_let_go(tiny: Server) -> None:
    answer = send(tiny, "content-type: image/png\r\ncontent-length: 1000000", [picture("red")])
    assert answer[:2] == (408, "upload_stalled")
    assert BODY_S * 0.9 < answer.took_s < BODY_S + SOON_S


@pytest.mark.parametrize(
    "head",
    [
        "content-length: 10\r\ncontent-length: 20",
        "content-length: -1",
        "content-length: 99999999999999999999999999",
        "content-length: 10\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ],
)
def test_length_that_can_be_read_in_two_ways_is_no_request(tiny: Server, head: str) -> None:
    """What one side takes for the end, another takes for the next request."""
    with connect(tiny) as connection:
        connection.sendall(f"{HEAD}content-type: image/png\r\n{head}\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n".encode())
        connection.settimeout(SOON_S)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_half_a_million_chunks_of_a_byte_are_an_image_that_cannot_be_read(tiny: Server) -> None:
    many = chunk(b"x") * 5000
    parts = [many] * 100 + [b"0\r\n\r\n"]
    answer = send(tiny, "content-type: image/jpeg\r\ntransfer-encoding: chunked", parts)
    assert answer[:2] == (422, "unreadable_image")
    assert answer.took_s < 3 * SOON_S


def form(*parts: bytes) -> list[bytes]:
    body = b"".join(parts)
    return [body[start : start + MIB] for start in range(0, len(body), MIB)]


PART = b'--x\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
FORMS = {
    "10,000 files": ([PART % (b"images", b'; filename="a"', b"x")] * 10_000, 400),
    "10,000 fields": ([PART % (b"top_k", b"", b"1")] * 10_000, 400),
    "a part's header of 1 MB": ([b"--x\r\ncontent-disposition: form-data; name=" + b"a" * MIB + b"\r\n\r\n"], 400),
    "10,000 headers of a part": ([b"--x\r\n", b"a: b\r\n" * 10_000, b"\r\nx\r\n"], 400),
    "a preamble of 5 MB": ([b"y" * 5 * MIB, PART % (b"top_k", b"", b"1")], 400),
    "an epilogue of 5 MB": ([PART % (b"top_k", b"", b"1"), b"--x--\r\n", b"y" * 5 * MIB], 400),
    "a text of more than 1 MB": ([PART % (b"model", b"", b"a" * 2 * MIB)], 400),
    "line breaks alone": ([b"\r\n" * MIB], 400),
    "dashes alone": ([b"--x\r\n" * 500_000], 400),
}


@pytest.mark.parametrize("name", FORMS)
def test_form_that_is_an_attack_is_refused_soon(tiny: Server, name: str) -> None:
    parts, status = FORMS[name]
    body = b"".join((*parts, b"--x--\r\n"))
    head = f"content-type: multipart/form-data; boundary=x\r\ncontent-length: {len(body)}"
    answer = send(tiny, head, form(body))
    assert answer.status == status, answer
    assert answer.code in {"invalid_parameter", "empty_body"}
    assert answer.took_s < SOON_S


def test_boundary_that_is_an_attack_is_refused(tiny: Server) -> None:
    for boundary in ("", '"', "x" * 60_000, "\\" * 1000, "x; boundary=y"):
        head = f"content-type: multipart/form-data; boundary={boundary}\r\ncontent-length: 5"
        try:
            answer = send(tiny, head, [b"--x--"])
        except (AssertionError, json.JSONDecodeError, ValueError):
            # A head that is too large is the HTTP server's own plain 400.
            continue
        assert answer.status == 400


def test_head_without_end_is_cut_off(tiny: Server) -> None:
    for piece in (b"x-a: b\r\n" * 1000, b"x" * 8000):
        sent = 0
        with connect(tiny) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(HEAD.encode())
            while sent < 200 * MIB:
                connection.sendall(piece)
                sent += len(piece)
        assert sent < 50 * MIB


def test_150_slow_clients_at_once_are_all_let_go_in_time(tiny: Server) -> None:
    """Fifty that say nothing, fifty with half a head, fifty with half a body; the bystander is answered meanwhile."""
    body = f"{HEAD}content-type: image/png\r\ncontent-length: 100000\r\n\r\nabc"
    started = time.monotonic()
    connections = [connect(tiny) for _ in range(150)]
    for connection in connections[50:100]:
        connection.sendall(HEAD.encode())
    for connection in connections[100:]:
        connection.sendall(body.encode())
    answers = []
    for connection in connections:
        with connection, contextlib.suppress(ConnectionError):
            answers.append(b"".join(iter(lambda: connection.recv(65536), b"")))  # noqa: B023
    took_s = time.monotonic() - started
    assert answers[:100] == [b""] * 100
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[100:])
    assert took_s < max(HEAD_S, BODY_S) + 3
