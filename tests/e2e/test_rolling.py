"""Two instances behind a balancer are rolled one after the other, and no client notices."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from models.registry import Registry
from tests.support import flood
from tests.support.pictures import picture
from tests.support.server import ROOT, Server, free_port, serve
from tests.support.tiny import publish_colours

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        process.terminate()
        process.wait(10)


def wait_until_known(url: str, seconds: float = 10) -> None:
    """Until the balancer has found an instance that is ready."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} is not ready after {seconds} s")


def test_rolling_two_instances_fails_no_request(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    registry = tmp_path / "registry"
    publish_colours(Registry(registry), tmp_path / "work")
    image = tmp_path / "green.png"
    image.write_bytes(picture("green"))
    homes, ports = [tmp_path / "a", tmp_path / "b"], [free_port(), free_port()]

    def start(which: int, stack: contextlib.ExitStack) -> Server:
        started = serve(homes[which], port=ports[which], run="serve", registry=registry, drain_s=DRAIN_S)
        return stack.enter_context(started)

    with contextlib.ExitStack() as stack:
        servers = [start(which, stack) for which in range(2)]
        url = stack.enter_context(balancer(servers, tmp_path))
        wait_until_known(url)
        asking = flood.start(f"{url}/classify", image, clients=CLIENTS, seconds=AT_MOST_S)
        stack.callback(asking.kill)
        time.sleep(2)
        began = time.monotonic()
        for which in range(2):
            assert servers[which].stop() == 0
            servers[which] = start(which, stack)
            # As `minReadySeconds` does it: until the balancer asks it again.
            time.sleep(3)
        rolled_s = time.monotonic() - began
        assert asking.poll() is None, "the load ended before the roll did"
        answers = flood.stop(asking).answers
    statuses = {status: sum(found == status for *_, found, _ in answers) for status in {found for *_, found, _ in answers}}
    record_property("requests", statuses)
    record_property("rolled in s", round(rolled_s, 1))
    assert set(statuses) == {200}
    assert statuses[200] >= REQUESTS
