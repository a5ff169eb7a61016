"""Many clients, in a process of their own, so that what they cost does not slow down who measures beside them.

`python -m tests.support.flood URL FILE --rate N --seconds S` prints one JSON line. With a rate, a request leaves every 1/N
seconds whether or not the others are answered; without, `--clients` ask one after the other, `--count` times at most, or
until TERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

from tests.support.server import ROOT


@dataclass
class Flood:
    """What became of the requests: for each when it was answered, how long that took, its status, and Retry-After."""

    answers: list[tuple[float, float, int, str | None]] = field(default_factory=list)

    def took_s(self, status: int) -> list[float]:
        """How long the answers of a status took."""
        return [took for _, took, found, _ in self.answers if found == status]

    def rate(self, status: int = 200) -> float:
        """Answers of a status a second, without the first second."""
        ended = [at for at, _, found, _ in self.answers if found == status]
        first, last = min(at for at, *_ in self.answers) + 1, max(at for at, *_ in self.answers)
        return sum(first < at <= last for at in ended) / (last - first)


def start(url: str, file: Path, **options: float) -> subprocess.Popen[str]:
    """Begin to ask."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.support.flood", url, str(file), *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def stop(process: subprocess.Popen[str]) -> Flood:
    """Let the clients have their answers and ask no more, and read what became of it."""
    process.terminate()
    return result(process)


def result(process: subprocess.Popen[str]) -> Flood:
    """Wait for the end, and read what became of it."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return Flood([tuple(answer) for answer in json.loads(out)])  # type: ignore[misc]


async def _ask(url: str, body: bytes, kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> tuple[int, str | None]:
    """Ask once, over a connection that is kept."""
    place = urlsplit(url)
    reader, writer = kept.pop() if kept else await asyncio.open_connection(place.hostname, place.port)
    head = (
        f"POST {place.path} HTTP/1.1\r\nhost: {place.hostname}\r\ncontent-type: image/jpeg\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    await reader.readexactly(int(headers.get("content-length", 0)))
    if headers.get("connection") == "close":
        writer.close()
    else:
        kept.append((reader, writer))
    return int(lines[0].split()[1]), headers.get("retry-after")


async def _flood(options: argparse.Namespace, body: bytes) -> Sequence[tuple[float, float, int, str | None]]:
    answers: list[tuple[float, float, int, str | None]] = []
    kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    until = time.monotonic() + options.seconds
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)

    async def once() -> None:
        started = time.monotonic()
        try:
            status, retry = await _ask(options.url, body, kept)
        except (OSError, asyncio.IncompleteReadError):
            status, retry = 0, None
        now = time.monotonic()
        answers.append((now, now - started, status, retry))

    async def loop() -> None:
        while time.monotonic() < until and len(answers) < options.count and not ended.is_set():
            await once()

    if not options.rate:
        await asyncio.gather(*(loop() for _ in range(int(options.clients))))
        return answers
    tasks, next_at = [], time.monotonic()
    while (now := time.monotonic()) < until:
        while next_at <= now:
            tasks.append(asyncio.create_task(once()))
            next_at += 1 / options.rate
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return answers


def main() -> None:
    """Run what the module says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("file")
    for name, default in (("rate", 0.0), ("clients", 8.0), ("seconds", 3.0), ("count", 1e9)):
        parser.add_argument(f"--{name}", type=float, default=default)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(asyncio.run(_flood(options, Path(options.file).read_bytes()))))


if __name__ == "__main__":
    main()
