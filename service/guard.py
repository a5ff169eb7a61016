"""One ASGI layer over every route: who may ask, request ids, one form of error, request metrics.

Whatever answers below, BentoML's own routes included: every answer has `X-Request-Id`, and every status of 400 and over
is `application/problem+json`.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from service.errors import (
    PROBLEM_TYPE,
    ForbiddenError,
    NotAllowedError,
    ServiceError,
    UnknownHostError,
    problem_of,
    problem_of_status,
)
from service.logs import request_id
from service.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.budget import Budget
    from service.engine import EngineRef

logger = logging.getLogger("candor.guard")
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
UNMATCHED = "unmatched"
_PROBES = frozenset({"/livez", "/readyz", "/healthz"})


def _never(_: Scope) -> bool:
    return False


class Guard:
    """See the module."""

    def __init__(
        self, app: ASGIApp, engine: EngineRef, routes: frozenset[str], is_streamed: Callable[[Scope], bool] = _never
    ) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            engine: Where settings and metrics will be.
            routes: Paths without parameters, which are their own templates; others are found by the router.
            is_streamed: Whether a request's body is never in memory as a whole, and so is not counted there.
        """
        self._app = app
        self._engine = engine
        self._routes = routes
        self._is_streamed = is_streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        request_id.set(answer.request_id.decode())
        engine = self._engine.get()
        metrics, body = engine.metrics, _Body(receive, None if self._is_streamed(scope) else engine.budget)
        started = time.perf_counter()
        metrics.in_flight.inc()
        try:
            self._admit(scope)
            await self._app(scope, body.receive, answer.send)
        except ServiceError as err:
            await answer.replace(problem_of(err).response())
        except Exception as err:
            logger.exception("request %s failed", answer.request_id.decode())
            if answer.is_started:
                raise
            await answer.replace(problem_of(err).response())
        finally:
            body.give_back()
            metrics.in_flight.dec()
            route = self._route(scope)
            method = scope["method"] if scope["method"] in _HTTP_METHODS else "other"
            metrics.requests.labels(route, method, str(answer.status)).inc()
            metrics.request_duration.labels(route).observe(time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        """Refuse what a page of another site makes a browser ask of a service that only this machine should reach.

        Raises:
            UnknownHostError: If the service listens on loopback and `Host` names something else.
            ForbiddenError: If `Origin` is another site's.
        """
        headers = dict(scope["headers"])
        host = _host(b"//" + headers.get(b"host", b""))
        settings = self._engine.get().settings
        allowed = settings.allowed_hosts
        server = scope.get("server")
        if server and is_loopback(str(server[0])):
            if not (is_loopback(host) or host in allowed):
                raise UnknownHostError(f"host {host!r:.80} is not this service; allow it with CANDOR_ALLOWED_HOSTS")
        elif settings.allow_unauthenticated is None and scope["path"] not in _PROBES:
            # `python -m service` does not listen here without it; `bentoml serve` binds every address by default.
            raise NotAllowedError("there are no keys, and this address is not loopback; set CANDOR_ALLOW_UNAUTHENTICATED=predict")
        if b"origin" in headers:
            origin = urlsplit(headers[b"origin"].decode("latin-1"))
            if origin.netloc != headers.get(b"host", b"").decode("latin-1") and origin.hostname not in allowed:
                raise ForbiddenError(f"origin {origin.geturl()!r:.80} may not ask; allow it with CANDOR_ALLOWED_HOSTS")

    def _route(self, scope: Scope) -> str:
        """The route's template, from a closed set: a path from the caller is never a label."""
        if scope["path"] in self._routes:
            return str(scope["path"])
        template = getattr(scope.get("route"), "path", None)
        return template if isinstance(template, str) and "{" in template else UNMATCHED


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
    """What is sent, with the request id on it, and with every error in one form."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        self.request_id: bytes = given if _REQUEST_ID.match(given) else uuid.uuid4().hex.encode()
        self.status = 500
        self.is_started = False
        self._is_replaced = False
        self._scope = scope
        self._send = send

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
        self.is_started = True
        self.status = message["status"]
        headers = [*message.get("headers", ()), (b"x-request-id", self.request_id)]
        await self._send({**message, "headers": headers})


def _host(value: bytes) -> str:
    """The host name of an origin, or of `//host:port`; empty where there is none."""
    try:
        return urlsplit(value.decode("latin-1")).hostname or ""
    except ValueError:
        return ""
