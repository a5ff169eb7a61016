"""More than it can do, and work that nobody waits for: what it can do is done, the rest is refused at once, and probes answer."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from models.registry import Registry
from tests.support import flood
from tests.support.images import noise
from tests.support.pictures import encode, picture
from tests.support.processes import resident_bytes
from tests.support.server import serve
from tests.support.tiny import colours, publish_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.server import Server

    Record = Callable[[str, object], None]

pytestmark = [pytest.mark.e2e, pytest.mark.fault]
MIB = 2**20
MOST_IMAGES = 64


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`steady` takes some 30 ms an image and core, `slow` some 250."""
    home = tmp_path_factory.mktemp("overload")
    publish_tiny(Registry(home / "registry"), home / "work", "steady", replace(colours(), slow=1))
    publish_tiny(Registry(home / "registry"), home / "work", "slow", replace(colours(), slow=8))
    (home / "small.png").write_bytes(picture("green"))
    (home / "large.jpg").write_bytes(encode(noise(4000, 3000), "JPEG", quality=80))
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home, run="serve", default_model="steady") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _ends_with_a_good_answer(client: httpx.Client) -> Iterator[None]:
    yield
    until_idle(client)
    answer = client.post("/classify", content=picture("green"))
    assert answer.json()["results"][0]["predictions"][0]["label"] == "green"


def metric(client: httpx.Client, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (.*)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until_idle(client: httpx.Client, seconds: float = 15) -> float:
    """Wait until no image waits or runs, and return how long that took."""
    started = time.monotonic()
    while metric(client, "candor_queue_depth"):
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


def test_five_times_more_than_it_can_do_is_refused_at_once_and_the_rest_is_done(
    home: Path, server: Server, client: httpx.Client, record_property: Record
) -> None:
    url, small = f"{server.url}/classify", home / "small.png"
    peak = flood.result(flood.start(url, small, clients=8, seconds=4)).rate()
    before = resident_bytes(server.process.pid)
    over = flood.result(flood.start(url, small, rate=5 * peak, seconds=6))
    recovered_s = until_idle(client)
    assert {status for _, _, status, _ in over.answers} == {200, 429}
    assert {retry for _, _, status, retry in over.answers if status == 429} == {"1"}
    refusals = np.array(over.took_s(429))
    record_property("goodput of peak", round(over.rate() / peak, 2))
    record_property("refused within ms, p99", round(1000 * float(np.quantile(refusals, 0.99)), 1))
    record_property("slowest answer s", round(max(over.took_s(200)), 2))
    record_property("recovered after s", round(recovered_s, 2))
    assert over.rate() > 0.8 * peak
    assert float(np.median(refusals)) < 0.05
    # Nothing is let in that would wait much longer than CANDOR_QUEUE_WAIT_S.
    assert max(over.took_s(200)) < 2 * 1.5
    assert recovered_s < 2 + 1
    assert resident_bytes(server.process.pid) - before < 50 * MIB


def test_probe_is_answered_while_large_photos_saturate_it(home: Path, server: Server, record_property: Record) -> None:
    with flood.start(f"{server.url}/classify", home / "large.jpg", clients=8, seconds=8) as photos:
        took_s = []
        with httpx.Client(base_url=server.url, timeout=10) as client:
            while photos.poll() is None:
                started = time.monotonic()
                assert client.get("/livez").status_code == 200
                took_s.append(time.monotonic() - started)
                time.sleep(0.005)
        found = flood.result(photos)
    assert found.took_s(200)
    record_property("livez p99 ms", round(1000 * float(np.quantile(took_s, 0.99)), 1))
    record_property("livez samples", len(took_s))
    record_property("photos a second", round(found.rate(), 1))
    assert float(np.quantile(took_s, 0.99)) < 0.1


def many(count: int = MOST_IMAGES) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{number}.png", picture("green"))) for number in range(count)]


def ran(client: httpx.Client) -> float:
    """Images of the slow model that were run so far."""
    return metric(client, 'candor_batch_size_sum{model="slow"}')


def test_work_that_would_come_too_late_is_not_done(client: httpx.Client) -> None:
    """Sixty-four images take many seconds; the caller waits one."""
    late, before = metric(client, 'candor_shed_total{reason="deadline_exceeded"}'), ran(client)
    started = time.monotonic()
    answer = client.post("/classify?model=slow", files=many(), headers={"x-request-timeout-ms": "1000"})
    took_s = time.monotonic() - started
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert answer.headers["retry-after"] == "1"
    assert 1.0 <= took_s < 1.5
    # What runs is finished, what waits is not begun: the lanes are free for others at once.
    assert until_idle(client, 2) < 1
    started = time.monotonic()
    assert client.post("/classify?model=steady", content=picture("red")).status_code == 200
    assert time.monotonic() - started < 2
    time.sleep(1)
    assert ran(client) - before < MOST_IMAGES / 2
    assert metric(client, 'candor_shed_total{reason="deadline_exceeded"}') == late + 1


def test_work_of_those_who_hang_up_is_not_done(server: Server, client: httpx.Client) -> None:
    gone, before = metric(client, 'candor_shed_total{reason="disconnected"}'), ran(client)
    with contextlib.closing(httpx.Client(base_url=server.url, timeout=httpx.Timeout(30, read=0.5))) as impatient:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                impatient.post("/classify?model=slow", files=many())
    assert until_idle(client, 2) < 1.5
    time.sleep(1)
    assert ran(client) - before < MOST_IMAGES
    assert metric(client, 'candor_shed_total{reason="disconnected"}') == gone + 3


def test_refusal_comes_before_the_body_is_read(home: Path) -> None:
    """The queue is full; who sends a large photo is told so when its head is there."""
    with serve(home, run="serve", default_model="slow", queue_limit=8, max_images=8) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{server.url}/classify", files=many(8), timeout=60)
        with server.client() as client:
            while metric(client, "candor_queue_depth") < 8:
                time.sleep(0.01)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            started = time.monotonic()
            lines = ("POST /classify HTTP/1.1", f"host: {host}", "content-type: image/jpeg", "content-length: 5000000", "", "")
            connection.sendall("\r\n".join(lines).encode())
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in answer
        assert time.monotonic() - started < 0.5
        assert first.result().status_code == 200
