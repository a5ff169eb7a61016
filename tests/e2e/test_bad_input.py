"""Everything that a caller can send wrong: a problem with a stable code, never a 500, and the next request is answered."""

from __future__ import annotations

import base64
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import COLOURS, encode, huge_png, large_jpeg, picture
from tests.support.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.support.server import Server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(tiny: Server) -> Iterator[httpx.Client]:
    with tiny.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _still_answers(client: httpx.Client) -> Iterator[None]:
    yield
    assert first_label(client, picture("green")) == "green"


def post(client: httpx.Client, body: bytes, content_type: str = "image/jpeg", query: str = "") -> httpx.Response:
    return client.post(f"/classify{query}", content=body, headers={"content-type": content_type})


def first_label(client: httpx.Client, body: bytes, content_type: str = "image/png") -> str:
    response = post(client, body, content_type)
    assert response.status_code == 200, response.text
    return str(response.json()["results"][0]["predictions"][0]["label"])


def assert_problem(response: httpx.Response, status: int, code: str, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert response.headers["x-request-id"]
    for word in words:
        assert word in problem["detail"]


def animated_gif() -> bytes:
    frames = [Image.new("RGB", (40, 40), COLOURS[c]) for c in ("blue", "red", "green")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.new("RGB", (60, 30), COLOURS["red"]), "JPEG", exif=exif)


def sixteen_bit() -> bytes:
    return encode(Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)), "PNG")


ODD_BUT_GOOD = {
    "png declared as jpeg": (picture("blue"), "image/jpeg"),
    "image/jpg": (picture("blue", "JPEG"), "image/jpg"),
    "octet-stream": (picture("blue", "WEBP"), "application/octet-stream"),
    "bmp": (picture("blue", "BMP"), "image/bmp"),
    "RGBA": (picture("blue", mode="RGBA"), "image/png"),
    "palette": (picture("blue", mode="P"), "image/png"),
    "CMYK": (picture("blue", "JPEG", mode="CMYK"), "image/jpeg"),
    "animated GIF, first frame": (animated_gif(), "image/gif"),
    "1x1": (picture("blue", size=(1, 1)), "image/png"),
    "48 megapixels": (large_jpeg(), "image/jpeg"),
    "parameters after the type": (picture("blue"), "image/png; charset=binary"),
    "bytes after the image": (picture("blue", "JPEG") + b"trailing", "image/jpeg"),
}


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_odd_but_good_image_is_answered(client: httpx.Client, name: str) -> None:
    body, content_type = ODD_BUT_GOOD[name]
    assert first_label(client, body, content_type) == "blue"


# The probabilities say what the pixels were: the model's logits are 12 times the mean of each channel.
@pytest.mark.parametrize(
    ("body", "grey"),
    [
        (picture("red", mode="L"), True),
        (picture("red", mode="1"), True),
        (sixteen_bit(), True),
        (rotated_jpeg(), False),
    ],
    ids=["greyscale", "one bit", "16-bit", "EXIF-rotated"],
)
def test_other_modes_are_answered_by_their_pixels(client: httpx.Client, body: bytes, grey: bool) -> None:
    response = post(client, body)
    assert response.status_code == 200, response.text
    best, *others = response.json()["results"][0]["predictions"]
    assert best["probability"] == pytest.approx(1 / 3 if grey else 1.0, abs=1e-3)
    assert len(others) == 2


def test_empty_body_is_refused(client: httpx.Client) -> None:
    assert_problem(post(client, b""), 400, "empty_body")
    assert_problem(post(client, b"", "application/json"), 400, "empty_body")
    assert_problem(post(client, b'{"images": []}', "application/json"), 400, "empty_body")


def test_text_sent_as_an_image_is_unreadable(client: httpx.Client) -> None:
    assert_problem(post(client, b"a cat, I promise"), 422, "unreadable_image", "JPEG, PNG, WebP, BMP or GIF")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_image_is_unreadable(client: httpx.Client, format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    whole = encode(noise, format)
    assert_problem(post(client, whole[: len(whole) // 2]), 422, "unreadable_image")


def test_huge_png_is_refused_from_its_header(client: httpx.Client) -> None:
    assert_problem(post(client, huge_png(), "image/png"), 413, "image_too_large", "9000 x 9000")


def test_body_over_the_limit_is_refused_before_it_is_read(tiny: Server) -> None:
    host, port = tiny.url.removeprefix("http://").split(":")
    head = f"POST /classify HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/jpeg\r\ncontent-length: 900000000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head.encode() + b"x" * 1000)
        # Only a kilobyte of the 900 MB was sent, and the answer is there.
        answer = b""
        while b"body_too_large" not in answer and (more := connection.recv(65536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer


def test_body_that_hides_its_length_is_cut_off(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 100_000

    response = client.post("/classify", content=chunks(), headers={"content-type": "image/jpeg"})
    assert_problem(response, 413, "body_too_large", "9000000")


def test_unknown_model_names_those_that_are_served(client: httpx.Client) -> None:
    assert_problem(post(client, picture(), query="?model=birds"), 404, "unknown_model", "birds", "colours")
    assert_problem(post(client, picture(), query="?model=colours:9"), 404, "unknown_model", "colours:9", "[1]")
    assert_problem(post(client, picture(), query="?model=../../etc/passwd"), 404, "unknown_model")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "video/mp4", "nonsense"])
def test_unknown_content_type_is_unsupported(client: httpx.Client, content_type: str) -> None:
    assert_problem(post(client, picture(), content_type), 415, "unsupported_media_type", content_type)


def test_pickle_is_unsupported(client: httpx.Client) -> None:
    assert_problem(post(client, b"\x80\x04.", "application/vnd.bentoml+pickle"), 415, "unsupported_media_type")


@pytest.mark.parametrize("value", ["0", "-1", "1001", "many", "1.5", "", "NaN"])
def test_top_k_out_of_range_is_invalid(client: httpx.Client, value: str) -> None:
    response = post(client, picture(), query=f"?top_k={value}")
    if value == "":
        assert response.status_code == 200
    else:
        assert_problem(response, 400, "invalid_parameter", "top_k", value)


def test_unknown_parameter_is_invalid(client: httpx.Client) -> None:
    assert_problem(post(client, picture(), query="?topk=3"), 400, "invalid_parameter", "topk", "top_k")


def test_address_in_a_file_field_is_never_fetched(client: httpx.Client) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.5)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.jpg"
        as_part = client.post("/classify", files={"images": (None, address)})
        as_json = client.post("/classify", json={"images": [address]})
        as_form = post(client, f"images={address}".encode(), "application/x-www-form-urlencoded")
        as_body = post(client, address.encode(), "image/jpeg")
        with pytest.raises(TimeoutError):
            listener.accept()
    assert_problem(as_part, 400, "invalid_parameter", "never fetched")
    assert_problem(as_json, 422, "unreadable_image", "never fetched")
    assert_problem(as_form, 415, "unsupported_media_type")
    assert_problem(as_body, 422, "unreadable_image")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"null", b'{"images": 3}', b'{"images": {}}', b'{"images": ["aa"], "top_k": "x"}', b"\xff\xfe", b"[" * 100_000],
)
def test_malformed_json_is_invalid(client: httpx.Client, body: bytes) -> None:
    assert_problem(post(client, body, "application/json"), 400, "invalid_parameter")


def test_json_body_has_a_tighter_limit_than_bytes(tiny_home: Path) -> None:
    with serve(tiny_home, run="serve", max_json_bytes=20_000) as server, server.client() as client:
        body = b'{"images": ["' + b"A" * 30_000 + b'"]}'
        assert_problem(post(client, body, "application/json"), 413, "body_too_large", "20000")
        assert post(client, picture("blue", "BMP", size=(200, 200))).status_code == 200


def test_json_images_that_are_not_base64_are_unreadable(client: httpx.Client) -> None:
    for entry in ("not base64!", 7, None, ["aa"]):
        assert_problem(client.post("/classify", json={"images": [entry]}), 422, "unreadable_image", "images[0]")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"nothing like it", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data"),
    ],
)
def test_malformed_multipart_is_refused(client: httpx.Client, body: bytes, content_type: str) -> None:
    response = post(client, body, content_type)
    assert response.status_code == 400, response.text
    assert response.json()["code"] in {"invalid_parameter", "empty_body"}


def test_file_part_of_another_name_is_invalid(client: httpx.Client) -> None:
    assert_problem(client.post("/classify", files={"picture": picture()}), 400, "invalid_parameter", "picture")


def test_too_many_images_are_refused(client: httpx.Client) -> None:
    one = base64.b64encode(picture(size=(2, 2))).decode()
    assert_problem(client.post("/classify", json={"images": [one] * 65}), 400, "invalid_parameter", "65", "64")
    files = [("images", ("a.png", picture(size=(2, 2)))) for _ in range(65)]
    assert_problem(client.post("/classify", files=files), 400, "invalid_parameter", "Maximum number of files is 64")


def test_unknown_route_and_method_are_problems(client: httpx.Client) -> None:
    assert_problem(client.get("/nope"), 404, "not_found")
    assert_problem(client.get("/classify"), 405, "method_not_allowed")
    assert_problem(client.post("/models"), 405, "method_not_allowed")


def test_other_sites_and_other_hosts_are_refused(client: httpx.Client) -> None:
    elsewhere: dict[str, Any] = {"content-type": "image/png", "origin": "https://evil.example"}
    assert_problem(client.post("/classify", content=picture(), headers=elsewhere), 403, "foreign_origin", "evil.example")
    assert_problem(client.get("/models", headers={"host": "evil.example"}), 403, "unknown_host", "evil.example")
    neighbour = {"origin": "http://127.0.0.1:8080"}
    assert_problem(client.get("/models", headers=neighbour), 403, "foreign_origin", "127.0.0.1:8080")
    same = {"origin": str(client.base_url)}
    assert client.get("/models", headers=same).status_code == 200


def test_request_id_is_kept_when_it_is_one_and_replaced_when_it_is_not(client: httpx.Client) -> None:
    assert client.get("/models", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/models", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_random_bytes_and_mutations_never_break_it(client: httpx.Client) -> None:
    rng = np.random.default_rng(1)
    whole = [picture("red", format) for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP")]
    for number in range(150):
        data = bytearray(whole[number % len(whole)])
        for position in rng.integers(0, len(data), 4):
            data[position] = rng.integers(0, 256)
        response = post(client, bytes(data))
        assert response.status_code in {200, 413, 422}, response.text
