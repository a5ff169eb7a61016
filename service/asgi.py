"""The ASGI application for uvicorn. Imported by name, when BentoML's environment is set."""

from __future__ import annotations

from service.app import Classifier, direct, engine, guarded
from service.bento import without_layers

__all__ = ["application", "engine"]

application = guarded(direct(without_layers(Classifier.to_asgi())))  # type: ignore[attr-defined]
