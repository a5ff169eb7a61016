"""Ray Serve as its documentation has it: a replica a core, each with a batch of what waits for it."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING

import numpy as np
import ray
from ray import serve
from ray.serve._private import replica

from benchmarks.peers.core import BATCH, BATCH_WAIT_S, HOST, Answer, classifier, cores, port

if TYPE_CHECKING:
    from starlette.requests import Request


@serve.deployment(num_replicas=cores(), max_ongoing_requests=4 * BATCH)
class Classify:
    """Raw JPEG in, labels out."""

    def __init__(self) -> None:
        self._classifier = classifier(threads=1)

    async def __call__(self, request: Request) -> Answer:
        """Wait until there is a batch, and for its turn."""
        return await self.classify(await request.body())

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def classify(self, images: list[bytes]) -> list[Answer]:
        """Decode and classify all of them at once."""
        return self._classifier.predict(np.stack([self._classifier.decode(image) for image in images]))


def _listen_on_loopback() -> None:
    """Make replicas, which listen on all interfaces for one another and have no setting for it, do so on loopback."""
    add = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", HOST))


def main() -> None:
    """Serve until a signal comes."""
    # Else Ray would leave a token in the user's home.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    hook = {"worker_process_setup_hook": _listen_on_loopback}
    ray.init(num_cpus=2 * cores(), include_dashboard=False, log_to_driver=False, runtime_env=hook)
    serve.start(http_options={"host": HOST, "port": port()})
    serve.run(Classify.bind(), route_prefix="/classify")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()


if __name__ == "__main__":
    main()
