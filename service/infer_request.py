"""A request to infer, of the Open Inference Protocol v2: its JSON, and which bytes behind it belong to which tensor.

    [JSON, of Inference-Header-Content-Length bytes][the data of each input with binary_data_size, in the JSON's order]

The bytes are Triton's extension `binary_tensor_data`; what they hold is `tensors`'s. Knows neither HTTP nor models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from models.errors import describe
from service.errors import BadRequestError, BodyTooLargeError
from service.tensors import SentTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# More than any body holds; what is multiplied and printed stays small.
_MAX_SIZE = 2**31 - 1
_MAX_RANK = 8
_MAX_TENSORS = 8
# Triton's are microseconds in 64 bits.
_MAX_TIMEOUT_US = 2**64 - 1
_REQUEST = ("binary_data_output", "priority", "timeout")
_INPUT = ("binary_data_size",)
_OUTPUT = ("binary_data", "classification")

Size = Annotated[int, Field(ge=0, le=_MAX_SIZE)]
Parameters = dict[str, Any] | None


class InferInput(BaseModel):
    """A tensor that is sent."""

    model_config = ConfigDict(strict=True)

    name: str = Field(examples=["images"])
    shape: list[Size] = Field(max_length=_MAX_RANK, examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: Parameters = Field(default=None, description="binary_data_size: bytes of it behind the JSON, instead of `data`")
    data: list[Any] | None = Field(default=None, description="row-major, flat or nested as the shape says; BYTES as base64")


class InferOutput(BaseModel):
    """A tensor that is asked for."""

    model_config = ConfigDict(strict=True)

    name: str = Field(examples=["probabilities"])
    parameters: Parameters = Field(
        default=None,
        description="binary_data: as bytes behind the JSON; classification: k, for the k largest as texts `value:index:label`",
    )


class InferRequest(BaseModel):
    """What is inferred from what."""

    model_config = ConfigDict(strict=True)

    id: str | None = Field(default=None, description="comes back with the answer")
    parameters: Parameters = Field(
        default=None,
        description="timeout: microseconds, for less than the service's own deadline; binary_data_output: outputs as bytes "
        "behind the JSON, where they do not say otherwise",
    )
    inputs: list[InferInput] = Field(min_length=1, max_length=_MAX_TENSORS)
    outputs: list[InferOutput] | None = Field(default=None, max_length=_MAX_TENSORS, description="all of them where left out")


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for: as bytes or in JSON, whole or the `classes` largest of each row."""

    name: str
    is_binary: bool
    classes: int | None


@dataclass(frozen=True)
class Asked:
    """A request, taken apart.

    Attributes:
        id: The caller's own; None where there is none.
        inputs: At least one.
        outputs: None of them for all of them.
        is_binary: How outputs are answered that do not say it.
        timeout_s: What the caller would wait; infinity where that is not said.
    """

    id: str | None
    inputs: tuple[SentTensor, ...]
    outputs: tuple[Wanted, ...]
    is_binary: bool
    timeout_s: float


def read_request(body: bytes, json_length: int | None, max_json_bytes: int) -> Asked:
    """Take a body apart.

    Args:
        body: All of it.
        json_length: Bytes of the JSON at its beginning; None where it is JSON and nothing else.
        max_json_bytes: A larger JSON is not parsed.

    Raises:
        BadRequestError: If it is not a request, or its lengths contradict each other.
        BodyTooLargeError: If the JSON is too large.
    """
    length = len(body) if json_length is None else json_length
    if length > len(body):
        raise BadRequestError(f"Inference-Header-Content-Length is {length}, and the body is {len(body)} bytes")
    if length > max_json_bytes:
        raise BodyTooLargeError(f"the JSON is {length} bytes; at most {max_json_bytes} are accepted; send data in binary form")
    asked = _parse(body[:length])
    parameters = _known("parameters", asked.parameters, _REQUEST)
    is_binary = _flag("parameters.binary_data_output", parameters.get("binary_data_output", False))
    if parameters.get("priority", 0) != 0:
        raise BadRequestError("parameters.priority is not offered: requests are answered in the order in which they come")
    return Asked(
        id=asked.id,
        inputs=tuple(_inputs(asked.inputs, memoryview(body)[length:])),
        outputs=tuple(_outputs(asked.outputs or (), is_binary)),
        is_binary=is_binary,
        timeout_s=_timeout_s(parameters.get("timeout")),
    )


def _parse(data: bytes) -> InferRequest:
    try:
        return InferRequest.model_validate(from_json(data))
    except ValidationError as err:
        raise BadRequestError(describe(err, lambda path: path or "the JSON")) from err
    except ValueError as err:
        raise BadRequestError(f"the JSON of the request cannot be read: {err}") from err


def _inputs(inputs: Iterable[InferInput], behind: memoryview) -> Iterator[SentTensor]:
    """Give each input its part of what stands behind the JSON, all of which belongs to one."""
    start = 0
    for index, given in enumerate(inputs):
        where = f"inputs[{index}]"
        size = _known(f"{where}.parameters", given.parameters, _INPUT).get("binary_data_size")
        if (size is None) is (given.data is None):
            raise BadRequestError(
                f"{where} has {'no data' if size is None else 'data and binary_data_size'}; expected one of them"
            )
        if size is not None and (type(size) is not int or not 0 <= size <= len(behind) - start):
            left = len(behind) - start
            raise BadRequestError(
                f"{where}.parameters.binary_data_size is {size!r:.80}, and {left} bytes are left behind the JSON"
            )
        end = start + (size or 0)
        yield SentTensor(where, given.name, given.datatype, tuple(given.shape), given.data, behind[start:end])
        start = end
    if start != len(behind):
        raise BadRequestError(f"{len(behind)} bytes stand behind the JSON, and the inputs' binary_data_size add up to {start}")


def _outputs(outputs: Iterable[InferOutput], is_binary: bool) -> Iterator[Wanted]:
    for index, given in enumerate(outputs):
        where = f"outputs[{index}].parameters"
        parameters = _known(where, given.parameters, _OUTPUT)
        classes = parameters.get("classification")
        if classes is not None and (type(classes) is not int or classes < 1):
            raise BadRequestError(f"{where}.classification is {classes!r:.80}, expected how many classes, from 1 on")
        yield Wanted(given.name, _flag(f"{where}.binary_data", parameters.get("binary_data", is_binary)), classes)


def _known(where: str, parameters: Parameters, known: Sequence[str]) -> dict[str, Any]:
    for name in parameters or {}:
        if name.startswith("shared_memory"):
            raise BadRequestError(f"{where} asks for shared memory, which is not offered; send the data with the request")
        if name.startswith("sequence_"):
            raise BadRequestError(f"{where} has {name!r:.80}, and there are no sequences here: each request stands by itself")
        if name not in known:
            raise BadRequestError(f"{where} has {name!r:.80}, which is not known; known are {', '.join(known)}")
    return parameters or {}


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequestError(f"{where} is {value!r:.80}, expected true or false")
    return value


def _timeout_s(value: Any) -> float:
    """Seconds of Triton's microseconds; 0 is as good as none."""
    if value is None:
        return math.inf
    if type(value) is not int or not 0 <= value <= _MAX_TIMEOUT_US:
        raise BadRequestError(f"parameters.timeout is {value!r:.80}, expected microseconds, a whole number")
    return value / 1_000_000 or math.inf
