"""The real service in a process of its own, for what is measured from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import psutil

from training.sample import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

_PORT, _START_S, _STOP_S = 3097, 120, 60


@contextmanager
def served(home: str, **settings: str) -> Iterator[httpx.Client]:
    """Serve the state in `home` on loopback while the context lasts, and give a client of it."""
    with started(home, **settings) as (client, _):
        yield client


@contextmanager
def started(home: str, **settings: str) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """The same, with the process; of a caller's own settings none is taken over."""
    named = {f"CANDOR_{name.upper()}": value for name, value in settings.items()}
    others = {name: value for name, value in os.environ.items() if not name.startswith("CANDOR_")}
    variables = others | {"CANDOR_HOME": home, "CANDOR_PORT": str(_PORT), **named}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", "service"], env=variables, stdout=quiet, stderr=quiet)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{_PORT}", timeout=60) as client:
            _wait(client)
            yield client, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_S)


def sample_images() -> list[bytes]:
    """A tenth of the sample's test images, as PNG."""
    with zipfile.ZipFile(SAMPLE) as sample:
        return [sample.read(name) for name in sorted(sample.namelist()) if "/test/" in name and name.endswith(".png")][::10]


def _wait(client: httpx.Client) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the service was not ready within {_START_S} s")
