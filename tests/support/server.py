"""The real service in a process of its own, on loopback, ended by its process id."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.support.processes import end

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 120
# A trainer may take 25 s over its checkpoint, and the server 30 to drain.
STOP_S = 60


class Server:
    """A running `python -m service`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, limits=httpx.Limits(max_connections=100))

    def wait(self, path: str, status: int, seconds: float = START_S) -> httpx.Response:
        """Ask until `path` answers `status`."""
        until = time.monotonic() + seconds
        last = "no answer"
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                response = httpx.get(self.url + path, timeout=5)
            except httpx.TransportError as err:
                last = repr(err)
            else:
                if response.status_code == status:
                    return response
                last = f"{response.status_code} {response.text}"
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status} in {seconds} s (last: {last})\n{self.log.read_text()}")

    def wait_for_version(self, name: str, version: int, seconds: float) -> None:
        """Ask until `version` is what answers under `name`."""
        until = time.monotonic() + seconds
        shown = None
        while time.monotonic() < until:
            response = httpx.get(f"{self.url}/models/{name}", timeout=5)
            shown = response.json()
            if response.status_code == 200 and shown["serving"] == version:
                return
            time.sleep(0.05)
        raise AssertionError(f"{name}:{version} does not answer after {seconds} s: {shown}\n{self.log.read_text()}")

    def stop(self) -> int:
        """TERM, then wait; KILL if it hangs."""
        return end(self.process, STOP_S)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(home: Path, **settings: object) -> dict[str, str]:
    """The environment of a command: the caller's, without any CANDOR_ variable but these."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CANDOR_")}
    return {**inherited, "CANDOR_HOME": str(home), **{f"CANDOR_{key.upper()}": str(value) for key, value in settings.items()}}


@contextmanager
def serve(
    home: Path, *, ready: bool = True, module: str = "service", port: int | None = None, **settings: object
) -> Iterator[Server]:
    """Start the service over the state in `home`, or what a test puts in its place."""
    port = free_port() if port is None else port
    log = home / f"service-{port}.log"
    home.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=environment(home, port=port, **settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        if ready:
            server.wait("/readyz", 200)
        yield server
    finally:
        server.stop()
