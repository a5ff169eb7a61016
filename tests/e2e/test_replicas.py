"""Processes that share nothing but a registry: a folder, and a bucket of a real S3 server, which goes away and comes back."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from models.open_registry import open_registry
from tests.support.buckets import Bucket, s3, silent
from tests.support.pictures import picture
from tests.support.server import Server, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.registry import Registry

pytestmark = [pytest.mark.e2e, pytest.mark.fault, pytest.mark.timeout(600)]
GAINS = (12.0, 5.0, 3.0)
REACH_S = 5.0
AWAY_S = 6.0
# So old is what is known of a registry only where it is away: it is read every two seconds.
OLD_S = 3.0


@dataclass
class Shared:
    """A registry with three versions, the first in production."""

    registry: Registry
    home: Path
    bucket: Bucket | None

    def serve(self, name: str, *, ready: bool = True) -> AbstractContextManager[Server]:
        return serve(self.home / name, run="serve", registry=self.registry.place, ready=ready)

    @contextmanager
    def serve_two(self) -> Iterator[list[Server]]:
        """Two replicas, which are started at once."""
        with self.serve("a", ready=False) as first, self.serve("b", ready=False) as second:
            for server in (first, second):
                server.wait("/readyz", 200)
            yield [first, second]


def publish_three(registry: Registry, work: Path) -> None:
    for gain in GAINS:
        publish_colours(registry, work, gain=gain)


@pytest.fixture(params=["folder", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    with ExitStack() as stack:
        bucket = stack.enter_context(s3()) if request.param == "s3" else None
        place = tmp_path / "registry" if bucket is None else bucket.url
        registry = open_registry(place, tmp_path / "operator")
        publish_three(registry, tmp_path / "work")
        yield Shared(registry, tmp_path, bucket)


def answers(server: Server) -> str:
    response = httpx.post(f"{server.url}/classify", content=picture("green"), timeout=10)
    assert response.status_code == 200, response.text
    return response.headers["x-model-version"]


def promote(server: Server, version: int) -> httpx.Response:
    return httpx.post(f"{server.url}/models/colours/promote", json={"version": version}, timeout=30)


def seconds_until_all_answer(servers: list[Server], reference: str, seconds: float) -> float:
    started = time.monotonic()
    while {answers(server) for server in servers} != {reference}:
        assert time.monotonic() - started < seconds, [answers(server) for server in servers]
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_promotion_reaches_every_replica_and_one_that_starts_later(shared: Shared, record_property) -> None:
    with shared.serve_two() as (first, second):
        assert [answers(first), answers(second)] == ["colours:1", "colours:1"]
        for version in (2, 3, 1, 2):
            assert promote(first, version).status_code == 200
            took = seconds_until_all_answer([first, second], f"colours:{version}", REACH_S)
            record_property("reach_s", f"{took:.2f}")
        # By hand, past every service.
        shared.registry.rollback("colours")
        seconds_until_all_answer([first, second], "colours:1", REACH_S)
        with shared.serve("c") as third:
            assert answers(third) == "colours:1"
            assert promote(third, 3).status_code == 200
            seconds_until_all_answer([first, second, third], "colours:3", REACH_S)


def age(server: Server) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("candor_registry_age_seconds "))


def is_read_again(server: Server) -> None:
    until = time.monotonic() + REACH_S
    while age(server) > OLD_S:
        assert time.monotonic() < until
        time.sleep(0.05)


def stays(servers: list[Server], reference: str, seconds: float) -> None:
    """Every replica answers, with the same version, and is ready, for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for server in servers:
            assert answers(server) == reference
            for path in ("/livez", "/readyz"):
                assert httpx.get(server.url + path, timeout=5).status_code == 200
        time.sleep(0.1)


def test_a_folder_that_goes_away_takes_no_replica_along(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "registry", tmp_path)
    publish_three(registry, tmp_path / "work")
    shared = Shared(registry, tmp_path, None)
    with shared.serve_two() as (first, second):
        (tmp_path / "registry").rename(tmp_path / "unmounted")
        stays([first, second], "colours:1", OLD_S + 1)
        assert age(first) > OLD_S
        (tmp_path / "unmounted").rename(tmp_path / "registry")
        registry.promote("colours", 2)
        seconds_until_all_answer([first, second], "colours:2", REACH_S)
        is_read_again(first)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Shared]:
    with s3() as bucket:
        registry = open_registry(bucket.url, tmp_path / "operator")
        publish_three(registry, tmp_path / "work")
        yield Shared(registry, tmp_path, bucket)


def test_a_store_that_goes_away_takes_no_replica_along_nor_one_that_starts_again(stored: Shared) -> None:
    bucket = stored.bucket
    assert bucket is not None
    with stored.serve_two() as (first, second):
        with stored.serve("c") as third:
            assert promote(third, 2).status_code == 200
            seconds_until_all_answer([first, second, third], "colours:2", REACH_S)
            bucket.stop()
            stays([first, second, third], "colours:2", AWAY_S)
            assert age(first) > OLD_S
            shown = httpx.get(f"{first.url}/models/colours", timeout=10).json()
            assert (shown["production"], shown["serving"], shown["problem"]) == (2, 2, None)
            refused = promote(first, 3)
            assert (refused.status_code, refused.json()["code"]) == (503, "registry_unreachable")
            assert "127.0.0.1" not in refused.text
        with stored.serve("c") as third:
            stays([first, second, third], "colours:2", 1.0)
            bucket.start()
            stored.registry.promote("colours", 3)
            seconds_until_all_answer([first, second, third], "colours:3", 2 * REACH_S)
            for server in (first, second, third):
                is_read_again(server)
        log = first.log.read_text()
        assert log.count("what is loaded, or kept here, goes on answering") == 1
        assert "Traceback" not in log


def test_a_replica_that_has_never_seen_the_store_waits_for_it_unready(stored: Shared) -> None:
    bucket = stored.bucket
    assert bucket is not None
    bucket.stop()
    with stored.serve("new", ready=False) as server:
        server.wait("/livez", 200)
        time.sleep(3)
        assert httpx.get(f"{server.url}/readyz", timeout=5).status_code == 503
        bucket.start()
        server.wait("/readyz", 200, 15)
        assert answers(server) == "colours:1"


def test_a_store_that_takes_connections_and_never_answers_holds_up_nobody(stored: Shared) -> None:
    bucket = stored.bucket
    assert bucket is not None
    with stored.serve_two() as (server, other):
        bucket.stop()
        slowest = dict.fromkeys(("/classify", "/livez", "/readyz"), 0.0)
        with silent(bucket.port), httpx.Client(base_url=server.url, timeout=30) as client:
            until = time.monotonic() + 15
            while time.monotonic() < until:
                for path, slowest_yet in slowest.items():
                    asked = time.monotonic()
                    response = client.post(path, content=picture("green")) if path == "/classify" else client.get(path)
                    assert response.status_code == 200, response.text
                    slowest[path] = max(slowest_yet, time.monotonic() - asked)
            assert max(slowest.values()) < 1.0, slowest
            asked = time.monotonic()
            assert promote(other, 2).json()["code"] == "registry_unreachable"
            assert time.monotonic() - asked < 8
        bucket.start()
        stored.registry.promote("colours", 2)
        seconds_until_all_answer([server, other], "colours:2", 3 * REACH_S)


def test_a_download_that_takes_long_holds_up_no_other_name_and_no_end(stored: Shared) -> None:
    bucket = stored.bucket
    assert bucket is not None
    for gain in GAINS[:2]:
        publish_colours(stored.registry, stored.home / "work", "others", gain=gain)
    with stored.serve("a") as server, bucket.trickling("colours/versions/2/model.onnx"):
        stored.registry.promote("colours", 2)
        time.sleep(REACH_S)
        stored.registry.promote("others", 2)
        server.wait_for_version("others", 2, REACH_S)
        stored.registry.rollback("others")
        server.wait_for_version("others", 1, REACH_S)
        assert httpx.get(f"{server.url}/models/colours", timeout=10).json()["serving"] == 1
        is_read_again(server)
        asked = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - asked < REACH_S
