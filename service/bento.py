"""The adapter: every behaviour of BentoML that we rely on, in one place (tests/contract/test_bentoml.py lists them).

1. `input_spec` may be a subclass of `bentoml.IODescriptor` whose `from_http_request` reads the request itself. Then
   BentoML reads no body, fetches no address and loads no pickle.
2. What it returns has `model_fields`; each becomes an argument of the method by that name.
3. File fields declared by `WithJsonSchema({"type": "file"})` are uploaded by `bentoml.SyncHTTPClient` as multipart parts,
   and the other fields come as JSON texts.
4. A method that returns a Starlette `Response` answers with it.
5. An application mounted at `/` is asked before BentoML's own `/` and `/metrics`, and passes on what it does not know.
6. `traffic.timeout` counts from a request's first byte, the time in which its body arrives included, and cuts what has not
   begun to answer by then; mounted routes too. Each timer stands until it fires, whether or not its request is answered.
   `without_layers` takes it out, and the tracer, which costs time when it is off; `bentoml serve` has both. Our guard goes
   with them: it is put around everything instead.
7. `to_asgi()` is a Starlette application whose `user_middleware` is not yet in use.
8. Where a Bento is served, the service knows it as `bento`, with the tags of its models, before an instance is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import bentoml
from pydantic import Field, WithJsonSchema

from models.confidence.case import DEFAULT_LEVEL
from models.store import baked_registry
from service.calls import (
    DEFAULT_NEIGHBORS,
    DEFAULT_TOP_K,
    MAX_LEVEL,
    MAX_NEIGHBORS,
    MAX_TOP_K,
    ClassifyCall,
    ExplainCall,
    HeatmapForm,
    read_classify,
    read_explain,
)
from service.errors import ServiceError
from service.retraining import RetrainCall, read_retrain

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from service.engine import EngineRef
    from service.settings import Settings

TIMEOUT_S = 300
_NOT_NEEDED = {"TimeoutMiddleware", "OpenTelemetryMiddleware", "Guard"}
Call = TypeVar("Call")
File = Annotated[Any, WithJsonSchema({"type": "file", "format": "image"})]
# Everything of BentoML's that costs a request time or shows it to others is off; ours is in `guard` and `metrics`.
SERVICE_OPTIONS: dict[str, Any] = {
    "name": "candor",
    "workers": 1,
    # For `bentoml serve`, where a timer stands for each request until this is over: a day of it would be a leak. The first byte
    # of an answer satisfies it, and our own deadline is sooner.
    "traffic": {"timeout": TIMEOUT_S},
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": ".*"},
    "monitoring": {"enabled": False},
}


def without_layers(app: Starlette) -> Starlette:
    """Take out what BentoML puts round every request and nobody needs here: see 6.

    Raises:
        RuntimeError: If it is not there: this is another BentoML than the one that was tried.
    """
    kept = [layer for layer in app.user_middleware if getattr(layer.cls, "__name__", "") not in _NOT_NEEDED]
    if len(kept) != len(app.user_middleware) - len(_NOT_NEEDED):
        raise RuntimeError(f"BentoML's layers are {app.user_middleware}, expected {', '.join(sorted(_NOT_NEEDED))} among them")
    app.user_middleware = kept
    return app


def with_baked_registry(settings: Settings, bento: bentoml.Bento | None) -> Settings:
    """Where a Bento carries a model and nobody named a registry, the registry is the Bento's: see 8."""
    baked = baked_registry(bento) if settings.registry is None else None
    return settings if baked is None else settings.model_copy(update={"registry": baked})


class Received(Generic[Call]):
    """A request that was read, or why it could not be: what BentoML hands to the method as `call`."""

    model_fields = ("call",)

    def __init__(self, call: Call | ServiceError) -> None:
        """Hold the outcome; the method answers it, so that BentoML never words an error."""
        self.call = call


def classify_input(engine: EngineRef) -> type[bentoml.IODescriptor]:
    """The input of `/classify`: fields as BentoML's client sees them, read by `service.inputs`."""

    class ClassifyInput(bentoml.IODescriptor):
        """What may be sent to `/classify`."""

        images: list[File] = Field(description="image files; JPEG, PNG, WebP, BMP or GIF")
        model: str | None = Field(default=None, description="name (its production version) or name:N")
        top_k: int = Field(default=DEFAULT_TOP_K, ge=1, le=MAX_TOP_K, description="labels to return for each image")
        raw: bool = Field(default=False, description="probabilities as the network states them, and not calibrated")
        trust: bool = Field(default=True, description="say how far to believe each result")

        @classmethod
        async def from_http_request(cls, request: Request, serde: Any) -> Received[ClassifyCall]:
            """Read the request ourselves; `serde` is BentoML's reader, and is not used."""
            try:
                here = engine.get()
                return Received(await read_classify(request, here.body_limits, here.expect))
            except ServiceError as err:
                return Received(err)

    return ClassifyInput


def explain_input(engine: EngineRef) -> type[bentoml.IODescriptor]:
    """The input of `/explain-confidence`, in the same way."""

    class ExplainInput(bentoml.IODescriptor):
        """What may be sent to `/explain-confidence`."""

        image: File = Field(description="an image file; JPEG, PNG, WebP, BMP or GIF")
        model: str | None = Field(default=None, description="name (its production version) or name:N")
        confidence_level: float = Field(default=DEFAULT_LEVEL, gt=0, le=MAX_LEVEL, description="of the prediction set")
        top_k: int = Field(default=DEFAULT_TOP_K, ge=1, le=MAX_TOP_K, description="labels to name")
        neighbors: int = Field(default=DEFAULT_NEIGHBORS, ge=0, le=MAX_NEIGHBORS, description="known images to show")
        heatmap: HeatmapForm = Field(default="grid", description="grid, png or none")
        versus: str | None = Field(default=None, description="a label to contrast the first one with")

        @classmethod
        async def from_http_request(cls, request: Request, serde: Any) -> Received[ExplainCall]:
            """Read the request ourselves; `serde` is BentoML's reader, and is not used."""
            try:
                here = engine.get()
                return Received(await read_explain(request, here.body_limits, here.expect))
            except ServiceError as err:
                return Received(err)

    return ExplainInput


def retrain_input(engine: EngineRef) -> type[bentoml.IODescriptor]:
    """The input of `/retrain`, in the same way."""

    class RetrainInput(bentoml.IODescriptor):
        """What may be sent to `/retrain`."""

        model: str = Field(description="the name that the new version is to get")
        dataset: Any = Field(description="name, name@version, allowed folder, or feedback; or a list of them")
        recipe: dict[str, Any] | None = Field(default=None, description="any keys of a recipe")
        start_from: str | None = Field(default=None, description="pretrained, production or name:version")
        promote: str | None = Field(default=None, description="gate or manual")
        idempotency_key: str | None = Field(default=None, description="the same key and request again is the same job")

        @classmethod
        async def from_http_request(cls, request: Request, serde: Any) -> Received[RetrainCall]:
            """Read the request ourselves; `serde` is BentoML's reader, and is not used."""
            try:
                return Received(await read_retrain(request))
            except ServiceError as err:
                return Received(err)

    return RetrainInput
