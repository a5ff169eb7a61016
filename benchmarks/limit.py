"""What this machine can do at most: threads that decode and infer, with nothing between and nobody to answer.

`python -m benchmarks.limit ARTIFACT PHOTOS THREADS SECONDS` prints one JSON object: it is measured in a
process of its own.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.core import Classifier

_WARM_S = 0.5


def main(artifact: str, photos: str, threads: str, seconds: str) -> int:
    """Measure and print."""
    jpegs = [path.read_bytes() for path in sorted(Path(photos).glob("*.jpg"))]
    sys.stdout.write(json.dumps(measure(Classifier(Path(artifact), 1), jpegs, int(threads), float(seconds))) + "\n")
    return 0


def measure(classifier: Classifier, jpegs: list[bytes], threads: int, seconds: float) -> dict[str, Any]:
    """Images a second of all threads together, and what one image takes one of them."""
    begin = time.perf_counter() + _WARM_S
    took: list[list[float]] = [[] for _ in range(threads)]

    def work(mine: list[float], first: int) -> None:
        for index in itertools.count(first, threads):
            started = time.perf_counter()
            classifier.predict(classifier.decode(jpegs[index % len(jpegs)])[None])
            ended = time.perf_counter()
            if ended > begin + seconds:
                return
            if started > begin:
                mine.append(ended - started)

    workers = [threading.Thread(target=work, args=(mine, first)) for first, mine in enumerate(took)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    every = [one for mine in took for one in mine]
    return {"images_per_s": len(every) / seconds, "p50_ms": float(np.median(every)) * 1e3}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
