"""Faults injected into a running service; each ends with one good request that must succeed."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from tests.support.pictures import large_jpeg, picture
from tests.support.server import serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.fault]


def assert_good(server: Server) -> None:
    response = ask(server, picture("green"))
    assert response.json()["results"][0]["predictions"][0]["label"] == "green"


def ask(server: Server, body: bytes, timeout: float | httpx.Timeout = 60) -> httpx.Response:
    return httpx.post(f"{server.url}/classify", content=body, headers={"content-type": "image/jpeg"}, timeout=timeout)


def test_term_answers_what_is_in_flight_and_exits_cleanly(tmp_path: Path) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    body = large_jpeg()
    files = [("images", (f"{number}.jpg", body)) for number in range(24)]
    with serve(tmp_path, run="serve") as server, ThreadPoolExecutor(1) as pool:
        photos = pool.submit(httpx.post, f"{server.url}/classify", files=files, timeout=60)
        until = time.monotonic() + 20
        # Twenty-four 48-megapixel photos take more than a second on two cores.
        while "candor_queue_depth 24.0" not in httpx.get(f"{server.url}/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        answer = photos.result()
        assert answer.status_code == 200
        assert [result["predictions"][0]["label"] for result in answer.json()["results"]] == ["blue"] * 24
        assert server.process.wait(20) == 0


def test_clients_that_hang_up_do_no_harm(tmp_path: Path) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    with serve(tmp_path, run="serve") as server:
        host, port = server.url.removeprefix("http://").split(":")
        for sent in (b"", b"POST /cla", b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\nabc"):
            for _ in range(20):
                with socket.create_connection((host, int(port)), timeout=5) as connection:
                    connection.sendall(sent)
        body = large_jpeg()
        for _ in range(5):
            with pytest.raises(httpx.TimeoutException):
                ask(server, body, httpx.Timeout(5, read=0.01))
        assert_good(server)
        assert httpx.get(f"{server.url}/livez").status_code == 200


def test_version_altered_on_disk_is_not_taken_over_and_the_old_one_answers(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish_colours(registry, tmp_path / "work")
    with serve(tmp_path, run="serve") as server:
        publish_colours(registry, tmp_path / "work", gain=6.0)
        model = registry.path("colours", 2) / "model.onnx"
        data = bytearray(model.read_bytes())
        data[-20] ^= 1
        model.write_bytes(bytes(data))
        registry.promote("colours", 2)
        until = time.monotonic() + 10
        while not (shown := httpx.get(f"{server.url}/models/colours").json())["problem"]:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert (shown["production"], shown["serving"]) == (2, 1)
        assert "model.onnx was altered" in shown["problem"]
        assert_good(server)
        registry.rollback("colours")
        until = time.monotonic() + 10
        while httpx.get(f"{server.url}/models/colours").json()["problem"]:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_registry_that_goes_away_leaves_the_service_answering(tmp_path: Path) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    with serve(tmp_path, run="serve") as server:
        (tmp_path / "registry").rename(tmp_path / "elsewhere")
        time.sleep(2.5)
        assert_good(server)
        (tmp_path / "elsewhere").rename(tmp_path / "registry")
        assert_good(server)


def test_overload_is_refused_at_once_with_retry_after_and_ends(tmp_path: Path) -> None:
    publish_colours(Registry(tmp_path / "registry"), tmp_path / "work")
    body = large_jpeg()
    with serve(tmp_path, run="serve", queue_limit=4, max_images=4) as server:

        def photo(_: int) -> tuple[int, str | None]:
            response = ask(server, body)
            return response.status_code, response.headers.get("retry-after")

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(photo, range(24)))
        assert {status for status, _ in answers} == {200, 429}
        assert all(retry == "1" for status, retry in answers if status == 429)
        assert_good(server)
