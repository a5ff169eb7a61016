"""Routes about jobs, led on to the service that runs them (`CANDOR_JOBS_URL`): bodies and answers flow, nothing is kept.

The caller's own key goes along, so who may do what is decided there as well. The address is the operator's and never comes
from a request; of a request only path and query are used, as they came.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx

from service.errors import BadRequestError, NoSupervisorError
from service.logs import request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

_ROOTS = ("/retrain", "/jobs", "/datasets", "/feedback", "/review-queue")
# What concerns one connection, and what is set anew on the way; where a page comes from was looked at here.
_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade"}
_OURS = _HOP | {b"host", b"origin", b"x-request-id", b"server", b"date"}
_CONNECT_S, _IDLE_S, _LOOK_S = 5.0, 300.0, 0.5
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=20)


def is_about_jobs(path: str) -> bool:
    """Whether a path is one of those that are led on."""
    return any(path == root or path.startswith(f"{root}/") for root in _ROOTS)


class Forward:
    """An ASGI application that asks another service."""

    def __init__(self, url: str, is_closing: Callable[[], bool]) -> None:
        """Connect to nobody yet. When `is_closing` says that the service drains, answers that flow are ended."""
        self._is_closing = is_closing
        self._url = httpx.URL(url.rstrip("/"))
        # Silent are uploads that are looked through and jobs of which nothing is to be told; who follows one hears a heartbeat.
        timeout = httpx.Timeout(_IDLE_S, connect=_CONNECT_S, pool=_CONNECT_S)
        self._client = httpx.AsyncClient(timeout=timeout, limits=_LIMITS, follow_redirects=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as the other service does.

        Raises:
            NoSupervisorError: If it cannot be reached.
            BadRequestError: If no address can be made of the path.
        """
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = [(name, value) for name, value in scope["headers"] if name not in _OURS]
        headers.append((b"x-request-id", request_id.get().encode()))
        try:
            address = self._url.copy_with(raw_path=scope.get("raw_path", scope["path"].encode()) + query)
        except httpx.InvalidURL as err:
            raise BadRequestError(f"the path cannot be led on: {err}") from err
        has_body = scope["method"] not in {"GET", "HEAD"}
        content = _body(receive) if has_body else None
        request = self._client.build_request(scope["method"], address, headers=headers, content=content)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as err:
            raise NoSupervisorError("the service that runs the jobs cannot be reached") from err
        copying = asyncio.create_task(_copy(response, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            # Nothing says that a caller has hung up but this: what is sent to nobody is taken all the same.
            while not (copying.done() or gone.done() or self._is_closing()):
                await asyncio.wait({copying, gone}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            copying.cancel()
            gone.cancel()
            results = await asyncio.gather(copying, gone, return_exceptions=True)
            await response.aclose()
        if isinstance(results[0], Exception):
            raise results[0]
        if isinstance(results[0], asyncio.CancelledError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _copy(response: httpx.Response, send: Send) -> None:
    kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _OURS]
    await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.WriteError("the caller hung up")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
