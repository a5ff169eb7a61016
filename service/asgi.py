"""The ASGI application for uvicorn. Imported by name, when the environment is set."""

from service.app import Classifier

application = Classifier.to_asgi()  # type: ignore[attr-defined]
