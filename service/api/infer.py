"""`POST /v2/models/{name}/infer`: tensors in, tensors out, by the Open Inference Protocol v2."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from models.errors import ImageError
from service.api.answer import keep, logged_problem, version_header
from service.calls import DEADLINE_HEADER, time_left
from service.errors import BadRequestError, UnsupportedMediaTypeError
from service.inference import answered, understand
from service.inputs import whole_body
from service.tensors import write_answer

if TYPE_CHECKING:
    from starlette.requests import Request

    from service.engine import Engine
    from service.inference import InferCall
    from service.live import Judged, LiveModel
    from service.predictor import Answer

JSON_LENGTH = "Inference-Header-Content-Length"


class AnsweredTensor(BaseModel):
    """An output."""

    name: str = Field(examples=["probabilities"])
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(examples=[[1, 3]])
    parameters: dict[str, int] | None = Field(default=None, description="binary_data_size, instead of `data`")
    data: list[float] | list[str] | None = Field(default=None, description="in row-major order; texts with classification")


class InferAnswer(BaseModel):
    """What a version answers."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="as it was sent")
    outputs: list[AnsweredTensor]


async def answer_infer(engine: Engine, reference: str, request: Request) -> Response:
    """Answer one request to `name` or `name:N`, whatever it is: nothing is raised."""
    try:
        left_s = time_left(request.headers.get(DEADLINE_HEADER))
        engine.expect(reference)
        model, call = await _read(engine, reference, request)
        results = await engine.predictor.classify(model, call.images, 1, deadline_s=left_s(call.timeout_s))
        judged = [_judged(index, result) for index, result in enumerate(results)]
        keep(engine, model, call.images, results)
        return _response(model, call, judged)
    except Exception as err:  # noqa: BLE001 - whatever it is, the caller gets a problem and the log gets the reason
        return logged_problem(err).response()


async def _read(engine: Engine, reference: str, request: Request) -> tuple[LiveModel, InferCall]:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaTypeError(f"content encoding {encoding!r:.80} is not read here; send the body as it is")
    limits, json_length = engine.body_limits, _json_length(request)
    # JSON and nothing else is parsed whole.
    most = limits.max_bytes if json_length is not None else min(limits.max_bytes, limits.max_json_bytes)
    body = await whole_body(request, most)
    model = engine.slots.get(reference)
    return model, await asyncio.to_thread(understand, body, json_length, model.manifest, limits)


def _json_length(request: Request) -> int | None:
    given = request.headers.get(JSON_LENGTH)
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", given.strip()):
        raise BadRequestError(f"{JSON_LENGTH} is {given!r:.80}, expected how many bytes of the body are JSON")
    return int(given)


def _judged(index: int, result: Answer | BaseException) -> Judged:
    if isinstance(result, ImageError):
        raise type(result)(f"images[{index}]: {result}") from result
    if isinstance(result, BaseException):
        raise result
    return result.judged


def _response(model: LiveModel, call: InferCall, judged: list[Judged]) -> Response:
    manifest = model.manifest
    head: dict[str, Any] = {"model_name": manifest.name, "model_version": str(manifest.version)}
    if call.id is not None:
        head["id"] = call.id
    content, json_length = write_answer(head, answered(call, manifest, judged))
    headers = version_header(model)
    if json_length is None:
        return Response(content, headers=headers, media_type="application/json")
    return Response(content, headers=headers | {JSON_LENGTH: str(json_length)}, media_type="application/octet-stream")
