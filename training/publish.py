"""From a trained network to a version in the registry: export, proof, golden inputs, card, one rename."""

from __future__ import annotations

import io
import platform
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from models.artifact import CONFIDENCE, GOLDEN, MODEL, WEIGHTS
from models.manifest import (
    SCHEMA_VERSION,
    UNSEALED,
    Backbone,
    Confidence,
    DatasetCard,
    InputSpec,
    Manifest,
    Metrics,
    Temperature,
    canonical_json,
    recipe_sha256,
)
from training.export import export, open_session
from training.progress import say

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.manifest import Preprocessing
    from models.recipe import Recipe
    from models.registry import Registry
    from training.backbone import Pretrained
    from training.normalise import Normalise

GOLDEN_IMAGES = 64
_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "pillow",
    "simplejpeg",
)


@dataclass(frozen=True)
class Publication:
    """Everything that a version is made of, besides what the registry adds."""

    name: str
    labels: tuple[str, ...]
    pretrained: Pretrained
    normalise: Normalise
    preprocessing: Preprocessing
    image_size: int
    backbone: str
    recipe: Recipe | None
    dataset: DatasetCard | None
    temperature: Temperature
    metrics: Metrics | None
    golden_pool: npt.NDArray[np.uint8]


def publish(publication: Publication, registry: Registry, runs_root: Path) -> Manifest:
    """Export, prove, and publish one version. Whatever goes wrong, the registry holds all of it or nothing.

    Args:
        publication: What to publish.
        registry: Where to.
        runs_root: Where to work until then; the working folder is removed in the end.

    Raises:
        ParityError: If ONNX Runtime does not compute what torch does.
    """
    runs_root.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"publish-{publication.name}-", dir=runs_root)
    try:
        return _publish(publication, registry, Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(publication: Publication, registry: Registry, folder: Path) -> Manifest:
    say(f"exporting ONNX at {publication.image_size} px")
    network = publication.pretrained.network
    exported = export(network, publication.normalise, publication.image_size, publication.golden_pool, folder / MODEL)
    say(f"  ONNX Runtime and torch agree to {exported.largest_difference:.1e} on logits (batches of 1, 3 and 8)")
    (folder / GOLDEN).write_bytes(_golden(folder / MODEL, publication.golden_pool))
    (folder / CONFIDENCE).write_bytes(canonical_json(Confidence(schema_version=1, temperature=publication.temperature)))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=publication.name,
        version=1,
        created=datetime.now(UTC).replace(microsecond=0),
        task="single_label",
        labels=publication.labels,
        input=InputSpec(name="image", dtype="uint8", layout="NHWC", height=publication.image_size, width=publication.image_size),
        preprocessing=publication.preprocessing,
        outputs=exported.outputs,
        backbone=Backbone(
            name=publication.backbone, weights=publication.pretrained.weights, licence=publication.pretrained.licence
        ),
        recipe=publication.recipe,
        recipe_sha256=recipe_sha256(publication.recipe) if publication.recipe else None,
        dataset=publication.dataset,
        parent=None,
        libraries=_libraries(),
        metrics=publication.metrics,
        files={},
        sha256=UNSEALED,
    )
    return registry.publish(folder, manifest)


def _golden(model: Path, pool: npt.NDArray[np.uint8]) -> bytes:
    """64 inputs and their logits: the 32 with the smallest margins, where an error shows first, and others evenly."""
    session = open_session(model)
    logits = np.concatenate([session.run(["logits"], {"image": pool[i : i + 32]})[0] for i in range(0, len(pool), 32)])
    top_two = np.sort(logits, axis=1)[:, -2:]
    closest = np.argsort(top_two[:, 1] - top_two[:, 0], kind="stable")
    rest = closest[GOLDEN_IMAGES // 2 :]
    others = rest[np.linspace(0, len(rest) - 1, min(GOLDEN_IMAGES // 2, len(rest))).astype(int)] if len(rest) else rest
    chosen = np.sort(np.concatenate([closest[: GOLDEN_IMAGES // 2], others]))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=pool[chosen], logits=logits[chosen])
    return buffer.getvalue()


def procedural_images(count: int, image_size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Smooth random colour fields, uint8 `[count, size, size, 3]`: inputs for a model that came without images."""
    rng = np.random.default_rng(seed)
    fields = []
    for index in range(count):
        cells = 2 + index % 7
        field = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        fields.append(np.asarray(Image.fromarray(field).resize((image_size, image_size), Image.Resampling.BICUBIC)))
    return np.stack(fields)


def _libraries() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
