"""The layer over every route, around an application that only it can tell from the real one."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from service.budget import Budget
from service.errors import QueueFullError
from service.guard import Guard
from service.logs import request_id
from service.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Engine:
    """What the guard uses of an engine."""

    def __init__(self, **settings: Any) -> None:
        self.settings = SimpleNamespace(**{"allowed_hosts": (), "allow_unauthenticated": None, **settings})
        self.metrics = Metrics()
        self.budget = Budget(100)

    def get(self) -> Engine:
        return self


def call(
    app: Any,
    engine: Engine,
    *,
    server: str = "127.0.0.1",
    path: str = "/",
    body: bytes = b"",
    streamed: bool = False,
    **headers: str,
) -> Any:
    sent: list[dict[str, Any]] = []
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "localhost:3000", **headers}.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "server": (server, 3000)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Guard(app, engine, frozenset({"/"}), lambda _: streamed)(scope, receive, send))
    return SimpleNamespace(
        status=sent[0]["status"], headers=dict(sent[0]["headers"]), body=b"".join(m.get("body", b"") for m in sent[1:])
    )


async def good(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"yes"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("secret")


async def plain_error(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 405, "headers": [(b"content-type", b"text/plain"), (b"allow", b"GET")]})
    await send({"type": "http.response.body", "body": b"Method Not Allowed"})


def test_good_answer_is_passed_on_with_a_request_id() -> None:
    answer = call(good, Engine())
    assert (answer.status, answer.body) == (200, b"yes")
    assert len(answer.headers[b"x-request-id"]) == 32


def test_plain_error_becomes_one_problem_and_keeps_allow() -> None:
    answer = call(plain_error, Engine())
    assert answer.status == 405
    assert answer.headers[b"content-type"] == b"application/problem+json"
    assert answer.headers[b"allow"] == b"GET"
    assert b"Method Not Allowed" in answer.body
    assert answer.body.count(b"{") == 1


def test_exception_is_a_500_that_reveals_nothing_and_a_log_line_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = call(failing, Engine(), x_request_id="abc-7")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "request abc-7 failed" in caplog.text
    assert request_id.get() == "-"


@pytest.mark.parametrize(
    ("server", "path", "host", "settings", "status"),
    [
        ("127.0.0.1", "/", "localhost:3000", {}, 200),
        ("127.0.0.1", "/", "evil.example", {}, 403),
        ("127.0.0.1", "/", "candor.example", {"allowed_hosts": ("candor.example",)}, 200),
        # `bentoml serve` listens on every address unless told otherwise.
        ("10.0.0.5", "/", "10.0.0.5:3000", {}, 403),
        ("10.0.0.5", "/readyz", "10.0.0.5:3000", {}, 200),
        ("10.0.0.5", "/", "anything", {"allow_unauthenticated": "predict"}, 200),
    ],
)
def test_who_may_ask(server: str, path: str, host: str, settings: dict[str, Any], status: int) -> None:
    assert call(good, Engine(**settings), server=server, path=path, host=host).status == status


def test_bodies_in_memory_are_bounded_together_and_given_back() -> None:
    engine = Engine()
    assert call(good, engine, body=b"x" * 100).status == 200
    engine.budget.take(60)
    refused = call(good, engine, body=b"x" * 41)
    assert refused.status == 429
    assert refused.headers[b"retry-after"] == b"1"
    assert call(good, engine, body=b"x" * 40).status == 200
    with pytest.raises(QueueFullError, match="60 bytes of requests are being answered, and at most 100 may"):
        engine.budget.take(41)
    assert call(good, engine, body=b"x" * 1000, streamed=True).status == 200
    engine.budget.take(40)
