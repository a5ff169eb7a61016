"""Small, valid artifacts, written without torch: `model.onnx` is any bytes, for nothing at this level runs it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from models import artifact
from models.confidence.schema import Confidence, Temperature
from models.manifest import Backbone, InputSpec, Manifest, OutputSpec, canonical_json
from models.preprocess import standard_preprocessing

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("bee", "cat", "dog")
MODEL = b"graph of a network\x00\xff"
GOLDEN = b"inputs and outputs"


def make_manifest(**changes: Any) -> Manifest:
    """A valid manifest of `birds:1` with three labels and no files; `changes` replace fields, and are validated."""
    labels = tuple(changes.get("labels", LABELS))
    fields = {
        "schema_version": 1,
        "name": "birds",
        "version": 1,
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "task": "single_label",
        "labels": labels,
        "unit": None,
        "input": InputSpec(name="image", dtype="uint8", layout="NHWC", height=32, width=48),
        "preprocessing": standard_preprocessing(0.9),
        "outputs": OutputSpec(
            logits=len(labels), embedding=8, spatial="cam", spatial_channels=len(labels), spatial_height=2, spatial_width=3
        ),
        "backbone": Backbone(name="resnet18", weights="none", licence="Apache-2.0"),
        "recipe": None,
        "recipe_sha256": None,
        "dataset": None,
        "parent": None,
        "run": None,
        "libraries": {"numpy": "2"},
        "metrics": None,
        "files": {},
        "sha256": "0" * 64,
    }
    return Manifest.model_validate(fields | changes)


def make_confidence(temperature: float = 1.5) -> Confidence:
    """A temperature fitted on 40 images, and nothing else."""
    fitted = Temperature(value=temperature, status="ok", images=40, reason=None)
    return Confidence.without_evidence(fitted, None, None, "made for a test")


def write_files(folder: Path, model: bytes = MODEL, temperature: float = 1.5) -> Path:
    """Write the files that every artifact has, and no manifest: what `Registry.publish` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / artifact.MODEL).write_bytes(model)
    (folder / artifact.GOLDEN).write_bytes(GOLDEN)
    (folder / artifact.CONFIDENCE).write_bytes(canonical_json(make_confidence(temperature)))
    return folder


def write_artifact(folder: Path, model: bytes = MODEL, temperature: float = 1.5, **changes: Any) -> Manifest:
    """Write a whole artifact into `folder` and return its manifest as sealed; `changes` as in `make_manifest`."""
    return artifact.seal(write_files(folder, model, temperature), make_manifest(**changes))
