"""The BentoML service: a thin shell over typed parts. Importing it reads no registry and starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bentoml
from starlette.requests import Request

from service.api.app import build_app
from service.api.classify import answer_classify
from service.api.datasets import is_upload
from service.api.explain import answer_explain
from service.api.retrain import answer_retrain
from service.bento import SERVICE_OPTIONS, classify_input, explain_input, retrain_input, with_baked_registry
from service.engine import Engine, EngineRef
from service.guard import Guard
from service.settings import read_settings

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

engine = EngineRef()
_app = build_app(engine)
_classify, _explain = classify_input(engine), explain_input(engine)


@bentoml.service(**SERVICE_OPTIONS)
@bentoml.asgi_app(_app, path="/")
class Classifier:
    """Image classification that says how far to trust it."""

    def __init__(self) -> None:
        """Read the settings and build the parts; BentoML calls this in the process that serves."""
        bento = Classifier.bento  # type: ignore[attr-defined]
        self._parts = Engine(with_baked_registry(read_settings(), bento))
        engine.set(self._parts)

    @bentoml.on_startup
    async def start(self) -> None:
        """Begin to load what the registry says is in production."""
        self._parts.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Answer what is in flight, then stop."""
        await self._parts.stop()

    @bentoml.api(route="/classify", input_spec=_classify)
    async def classify(self, call: Any) -> Any:
        """Classify images: calibrated probabilities, descending, or a number, by the model's task."""
        response: Response = await answer_classify(self._parts, call)
        return response

    @bentoml.api(route="/explain-confidence", input_spec=_explain)
    async def explain_confidence(self, call: Any) -> Any:
        """Explain one image: how sure, how that is known, and what else it could be."""
        response: Response = await answer_explain(self._parts, call)
        return response

    @bentoml.api(route="/retrain", input_spec=retrain_input(engine))
    async def retrain(self, call: Any) -> Any:
        """Make a job that trains a new version; it is promoted if it is better than the one in production."""
        response: Response = await answer_retrain(self._parts, call)
        return response

    async def __is_alive__(self) -> bool:
        """Liveness: the event loop answers, and the registry is still followed."""
        return self._parts.is_alive

    async def __is_ready__(self) -> bool:
        """Readiness: every production model is loaded, verified and warm."""
        return self._parts.is_ready


Classifier.add_asgi_middleware(Guard, engine=engine, is_streamed=is_upload)  # type: ignore[attr-defined]


def guarded(app: ASGIApp) -> ASGIApp:
    """Put the guard around an application."""
    return Guard(app, engine, is_upload)


def direct(service: ASGIApp) -> ASGIApp:
    """Answer inference by the same two functions as the methods above do, and leave everything else to BentoML.

    BentoML's way to a method costs about 1 ms of the one thread that runs the network, as much as all of ours; a GPU
    is faster than that (docs/decisions/0010).
    """
    answers = {
        "/classify": (_classify, answer_classify),
        "/explain-confidence": (_explain, answer_explain),
    }

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        found = answers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await service(scope, receive, send)
            return
        spec, method = found
        received = await spec.from_http_request(Request(scope, receive), None)
        response = await method(engine.get(), received.call)
        await response(scope, receive, send)

    return answer
