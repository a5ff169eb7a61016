"""Image files that mean harm, over HTTP: the right answer or a 4xx, soon, in bounded memory, and no word about the inside."""

from __future__ import annotations

import io
import json
import re
import struct
import time
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.images import noise
from tests.support.mutations import mutated
from tests.support.pictures import COLOURS, encode, picture
from tests.support.processes import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.server import Server

pytestmark = pytest.mark.e2e
MIB = 2**20
GROWTH_BYTES = 50 * MIB
SOON_S = 3.0
# A folder of this machine, or a file of the code.
PATHS = re.compile(r"(/[a-z_.][\w.-]*){2,}|\w+\.py\b|Traceback", re.IGNORECASE)


@pytest.fixture(scope="module")
def server(tiny: Server) -> Server:
    return tiny


@pytest.fixture(autouse=True)
def _next_one_is_answered(client: httpx.Client) -> Iterator[None]:
    yield
    assert label(post(client, picture("green"))) == "green"


def post(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post("/classify", content=body, headers={"content-type": "application/octet-stream"})


def label(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["results"][0]["predictions"][0]["label"])


def png_of(width: int, height: int, bits: int = 1) -> bytes:
    """A PNG of any size in a few kilobytes: zeros compress a thousandfold."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    row, packer = bytes(1 + (width * bits + 7) // 8), zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", pixels) + block(b"IEND", b"")


def gif_of(frames: int) -> bytes:
    """A GIF whose first frame is blue."""
    first = encode(Image.new("P", (64, 64)), "GIF")
    blue = encode(Image.new("RGB", (64, 64), COLOURS["blue"]), "GIF")
    # Everything after the palette, without the end, is a frame.
    frame = first[first.index(b",", 13) : -1]
    return blue[:-1] + frame * (frames - 1) + b";"


def polyglot() -> bytes:
    """A blue PNG that is a zip too, with a script in it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("run.sh", "#!/bin/sh\n")
    return picture("blue") + archive.getvalue()


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (12_960, 12_960), (20_000, 20_000), (40_000, 40_000)])
def test_bomb_is_refused_from_its_header(client: httpx.Client, server: Server, width: int, height: int) -> None:
    bomb = png_of(width, height)
    before, started = resident_bytes(server.process.pid), time.monotonic()
    for _ in range(8):
        answer = post(client, bomb)
        assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
    assert time.monotonic() - started < SOON_S
    assert resident_bytes(server.process.pid) - before < GROWTH_BYTES


def test_gif_of_ten_thousand_frames_is_its_first(client: httpx.Client, server: Server) -> None:
    bomb = gif_of(10_000)
    with Image.open(io.BytesIO(bomb)) as image:
        assert image.n_frames == 10_000
    before, started = resident_bytes(server.process.pid), time.monotonic()
    assert label(post(client, bomb)) == "blue"
    assert time.monotonic() - started < SOON_S
    assert resident_bytes(server.process.pid) - before < GROWTH_BYTES


def test_file_that_is_two_things_is_the_image(client: httpx.Client) -> None:
    with zipfile.ZipFile(io.BytesIO(polyglot())) as archive:
        assert archive.namelist() == ["run.sh"]
    assert label(post(client, polyglot())) == "blue"


def test_text_blocks_that_unpack_to_much_are_not_unpacked(client: httpx.Client, server: Server) -> None:
    """A PNG may carry compressed text and a colour profile; each of these is a kilobyte for a megabyte."""
    whole = picture("blue", size=(40, 40))
    end = whole.index(b"IDAT") - 4
    packed = zlib.compress(bytes(60 * MIB), 9)
    extra = b""
    for kind, data in ((b"zTXt", b"key\0\0" + packed), (b"iCCP", b"icc\0\0" + packed), (b"iTXt", b"key\0\1\0\0\0" + packed)):
        extra += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    before, started = resident_bytes(server.process.pid), time.monotonic()
    answer = post(client, whole[:end] + extra + whole[end:])
    assert answer.status_code in {200, 422}, answer.text
    assert time.monotonic() - started < SOON_S
    assert resident_bytes(server.process.pid) - before < GROWTH_BYTES


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (25_000, 1000)])
def test_odd_shape_is_answered(client: httpx.Client, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, COLOURS["blue"])
    assert label(post(client, encode(image, "PNG"))) == "blue"


def test_progressive_jpeg_with_many_scans_is_bounded_in_time(client: httpx.Client) -> None:
    """Each scan goes over the whole picture again (LibTIFF advisory of 2015, "progressive bombs")."""
    whole = encode(noise(1000, 1000), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    started = time.monotonic()
    answer = post(client, whole[:-2] + scan[: 2 * MIB // 1000 + 20] * 1000 + b"\xff\xd9")
    assert answer.status_code in {200, 422}
    assert time.monotonic() - started < 2 * SOON_S


def test_three_hundred_mutated_images_are_no_fault_of_ours(client: httpx.Client) -> None:
    seen = set()
    for data in mutated(300, 5):
        answer = post(client, data)
        assert answer.status_code in {200, 400, 413, 422}, answer.text
        assert not PATHS.search(json.dumps(answer.json())), answer.text
        explained = client.post("/explain-confidence", content=data) if len(seen) < 2 or answer.status_code == 200 else answer
        assert explained.status_code == answer.status_code, explained.text
        seen.add(answer.status_code)
    assert {200, 422} <= seen


def test_answer_of_an_error_says_nothing_of_the_machine(client: httpx.Client) -> None:
    """By every way in which an error comes about."""
    noisy = encode(noise(80, 80), "PNG")
    answers = [
        post(client, noisy[: len(noisy) // 2]),
        post(client, b"\x89PNG\r\n\x1a\n" + bytes(100)),
        client.post("/classify", content=b"{", headers={"content-type": "application/json"}),
        client.post("/classify", content=b"x", headers={"content-type": "multipart/form-data"}),
        client.post("/classify", json={"images": "/etc/passwd"}),
        client.post("/classify?model=../../etc/passwd", content=picture()),
        client.get("/models/..%2f..%2fetc%2fpasswd"),
        client.get("/models/nobody"),
        client.get("/models/colours/versions/1/report"),
        client.get("/models/colours/interpretation?version=99"),
        client.get("/jobs/nobody"),
        client.get("/datasets/nobody"),
        client.put("/datasets/x", content=b"no zip", headers={"content-type": "application/zip"}),
        client.put("/datasets/..%2fx", content=b"no zip", headers={"content-type": "application/zip"}),
        client.get("/static_content/..%2f..%2fetc%2fpasswd"),
        client.post("/retrain", json={"model": "x", "dataset": "/etc", "idempotency_key": "a"}),
        client.post("/models/colours/promote", json={"version": 99}),
        client.get("/review-queue?model=nobody"),
        client.get("/nope"),
        client.request("DELETE", "/classify"),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500 or answer.status_code == 503, (answer.request.url, answer.text)
        said = PATHS.findall(re.sub(r"/etc(/passwd)?|image/\w+|application/[\w.+-]+|multipart/[\w-]+", "", answer.text))
        routes = {"/models", "/docs", "/jobs", "/datasets"}
        assert not [path for path in said if path not in routes], (answer.request.url, answer.text)
