"""Versions change under load: nobody is refused, every answer is of one version, and memory comes back."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from models.registry import Registry
from tests.support.pictures import picture
from tests.support.processes import resident_bytes
from tests.support.server import serve
from tests.support.tiny import colours, publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.fault, pytest.mark.timeout(900)]
GAINS = (12.0, 5.0, 3.0)
CLIENTS, REQUESTS, MOVES = 8, 5000, 20
ROLLBACK_S = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("swaps")
    for gain in GAINS:
        publish_colours(Registry(home / "registry"), home / "work", gain=gain)
    with serve(home, run="serve", mutations_per_minute=100_000) as server:
        yield server


def expected() -> dict[str, float]:
    """What each version says of a green image, by its reference."""
    image = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    image[..., 1] = 255
    found = {}
    for version, gain in enumerate(GAINS, start=1):
        logits = colours(gain).logits(image).astype(np.float64)[0]
        found[f"colours:{version}"] = float(np.exp(logits[1]) / np.exp(logits).sum())
    return found


class Load:
    """Clients in a closed loop, each of which looks at every answer."""

    def __init__(self, url: str, clients: int) -> None:
        self.failures: list[Any] = []
        self.versions: list[str] = []
        self.count = 0
        self._url = url
        self._stop = threading.Event()
        self._known = expected()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        body = picture("green")
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(f"{self._url}/classify", content=body)
                    self._look(response)
                except httpx.HTTPError as err:
                    self.failures.append(repr(err))
                self.count += 1

    def _look(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            self.failures.append(response.text)
            return
        answer, header = response.json(), response.headers["x-model-version"]
        best = answer["results"][0]["predictions"][0]
        same = header == f"colours:{answer['model']['version']}"
        right = best["label"] == "green" and abs(best["probability"] - self._known[header]) < 1e-4
        if not (same and right):
            self.failures.append((header, answer))
        if not self.versions or self.versions[-1] != header:
            self.versions.append(header)


def test_twenty_promotions_and_rollbacks_under_load_fail_nobody(server: Server) -> None:
    rollbacks = []
    with Load(server.url, CLIENTS) as load, httpx.Client(base_url=server.url, timeout=30) as client:
        share = REQUESTS / MOVES
        for move, version in zip(range(MOVES), itertools.cycle((2, None, 3, None)), strict=False):
            asked = time.monotonic()
            if version is None:
                response = client.post("/models/colours/rollback")
            else:
                response = client.post("/models/colours/promote", json={"version": version})
            assert response.status_code == 200
            server.wait_for_version("colours", response.json()["production"], 10)
            if version is None:
                rollbacks.append(time.monotonic() - asked)
            while load.count < share * (move + 1):
                time.sleep(0.01)
    assert load.failures == []
    assert load.count >= REQUESTS
    assert set(load.versions) == {"colours:1", "colours:2", "colours:3"}
    assert max(rollbacks) < ROLLBACK_S


def test_memory_comes_back_after_fifty_swaps(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:

        def swap(times: int) -> None:
            for version, _ in zip(itertools.cycle((2, 3, 1)), range(times), strict=False):
                client.post("/models/colours/promote", json={"version": version})
                server.wait_for_version("colours", version, 10)
                client.post("/classify", content=picture("green"))

        # What a version leaves behind in allocators and caches is there after the first few.
        swap(20)
        before = resident_bytes(server.process.pid)
        swap(50)
        assert resident_bytes(server.process.pid) < 1.05 * before


def test_of_two_who_promote_from_where_they_saw_it_one_is_told_to_look_again(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        client.post("/models/colours/promote", json={"version": 1})
        tag = client.get("/models/colours").headers["etag"]
        answers: list[int] = []

        def promote(version: int) -> None:
            response = httpx.post(
                f"{server.url}/models/colours/promote", json={"version": version}, headers={"if-match": tag}, timeout=30
            )
            answers.append(response.status_code)

        threads = [threading.Thread(target=promote, args=(version,)) for version in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200, 412]


def test_version_that_may_not_serve_is_promoted_in_name_only_and_the_old_one_answers(server: Server) -> None:
    """The alias says what is wanted; what answers, and why it is not that, is said beside it."""
    home = server.log.parent
    broken = publish_colours(Registry(home / "registry"), home / "work", gain=4.0, golden_gain=9.0)
    with Load(server.url, 2) as load, httpx.Client(base_url=server.url, timeout=30) as client:
        serving = client.get("/models/colours").json()["serving"]
        assert client.post("/models/colours/promote", json={"version": broken.version}).status_code == 200
        until = time.monotonic() + 20
        while (shown := client.get("/models/colours").json())["problem"] is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert shown["serving"] == serving
        assert "golden" in shown["problem"]
        assert client.post("/models/colours/rollback").status_code == 200
        server.wait_for_version("colours", serving, 10)
    assert load.failures == []


def test_server_killed_right_after_a_promotion_comes_back_with_what_was_promoted(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    for gain in GAINS[:2]:
        publish_colours(registry, tmp_path / "work", gain=gain)
    with serve(tmp_path, run="serve") as server:
        assert httpx.post(f"{server.url}/models/colours/promote", json={"version": 2}).status_code == 200
        server.process.kill()
        server.process.wait()
    with serve(tmp_path, run="serve") as server:
        answer = httpx.post(f"{server.url}/classify", content=picture("green"))
        assert answer.headers["x-model-version"] == "colours:2"


def test_file_that_goes_missing_is_missed_only_by_the_next_start(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish_colours(registry, tmp_path / "work")
    with serve(tmp_path, run="serve") as server:
        (registry.path("colours", 1) / "model.onnx").unlink()
        assert httpx.post(f"{server.url}/classify", content=picture("green")).status_code == 200
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    with serve(tmp_path, run="serve", ready=False) as server:
        server.wait("/livez", 200)
        until = time.monotonic() + 20
        while (shown := httpx.get(f"{server.url}/models/colours").json())["problem"] is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert "model.onnx" in shown["problem"]
        assert httpx.get(f"{server.url}/readyz").status_code == 503
