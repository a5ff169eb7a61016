"""What must not grow with what callers send: the number of metric series, and memory."""

from __future__ import annotations

import http.client
import random
import re
import string
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from models.registry import Registry
from tests.support import flood
from tests.support.pictures import picture
from tests.support.processes import resident_bytes
from tests.support.server import serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    from tests.support.server import Server

    Record = Callable[[str, object], None]

pytestmark = pytest.mark.e2e
MIB = 2**20
PATHS, NAMES, REQUESTS = 5000, 100, 20_000
METHODS = ("GET", "GET", "GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")
ROUTES = ("/models", "/jobs", "/datasets", "/static_content", "/v2/models", "/classify", "/metrics", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("steady")
    publish_colours(Registry(home / "registry"), home / "work")
    (home / "small.png").write_bytes(picture("green"))
    with serve(home, run="serve", mutations_per_minute=1_000_000) as server:
        yield server


def word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "._-~äø\u2028 %/\\\"'{}", k=rng.randint(1, 30)))


def random_path(rng: random.Random) -> str:
    return rng.choice(ROUTES) + "/" + quote("/".join(word(rng) for _ in range(rng.randint(1, 4))))


def series(client: httpx.Client) -> set[str]:
    """Name and labels of each series."""
    text = client.get("/metrics").text
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


def test_random_paths_and_names_make_no_series(server: Server, client: httpx.Client) -> None:
    rng = random.Random(11)
    with closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)) as connection:

        def ask(method: str, path: str, body: bytes = b"") -> int:
            connection.request(method, path, body or None, {"content-type": "image/png"})
            response = connection.getresponse()
            response.read()
            return response.status

        # Each route, method and status once: from then on there is nothing new.
        for path in [random_path(rng) for _ in range(2000)]:
            assert ask(rng.choice(METHODS), path) < 500, path
        for _ in range(5):
            ask("POST", "/classify?model=nobody", picture())
            client.get("/metrics")
        before, size = series(client), len(client.get("/metrics").content)
        for path in [random_path(rng) for _ in range(PATHS)]:
            assert ask(rng.choice(METHODS), path) < 500, path
        for _ in range(NAMES):
            assert ask("POST", f"/classify?model={quote(word(rng))}", picture()) == 404
        after = series(client)
    new = after - before
    # A method that a route had not refused yet, at most: both of closed sets.
    assert all(re.match(r"candor_requests_(total|created)\{", line) for line in new), new
    assert len(new) < 10, new
    assert len(client.get("/metrics").content) < size + 2000
    started = time.monotonic()
    client.get("/metrics")
    assert time.monotonic() - started < 0.5


def test_memory_does_not_grow_with_requests(server: Server, tmp_path: Path, record_property: Record) -> None:
    (tmp_path / "small.png").write_bytes(picture("green"))

    def ask(count: int) -> None:
        found = flood.result(flood.start(f"{server.url}/classify", tmp_path / "small.png", clients=8, seconds=100, count=count))
        assert {status for _, _, status, _ in found.answers} == {200}
        assert len(found.answers) >= count

    ask(3000)
    before = resident_bytes(server.process.pid)
    ask(REQUESTS)
    grown = resident_bytes(server.process.pid) - before
    record_property("growth MiB", round(grown / MIB, 1))
    assert grown < 20 * MIB
