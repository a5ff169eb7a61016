"""The one OpenAPI document: FastAPI's routes, and by hand the ones that BentoML answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pydantic.json_schema import JsonSchemaMode, models_json_schema

from models.confidence.case import DEFAULT_LEVEL
from service.api.classify import ClassifyAnswer
from service.api.explain import ExplainAnswer
from service.api.infer import InferAnswer
from service.api.security import SCHEMES, needed, secure, statuses
from service.calls import (
    DEADLINE_HEADER,
    DEFAULT_NEIGHBORS,
    DEFAULT_TOP_K,
    MAX_DEADLINE_MS,
    MAX_LEVEL,
    MAX_NEIGHBORS,
    MAX_TOP_K,
    HeatmapForm,
)
from service.infer_request import InferRequest
from service.retraining import MAX_KEY_LENGTH, RetrainRequest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

_REF = "#/components/schemas/{model}"
PROBLEM = {
    "type": "object",
    "description": "RFC 9457. `code` is stable; `detail` is for people.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "examples": ["unknown_model"]},
        "detail": {"type": "string"},
        "error": {"type": "string", "description": "below /v2 alone: the detail, where clients of that protocol look for it"},
    },
}
_MODEL = {"model": {"type": "string", "description": "name (its production version) or name:N"}}
_TOP_K = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K}
_WAITS = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
    "description": "how long you wait, in milliseconds: what would come later is not computed, and is a 504",
}
_FILE = {"type": "string", "format": "binary"}
_TEXT = {"type": "string", "contentEncoding": "base64"}


class _Field(NamedTuple):
    """How images are sent: as parts of a form, and as texts in JSON."""

    as_file: dict[str, Any]
    as_text: dict[str, Any]


_IMAGES = {"images": _Field({"type": "array", "items": _FILE}, {"type": "array", "items": _TEXT})}
_ONE = {"minItems": 1, "maxItems": 1}
# By either name, as people and clients send it; several are refused.
_IMAGE = {
    "image": _Field(_FILE, _TEXT),
    "images": _Field({"type": "array", "items": _FILE, **_ONE}, {"type": "array", "items": _TEXT, **_ONE}),
}
_PROBLEMS = {
    400: "`empty_body`, `invalid_parameter`, `model_required`, `idempotency_key_required`",
    401: "`unauthenticated`, with WWW-Authenticate",
    403: "`foreign_origin`, `unknown_host`, `not_allowed`, `missing_scope`",
    404: "`unknown_model`, `unknown_dataset`, `unknown_job`, `unknown_image`, `not_found`",
    405: "`method_not_allowed`, with Allow",
    408: "`upload_stalled`",
    409: "`in_use`, `conflict`, `nothing_to_roll_back`, `too_late`",
    412: "`precondition_failed`",
    413: "`body_too_large`, `image_too_large`",
    415: "`unsupported_media_type`",
    422: "`unreadable_image`, `invalid_dataset`, `invalid_recipe`, `idempotency_key_reused`",
    429: "`queue_full`, `rate_limited`, with Retry-After",
    503: "`not_ready`, `out_of_memory`, `not_audited`, `no_supervisor`, `jobs_unreadable`, "
    "`registry_unreachable`, `registry_read_only`, with Retry-After",
    504: "`deadline_exceeded`, with Retry-After",
    507: "`no_space`",
}
_OF_INFERENCE = (400, 403, 404, 413, 415, 422, 429, 503, 504)


def problems(*statuses: int) -> dict[int | str, Any]:
    """The `responses` of an operation that may answer these problems."""
    schema = {"schema": {"$ref": _REF.format(model="Problem")}}
    return {str(s): {"description": _PROBLEMS[s], "content": {"application/problem+json": schema}} for s in statuses}


def complete(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with BentoML's routes in it."""
    answers: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (kind, "serialization") for kind in (ClassifyAnswer, ExplainAnswer, InferAnswer)
    ]
    requests: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind, "validation") for kind in (RetrainRequest, InferRequest)]
    _, definitions = models_json_schema([*answers, *requests], ref_template=_REF)
    document = app.openapi()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    schemas["Problem"] = PROBLEM
    # FastAPI documents its own error body, which the guard replaces.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            if operation["responses"].get("422", {}).get("description") == "Validation Error":
                del operation["responses"]["422"]
            operation["responses"].update(problems(403))
            if operation.get("parameters"):
                operation["responses"].update(problems(400, 404))
    document["paths"] = {
        "/classify": {"post": _classify()},
        "/explain-confidence": {"post": _explain()},
        "/retrain": {"post": _retrain()},
        **document["paths"],
        **_probes(),
    }
    document["components"]["securitySchemes"] = SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                operation["responses"].update(problems(408))
            need = needed(path, method)
            secure(operation, need)
            operation["responses"].update(problems(*statuses(need, method)))
    return document


def _classify() -> dict[str, Any]:
    fields = {
        **_MODEL,
        "top_k": {**_TOP_K, "description": "labels to answer for each image; a model that answers a number ignores it"},
        "raw": {
            "type": "boolean",
            "default": False,
            "description": "true: probabilities as the network states them (temperature 1), and not calibrated",
        },
        "trust": {"type": "boolean", "default": True, "description": "false: without `action` and `familiarity`"},
    }
    return _inference(
        "classify",
        "Classify images",
        "One image as it is, several as multipart parts named `images`, or base64 in JSON. The content decides "
        "the format: JPEG, PNG, WebP, BMP, GIF. With several images a bad one is an `error` in its place and the status is "
        "200. Parameters may stand in the query or beside the images; the query wins. What a result holds is the model's task, "
        "which `GET /models/{name}` shows: `predictions` with one label an image, `predictions` and `selected` with several, "
        "`value`, `unit` and `interval` of a number; and with each `action` (what to do with it) and `familiarity` (whether "
        "the image is like those that the model was made from).",
        fields,
        ("ClassifyAnswer", "One result for each image, in order"),
        _IMAGES,
    )


def _explain() -> dict[str, Any]:
    fields = {
        **_MODEL,
        "confidence_level": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_LEVEL,
            "default": DEFAULT_LEVEL,
            "description": "how often the prediction set (or the interval) is to hold the truth",
        },
        "top_k": {**_TOP_K, "description": "labels to name"},
        "neighbors": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_NEIGHBORS,
            "default": DEFAULT_NEIGHBORS,
            "description": "known images that look like this one",
        },
        "heatmap": {
            "type": "string",
            "enum": list(get_args(HeatmapForm)),
            "default": "grid",
            "description": "what speaks for the label: as numbers, as a picture (base64 PNG), or not at all",
        },
        "versus": {"type": "string", "description": "a label of the model: why not that one?"},
    }
    return _inference(
        "explain_confidence",
        "Explain how sure a model is of one image, how that is known, and what else it could be",
        "Exactly one image, in the forms of `/classify`. Parameters may stand in the query or beside the image; the query "
        "wins. What a version has no evidence for is null, and `unavailable` says why. The same image and version give the "
        "same answer, to the digit; only `request_id` differs.",
        fields,
        ("ExplainAnswer", "What is known of the image; which fields is the model's task"),
        _IMAGE,
    )


def _retrain() -> dict[str, Any]:
    key = {"type": "string", "maxLength": MAX_KEY_LENGTH, "description": "or the field idempotency_key; the same is the same job"}
    location = {"schema": {"type": "string"}, "description": "where the job is to be seen"}
    return {
        "tags": ["jobs"],
        "operationId": "retrain",
        "summary": "Train a new version, and promote it if it is better",
        "description": "Answers when the request is checked and the job is on disk. Asking again with the same key is harmless.",
        "parameters": [{"name": "Idempotency-Key", "in": "header", "required": False, "schema": key}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="RetrainRequest")}}},
        },
        "responses": {
            "202": {
                "description": "The job, as it is",
                "headers": {"Location": location},
                "content": {"application/json": {"schema": {"$ref": _REF.format(model="JobCard")}}},
            },
            **problems(400, 403, 404, 413, 415, 422, 429, 503),
        },
    }


def _inference(
    operation: str, summary: str, description: str, fields: dict[str, Any], answer: tuple[str, str], images: dict[str, _Field]
) -> dict[str, Any]:
    """A route that takes images; `answer` is the schema of what it answers, and in words; `images` are fields for them."""
    schema, says = answer
    return {
        "tags": ["predict"],
        "operationId": operation,
        "summary": summary,
        "description": description,
        "parameters": [*({"name": name, "in": "query", "required": False, "schema": of} for name, of in fields.items()), _WAITS],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _FILE},
                "application/octet-stream": {"schema": _FILE},
                "multipart/form-data": {"schema": _body({name: field.as_file for name, field in images.items()}, fields)},
                "application/json": {"schema": _body({name: field.as_text for name, field in images.items()}, fields)},
            },
        },
        "responses": {
            "200": {
                "description": says,
                "headers": {"X-Model-Version": {"schema": {"type": "string"}, "description": "name:N"}},
                "content": {"application/json": {"schema": {"$ref": _REF.format(model=schema)}}},
            },
            **problems(*_OF_INFERENCE),
        },
    }


def _body(images: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """An object with one of the fields that images come in."""
    needed = [{"required": [name]} for name in images]
    one_of = needed[0] if len(needed) == 1 else {"oneOf": needed}
    return {"type": "object", "properties": {**images, **fields}, **one_of}


def _probes() -> dict[str, Any]:
    def probe(summary: str, extra: dict[int | str, Any]) -> dict[str, Any]:
        return {"get": {"tags": ["operations"], "summary": summary, "responses": {"200": {"description": "yes"}, **extra}}}

    return {
        "/livez": probe("Whether the process should be left running", problems(403, 503)),
        "/readyz": probe("Whether every production model is loaded, verified and warm", problems(403, 503)),
    }
