"""A real ONNX model that says which colour an image is, made in milliseconds, so that every answer can be checked."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.artifact import CONFIDENCE, GOLDEN, MODEL
from models.manifest import (
    UNSEALED,
    Backbone,
    Confidence,
    InputSpec,
    Manifest,
    OutputSpec,
    Temperature,
    canonical_json,
)
from models.preprocess import standard_preprocessing
from models.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 32
LABELS = ("red", "green", "blue")
# Logits are this many times the mean of the label's channel (0..1), so that a pure colour is all but certain.
GAIN = 12.0


def colour_graph(gain: float = GAIN, labels: tuple[str, ...] = LABELS) -> bytes:
    """uint8 [N, 32, 32, 3] -> logits [N, K] (gain times the mean of each channel), embedding [N, 3], feature_map."""
    weight = np.zeros((3, len(labels)), dtype=np.float32)
    for index in range(len(labels)):
        weight[index % 3, index] = gain / 255
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["embedding"], keepdims=0),
        helper.make_node("MatMul", ["embedding", "weight"], ["logits"]),
        helper.make_node("Transpose", ["float"], ["feature_map"], perm=[0, 3, 1, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE]),
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def expected_logits(images: np.ndarray, gain: float = GAIN) -> np.ndarray:
    """What the graph computes, by numpy."""
    return (images.astype(np.float32).mean(axis=(1, 2)) * gain / 255).astype(np.float32)


def golden_images() -> np.ndarray:
    """A few inputs, uint8 [8, 32, 32, 3]."""
    return np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)


def write_files(folder: Path, *, gain: float = GAIN, temperature: float = 1.0, golden_gain: float | None = None) -> None:
    """Put the files of a colour model into `folder`; with another `golden_gain` its golden outputs are wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(colour_graph(gain))
    images = golden_images()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, logits=expected_logits(images, golden_gain or gain))
    (folder / GOLDEN).write_bytes(buffer.getvalue())
    fitted = Temperature(value=temperature, status="ok", images=100, reason=None)
    (folder / CONFIDENCE).write_bytes(canonical_json(Confidence(schema_version=1, temperature=fitted)))


def colour_manifest(name: str) -> Manifest:
    """The card of a colour model, version 1 until the registry says otherwise."""
    return Manifest(
        schema_version=1,
        name=name,
        version=1,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        task="single_label",
        labels=LABELS,
        input=InputSpec(name="image", dtype="uint8", layout="NHWC", height=SIZE, width=SIZE),
        preprocessing=standard_preprocessing(1.0),
        outputs=OutputSpec(
            logits=3, embedding=3, spatial="feature_map", spatial_channels=3, spatial_height=SIZE, spatial_width=SIZE
        ),
        backbone=Backbone(name="colour_mean", weights="none", licence="none"),
        recipe=None,
        recipe_sha256=None,
        dataset=None,
        parent=None,
        libraries={},
        metrics=None,
        files={},
        sha256=UNSEALED,
    )


def publish_colours(registry: Registry, work: Path, name: str = "colours", **options: float) -> Manifest:
    """Publish a colour model and return its manifest."""
    folder = work / f"{name}-{len(registry.versions(name))}"
    write_files(folder, **options)
    return registry.publish(folder, colour_manifest(name))
