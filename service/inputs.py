"""A request's body, in its three forms, to images and fields. Bounded while it is read; nothing is ever fetched.

What the fields mean is `calls`.

    raw          image/*, application/octet-stream   one image; the content decides the format
    multipart    file parts named image or images, other parts are fields
    JSON         {"images": ["<base64>", ...], ...fields}, or "image": "<base64>"
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from models.errors import UnreadableImageError
from service.errors import (
    BadRequestError,
    BodyTooLargeError,
    DisconnectedError,
    UnsupportedMediaTypeError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

FILE_FIELDS = ("image", "images")
# What a body without a type is taken for.
ANY_TYPE = "application/octet-stream"
_MAX_FIELDS = 20
_MAX_FIELD_BYTES = 10_000

# One image of a request: its bytes, or why there are none.
ImageOrError = bytes | UnreadableImageError


@dataclass(frozen=True)
class BodyLimits:
    """What a body may hold."""

    max_bytes: int
    max_json_bytes: int
    max_images: int


@dataclass
class Body:
    """What a body holds: images in order, and fields, as JSON values or as the texts of a form."""

    images: list[ImageOrError] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


async def bounded_body(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body's chunks, refused as soon as it is known to be too large: by its declared length, or while it is read.

    Raises:
        BodyTooLargeError: If it is.
        DisconnectedError: If the caller hangs up before its end.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLargeError(f"the body is {declared} bytes; at most {max_bytes} are accepted")
    total = 0
    try:
        async for chunk in request.stream():
            total += len(chunk)
            if total > max_bytes:
                raise BodyTooLargeError(f"the body is over {max_bytes} bytes, which is what is accepted")
            yield chunk
    except ClientDisconnect as err:
        raise DisconnectedError(f"the caller hung up after {total} bytes") from err


async def read_body(request: Request, limits: BodyLimits) -> Body:
    """Read a body whole.

    Raises:
        BodyTooLargeError: If it is over the limit; the rest of it is not read.
        UnsupportedMediaTypeError: If it is in none of the three forms.
        BadRequestError: If it cannot be read, or holds more images than any request may.
        DisconnectedError: If the caller hangs up before its end.
    """
    media_type = _media_type(request.headers.get("content-type", ANY_TYPE))
    if media_type == "multipart/form-data":
        return await _read_multipart(request, limits)
    if media_type == "application/json":
        # Parsing holds the interpreter, so its size is bounded more tightly than that of bytes that are only passed on.
        data = await whole_body(request, min(limits.max_bytes, limits.max_json_bytes))
        return await asyncio.to_thread(_parse_json, data, limits)
    if is_raw_type(media_type):
        data = await whole_body(request, limits.max_bytes)
        return Body([data] if data else [])
    raise UnsupportedMediaTypeError(
        f"content type {media_type!r:.80} is not read here; send image/jpeg (or another image type, the content decides), "
        "multipart/form-data or application/json"
    )


def is_raw_body(request: Request) -> bool:
    """Whether the body is the image and nothing else."""
    return is_raw_type(request.headers.get("content-type", ANY_TYPE))


def is_raw_type(content_type: str) -> bool:
    """Whether a body of that type is the image and nothing else."""
    media_type = _media_type(content_type)
    return media_type.startswith("image/") or media_type == ANY_TYPE


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


async def whole_body(request: Request, max_bytes: int) -> bytes:
    """The body in one piece.

    Raises:
        ServiceError: As `bounded_body`.
    """
    return b"".join([chunk async for chunk in bounded_body(request, max_bytes)])


async def _read_multipart(request: Request, limits: BodyLimits) -> Body:
    parser = MultiPartParser(
        request.headers,
        bounded_body(request, limits.max_bytes),  # type: ignore[arg-type]
        max_files=limits.max_images,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise BadRequestError(f"the multipart body cannot be read: {err.message}") from err
    except KeyError as err:
        raise BadRequestError("the multipart content type has no boundary") from err
    body = Body()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in FILE_FIELDS:
                    raise BadRequestError(f"file part {name!r:.80} is not known; name it image or images")
                body.images.append(await value.read())
            elif name in FILE_FIELDS:
                raise BadRequestError(f"part {name!r} is text, expected a file; addresses are never fetched, send the bytes")
            else:
                body.fields[name] = _plain(value)
    finally:
        await form.close()
    return body


def _parse_json(data: bytes, limits: BodyLimits) -> Body:
    if not data:
        return Body()
    try:
        value = from_json(data)
    except ValueError as err:
        raise BadRequestError(f"the JSON body cannot be read: {err}") from err
    if not isinstance(value, dict):
        raise BadRequestError('the JSON body is not an object; expected {"images": ["<base64>", ...]}')
    images: list[Any] = []
    for name in FILE_FIELDS:
        given = value.pop(name, [])
        if not isinstance(given, str | list):
            raise BadRequestError(f"{name} is not a list; expected base64 texts, one for each image")
        images += [given] if isinstance(given, str) else given
    if len(images) > limits.max_images:
        raise BadRequestError(f"images holds {len(images)} entries; at most {limits.max_images} are accepted")
    return Body([decode_base64(index, text) for index, text in enumerate(images)], value)


def decode_base64(index: int, text: object) -> ImageOrError:
    """The bytes of an image that stands in JSON, or why there are none."""
    try:
        if not isinstance(text, str):
            raise ValueError(f"a {type(text).__name__}")
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return UnreadableImageError(f"images[{index}] is not base64; addresses are never fetched, send the bytes")


def _plain(value: str) -> str:
    """A form field as a person or as BentoML's client writes it: the client sends JSON, texts in quotes."""
    if value.startswith('"') and value.endswith('"'):
        try:
            decoded = from_json(value)
        except ValueError:
            return value
        return decoded if isinstance(decoded, str) else value
    return value
