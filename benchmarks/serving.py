"""`make bench-serving`: candor beside other servers and beside what the machine could do, one after the other on one machine.

The same ONNX file, the same JPEGs, the same clients. Each server is measured right after candor, and candor right after the
limit, so that a machine that slows down slows all three; what counts are the ratios of such neighbours.

    python -m benchmarks.serving [--rounds 3] [--seconds 8] [--only PEER ...] [--parts peers,alone,large,overload]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from PIL import Image

from benchmarks import load, machine
from benchmarks.peers.registry import PEERS, running
from benchmarks.photos import LARGE, SMALL
from benchmarks.served import started
from models.artifact import read_manifest
from models.preprocess import load_image
from models.registry import Registry
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

    from benchmarks.load import Load

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).with_name("results") / "serving-cpu.json"
NAME = "imagenet"
CLIENTS = 16
_PEER_PORT, _WARM_S = 3094, 2.0
PARTS = ("peers", "alone", "large", "overload")
_OVERLOAD, _OVERLOAD_S, _CONNECTIONS = 10, 30, 400
_LIBRARIES = ("onnxruntime-gpu", "openvino", "numpy", "pillow", "simplejpeg", "uvicorn", "bentoml")
_IMAGE = {"content-type": "image/jpeg"}


@dataclass(frozen=True)
class Bench:
    """What all parts use."""

    work: Path
    artifact: Path
    seconds: float
    small: list[bytes]
    large: list[bytes]

    def photos(self, name: str) -> Path:
        """The folder of the small ones or the large ones."""
        return next(self.work.glob(f"photos-{name}-*"))


def main() -> int:
    """Measure, write the results, and say them."""
    options = _parse()
    bench = _prepare(ROOT / "var" / "bench-serving", options.seconds)
    found: dict[str, Any] = {"setting": _setting(), "clients": CLIENTS, "seconds": options.seconds}
    parts = {
        "peers": lambda: beside_peers(bench, options.rounds, options.only),
        "alone": lambda: alone(bench, options.rounds),
        "large": lambda: large(bench),
        "overload": lambda: overload(bench),
    }
    for part in options.parts:
        say(f"-- {part}")
        found[part] = parts[part]()
        say(json.dumps(found[part], indent=2))
    if set(options.parts) == set(PARTS):
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
        say(f"wrote {RESULT}")
    return 0


def _setting() -> dict[str, Any]:
    return {
        "commit": machine.commit("benchmarks", "models", "service"),
        "cpu": machine.cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "libraries": machine.libraries(_LIBRARIES),
    }


def beside_peers(bench: Bench, rounds: int, only: list[str]) -> dict[str, Any]:
    """Images a second and latencies of each server, with those of the limit and of candor just before."""
    chosen = [peer for peer in PEERS if not only or peer.name in only]
    rows: list[dict[str, Any]] = []
    with candor(bench, runtime="onnxruntime") as (url, _):
        requests = [load.post("/classify", jpeg, _IMAGE) for jpeg in bench.small]
        for number in range(rounds):
            for peer in chosen:
                most = limit(bench, os.cpu_count() or 1)["images_per_s"]
                ours = _summary(_closed(url, requests, bench.seconds))
                with running(peer, bench.artifact, _PEER_PORT):
                    asked = [load.post(peer.path, body, headers) for headers, body in map(peer.request, bench.small)]
                    theirs = _summary(_closed(f"http://127.0.0.1:{_PEER_PORT}", asked, bench.seconds))
                row = {"round": number, "peer": peer.name, "limit": round(most, 1), "candor": ours, "theirs": theirs}
                say(f"limit {most:.1f}, candor {ours['images_per_s']}, {peer.name} {theirs['images_per_s']} images/s")
                rows.append(row)
    return {"rows": rows, "versions": {peer.name: peer.version for peer in chosen}, **_ratios(rows)}


def _ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    of_limit = [row["candor"]["images_per_s"] / row["limit"] for row in rows]
    peers = {row["peer"] for row in rows}

    def of(peer: str, key: str) -> dict[str, float]:
        return _spread([row["candor"][key] / row["theirs"][key] for row in rows if row["peer"] == peer])

    return {
        "candor_of_limit": _spread(of_limit),
        "candor_of_peer": {peer: of(peer, "images_per_s") for peer in sorted(peers)},
        "candor_p99_of_peer": {peer: of(peer, "p99_ms") for peer in sorted(peers)},
    }


def alone(bench: Bench, rounds: int) -> dict[str, Any]:
    """The latency of one client, beside what one thread takes for decoding and inference."""
    rows = []
    with candor(bench, runtime="onnxruntime") as (url, _):
        requests = [load.post("/classify", jpeg, _IMAGE) for jpeg in bench.small]
        for _ in range(rounds):
            here = limit(bench, 1)["p50_ms"]
            there = load.closed(url, requests, clients=1, seconds=bench.seconds, warm_s=1).percentile_ms(50)
            rows.append({"in_process_ms": round(here, 2), "candor_ms": round(there, 2)})
    return {"rows": rows, "more_ms": _spread([row["candor_ms"] - row["in_process_ms"] for row in rows])}


def large(bench: Bench) -> dict[str, Any]:
    """Photographs of 12 megapixels: decoding beside Pillow's, and what the service answers a second."""
    manifest = read_manifest(bench.artifact)
    size = (manifest.input.height, manifest.input.width)

    def ours(jpeg: bytes) -> None:
        load_image(jpeg, manifest.preprocessing, *size)

    def pillow(jpeg: bytes) -> None:
        with Image.open(io.BytesIO(jpeg)) as picture:
            np.asarray(picture.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))

    pairs = [(_milliseconds(pillow, jpeg), _milliseconds(ours, jpeg)) for jpeg in bench.large for _ in range(3)]
    with candor(bench, runtime="onnxruntime") as (url, _):
        answered = _summary(_closed(url, [load.post("/classify", jpeg, _IMAGE) for jpeg in bench.large], bench.seconds))
    return {
        "pillow_ms": round(statistics.median(pair[0] for pair in pairs), 1),
        "candor_ms": round(statistics.median(pair[1] for pair in pairs), 1),
        "times_as_fast": _spread([pair[0] / pair[1] for pair in pairs]),
        "service": answered,
    }


def overload(bench: Bench) -> dict[str, Any]:
    """Ten times what can be answered, for half a minute: what is still answered, and how soon the rest is refused."""
    with candor(bench, runtime="onnxruntime") as (url, process):
        requests = [load.post("/classify", jpeg, _IMAGE) for jpeg in bench.small]
        peak = _closed(url, requests, bench.seconds).good_per_s
        before = process.memory_info().rss
        with _Watch(url, process) as watch:
            began = time.process_time()
            flood = load.at_rate(url, requests, per_s=_OVERLOAD * peak, seconds=_OVERLOAD_S, connections=_CONNECTIONS)
            generator = (time.process_time() - began) / _OVERLOAD_S
        usual = load.closed(url, requests, clients=1, seconds=2, warm_s=0).percentile_ms(50)
        after = _closed(url, requests, bench.seconds).good_per_s
    return {
        "peak_per_s": round(peak, 1),
        "offered_per_s": round(_OVERLOAD * peak, 1),
        "sent_per_s": round((sum(flood.statuses.values()) - flood.statuses[-1]) / _OVERLOAD_S, 1),
        "generator_cores": round(generator, 2),
        "goodput_of_peak": round(sum(end <= _OVERLOAD_S for end in flood.ends[200]) / _OVERLOAD_S / peak, 3),
        "statuses": {str(status): count for status, count in flood.statuses.items()},
        "refused_p50_ms": round(flood.percentile_ms(50, 429), 1),
        "refused_p99_ms": round(flood.percentile_ms(99, 429), 1),
        "answered_p99_ms": round(flood.percentile_ms(99), 1),
        "livez_p99_ms": round(float(np.percentile(watch.livez_ms, 99)), 1),
        "memory_more_mb": round((watch.most_bytes - before) / 2**20, 1),
        "one_client_after_ms": round(usual, 1),
        # Until the last of what had been let in was answered.
        "recovered_s": round(max(flood.ends[200]) - _OVERLOAD_S, 2),
        "rate_after_of_peak": round(after / peak, 3),
    }


class _Watch:
    """Asks for liveness and looks at the memory while the context lasts."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self._url = url
        self._process = process
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.livez_ms: list[float] = []
        self.most_bytes = 0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        with httpx.Client(base_url=self._url) as client:
            while not self._is_over.wait(0.05):
                started = time.perf_counter()
                client.get("/livez").raise_for_status()
                self.livez_ms.append((time.perf_counter() - started) * 1e3)
                self.most_bytes = max(self.most_bytes, self._process.memory_info().rss)


@contextmanager
def candor(bench: Bench, **settings: str) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the artifact while the context lasts: its address and its process."""
    with started(str(bench.work / "home"), run="serve", **settings) as (client, process):
        yield str(client.base_url), process


def limit(bench: Bench, threads: int) -> dict[str, float]:
    """`benchmarks.limit` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.limit", str(bench.artifact), str(bench.photos("small")), str(threads)]
    said = subprocess.run([*command, str(bench.seconds / 2)], cwd=ROOT, capture_output=True, check=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def _prepare(work: Path, seconds: float) -> Bench:
    """Publish the pretrained classifier and make the photographs, once."""
    registry = Registry(work / "home" / "registry")
    if registry.aliases(NAME).production is None:
        environment = os.environ | {"CANDOR_HOME": str(work / "home")}
        command = [sys.executable, "-m", "training", "publish-pretrained", "--name", NAME]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return Bench(work, registry.path(NAME, 1), seconds, SMALL.load(work), LARGE.load(work))


def _closed(url: str, requests: list[bytes], seconds: float) -> Load:
    return load.closed(url, requests, clients=CLIENTS, seconds=seconds, warm_s=_WARM_S)


def _summary(found: Load) -> dict[str, Any]:
    failed = sum(count for status, count in found.statuses.items() if status != 200)
    return {
        "images_per_s": round(found.good_per_s, 1),
        "p50_ms": round(found.percentile_ms(50), 1),
        "p99_ms": round(found.percentile_ms(99), 1),
        "failed": failed,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


def _milliseconds(call: Any, argument: bytes) -> float:
    started = time.perf_counter()
    call(argument)
    return (time.perf_counter() - started) * 1e3


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Measure candor's server beside others.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--only", nargs="*", default=[], help="peers; default: all")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
