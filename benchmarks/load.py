"""Load over HTTP/1.1 on keep-alive connections: closed loops of clients, and arrivals at a rate whatever the answers take.

Requests are bytes made beforehand and answers are barely read, so that the generator costs little of the cores that it shares
with what it measures.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_LOST = 0
# For what was sent last to be answered.
_LAST_S = 3.0
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Load:
    """What came of it.

    Attributes:
        seconds: How long was measured.
        statuses: Answers by status; 0 counts connections that broke.
        latencies: Seconds from sending to the whole answer, of answers of each status, in the order of their ends.
        ends: When those answers were there, seconds from the start of the measurement.
    """

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    ends: dict[int, list[float]] = field(default_factory=dict)

    @property
    def good_per_s(self) -> float:
        """Answers with status 200 a second."""
        return self.statuses[200] / self.seconds

    def percentile_ms(self, share: float, status: int = 200) -> float:
        """Milliseconds that `share` percent of the answers took at most; NaN without any."""
        return float(np.percentile(self.latencies[status], share)) * 1e3 if self.latencies.get(status) else float("nan")

    def add(self, status: int, latency_s: float, end_s: float) -> None:
        """Count one answer."""
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(latency_s)
        self.ends.setdefault(status, []).append(end_s)


def post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


def closed(url: str, requests: Sequence[bytes], *, clients: int, seconds: float, warm_s: float = 2.0) -> Load:
    """Let each client send its next request when it has the answer to the last; what ends within `warm_s` is not counted."""
    return uvloop.run(_closed(url, requests, clients, seconds, warm_s))


def at_rate(url: str, requests: Sequence[bytes], *, per_s: float, seconds: float, connections: int) -> Load:
    """Send at a rate, whether answers come or not, over as many connections as are needed, up to `connections`.

    What finds no free connection is lost by the generator and counted as status -1: the rate was then too high for it.
    """
    return uvloop.run(_at_rate(url, requests, per_s, seconds, connections))


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, on_answer: Callable[[_Connection, int, float], None]) -> None:
        self._on_answer = on_answer
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._wanted: int | None = None
        self._is_chunked = False
        self._sent_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> None:
        self._sent_at = time.perf_counter()
        if self._transport is not None:
            self._transport.write(request)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        self._on_answer = lambda *_: None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._wanted is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _length(bytes(self._received[:end]))
            self._is_chunked = length is None
            self._wanted = end + 4 + (length or 0)
        if len(self._received) >= self._wanted and (not self._is_chunked or self._received.endswith(_LAST_CHUNK)):
            status = int(self._received[9:12])
            self._received.clear()
            self._wanted = None
            self._answered(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent_at is not None:
            self._answered(_LOST)

    def _answered(self, status: int) -> None:
        if self._sent_at is not None:
            sent, self._sent_at = self._sent_at, None
            self._on_answer(self, status, time.perf_counter() - sent)


def _length(head: bytes) -> int | None:
    """Bytes of the body; None where it comes in chunks."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


async def _open(url: str, on_answer: Callable[[_Connection, int, float], None]) -> _Connection:
    parts = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(lambda: _Connection(on_answer), parts.hostname, parts.port)
    return connection


async def _closed(url: str, requests: Sequence[bytes], clients: int, seconds: float, warm_s: float) -> Load:
    loop = asyncio.get_running_loop()
    load, upcoming = Load(seconds), itertools.cycle(requests)
    begin = time.perf_counter() + warm_s
    reopening: set[asyncio.Task[None]] = set()

    def answered(connection: _Connection, status: int, latency: float) -> None:
        now = time.perf_counter() - begin
        if 0 <= now <= seconds:
            load.add(status, latency, now)
        if now > seconds:
            return
        if connection.is_open:
            connection.ask(next(upcoming))
        else:
            task = loop.create_task(reopen())
            reopening.add(task)
            task.add_done_callback(reopening.discard)

    async def reopen() -> None:
        try:
            connection = await _open(url, answered)
        except OSError:
            load.statuses[_LOST] += 1
            return
        opened.append(connection)
        connection.ask(next(upcoming))

    opened = [await _open(url, answered) for _ in range(clients)]
    for connection in list(opened):
        connection.ask(next(upcoming))
    await asyncio.sleep(warm_s + seconds)
    for connection in opened:
        connection.close()
    return load


async def _at_rate(url: str, requests: Sequence[bytes], per_s: float, seconds: float, connections: int) -> Load:
    load, upcoming = Load(seconds), itertools.cycle(requests)
    begin = time.perf_counter()
    idle: deque[_Connection] = deque()

    def answered(connection: _Connection, status: int, latency: float) -> None:
        load.add(status, latency, time.perf_counter() - begin)
        if connection.is_open:
            idle.append(connection)

    opened: list[_Connection] = []
    for due in _moments(begin, per_s, seconds):
        while (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        while idle and not idle[0].is_open:
            idle.popleft()
        if not idle:
            if sum(connection.is_open for connection in opened) >= connections:
                load.statuses[-1] += 1
                await asyncio.sleep(0)
                continue
            opened.append(await _open(url, answered))
            idle.append(opened[-1])
        idle.popleft().ask(next(upcoming))
    await asyncio.sleep(_LAST_S)
    for connection in opened:
        connection.close()
    return load


def _moments(begin: float, per_s: float, seconds: float) -> Iterator[float]:
    """Arrivals of a Poisson process: exponential gaps, the same ones each time."""
    rng = np.random.default_rng(0)
    moment = begin
    while True:
        moment += float(rng.exponential(1 / per_s))
        if moment - begin > seconds:
            return
        yield moment
