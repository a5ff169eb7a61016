"""Routes about jobs, led on to the service that runs them (`CANDOR_JOBS_URL`): bodies and answers flow, nothing is kept.

The caller's own key goes along, so who may do what is decided there as well. The address is the operator's and never comes
from a request; of a request only path and query are used, as they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from service.errors import NoSupervisorError
from service.logs import request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

_ROOTS = ("/retrain", "/jobs", "/datasets", "/feedback", "/review-queue")
# What concerns one connection, and what is set anew on the way.
_OURS = {b"host", b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"x-request-id", b"server", b"date"}
_CONNECT_S, _IDLE_S = 5.0, 300.0


def is_about_jobs(path: str) -> bool:
    """Whether a path is one of those that are led on."""
    return any(path == root or path.startswith(f"{root}/") for root in _ROOTS)


class Forward:
    """An ASGI application that asks another service."""

    def __init__(self, url: str) -> None:
        """Connect to nobody yet."""
        self._url = httpx.URL(url.rstrip("/"))
        # Silent are uploads that are looked through and jobs of which nothing is to be told; who follows one hears a heartbeat.
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(_IDLE_S, connect=_CONNECT_S), follow_redirects=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as the other service does.

        Raises:
            NoSupervisorError: If it cannot be reached.
        """
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = [(name, value) for name, value in scope["headers"] if name not in _OURS]
        headers.append((b"x-request-id", request_id.get().encode()))
        request = self._client.build_request(
            scope["method"],
            self._url.copy_with(raw_path=scope.get("raw_path", scope["path"].encode()) + query),
            headers=headers,
            content=_body(receive) if scope["method"] not in {"GET", "HEAD"} else None,
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as err:
            raise NoSupervisorError("the service that runs the jobs cannot be reached") from err
        try:
            kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _OURS]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.WriteError("the caller hung up")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
