"""A request that a connection carries by itself is answered as by the usual way, which a body in chunks takes."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.images import noise, plain
from tests.support.pictures import encode

if TYPE_CHECKING:
    from tests.support.server import Server

pytestmark = pytest.mark.e2e
# What differs from one answer to the next.
OWN = ("date", "x-request-id")
PHOTO = encode(noise(64, 48), "JPEG")


def ask(server: Server, target: str, body: bytes, headers: dict[str, str], *, in_chunks: bool) -> tuple[int, Any, Any]:
    """Status, headers, and the answer, for a body of known length or one in chunks.

    Sent as a whole: some are refused by their heads, and then a connection that is to be closed does not wait for the rest.
    """
    address = urlsplit(server.url)
    length = {"transfer-encoding": "chunked"} if in_chunks else {"content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {"host": "127.0.0.1", **headers, **length}.items())
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if in_chunks else body
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + sent)
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        kept = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in OWN}
        return answer.status, kept, json.loads(answer.read())


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "image/png"}, {"x-request-timeout-ms": "20000"}, {"connection": "close"}]
)
@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/classify", PHOTO, 200),
        ("/classify?top_k=2&raw=true", PHOTO, 200),
        ("/classify?trust=false&model=colours", PHOTO, 200),
        ("/classify?model=colours:1", encode(plain(), "PNG"), 200),
        ("/classify?top_k=", PHOTO, 200),
        ("/classify?top_k=1&top_k=&model=colours:9&model=", PHOTO, 200),
        ("/classify?top_k=0", PHOTO, 400),
        ("/classify?colour=red", PHOTO, 400),
        ("/classify?model=cats", PHOTO, 404),
        ("/classify", PHOTO[:700], 422),
        ("/classify", b"no image", 422),
    ],
)
def test_both_ways_answer_the_same(tiny: Server, target: str, body: bytes, status: int, headers: dict[str, str]) -> None:
    by_length = ask(tiny, target, body, headers, in_chunks=False)
    in_chunks = ask(tiny, target, body, headers, in_chunks=True)
    assert by_length[0] == status
    assert by_length == in_chunks


def test_id_is_the_callers_own_or_a_new_one(tiny: Server) -> None:
    with tiny.client() as client:
        given = client.post("/classify", content=PHOTO, headers={"x-request-id": "mine.1"}).headers["x-request-id"]
        new = [
            client.post("/classify", content=PHOTO, headers={"x-request-id": "no good!"}).headers["x-request-id"] for _ in "ab"
        ]
    assert given == "mine.1"
    assert new[0] != new[1]
    assert all(len(one) == 32 for one in new)
