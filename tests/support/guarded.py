"""What the guard uses of an engine, and the guard around an application behind real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import uvicorn

from service.admission import Admission
from service.audit import Audit
from service.budget import Budget
from service.device import Device
from service.guard import Guard
from service.http import Protocol
from service.keys import Keyring, create_key
from service.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.access import KeyScope
    from service.observer import Observer


class Engine:
    """What the guard uses of an engine, with files in `home`."""

    def __init__(self, home: Path, **settings: Any) -> None:
        given = {"host": "127.0.0.1", "allowed_hosts": (), "allow_unauthenticated": None, "mutations_per_minute": 120, **settings}
        self.keys = home / "keys.json"
        self.metrics = Metrics()
        self.budget = Budget(100)
        self.clock = 0.0
        self.is_closing = False
        self.elsewhere = lambda path: None
        self.audit = Audit(home / "audit.jsonl", lambda: self.clock)
        self.device = Device(lambda code: None)
        self.observer: Observer | None = None
        self.home = home
        self._settings = SimpleNamespace(**given)
        self.admission = Admission(self._settings, None, self.metrics)  # type: ignore[arg-type]

    def get(self) -> Engine:
        return self

    def key(self, *scopes: KeyScope, name: str | None = None) -> str:
        """Make a key; from the first one on, keys are needed."""
        token = create_key(self.keys, scopes, name)[1]
        self.admission = Admission(self._settings, Keyring(self.keys), self.metrics)  # type: ignore[arg-type]
        return token

    def audited(self) -> list[dict[str, Any]]:
        path = self.home / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def listening(app: Any, engine: Engine, protocol: type[Protocol] = Protocol) -> Iterator[tuple[str, int]]:
    """Serve an application behind the guard in a thread, with our protocol; host and port."""
    config = uvicorn.Config(
        Guard(app, engine, lambda _: False),  # type: ignore[arg-type]
        http=protocol,
        port=0,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=60,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < until
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        # Whoever is still connected is not waited for.
        server.force_exit = True
        thread.join(20)


@contextmanager
def connected(home: Path, app: Any, protocol: type[Protocol]) -> Iterator[socket.socket]:
    """A connection to an application behind the guard that has room for 100 MB of bodies."""
    engine = Engine(home)
    engine.budget = Budget(10**8)
    with listening(app, engine, protocol) as address, socket.create_connection(address, timeout=10) as connection:
        yield connection


def read(connection: socket.socket, until: bytes) -> bytes:
    """What comes until `until` did, or the connection ends."""
    received = b""
    while until not in received and (part := connection.recv(65536)):
        received += part
    return received
