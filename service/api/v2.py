"""`/v2`: the Open Inference Protocol v2, as clients of KServe and Triton speak it. What is inferred is `infer`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

import service
from service.api.infer import JSON_LENGTH, answer_infer
from service.api.openapi import problems
from service.errors import BadRequestError, NotReadyError
from service.inference import inputs_of, outputs_of
from service.inputs import whole_body

if TYPE_CHECKING:
    from service.engine import Engine, EngineRef
    from service.inference import TensorSpec
    from service.slots import Slot

_INDEX_BYTES = 1024
_BINARY = {"schema": {"type": "string", "format": "binary", "description": "JSON, and binary tensor data behind it"}}
_LENGTH = {
    "schema": {"type": "integer"},
    "description": "how many bytes of the body are JSON, where binary data stands behind it",
}


class ServerCard(BaseModel):
    """What answers."""

    name: Literal["candor"]
    version: str
    extensions: list[str]


class Liveness(BaseModel):
    """The process answers, and follows the registry."""

    live: Literal[True]


class Readiness(BaseModel):
    """Every production model is loaded, verified and warm."""

    ready: Literal[True]


class ModelReadiness(Readiness):
    """The version answers."""

    name: str


class TensorCard(BaseModel):
    """A tensor that a version takes or answers."""

    name: str
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(description="-1: any number of images", examples=[[-1]])
    parameters: dict[str, str | bool] = Field(description="`description`; and of an input `optional`: one of them is sent")


class TensorsCard(BaseModel):
    """A version: what it takes, and what it answers."""

    name: str
    versions: list[str] = Field(description="those that answer, the one that is meant without a number first")
    platform: str = Field(examples=["onnxruntime_onnx"])
    inputs: list[TensorCard]
    outputs: list[TensorCard]


class IndexEntry(BaseModel):
    """A version that answers, or should."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


def v2_router(engine: EngineRef) -> APIRouter:
    """The routes, over an engine that exists when they are called."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    _add_server(router, engine)
    _add_models(router, engine)
    _add_inference(router, engine)
    return router


def _add_server(router: APIRouter, engine: EngineRef) -> None:
    @router.get("", summary="What answers")
    async def show_server() -> ServerCard:
        extensions = ["classification", "binary_tensor_data", "model_repository"]
        return ServerCard(name="candor", version=service.__version__, extensions=extensions)

    @router.get("/health/live", summary="Whether the process should be left running", responses=problems(503))
    async def show_live() -> Liveness:
        if not engine.get().is_alive:
            raise NotReadyError("the registry is not followed any more")
        return Liveness(live=True)

    @router.get("/health/ready", summary="Whether every production model is loaded", responses=problems(503))
    async def show_ready() -> Readiness:
        if not engine.get().is_ready:
            raise NotReadyError("not every production model is loaded yet")
        return Readiness(ready=True)

    @router.post(
        "/repository/index",
        summary="Every version that answers, or should",
        responses=problems(400, 413),
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": _index_schema()}}}},
    )
    async def index_models(request: Request) -> list[IndexEntry]:
        is_ready_only = _is_ready_only(await whole_body(request, _INDEX_BYTES))
        slots = engine.get().slots
        entries = [entry for name in slots.names if (slot := slots.slot(name)) for entry in _entries(name, slot)]
        return [entry for entry in entries if entry.state == "READY" or not is_ready_only]


def _add_models(router: APIRouter, engine: EngineRef) -> None:
    responses = problems(404, 503)

    @router.get("/models/{name}", summary="What a model takes and answers", responses=responses)
    async def show_tensors(name: str) -> TensorsCard:
        return _tensors(engine.get(), name)

    @router.get("/models/{name}/versions/{version}", summary="The same, of a version", responses=responses)
    async def show_tensors_of_version(name: str, version: str) -> TensorsCard:
        return _tensors(engine.get(), f"{name}:{version}")

    @router.get("/models/{name}/ready", summary="Whether a model answers", responses=responses)
    async def show_model_ready(name: str) -> ModelReadiness:
        return ModelReadiness(name=engine.get().slots.get(name).manifest.name, ready=True)

    @router.get("/models/{name}/versions/{version}/ready", summary="The same, of a version", responses=responses)
    async def show_version_ready(name: str, version: str) -> ModelReadiness:
        return ModelReadiness(name=engine.get().slots.get(f"{name}:{version}").manifest.name, ready=True)


def _add_inference(router: APIRouter, engine: EngineRef) -> None:
    documented: dict[str, Any] = {
        "description": "One input: `images` (files) or `pixels`; `GET /v2/models/{name}` describes them and the outputs. "
        "All images are answered, or none: a bad one fails the request. JSON, or JSON and binary tensor data behind it.",
        "response_class": Response,
        "responses": {200: _answer(), **problems(400, 404, 413, 415, 422, 429, 503, 504)},
        "openapi_extra": {"requestBody": _request(), "parameters": [_json_length()]},
    }

    @router.post("/models/{name}/infer", summary="Infer", **documented)
    async def infer(name: str, request: Request) -> Response:
        return await answer_infer(engine.get(), name, request)

    @router.post("/models/{name}/versions/{version}/infer", summary="The same, on a version", **documented)
    async def infer_on_version(name: str, version: str, request: Request) -> Response:
        return await answer_infer(engine.get(), f"{name}:{version}", request)


def _tensors(engine: Engine, reference: str) -> TensorsCard:
    model = engine.slots.get(reference)
    manifest = model.manifest
    slot = engine.slots.slot(manifest.name)
    return TensorsCard(
        name=manifest.name,
        versions=[str(loaded.manifest.version) for loaded in slot.loaded()] if slot else [],
        platform=f"{model.runtime.name}_onnx",
        inputs=[_card(spec, is_input=True) for spec in inputs_of(manifest)],
        outputs=[_card(spec, is_input=False) for spec in outputs_of(manifest)],
    )


def _card(spec: TensorSpec, *, is_input: bool) -> TensorCard:
    parameters: dict[str, str | bool] = {"description": spec.says, **({"optional": True} if is_input else {})}
    return TensorCard(name=spec.name, datatype=spec.datatype, shape=list(spec.shape), parameters=parameters)


def _entries(name: str, slot: Slot) -> list[IndexEntry]:
    loaded = [str(model.manifest.version) for model in slot.loaded()]
    entries = [IndexEntry(name=name, version=version, state="READY", reason="") for version in loaded]
    if str(slot.wanted) not in loaded:
        state: Literal["LOADING", "UNAVAILABLE"] = "UNAVAILABLE" if slot.problem else "LOADING"
        entries.append(IndexEntry(name=name, version=str(slot.wanted), state=state, reason=slot.problem or ""))
    return entries


def _is_ready_only(body: bytes) -> bool:
    """What a request for the index asks for; most send nothing."""
    try:
        asked = from_json(body or b"{}")
    except ValueError as err:
        raise BadRequestError(f"the JSON of the request cannot be read: {err}") from err
    if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
        raise BadRequestError('the body is something else than {"ready": true}, {"ready": false} or nothing')
    return bool(asked.get("ready", False))


def _index_schema() -> dict[str, Any]:
    ready = {"type": "boolean", "default": False, "description": "leave out what does not answer"}
    return {"type": "object", "properties": {"ready": ready}}


def _json_length() -> dict[str, Any]:
    return {"name": JSON_LENGTH, "in": "header", "required": False, **_LENGTH}


def _request() -> dict[str, Any]:
    schema = {"schema": {"$ref": "#/components/schemas/InferRequest"}}
    return {"required": True, "content": {"application/json": schema, "application/octet-stream": _BINARY}}


def _answer() -> dict[str, Any]:
    version = {"schema": {"type": "string"}, "description": "name:N"}
    schema = {"schema": {"$ref": "#/components/schemas/InferAnswer"}}
    return {
        "description": "The outputs, as they were asked for",
        "headers": {"X-Model-Version": version, JSON_LENGTH: _LENGTH},
        "content": {"application/json": schema, "application/octet-stream": _BINARY},
    }
