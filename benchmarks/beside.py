"""What training costs those who ask meanwhile: `python -m benchmarks.beside HOME`, with the state that `make run` left (`var`).

The sample's model answers one client, image by image, before, while, and after a job trains on the sample on the same
cores. Of each phase the median and the 99th percentile are kept, of enough requests that the latter is more than a guess.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.served import sample_images, served
from training.progress import say

if TYPE_CHECKING:
    import httpx

RESULT = Path(__file__).with_name("results") / "beside.json"
_WARM, _REQUESTS, _TRAIN_S = 100, 2000, 300
# Trains until it is cancelled, on images of the size that the sample's model has.
_RECIPE = {"epochs": 200, "image_size": 96}


def main(home: str) -> int:
    """Ask in all three phases, and write what they took."""
    with served(home, default_model="fashion") as client:
        _ask(client, _WARM)
        before = _ask(client, _REQUESTS)
        asked = {"model": "beside", "dataset": "fashion-mnist", "recipe": _RECIPE, "idempotency_key": uuid.uuid4().hex}
        answer = client.post("/retrain", json=asked)
        answer.raise_for_status()
        job = answer.json()["id"]
        _wait_for_steps(client, job)
        during = _ask(client, _REQUESTS)
        speed = client.get(f"/jobs/{job}").json()["progress"]["images_per_s"]
        client.post(f"/jobs/{job}/cancel")
        _wait_for_end(client, job)
        after = _ask(client, _REQUESTS)
    idle = sorted((before["p99_ms"], after["p99_ms"]))
    found = {
        "what": f"milliseconds of /classify with one image, one client, {_REQUESTS} requests a phase",
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
        "before": before,
        "while a job trains": during | {"trained_images_per_s": speed},
        "after": after,
        "p99_ratio": {
            "to the faster idle phase": round(during["p99_ms"] / idle[0], 2),
            "to the slower idle phase": round(during["p99_ms"] / idle[1], 2),
        },
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    say(json.dumps(found, indent=2))
    return 0


def _ask(client: httpx.Client, count: int) -> dict[str, float]:
    images, took = sample_images(), []
    for turn in range(count):
        started = time.perf_counter()
        answer = client.post("/classify", content=images[turn % len(images)], headers={"content-type": "image/png"})
        took.append(1000 * (time.perf_counter() - started))
        answer.raise_for_status()
    return {"p50_ms": round(float(np.median(took)), 2), "p99_ms": round(float(np.quantile(took, 0.99)), 2)}


def _wait_for_steps(client: httpx.Client, job: str) -> None:
    until = time.monotonic() + _TRAIN_S
    while time.monotonic() < until:
        shown = client.get(f"/jobs/{job}").json()
        if shown["progress"] is not None:
            return
        if shown["finished"]:
            raise SystemExit(f"the job ended: {shown['code']}, {shown['reason']}")
        time.sleep(0.5)
    raise SystemExit(f"the job took no step within {_TRAIN_S} s")


def _wait_for_end(client: httpx.Client, job: str) -> None:
    while client.get(f"/jobs/{job}").json()["finished"] is None:
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ("var",)))
