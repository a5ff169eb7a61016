"""Tensors as they are sent: what the real client writes is read, what we write it reads, and nothing malformed is taken."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from service.errors import BadRequestError, BodyTooLargeError
from service.infer_request import Asked, read_request
from service.tensors import Answered, elements, numbers, write_answer

MAX_JSON = 100_000
IMAGES = {"name": "images", "shape": [2], "datatype": "BYTES"}
PIXELS = {"name": "pixels", "shape": [1, 2, 3], "datatype": "UINT8"}
SIX = [0, 1, 2, 253, 254, 255]


def read(request: Any, behind: bytes = b"", json_length: int | None = None) -> Asked:
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    return read_request(head + behind, len(head) if behind and json_length is None else json_length, MAX_JSON)


def one(tensor: dict[str, Any], behind: bytes | None = None, **more: Any) -> dict[str, Any]:
    """A request with this input, whose data stands behind the JSON if it is given."""
    given = {**tensor, **more}
    return {"inputs": [given if behind is None else {**given, "parameters": {"binary_data_size": len(behind)}}]}


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.text(max_size=10))
def test_files_that_the_real_client_sends_as_bytes_are_read(files: list[bytes], id: str) -> None:
    sent = InferInput("images", [len(files)], "BYTES").set_data_from_numpy(np.array(files, dtype=object))
    body, length = InferenceServerClient.generate_request_body([sent], request_id=id)
    asked = read_request(body, length, MAX_JSON)
    assert elements(asked.inputs[0]) == files
    # The client leaves an empty id out.
    assert (asked.id, asked.is_binary, asked.outputs) == (id or None, True, ())


@given(st.data())
def test_numbers_that_the_real_client_sends_are_read_in_their_shape(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    values = np.array(data.draw(st.lists(st.integers(0, 255), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    array = values.astype(np.uint8).reshape(shape)
    for binary in (True, False):
        sent = InferInput("pixels", shape, "UINT8").set_data_from_numpy(array, binary_data=binary)
        body, length = InferenceServerClient.generate_request_body([sent])
        np.testing.assert_array_equal(numbers(read_request(body, length, MAX_JSON).inputs[0]), array)
    nested = read({"inputs": [{"name": "pixels", "shape": shape, "datatype": "UINT8", "data": array.tolist()}]})
    np.testing.assert_array_equal(numbers(nested.inputs[0]), array)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2), min_size=1, max_size=4), st.booleans())
def test_answers_are_read_by_the_real_client_to_the_bit(rows: list[list[float]], binary: bool) -> None:
    values, texts = np.array(rows, dtype=np.float32), np.array([["a:ü"], [""]], dtype=object)
    given = [Answered("first", texts, not binary), Answered("second", values, binary), Answered("third", texts, binary)]
    body, length = write_answer({"model_name": "m", "id": "7"}, given)
    result = InferenceServerClient.parse_response_body(body, header_length=length)
    np.testing.assert_array_equal(result.as_numpy("second"), values)
    for name, is_binary in (("first", not binary), ("third", binary)):
        expected = [["a:ü".encode()], [b""]] if is_binary else [["a:ü"], [""]]
        assert result.as_numpy(name).tolist() == expected
    assert result.get_response()["id"] == "7"


def test_answer_in_json_alone_has_no_length() -> None:
    body, length = write_answer({}, [Answered("value", np.array([[0.5]], dtype=np.float32), is_binary=False)])
    assert length is None
    assert json.loads(body) == {"outputs": [{"name": "value", "datatype": "FP32", "shape": [1, 1], "data": [0.5]}]}


def test_outputs_say_their_form_or_have_the_one_of_the_request() -> None:
    named = [InferRequestedOutput("a"), InferRequestedOutput("b", binary_data=False, class_count=3)]
    sent = InferInput("pixels", [1], "UINT8").set_data_from_numpy(np.zeros(1, np.uint8))
    body, length = InferenceServerClient.generate_request_body([sent], outputs=named)
    first, second = read_request(body, length, MAX_JSON).outputs
    assert (first.name, first.is_binary, first.classes) == ("a", True, None)
    assert (second.name, second.is_binary, second.classes) == ("b", False, 3)
    request = {**one(PIXELS, data=SIX), "outputs": [{"name": "a"}]}
    assert [read({**request, "parameters": {"binary_data_output": flag}}).outputs[0].is_binary for flag in (True, False)] == [
        True,
        False,
    ]
    assert not read(request).outputs[0].is_binary


@pytest.mark.parametrize(
    ("microseconds", "seconds"), [(None, math.inf), (0, math.inf), (1, 1e-6), (2_500_000, 2.5), (2**64 - 1, (2**64 - 1) / 1e6)]
)
def test_timeout_is_in_microseconds(microseconds: int | None, seconds: float) -> None:
    parameters = {} if microseconds is None else {"timeout": microseconds}
    assert read({**one(PIXELS, data=SIX), "parameters": {**parameters, "priority": 0}}).timeout_s == seconds


def test_what_a_client_leaves_out_may_be_null_and_what_is_not_of_the_protocol_is_passed_over() -> None:
    given = {**PIXELS, "data": SIX, "parameters": None, "more": 1}
    asked = read({"id": None, "parameters": None, "outputs": None, "model_name": "m", "inputs": [given]})
    assert (asked.id, asked.outputs, numbers(asked.inputs[0]).ravel().tolist()) == (None, (), SIX)


def test_each_input_gets_its_own_bytes() -> None:
    first, last = packed(b"a", b""), bytes(SIX)
    inputs = [
        {**IMAGES, "parameters": {"binary_data_size": len(first)}},
        {**PIXELS, "data": SIX[::-1]},
        {**PIXELS, "parameters": {"binary_data_size": 6}},
    ]
    asked = read({"inputs": inputs}, first + last)
    assert elements(asked.inputs[0]) == [b"a", b""]
    assert [numbers(tensor).ravel().tolist() for tensor in asked.inputs[1:]] == [SIX[::-1], SIX]


MALFORMED: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "cannot be read"),
    "no JSON": (b"{", "cannot be read"),
    "no UTF-8": (b'{"id": "\xff"}', "cannot be read"),
    "half a surrogate": (b'{"id": "\\ud800"}', "cannot be read"),
    "deep": (b"[" * 50_000, "cannot be read"),
    "long number": (b'{"inputs": [' + b"1" * 5000 + b"]}", "cannot be read"),
    "a list": ([], "the JSON: Input should be"),
    "null": (None, "the JSON: Input should be"),
    "no inputs": ({}, "inputs: Field required"),
    "empty inputs": ({"inputs": []}, "at least 1 item"),
    "too many inputs": ({"inputs": [{**PIXELS, "data": SIX}] * 9}, "at most 8 items"),
    "input is a text": ({"inputs": ["pixels"]}, "inputs.0"),
    "no name": ({"inputs": [{"shape": [1], "datatype": "UINT8", "data": [1]}]}, "inputs.0.name: Field required"),
    "name is a number": (one(PIXELS, name=1, data=SIX), "inputs.0.name"),
    "id is a number": ({**one(PIXELS, data=SIX), "id": 7}, "id: Input should be a valid string, got 7"),
    "shape is a number": (one(PIXELS, shape=6, data=SIX), "inputs.0.shape"),
    "negative size": (one(PIXELS, shape=[-1, 6], data=SIX), "inputs.0.shape.0"),
    "huge size": (one(PIXELS, shape=[2**31], data=SIX), "inputs.0.shape.0"),
    "size of 4000 digits": (one(PIXELS, shape=[10**4000], data=SIX), "inputs.0.shape.0"),
    "size is true": (one(PIXELS, shape=[True, 6], data=SIX), "inputs.0.shape.0"),
    "size is a fraction": (one(PIXELS, shape=[6.0], data=SIX), "inputs.0.shape.0"),
    "many sizes": (one(PIXELS, shape=[1] * 100, data=SIX), "at most 8 items"),
    "data is a text": (one(PIXELS, data="abc"), "inputs.0.data"),
    "parameters are a list": (one(PIXELS, data=SIX, parameters=[]), "inputs.0.parameters"),
    "outputs are a map": ({**one(PIXELS, data=SIX), "outputs": {}}, "outputs: Input should be a valid list"),
    "no data": (one(PIXELS), r"inputs\[0\] has no data"),
    "data twice": (one(PIXELS, b"123456", data=SIX), "has data and binary_data_size"),
    "size of data that is not there": (one(PIXELS, b"123456"), "binary_data_size is 6, and 0 bytes are left"),
    "shared memory": (one(PIXELS, parameters={"shared_memory_region": "r"}), "shared memory, which is not offered"),
    "unknown parameter": (one(PIXELS, data=SIX, parameters={"content_type": "x"}), "'content_type', which is not known"),
}
PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "sequence": ({"sequence_id": 3, "sequence_start": True}, "there are no sequences here"),
    "priority": ({"priority": 1}, "priority is not offered"),
    "timeout below 0": ({"timeout": -1}, "timeout is -1"),
    "timeout of 65 bits": ({"timeout": 2**64}, "expected microseconds"),
    "timeout of 400 digits": ({"timeout": 10**400}, "expected microseconds"),
    "timeout is true": ({"timeout": True}, "timeout is True"),
    "timeout is a fraction": ({"timeout": 0.5}, "timeout is 0.5"),
    "flag is a number": ({"binary_data_output": 1}, "binary_data_output is 1, expected true or false"),
    "unknown": ({"tempo": 1}, "'tempo', which is not known; known are binary_data_output, priority, timeout"),
}
OUTPUTS: dict[str, tuple[Any, str]] = {
    "a text": ("a", "outputs.0"),
    "no name": ({}, "outputs.0.name: Field required"),
    "no class": ({"name": "a", "parameters": {"classification": 0}}, "classification is 0, expected how many"),
    "classes are true": ({"name": "a", "parameters": {"classification": True}}, "classification is True"),
    "classes are a text": ({"name": "a", "parameters": {"classification": "2"}}, "classification is '2'"),
    "flag is a text": ({"name": "a", "parameters": {"binary_data": "yes"}}, "binary_data is 'yes', expected true or false"),
    "shared memory": ({"name": "a", "parameters": {"shared_memory_byte_size": 4}}, "shared memory, which is not offered"),
    "unknown": ({"name": "a", "parameters": {"k": 4}}, "'k', which is not known; known are binary_data, classification"),
}
REFUSED = {
    **MALFORMED,
    **{
        f"parameters: {name}": ({**one(PIXELS, data=SIX), "parameters": given}, says)
        for name, (given, says) in PARAMETERS.items()
    },
    **{f"outputs: {name}": ({**one(PIXELS, data=SIX), "outputs": [given]}, says) for name, (given, says) in OUTPUTS.items()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_with_what_is_wrong(name: str) -> None:
    request, says = REFUSED[name]
    with pytest.raises(BadRequestError, match=says):
        read(request)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (-1, "binary_data_size is -1, and 6 bytes are left"),
        (7, "binary_data_size is 7, and 6 bytes are left"),
        (10**400, "bytes are left"),
        (5, "6 bytes stand behind the JSON, and the inputs' binary_data_size add up to 5"),
        ("6", "binary_data_size is '6'"),
        (True, "binary_data_size is True"),
        (6.0, r"binary_data_size is 6\.0"),
    ],
)
def test_binary_size_is_that_of_the_bytes(size: Any, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        read(one(PIXELS, parameters={"binary_data_size": size}), bytes(SIX))


def test_length_of_the_json_is_within_the_body_and_the_bound() -> None:
    with pytest.raises(BadRequestError, match="Inference-Header-Content-Length is 9000, and the body is"):
        read(one(PIXELS, data=SIX), json_length=9000)
    with pytest.raises(BadRequestError, match="cannot be read"):
        read(one(PIXELS, bytes(SIX)), bytes(SIX), json_length=0)
    large = one(PIXELS, data=SIX, name="x" * MAX_JSON)
    for length in (None, len(json.dumps(large))):
        with pytest.raises(BodyTooLargeError, match=f"at most {MAX_JSON} are accepted"):
            read(large, json_length=length)
    # What stands behind it does not count.
    assert read(one({**PIXELS, "shape": [2 * MAX_JSON]}, b"x" * 2 * MAX_JSON), b"x" * 2 * MAX_JSON)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes, too few for the lengths of 2 elements"),
        (packed(b"a"), "5 bytes, too few for the lengths of 2"),
        (packed(b"abcd"), "ends before the length of element 1"),
        (packed(b"abc") + b"\1\0\0", "ends before the length of element 1"),
        (packed(b"a") + struct.pack("<I", 1), r"element 1 of inputs\[0\] is 1 bytes, and 0 are left"),
        (packed(b"a") + b"\xff\xff\xff\xff", "element 1 .* is 4294967295 bytes, and 0 are left"),
        (packed(b"a", b"b", b"c"), r"inputs\[0\] is 15 bytes, and its 2 elements take 10"),
    ],
)
def test_lengths_of_elements_add_up_to_the_bytes(data: bytes, says: str) -> None:
    tensor = read(one(IMAGES, data), data).inputs[0]
    with pytest.raises(BadRequestError, match=says):
        elements(tensor)


def test_sizes_are_compared_before_anything_is_made() -> None:
    huge = [2**31 - 1] * 8
    for make, tensor in ((elements, IMAGES), (numbers, PIXELS)):
        for request, behind in ((one(tensor, b"12345678", shape=huge), b"12345678"), (one(tensor, data=[1], shape=huge), b"")):
            with pytest.raises(BadRequestError, match=r"elements|takes"):
                make(read(request, behind).inputs[0])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "has 0 entries; shape .* takes 6"),
        ([1] * 7, "has 7 entries; shape .* takes 6"),
        ([1, 2, 3, 4, 5, 256], "whole numbers from 0 to 255"),
        ([1, 2, 3, 4, 5, -1], "whole numbers from 0 to 255"),
        ([1, 2, 3, 4, 5, 10**400], "whole numbers from 0 to 255"),
        ([1, 2, 3, 4, 5, 6.0], "whole numbers"),
        ([1, 2, 3, 4, 5, True], "whole numbers"),
        ([1, 2, 3, 4, 5, "6"], "whole numbers"),
        ([1, 2, 3, 4, 5, None], "whole numbers"),
        ([1, 2, 3, 4, 5, [6]], "whole numbers"),
        ([[1, 2, 3], [4, 5, 6]], r"not nested as shape \[1, 2, 3\] says"),
        ([[[1, 2, 3], [4, 5]]], "not nested as shape"),
        ([[[1, 2, 3], 4]], "not nested as shape"),
        ([[[[1], [2], [3]], [[4], [5], [6]]]], "whole numbers"),
        ([[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 5, 6]]], "has 12 entries"),
    ],
)
def test_numbers_in_json_are_those_of_the_shape(data: list[Any], says: str) -> None:
    tensor = read(one(PIXELS, data=data)).inputs[0]
    with pytest.raises(BadRequestError, match=says):
        numbers(tensor)


@pytest.mark.parametrize(
    ("data", "says"), [(["a"], "has 1 entries"), (["a", 1], "else than texts"), (["a", None], "texts"), ([["a"], ["b"]], "texts")]
)
def test_elements_in_json_are_texts(data: list[Any], says: str) -> None:
    tensor = read(one(IMAGES, data=data)).inputs[0]
    with pytest.raises(BadRequestError, match=says):
        elements(tensor)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SHAPED = st.fixed_dictionaries(
    {"name": st.just("images"), "shape": st.lists(st.integers(-1, 3), max_size=3) | VALUES, "datatype": st.just("BYTES")},
    optional={"data": VALUES, "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-1, 20) | VALUES)},
)


@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(SHAPED | VALUES, max_size=2) | VALUES},
        optional={"outputs": VALUES, "parameters": VALUES, "id": VALUES},
    )
    | VALUES,
    st.binary(max_size=20),
)
def test_whatever_is_sent_is_read_or_refused(request: Any, behind: bytes) -> None:
    # Anything else than a refusal fails.
    with contextlib.suppress(BadRequestError):
        for tensor in read(request, behind).inputs:
            for make in (elements, numbers):
                with contextlib.suppress(BadRequestError):
                    make(tensor)
