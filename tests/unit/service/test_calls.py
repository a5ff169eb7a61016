"""Parameters of the inference routes: from query, form and JSON, in their ranges, and the query wins."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from starlette.requests import Request

from models.errors import UnreadableImageError
from service.calls import ExplainCall, read_classify, read_explain
from service.errors import BadRequestError, EmptyBodyError
from service.inputs import BodyLimits

if TYPE_CHECKING:
    from starlette.types import Message

LIMITS = BodyLimits(max_bytes=100_000, max_json_bytes=100_000, max_images=3)
DEFAULTS = ExplainCall(image=b"x", model=None, confidence_level=0.95, top_k=5, neighbors=5, heatmap="grid", versus=None)


def anything(model: str | None) -> None:
    """Whatever is asked for is there."""


def request(
    body: bytes, content_type: str = "image/png", waits_ms: str | None = None, slow_s: float = 0.0, **query: object
) -> Request:
    async def receive() -> Message:
        await asyncio.sleep(slow_s)
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode())]
    headers += [] if waits_ms is None else [(b"x-request-timeout-ms", waits_ms.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "headers": headers, "query_string": urlencode(query).encode()}, receive)


def explain(**query: object) -> ExplainCall:
    return asyncio.run(read_explain(request(b"x", **query), LIMITS, anything))


def explain_json(**fields: Any) -> ExplainCall:
    body = json.dumps({"images": ["eA=="], **fields}).encode()
    return asyncio.run(read_explain(request(body, "application/json"), LIMITS, anything))


def form(*images: bytes, **fields: str) -> tuple[bytes, str]:
    parts = [f'content-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts += [b'content-disposition: form-data; name="image"; filename="a"\r\n\r\n' + image for image in images]
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def test_parameters_that_are_left_out_have_their_defaults() -> None:
    assert explain() == DEFAULTS
    assert explain_json() == DEFAULTS
    # BentoML's client sends null for what was not given.
    assert explain_json(model=None, versus=None, top_k=None) == DEFAULTS
    assert explain(model="", versus="null", confidence_level="") == DEFAULTS


def test_parameters_are_read_from_query_form_and_json_alike() -> None:
    wanted = ExplainCall(
        image=b"x", model="birds:2", confidence_level=0.8, top_k=2, neighbors=0, heatmap="png", versus="great tit"
    )
    given = {"model": "birds:2", "confidence_level": 0.8, "top_k": 2, "neighbors": 0, "heatmap": "png", "versus": "great tit"}
    assert explain(**given) == wanted
    assert explain_json(**given) == wanted
    for texts in ({k: str(v) for k, v in given.items()}, {k: json.dumps(v) for k, v in given.items()}):
        assert asyncio.run(read_explain(request(*form(b"x", **texts)), LIMITS, anything)) == wanted


def test_the_query_wins() -> None:
    body, content_type = form(b"x", top_k="7", heatmap="none")
    call = asyncio.run(read_explain(request(body, content_type, top_k=2), LIMITS, anything))
    assert (call.top_k, call.heatmap) == (2, "none")


@pytest.mark.parametrize("level", [0.001, 0.5, 0.999, "0.9", 1e-9])
def test_confidence_level_in_its_range_is_taken(level: float | str) -> None:
    assert explain(confidence_level=level).confidence_level == float(level)


@pytest.mark.parametrize("level", [0, 1, 0.9991, -0.5, "nan", "inf", "-inf", "ninety", "95%", "1e400"])
def test_confidence_level_out_of_its_range_is_refused(level: object) -> None:
    with pytest.raises(BadRequestError, match=r"confidence_level is .*, expected a number over 0, at most 0\.999"):
        explain(confidence_level=level)


@pytest.mark.parametrize("level", [True, [0.9], {"level": 0.9}, 10**400])
def test_confidence_level_that_is_no_number_is_refused(level: object) -> None:
    with pytest.raises(BadRequestError, match="confidence_level"):
        explain_json(confidence_level=level)


@pytest.mark.parametrize(("name", "value"), [("neighbors", -1), ("neighbors", 21), ("neighbors", "few"), ("top_k", 0)])
def test_count_out_of_its_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadRequestError, match=f"{name} is .*, expected an integer from"):
        explain(**{name: value})


@pytest.mark.parametrize("value", ["jpeg", "GRID", "true", ["grid"]])
def test_unknown_form_of_a_heatmap_is_refused(value: object) -> None:
    with pytest.raises(BadRequestError, match="heatmap is .*, expected grid, png, none"):
        explain_json(heatmap=value)


def test_unknown_parameter_names_the_known_ones() -> None:
    with pytest.raises(BadRequestError, match="'level' is not a parameter; known are model, confidence_level, top_k"):
        explain(level=0.9)
    with pytest.raises(BadRequestError, match="'versus' is not a parameter; known are model, top_k, raw, trust"):
        asyncio.run(read_classify(request(b"x", versus="cat"), LIMITS, anything))


def test_exactly_one_image_is_explained() -> None:
    with pytest.raises(BadRequestError, match="2 images, and one is explained at a time"):
        asyncio.run(read_explain(request(*form(b"x", b"y")), LIMITS, anything))
    with pytest.raises(EmptyBodyError):
        asyncio.run(read_explain(request(b""), LIMITS, anything))


def test_what_is_no_image_is_for_the_caller_to_hear() -> None:
    body = json.dumps({"images": ["?"]}).encode()
    assert isinstance(asyncio.run(read_explain(request(body, "application/json"), LIMITS, anything)).image, UnreadableImageError)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, (False, True)),
        ({"raw": "true"}, (True, True)),
        ({"trust": "False"}, (False, False)),
        ({"raw": 1, "trust": 0}, (True, False)),
    ],
)
def test_flags_of_classify(given: dict[str, object], said: tuple[bool, bool]) -> None:
    call = asyncio.run(read_classify(request(b"x", **given), LIMITS, anything))
    assert (call.is_raw, call.has_trust) == said


def test_flags_are_json_values_too_and_nothing_else_is() -> None:
    def call(raw: object) -> bool:
        body = json.dumps({"images": ["eA=="], "raw": raw}).encode()
        return asyncio.run(read_classify(request(body, "application/json"), LIMITS, anything)).is_raw

    assert [call(True), call(False), call("true"), call(None)] == [True, False, True, False]
    for value in (2, "yes", [True], 1):
        with pytest.raises(BadRequestError, match="raw is .*, expected true or false"):
            call(value)


@pytest.mark.parametrize("read", [read_classify, read_explain])
def test_caller_waits_while_its_body_comes_too(read: Any) -> None:
    def left(**options: Any) -> float:
        return float(asyncio.run(read(request(b"x", **options), LIMITS, anything)).deadline_s)

    assert left() == math.inf
    assert 59 < left(waits_ms="60000") <= 60
    assert 59.5 < left(waits_ms="60000", slow_s=0.2) <= 59.8
    assert left(waits_ms="50", slow_s=0.1) == 0


@pytest.mark.parametrize("waits_ms", ["", "0", "-1", "1.5", "soon", "3600001", "9" * 5000, "0" * 5000 + "1", "\u00b2"])
def test_time_that_is_none_is_refused(waits_ms: str) -> None:
    with pytest.raises(BadRequestError, match="x-request-timeout-ms is .*, expected milliseconds from 1 to 3600000"):
        asyncio.run(read_classify(request(b"x", waits_ms=waits_ms), LIMITS, anything))
