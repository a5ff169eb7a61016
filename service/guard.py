"""One ASGI layer over every route: who may ask, request ids, one form of error, request metrics, the audit log.

Whatever answers below, BentoML's own routes included: every answer has `X-Request-Id`, and every status of 400 and over
is `application/problem+json`. Who may ask is `admission`, and is decided before any byte of a body is read.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from service import access
from service.audit import Entry
from service.errors import PROBLEM_TYPE, NotAuditedError, ServiceError, problem_of, problem_of_status
from service.logs import key_id, request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.access import Access
    from service.budget import Budget
    from service.engine import Engine, EngineRef

logger = logging.getLogger("candor.guard")
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
UNMATCHED = "unmatched"


class Guard:
    """See the module."""

    def __init__(self, app: ASGIApp, engine: EngineRef, is_streamed: Callable[[Scope], bool]) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            engine: Where settings and metrics will be.
            is_streamed: Whether a request's body is never in memory as a whole, and so is not counted there.
        """
        self._app = app
        self._engine = engine
        self._is_streamed = is_streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            observer = self._engine.get().observer
            if observer is None:
                await self._answer(scope, receive, send)
            else:
                await observer.answer(self._answer, scope, receive, send)
        else:
            # There is no route for a WebSocket; one that others bring along is not to go round the table.
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = self._engine.get()
        found = access.find(scope["method"], scope["path"])
        entry = Entry(engine.audit, found, _client(scope)) if found is not None and found.is_mutation else None
        answer = _Answer(scope, send, entry)
        request_id.set(answer.request_id.decode())
        key_id.set(None)
        body = _Body(receive, None if self._is_streamed(scope) else engine.budget)
        started = time.perf_counter()
        engine.metrics.in_flight.inc()
        try:
            await self._admit(engine, scope, found, entry)
            await self._app(scope, body.receive, answer.send)
        except ServiceError as err:
            await answer.replace(problem_of(err).response())
        except Exception as err:
            logger.exception("request %s failed", answer.request_id.decode())
            if answer.is_started:
                raise
            await answer.replace(problem_of(err).response())
        finally:
            if entry is not None:
                entry.abandon()
            body.give_back()
            engine.metrics.in_flight.dec()
            # From the table: a path from the caller is never a label.
            route = UNMATCHED if found is None else found.template
            method = scope["method"] if scope["method"] in _HTTP_METHODS else "other"
            engine.metrics.requests.labels(route, method, str(answer.status)).inc()
            engine.metrics.request_duration.labels(route).observe(time.perf_counter() - started)

    async def _admit(self, engine: Engine, scope: Scope, found: Access | None, entry: Entry | None) -> None:
        """Let a request through, or raise why not; what may change something, only if it can be audited."""
        try:
            engine.admission.admit(scope, found)
        except ServiceError:
            if entry is not None:
                entry.is_refused = True
            raise
        if entry is not None:
            await entry.check()


class _Body:
    """What is received, counted against the bytes that may be in memory until the answer is given, where there is a budget."""

    def __init__(self, receive: Receive, budget: Budget | None) -> None:
        self._receive = receive
        self._budget = budget
        self._taken = 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            QueueFullError: If the bodies of all requests together grow too large.
        """
        message = await self._receive()
        if self._budget is not None:
            count = len(message.get("body", b""))
            self._budget.take(count)
            self._taken += count
        return message

    def give_back(self) -> None:
        """The request is answered."""
        if self._budget is not None:
            self._budget.give_back(self._taken)


class _Answer:
    """What is sent, with the request id on it, with every error in one form, and not before it is audited."""

    def __init__(self, scope: Scope, send: Send, entry: Entry | None) -> None:
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        self.request_id: bytes = given if _REQUEST_ID.match(given) else uuid.uuid4().hex.encode()
        self.status = 500
        self.is_started = False
        self._is_replaced = False
        self._scope = scope
        self._send = send
        self._entry = entry

    async def send(self, message: Message) -> None:
        """Pass a message on; an error that is no problem yet becomes one."""
        if self._is_replaced:
            return
        if message["type"] != "http.response.start":
            await self._send(message)
            return
        headers = dict(message.get("headers", ()))
        if message["status"] >= 400 and not headers.get(b"content-type", b"").startswith(PROBLEM_TYPE.encode()):
            self._is_replaced = True
            response = problem_of_status(message["status"]).response()
            if b"allow" in headers:
                response.headers["allow"] = headers[b"allow"].decode("latin-1")
            await self.replace(response)
            return
        await self._start(message)

    async def replace(self, response: ASGIApp) -> None:
        """Send a response of our own instead."""

        async def forward(message: Message) -> None:
            await (self._start(message) if message["type"] == "http.response.start" else self._send(message))

        async def nothing() -> Message:
            return {"type": "http.disconnect"}

        await response(self._scope, nothing, forward)

    async def _start(self, message: Message) -> None:
        if self._entry is not None and self._entry.is_open:
            try:
                await self._entry.close(message["status"])
            except NotAuditedError as err:
                # A refusal stays one; a success that is on no record must not be believed.
                if message["status"] < 400:
                    self._is_replaced = True
                    await self.replace(problem_of(err).response())
                    return
        self.is_started = True
        self.status = message["status"]
        headers = [*message.get("headers", ()), (b"x-request-id", self.request_id)]
        await self._send({**message, "headers": headers})


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
