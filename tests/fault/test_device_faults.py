"""What computes breaks: for one image, or for good."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from PIL import Image

from models.registry import Registry
from service.logs import EXIT_DEVICE_LOST
from tests.support.broken_device import MAGENTA
from tests.support.pictures import encode, picture
from tests.support.server import serve
from tests.support.tiny import colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Record = Callable[[str, object], None]

pytestmark = [pytest.mark.e2e, pytest.mark.fault]
SLACK_S = 15.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Colours, by a network that divides 0 by 0 at a black image."""
    publish_tiny(Registry(tmp_path / "registry"), tmp_path / "work", "colours", replace(colours(), breaks_on_black=True))
    return tmp_path


def classify(client: httpx.Client, colour: str = "green") -> httpx.Response:
    return client.post("/classify", content=picture(colour), headers={"content-type": "image/png"})


def strict(text: str) -> object:
    """JSON as its standard has it, which knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in {text}")

    return json.loads(text, parse_constant=refuse)


def test_image_that_breaks_the_network_fails_alone_whoever_it_came_with(home: Path) -> None:
    with serve(home, run="serve", max_batch=8) as server, server.client() as client, ThreadPoolExecutor(16) as pool:
        asked = ["green", "black", "red", "blue"] * 60
        for colour, answer in zip(asked, pool.map(lambda colour: classify(client, colour), asked), strict=True):
            strict(answer.text)
            if colour == "black":
                assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            else:
                assert answer.json()["results"][0]["predictions"][0]["label"] == colour
        together = client.post("/classify", files=[("images", (colour, picture(colour))) for colour in asked[:8]])
        strict(together.text)
        found = together.json()["results"]
        said = [result["error"]["code"] if "error" in result else result["predictions"][0]["label"] for result in found]
        assert said == ["green", "internal", "red", "blue"] * 2
        assert "NaN" not in client.post("/explain-confidence", content=picture("black")).text
        assert client.get("/readyz").status_code == 200


def test_device_that_breaks_ends_the_answers_and_the_process(home: Path, record_property: Record) -> None:
    poison = encode(Image.fromarray(np.full((40, 40, 3), MAGENTA, dtype=np.uint8)), "PNG")
    answers: list[tuple[float, int | None]] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not stop.is_set():
                try:
                    status: int | None = classify(client).status_code
                except httpx.TransportError:
                    status = None
                answers.append((time.monotonic(), status))

    with serve(home, run="serve", module="tests.support.broken_device") as server:
        threads = [threading.Thread(target=ask, args=(server.url,), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answers) < 100:
            time.sleep(0.01)
        assert {status for _, status in answers} == {200}
        broken = httpx.post(f"{server.url}/classify", content=poison, timeout=10)
        at = time.monotonic()
        assert (broken.status_code, broken.json()["code"]) == (503, "not_ready")
        assert "secret" not in broken.text
        for path in ("/livez", "/readyz", "/models"):
            with contextlib.suppress(httpx.TransportError):
                assert httpx.get(server.url + path, timeout=5).status_code == 503
        assert server.process.wait(SLACK_S) == EXIT_DEVICE_LOST
        took_s = time.monotonic() - at
        stop.set()
        for thread in threads:
            thread.join(15)
        assert {status for when, status in answers if when > at} <= {503, None}
        log = server.log.read_text()
    assert log.count("CRITICAL candor.device: the device is lost, and this process ends: CUDA failure 700") == 1
    record_property("ended after s", round(took_s, 2))
    assert took_s < 1 + SLACK_S
