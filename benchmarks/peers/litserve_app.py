"""LitServe as its documentation has it: decoding and batches in the worker, a worker a core."""

# No annotations from the future here: LitServe looks at that of `request`, and a string would mean nothing to it.
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body

from benchmarks.peers.core import BATCH, BATCH_WAIT_S, HOST, Answer, classifier, cores, port
from models.preprocess import UInt8Array


class Classify(litserve.LitAPI):
    """Raw JPEG in, labels out."""

    def setup(self, device: str) -> None:
        """Load the graph in the worker's own process."""
        self.classifier = classifier(threads=1)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> UInt8Array:
        """Decode one image, uint8 `[H, W, 3]`."""
        return self.classifier.decode(request)

    def batch(self, inputs: list[UInt8Array]) -> UInt8Array:
        """Join them, uint8 `[N, H, W, 3]`."""
        return np.stack(inputs)

    def predict(self, x: UInt8Array) -> list[Answer]:
        """Classify all of them at once."""
        return self.classifier.predict(x)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """They are apart already."""
        return output

    def encode_response(self, output: Answer) -> Answer:
        """It is JSON already."""
        return output


if __name__ == "__main__":
    api = Classify(max_batch_size=BATCH, batch_timeout=BATCH_WAIT_S, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=cores())
    # One process for HTTP: the workers need the cores.
    server.run(host=HOST, port=port(), log_level="warning", generate_client_file=False, num_api_servers=1)
