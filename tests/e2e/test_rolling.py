"""Two instances behind a balancer are rolled one after the other, and no client notices."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from tests.support import flood
from tests.support.pictures import picture
from tests.support.processes import end
from tests.support.server import ROOT, Server, free_port, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    RecordProperty = Callable[[str, object], None]

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not os.access(HAPROXY, os.X_OK), reason="there is no haproxy here (Debian: apt-get install haproxy)"),
]
# The drain that docs/operations.md asks for: longer than the balancer needs to notice.
DRAIN_S = 5
CLIENTS, REQUESTS, AT_MOST_S = 8, 5000, 240


@contextlib.contextmanager
def balancer(servers: list[Server], home: Path) -> Iterator[str]:
    """The documented configuration, in front of two instances."""
    port = free_port()
    places = {f"CANDOR_{letter}": server.url.removeprefix("http://") for letter, server in zip("AB", servers, strict=True)}
    with (home / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(ROOT / "docs" / "haproxy.cfg")],
            env={**os.environ, "LISTEN": f"127.0.0.1:{port}", **places},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process, 10)


def wait_until_known(url: str, seconds: float = 10) -> None:
    """Until the balancer has found an instance that is ready."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} is not ready after {seconds} s")


class Pair:
    """Two instances of one registry, which keep their ports."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self._home, self._stack = home, stack
        self._ports = [free_port(), free_port()]
        publish_colours(Registry(home / "registry"), home / "work")
        self.image = home / "green.png"
        self.image.write_bytes(picture("green"))
        self.servers = [self._start(which) for which in range(2)]
        self.url = stack.enter_context(balancer(self.servers, home))
        wait_until_known(self.url)

    def start_again(self, which: int) -> None:
        self.servers[which] = self._start(which)
        # As `minReadySeconds` does it: until the balancer asks it again.
        time.sleep(3)

    def ask(self) -> subprocess.Popen[str]:
        asking = flood.start(f"{self.url}/classify", self.image, clients=CLIENTS, seconds=AT_MOST_S)
        self._stack.callback(asking.kill)
        time.sleep(2)
        return asking

    def _start(self, which: int) -> Server:
        home, registry = self._home / "ab"[which], self._home / "registry"
        started = serve(home, port=self._ports[which], run="serve", registry=registry, drain_s=DRAIN_S)
        return self._stack.enter_context(started)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        yield Pair(tmp_path, stack)


def test_rolling_two_instances_fails_no_request(pair: Pair, record_property: RecordProperty) -> None:
    asking = pair.ask()
    began = time.monotonic()
    for which in range(2):
        assert pair.servers[which].stop() == 0
        pair.start_again(which)
    record_property("rolled in s", round(time.monotonic() - began, 1))
    assert asking.poll() is None, "the load ended before the roll did"
    statuses = Counter(status for *_, status, _ in flood.stop(asking).answers)
    record_property("requests", dict(statuses))
    assert set(statuses) == {200}
    assert statuses[200] >= REQUESTS


def test_killed_instance_fails_only_what_it_had_in_hand(pair: Pair) -> None:
    asking = pair.ask()
    killed = time.monotonic()
    pair.servers[1].process.kill()
    time.sleep(3)
    answers = flood.stop(asking).answers
    # Who had sent something to it, and nobody else.
    assert sum(status != 200 for *_, status, _ in answers) <= CLIENTS
    assert sum(at > killed + 1 and status == 200 for at, _, status, _ in answers) > REQUESTS / 50
