"""The ASGI application for uvicorn. Imported by name, when BentoML's environment is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.api.datasets import is_upload
from service.app import Classifier, engine, uploads

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["application", "engine"]

_service = Classifier.to_asgi()  # type: ignore[attr-defined]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the service, and uploads past BentoML, whose timer would cut them."""
    await (uploads if is_upload(scope) else _service)(scope, receive, send)
