"""The ASGI application for uvicorn. Imported by name, when BentoML's environment is set."""

from service.app import Classifier, engine

__all__ = ["application", "engine"]

application = Classifier.to_asgi()  # type: ignore[attr-defined]
