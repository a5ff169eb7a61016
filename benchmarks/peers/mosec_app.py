"""MOSEC: a process a core that decodes and infers in batches.

Its documentation decodes in a stage of its own; on two cores that was slower, as it copies each image between processes.
"""

from __future__ import annotations

import mosec
import numpy as np

from benchmarks.peers.core import BATCH, BATCH_WAIT_S, Answer, classifier, cores


class Classify(mosec.Worker):
    """Raw JPEG in, labels out, which MOSEC writes as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._classifier = classifier(threads=1)

    def deserialize(self, data: bytes) -> bytes:
        """The body is the image."""
        return data

    def forward(self, data: list[bytes]) -> list[Answer]:
        """Decode and classify all of them at once."""
        return self._classifier.predict(np.stack([self._classifier.decode(image) for image in data]))


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Classify, num=cores(), max_batch_size=BATCH, max_wait_time=round(1000 * BATCH_WAIT_S))
    server.run()
