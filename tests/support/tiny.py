"""Real ONNX models, one for each task, made in milliseconds, whose every answer can be checked by hand.

`COLOURS` says which colour an image is, `PRESENCE` which colours are in it, `BRIGHTNESS` how bright it is in percent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.artifact import CONFIDENCE, GOLDEN, MODEL
from models.confidence.schema import Confidence, Interval, Temperature
from models.manifest import UNSEALED, Backbone, InputSpec, Manifest, OutputSpec, canonical_json
from models.preprocess import standard_preprocessing
from models.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from models.recipe import Task

SIZE = 32
LABELS = ("red", "green", "blue")
# Logits are this many times the mean of the label's channel (0..1), so that a pure colour is all but certain.
GAIN = 12.0
_WIDE = 1024


@dataclass(frozen=True)
class Tiny:
    """logits = mean of each channel (0..1) @ weight `[3][K]` + bias `[K]`, and how they are read."""

    task: Task
    labels: tuple[str, ...]
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    unit: str | None = None
    thresholds: dict[str, float] | None = None
    interval: Interval | None = None
    # Whether a black image makes the network divide 0 by 0.
    breaks_on_black: bool = False
    # Products of two 1024 x 1024 matrices that change nothing; each takes a core some 20 to 60 ms.
    slow: int = 0

    def logits(self, images: np.ndarray) -> np.ndarray:
        """What the graph computes for uint8 `[N, H, W, 3]`, by numpy."""
        means = images.astype(np.float32).mean(axis=(1, 2)) / 255
        return (means @ np.array(self.weight, dtype=np.float32) + np.array(self.bias, dtype=np.float32)).astype(np.float32)

    def _detour(self) -> list[onnx.NodeProto]:
        """bias -> late_bias, the same by a way that takes time and that no optimizer can see through."""
        if not self.slow:
            return []
        return [
            helper.make_node("ReduceMean", ["light"], ["number"], keepdims=0),
            helper.make_node("Mul", ["number", "zero"], ["nothing"]),
            helper.make_node("Expand", ["nothing", "wide"], ["matrix_0"]),
            *(helper.make_node("MatMul", [f"matrix_{n}", f"matrix_{n}"], [f"matrix_{n + 1}"]) for n in range(self.slow)),
            helper.make_node("ReduceMean", [f"matrix_{self.slow}"], ["still_nothing"], keepdims=0),
            helper.make_node("Add", ["bias", "still_nothing"], ["late_bias"]),
        ]

    def _constants(self) -> list[onnx.TensorProto]:
        if not self.slow:
            return []
        return [numpy_helper.from_array(np.array([_WIDE, _WIDE]), "wide"), numpy_helper.from_array(np.float32(0), "zero")]

    def graph(self) -> bytes:
        """uint8 [N, 32, 32, 3] -> logits [N, K], embedding [N, 3] (the channels' means, 0..255), feature_map."""
        weight = np.array(self.weight, dtype=np.float32) / 255
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["embedding"], keepdims=0),
            helper.make_node("MatMul", ["embedding", "weight"], ["product"]),
            helper.make_node("ReduceSum", ["embedding", "last"], ["light"]),
            helper.make_node("Div", ["light", "light"], ["one"]),
            helper.make_node("Mul", ["product", "one"], ["fragile"]),
            *self._detour(),
            helper.make_node(
                "Add", ["fragile" if self.breaks_on_black else "product", "late_bias" if self.slow else "bias"], ["logits"]
            ),
            helper.make_node("Transpose", ["float"], ["feature_map"], perm=[0, 3, 1, 2]),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(self.labels)]),
                helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
                helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE]),
            ],
            [
                numpy_helper.from_array(weight, "weight"),
                numpy_helper.from_array(np.array(self.bias, dtype=np.float32), "bias"),
                numpy_helper.from_array(np.array([1, 2]), "axes"),
                numpy_helper.from_array(np.array([1]), "last"),
                *self._constants(),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def colours(gain: float = GAIN, labels: tuple[str, ...] = LABELS) -> Tiny:
    """One label an image: its colour."""
    weight = tuple(tuple(gain if index % 3 == channel else 0.0 for index in range(len(labels))) for channel in range(3))
    return Tiny("single_label", labels, weight, (0.0,) * len(labels))


# Half an image of a colour gives its logit +6, none of it -6. A blue is only said to be there from 0.999 on.
PRESENCE = replace(
    colours(24.0),
    task="multi_label",
    bias=(-6.0, -6.0, -6.0),
    thresholds={"red": 0.5, "green": 0.5, "blue": 0.999},
)
BRIGHTNESS = Tiny(
    "regression",
    ("brightness",),
    weight=((100 / 3,), (100 / 3,), (100 / 3,)),
    bias=(0.0,),
    unit="percent",
    interval=Interval(level=0.9, half_width=2.5, images=100, method="split_conformal", reason=None),
)


def golden_images() -> np.ndarray:
    """A few inputs, uint8 [8, 32, 32, 3]; the first is black, the second white."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    images[0], images[1] = 0, 255
    return images


def write_tiny(folder: Path, tiny: Tiny, temperature: float = 1.0, golden: np.ndarray | None = None) -> None:
    """Put the files of a model into `folder`; `golden` replaces the logits that it is to reproduce."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(tiny.graph())
    images = golden_images()[1:] if tiny.breaks_on_black else golden_images()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, logits=tiny.logits(images) if golden is None else golden)
    (folder / GOLDEN).write_bytes(buffer.getvalue())
    fitted = Temperature(value=temperature, status="ok", images=100, reason=None)
    confidence = Confidence.without_evidence(fitted, tiny.thresholds, tiny.interval, "made for a test")
    (folder / CONFIDENCE).write_bytes(canonical_json(confidence))


def tiny_manifest(name: str, tiny: Tiny) -> Manifest:
    """The card of a model, version 1 until the registry says otherwise."""
    return Manifest(
        schema_version=1,
        name=name,
        version=1,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        task=tiny.task,
        labels=tiny.labels,
        unit=tiny.unit,
        input=InputSpec(name="image", dtype="uint8", layout="NHWC", height=SIZE, width=SIZE),
        preprocessing=standard_preprocessing(1.0),
        outputs=OutputSpec(
            logits=len(tiny.labels),
            embedding=3,
            spatial="feature_map",
            spatial_channels=3,
            spatial_height=SIZE,
            spatial_width=SIZE,
        ),
        backbone=Backbone(name="colour_mean", weights="none", licence="none"),
        recipe=None,
        recipe_sha256=None,
        dataset=None,
        parent=None,
        run=None,
        libraries={},
        metrics=None,
        files={},
        sha256=UNSEALED,
    )


def publish_tiny(registry: Registry, work: Path, name: str, tiny: Tiny, golden: np.ndarray | None = None) -> Manifest:
    """Publish a model and return its manifest."""
    folder = work / f"{name}-{len(registry.versions(name))}"
    write_tiny(folder, tiny, golden=golden)
    return registry.publish(folder, tiny_manifest(name, tiny))


def colour_graph(gain: float = GAIN, labels: tuple[str, ...] = LABELS) -> bytes:
    return colours(gain, labels).graph()


def expected_logits(images: np.ndarray, gain: float = GAIN) -> np.ndarray:
    return colours(gain).logits(images)


def write_files(folder: Path, *, gain: float = GAIN, temperature: float = 1.0, golden_gain: float | None = None) -> None:
    """Put the files of a colour model into `folder`; with another `golden_gain` its golden outputs are wrong."""
    write_tiny(folder, colours(gain), temperature, expected_logits(golden_images(), golden_gain or gain))


def colour_manifest(name: str) -> Manifest:
    return tiny_manifest(name, colours())


def publish_colours(registry: Registry, work: Path, name: str = "colours", **options: float) -> Manifest:
    """Publish a colour model and return its manifest."""
    folder = work / f"{name}-{len(registry.versions(name))}"
    write_files(folder, **options)
    return registry.publish(folder, colour_manifest(name))
