"""The ASGI application for uvicorn. Imported by name, when BentoML's environment is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.app import Classifier, beside, engine, is_beside

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["application", "engine"]


def past_timer(service: ASGIApp) -> ASGIApp:
    """Lead what its timer would cut past BentoML, and everything else to it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (beside if is_beside(scope) else service)(scope, receive, send)

    return answer


application = past_timer(Classifier.to_asgi())  # type: ignore[attr-defined]
