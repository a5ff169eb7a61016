"""One ASGI layer over every route: who may ask, request ids, one form of error, request metrics, the audit log.

Whatever answers below, BentoML's own routes included: every answer has `X-Request-Id`, and every status of 400 and over
is `application/problem+json`. Who may ask is `admission`, and is decided before any byte of a body is read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from typing import TYPE_CHECKING, Any

from service import access
from service.audit import Entry
from service.budget import Arrival
from service.errors import (
    PROBLEM_TYPE,
    DeviceLostError,
    DisconnectedError,
    NotAuditedError,
    ServiceError,
    is_open_inference,
    problem_of,
    problem_of_status,
)
from service.logs import key_id, request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.access import Access
    from service.budget import Budget
    from service.engine import Engine, EngineRef

logger = logging.getLogger("candor.guard")
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
UNMATCHED = "unmatched"
# What is answered sooner than this is not worth asking whether anybody still listens.
_LISTEN_S = 0.05


def _fresh_ids() -> Iterator[bytes]:
    # Many at a time: to ask for one lets go of the interpreter, which others then have.
    while True:
        digits = os.urandom(4096).hex().encode()
        yield from (digits[start : start + 32] for start in range(0, len(digits), 32))


_FRESH_IDS = _fresh_ids()


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The caller's own id of a request, if it is one, or another."""
    given = headers.get(b"x-request-id", b"")
    return given if _REQUEST_ID.match(given) else next(_FRESH_IDS)


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
        entry = None
        if found is not None and found.is_mutation:
            entry = Entry(engine.audit, found, _client(scope), engine.metrics.audit_failures.inc)
        is_streamed = self._is_streamed(scope)
        body = _Body(receive, None if is_streamed else engine.budget, is_timed=not is_streamed)
        answer = _Answer(scope, send, entry, engine, body)
        request_id.set(answer.request_id.decode())
        key_id.set(None)
        is_open_inference.set(f"{scope['path']}/".startswith("/v2/"))
        started = time.perf_counter()
        engine.metrics.in_flight.inc()
        try:
            await self._admit(engine, scope, found, entry)
            if found is not None and found.is_inference:
                await body.while_heard(answer, self._app(scope, body.receive, answer.send))
            else:
                app = engine.elsewhere(scope["path"]) or self._app
                await app(scope, body.receive, answer.send)
        except DisconnectedError as err:
            # Nobody hears it; the status is for the metrics.
            answer.status = err.status
            engine.metrics.shed.labels(err.code).inc()
        except ServiceError as err:
            await answer.replace(problem_of(err).response())
        except Exception as err:
            logger.exception("request %s failed", answer.request_id.decode())
            if answer.is_started and not answer.is_replaced:
                raise
            if answer.is_started:
                return
            await answer.replace(problem_of(err).response())
        finally:
            if entry is not None:
                entry.abandon()
            body.give_back()
            engine.metrics.in_flight.dec()
            # From the table: a path from the caller is never a label.
            route = UNMATCHED if found is None else found.template
            method = scope["method"] if scope["method"] in _HTTP_METHODS else "other"
            engine.metrics.count_request(route, method, answer.status, time.perf_counter() - started)

    async def _admit(self, engine: Engine, scope: Scope, found: Access | None, entry: Entry | None) -> None:
        """Let a request through, or raise why not; what may change something, only if it can be audited."""
        if engine.device.is_lost:
            raise DeviceLostError
        try:
            engine.admission.admit(scope, found)
        except ServiceError:
            if entry is not None:
                entry.is_refused = True
            raise
        if entry is not None:
            await entry.check()


class _Body:
    """What is received: in time, and counted against the bytes that may be in memory until the answer is given."""

    def __init__(self, receive: Receive, budget: Budget | None, *, is_timed: bool) -> None:
        self._receive = receive
        self._arrival = Arrival(budget)
        self._is_timed = is_timed
        self._is_whole = False
        # Why it could not be read; what reads it may word that in another way.
        self.failure: ServiceError | None = None

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ServiceError: As below, and it is kept as `failure`.
        """
        try:
            return await self._next()
        except ServiceError as err:
            self.failure = err
            raise

    async def _next(self) -> Message:
        """The next message.

        Raises:
            QueueFullError: If the bodies of all requests together grow too large.
            StalledError: If the body comes too slowly.
        """
        if self._is_whole or not self._is_timed:
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout(self._arrival.left_s()):
                    message = await self._receive()
            except TimeoutError as err:
                raise self._arrival.stalled() from err
        self._is_whole = self._is_whole or not message.get("more_body", False)
        self._arrival.add(len(message.get("body", b"")))
        return message

    async def while_heard(self, answer: _Answer, answering: Awaitable[None]) -> None:
        """Await an answer for as long as somebody waits for it.

        Raises:
            DisconnectedError: If the caller hung up.
        """
        task = asyncio.current_task()
        listening: list[asyncio.Task[None]] = []

        def listen() -> None:
            listening.append(asyncio.create_task(self._listen(answer, task)))

        timer = asyncio.get_running_loop().call_later(_LISTEN_S, listen)
        try:
            await answering
        except asyncio.CancelledError:
            if task is None or not (listening and listening[0].done()):
                raise
            task.uncancel()
            raise DisconnectedError("the caller hung up before the answer") from None
        finally:
            timer.cancel()
            for listener in listening:
                listener.cancel()

    async def _listen(self, answer: _Answer, task: asyncio.Task[Any] | None) -> None:
        # While the body comes, whoever reads it notices.
        while not self._is_whole:
            await asyncio.sleep(_LISTEN_S)
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # An answer that is sent looks like a hang-up too.
        if task is not None and not answer.is_sent:
            task.cancel()

    def give_back(self) -> None:
        """The request is answered."""
        self._arrival.give_back()


class _Answer:
    """What is sent, with the request id on it, with every error in one form, and not before it is audited."""

    def __init__(self, scope: Scope, send: Send, entry: Entry | None, engine: Engine, body: _Body) -> None:
        self._engine = engine
        self.request_id = request_id_of(dict(scope["headers"]))
        self.status = 500
        self.is_started = False
        self.is_replaced = False
        self.is_sent = False
        self._body = body
        self._scope = scope
        self._send = send
        self._entry = entry

    async def send(self, message: Message) -> None:
        """Pass a message on; an error that is no problem yet becomes one."""
        if self.is_replaced:
            return
        if message["type"] != "http.response.start":
            self.is_sent = not message.get("more_body", False)
            await self._send(message)
            return
        headers = dict(message.get("headers", ()))
        if message["status"] < 400 and self._engine.device.is_lost:
            # What was computed shortly before the fault showed may be garbage already.
            self.is_replaced = True
            await self.replace(problem_of(DeviceLostError()).response())
            return
        if message["status"] >= 400 and not headers.get(b"content-type", b"").startswith(PROBLEM_TYPE.encode()):
            self.is_replaced = True
            failure = self._body.failure
            response = (problem_of_status(message["status"]) if failure is None else problem_of(failure)).response()
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
                    self.is_replaced = True
                    await self.replace(problem_of(err).response())
                    return
        self.is_started = True
        self.status = message["status"]
        headers = [*message.get("headers", ()), (b"x-request-id", self.request_id)]
        if self._engine.is_closing:
            # Whoever keeps this connection should open the next one to somebody else.
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
