"""What every peer serves: the same ONNX file, decoded into and run by the same code, so that only the serving differs.

Runs in each peer's own environment, which has numpy, Pillow, simplejpeg, pydantic and ONNX Runtime, and nothing else of candor's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from models.artifact import MODEL, read_manifest
from models.decision import probabilities
from models.preprocess import load_image

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.preprocess import UInt8Array

# How a server in a process of its own, whose workers are processes again, is told what to serve and where.
ARTIFACT, PORT = "PEER_ARTIFACT", "PEER_PORT"
HOST = "127.0.0.1"
# A worker a core and 16 clients on two cores: with batches of 8, every client would wait for the same two.
BATCH, BATCH_WAIT_S = 4, 0.005
TOP = 5

Answer = dict[str, list[dict[str, str | float]]]


class Classifier:
    """One artifact in one ONNX Runtime session on the CPU. Its methods may be called from several threads at once."""

    def __init__(self, artifact: Path, threads: int) -> None:
        """Load the graph.

        Args:
            artifact: The folder of one version.
            threads: How many share the work of one `predict`. They sleep while they wait for work, as others need the cores.

        Raises:
            ArtifactError: If the folder holds no artifact.
        """
        self._manifest = read_manifest(artifact)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(artifact / MODEL, options, providers=["CPUExecutionProvider"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the graph's input, in pixels."""
        return self._manifest.input.height, self._manifest.input.width

    @property
    def crop_ratio(self) -> float:
        """The share of the short side that is kept."""
        return self._manifest.preprocessing.crop_ratio

    def decode(self, image: bytes) -> UInt8Array:
        """The bytes of a file to uint8 `[H, W, 3]`, as candor does it.

        Raises:
            ImageError: If it is none.
        """
        return load_image(image, self._manifest.preprocessing, *self.size)

    def predict(self, images: UInt8Array) -> list[Answer]:
        """uint8 `[N, H, W, 3]` to the most probable labels of each image, not calibrated, in descending order."""
        (logits,) = self._session.run(["logits"], {"image": images})
        return [self._answer(row) for row in probabilities(logits, 1.0)]

    def _answer(self, row: npt.NDArray[np.float64]) -> Answer:
        best = np.argsort(-row)[:TOP]
        return {"predictions": [{"label": self._manifest.labels[index], "probability": float(row[index])} for index in best]}


def classifier(threads: int) -> Classifier:
    """The artifact that this process was told to serve."""
    return Classifier(Path(os.environ[ARTIFACT]), threads)


def port() -> int:
    """Where this process was told to serve."""
    return int(os.environ[PORT])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
