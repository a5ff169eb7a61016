"""The one OpenAPI document: FastAPI's routes, and by hand the ones that BentoML answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from service.api.classify import ClassifyAnswer
from service.inputs import DEFAULT_TOP_K, MAX_TOP_K

if TYPE_CHECKING:
    from fastapi import FastAPI

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
    },
}
_PROBLEMS = {
    400: "`empty_body`, `invalid_parameter`, `model_required`",
    403: "`foreign_origin`, `unknown_host`, `not_allowed`",
    404: "`unknown_model`",
    413: "`body_too_large`, `image_too_large`",
    415: "`unsupported_media_type`",
    422: "`unreadable_image`",
    429: "`queue_full`, with Retry-After",
    503: "`not_ready`, with Retry-After",
    504: "`deadline_exceeded`, with Retry-After",
}


def problems(*statuses: int) -> dict[str, Any]:
    """The `responses` of an operation that may answer these problems."""
    schema = {"schema": {"$ref": _REF.format(model="Problem")}}
    return {str(s): {"description": _PROBLEMS[s], "content": {"application/problem+json": schema}} for s in statuses}


def complete(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with BentoML's routes in it."""
    _, definitions = models_json_schema([(ClassifyAnswer, "serialization")], ref_template=_REF)
    document = app.openapi()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    schemas["Problem"] = PROBLEM
    # FastAPI documents its own error body, which the guard replaces.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].update(problems(403))
            if operation.get("parameters"):
                operation["responses"].update(problems(400, 404))
    document["paths"] = {"/classify": {"post": _classify()}, **document["paths"], **_probes()}
    return document


def _classify() -> dict[str, Any]:
    image = {"schema": {"type": "string", "format": "binary"}}
    fields = {
        "model": {"type": "string", "description": "name (its production version) or name:N"},
        "top_k": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TOP_K,
            "default": DEFAULT_TOP_K,
            "description": "labels to answer for each image; a model that answers a number ignores it",
        },
    }
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    texts = {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}
    return {
        "tags": ["predict"],
        "operationId": "classify",
        "summary": "Classify images",
        "description": "One image as it is, several as multipart parts named `images`, or base64 in JSON. The content decides "
        "the format: JPEG, PNG, WebP, BMP, GIF. With several images a bad one is an `error` in its place and the status is "
        "200. Parameters may stand in the query or beside the images; the query wins. What a result holds is the model's task, "
        "which `GET /models/{name}` shows: `predictions` with one label an image, `predictions` and `selected` with several, "
        "`value`, `unit` and `interval` of a number.",
        "parameters": [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": image,
                "application/octet-stream": image,
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["images"], "properties": {"images": files, **fields}}
                },
                "application/json": {
                    "schema": {"type": "object", "required": ["images"], "properties": {"images": texts, **fields}}
                },
            },
        },
        "responses": {
            "200": {
                "description": "One result for each image, in order",
                "headers": {"X-Model-Version": {"schema": {"type": "string"}, "description": "name:N"}},
                "content": {"application/json": {"schema": {"$ref": _REF.format(model="ClassifyAnswer")}}},
            },
            **problems(*_PROBLEMS),
        },
    }


def _probes() -> dict[str, Any]:
    def probe(summary: str, extra: dict[str, Any]) -> dict[str, Any]:
        return {"get": {"tags": ["operations"], "summary": summary, "responses": {"200": {"description": "yes"}, **extra}}}

    return {
        "/livez": probe("Whether the process should be left running", problems(403, 503)),
        "/readyz": probe("Whether every production model is loaded, verified and warm", problems(403, 503)),
    }
