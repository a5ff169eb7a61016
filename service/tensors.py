"""Tensors of the Open Inference Protocol v2 as they are sent: in JSON, or as bytes behind it.

As bytes, numbers are little-endian and in row-major order, and BYTES are for each element its length (4 bytes,
little-endian) and its content. Sizes are compared before anything is made of them. Knows neither HTTP nor models.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_json

from service.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class SentTensor:
    """A tensor of a request whose size was not compared with its shape yet: `elements` and `numbers` do.

    Attributes:
        where: What it is called in an error.
        name: As sent.
        datatype: As sent.
        shape: As sent; no size is negative.
        data: What stands in the JSON; None where it is behind it.
        binary: What stands behind the JSON; empty where there is nothing.
    """

    where: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None
    binary: memoryview


@dataclass(frozen=True)
class Answered:
    """An output: float32 numbers of any shape, or texts with their shape."""

    name: str
    values: npt.NDArray[np.float32] | npt.NDArray[np.object_]
    is_binary: bool


def elements(tensor: SentTensor) -> list[bytes | str]:
    """The elements of a BYTES tensor: bytes, or the texts of the JSON.

    Raises:
        BadRequestError: If they are not of that kind, or not as many as the shape says.
    """
    count = math.prod(tensor.shape)
    if tensor.data is None:
        return list(_split(tensor, count))
    texts = _flat(tensor, tensor.data, count)
    if not all(isinstance(text, str) for text in texts):
        raise BadRequestError(f"{tensor.where}.data holds something else than texts, which BYTES are in JSON")
    return texts


def numbers(tensor: SentTensor) -> npt.NDArray[np.uint8]:
    """The values of a UINT8 tensor, in its shape.

    Raises:
        BadRequestError: If they are not of that kind, or not as many as the shape says.
    """
    count = math.prod(tensor.shape)
    if tensor.data is None:
        if len(tensor.binary) != count:
            raise BadRequestError(
                f"{tensor.where}.parameters.binary_data_size is {len(tensor.binary)}; shape {list(tensor.shape)} takes {count}"
            )
        return np.frombuffer(tensor.binary, dtype=np.uint8).reshape(tensor.shape)
    values = _flat(tensor, tensor.data, count)
    try:
        # numpy would make whole numbers of others without a word
        if set(map(type, values)) - {int}:
            raise ValueError("other things than whole numbers")
        return np.frombuffer(bytes(values), dtype=np.uint8).reshape(tensor.shape)
    except ValueError as err:
        raise BadRequestError(f"{tensor.where}.data holds something else than whole numbers from 0 to 255, as UINT8 are") from err


def write_answer(head: dict[str, Any], outputs: Sequence[Answered]) -> tuple[bytes, int | None]:
    """Put an answer together.

    Args:
        head: What stands beside the outputs.
        outputs: In order.

    Returns:
        The body, and how much of it is JSON; None where all of it is.
    """
    described: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for output in outputs:
        is_text = output.values.dtype == np.object_
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": "BYTES" if is_text else "FP32",
            "shape": list(output.values.shape),
        }
        if output.is_binary:
            data = _join(output.values.ravel().tolist()) if is_text else output.values.astype("<f4").tobytes()
            behind.append(data)
            described.append(entry | {"parameters": {"binary_data_size": len(data)}})
        else:
            described.append(entry | {"data": output.values.ravel().tolist()})
    start = to_json(head | {"outputs": described})
    return (b"".join([start, *behind]), len(start)) if behind else (start, None)


def _flat(tensor: SentTensor, values: list[Any], count: int) -> list[Any]:
    """The entries of JSON data in a row, which may be nested as the shape says."""
    if values and isinstance(values[0], list):
        # The first size is compared at the end, with the count.
        for size in tensor.shape[1:]:
            if not all(isinstance(entry, list) and len(entry) == size for entry in values):
                raise BadRequestError(f"{tensor.where}.data is not nested as shape {list(tensor.shape)} says; it may be flat")
            values = list(chain.from_iterable(values))
    if len(values) != count:
        raise BadRequestError(f"{tensor.where}.data has {len(values)} entries; shape {list(tensor.shape)} takes {count}")
    return values


def _split(tensor: SentTensor, count: int) -> Iterator[bytes]:
    """The elements of BYTES in binary form."""
    data, start = tensor.binary, 0
    if count * _LENGTH.size > len(data):
        raise BadRequestError(f"{tensor.where} is {len(data)} bytes, too few for the lengths of {count} elements")
    for index in range(count):
        if len(data) - start < _LENGTH.size:
            raise BadRequestError(f"{tensor.where} ends before the length of element {index}")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if length > len(data) - start:
            raise BadRequestError(f"element {index} of {tensor.where} is {length} bytes, and {len(data) - start} are left")
        yield bytes(data[start : start + length])
        start += length
    if start != len(data):
        raise BadRequestError(f"{tensor.where} is {len(data)} bytes, and its {count} elements take {start}")


def _join(texts: Iterable[Any]) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(data)), data) for data in encoded))
