"""Requests of the Open Inference Protocol, made by Triton's own client, and a service that answers them."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.http as triton

from models.preprocess import load_image, standard_preprocessing
from models.registry import Registry
from tests.support.pictures import picture, side_by_side
from tests.support.tiny import BRIGHTNESS, PRESENCE, SIZE, colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from tests.support.server import Server

TASKS = {"colours": colours(), "presence": PRESENCE, "brightness": BRIGHTNESS}
# Nothing of these is certain, so that equal probabilities say something.
FILES = [side_by_side("red", "black"), side_by_side("green", "blue"), picture("white", "JPEG"), picture("red", "WEBP", mode="L")]
INFER = "/v2/models/colours/infer"
MAX_IMAGES = 8
MAX_JSON = 200_000
SETTINGS = {"run": "serve", "max_images": MAX_IMAGES, "max_json_bytes": MAX_JSON, "max_body_bytes": 1_000_000}


def publish_tasks(home: Path) -> None:
    """A model of each task."""
    for name, tiny in TASKS.items():
        publish_tiny(Registry(home / "registry"), home / "work", name, tiny)


def address(server: Server) -> str:
    return server.url.removeprefix("http://")


def files_in(files: list[bytes], *, binary: bool = True) -> triton.InferInput:
    """The input `images`; in JSON as base64."""
    data = files if binary else [base64.b64encode(file).decode() for file in files]
    sent = triton.InferInput("images", [len(files)], "BYTES")
    return sent.set_data_from_numpy(np.array(data, dtype=object), binary_data=binary)


def pixels_of(files: list[bytes]) -> np.ndarray:
    """What the service makes of files, uint8 [N, 32, 32, 3]."""
    return np.stack([load_image(file, standard_preprocessing(1.0), SIZE, SIZE) for file in files])


def pixels_in(pixels: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    return triton.InferInput("pixels", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=binary)


def one_image(file: bytes = FILES[0], **more: Any) -> dict[str, Any]:
    return {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(file).decode()], **more}


def soon(look: Callable[[], Any], seconds: float = 20) -> Any:
    """What `look` finds, as soon as it finds something."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"nothing in {seconds} s"
        time.sleep(0.05)
    return found


def assert_refused(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert (problem["code"], problem["error"]) == (code, problem["detail"])
    for word in words:
        assert word in problem["detail"]
