"""From a trained network to a version in the registry: export, proof, golden inputs, card, one rename."""

from __future__ import annotations

import io
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.artifact import CONFIDENCE, GOLDEN, MODEL, WEIGHTS
from models.confidence.evidence import EVIDENCE
from models.confidence.schema import Confidence
from models.decision import activate
from models.manifest import (
    SCHEMA_VERSION,
    UNSEALED,
    Backbone,
    DatasetCard,
    InputSpec,
    Manifest,
    Metrics,
    canonical_json,
    recipe_sha256,
)
from models.review import read_review
from training.checkpoint import write_tensors
from training.confidence.gather import Graph, gather, tell
from training.export import export, open_session
from training.progress import say
from training.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from models.manifest import Preprocessing
    from models.recipe import Recipe, Task
    from models.registry import Registry
    from training.backbone import Pretrained
    from training.calibrate import Calibration
    from training.confidence.answers import Known
    from training.confidence.gather import Gathered
    from training.export import Exported
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
    """Everything that a version is made of, besides what the registry adds.

    The network's head answers logits; with task `regression` one number, in `unit` and no longer standardised.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    unit: str | None
    pretrained: Pretrained
    normalise: Normalise
    preprocessing: Preprocessing
    image_size: int
    backbone: str
    recipe: Recipe | None
    dataset: DatasetCard | None
    calibration: Calibration
    metrics: Metrics | None
    golden_pool: npt.NDArray[np.uint8]
    # The images that it was made from; None where it is published as it came.
    known: Known | None = None
    # Writes further files into the artifact's folder, with what was found of the images; and those that name its version,
    # once that is known.
    add_files: Callable[[Path, Gathered], None] = lambda folder, gathered: None
    finish: Callable[[Path, Manifest], None] | None = None
    # Between a version's appearance and its alias nothing may end the process.
    stop: Stop = field(default_factory=Stop)
    parent: str | None = None
    run: str | None = None
    # Whether it goes into production where nothing is; else it becomes the candidate.
    first_is_production: bool = True


def publish(publication: Publication, registry: Registry, runs_root: Path) -> Manifest:
    """Export, prove, and publish one version. Whatever goes wrong, the registry holds all of it or nothing.

    Args:
        publication: What to publish.
        registry: Where to.
        runs_root: Where to work until then; the working folder is removed in the end.

    Raises:
        ManifestError: If the calibration is of another task or of other labels.
        ParityError: If ONNX Runtime does not compute what torch does.
        TrainingError: If an output is not finite.
    """
    runs_root.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"publish-{publication.name}-", dir=runs_root)
    try:
        return _publish(publication, registry, Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(publication: Publication, registry: Registry, folder: Path) -> Manifest:
    network, task, fitted = publication.pretrained.network, publication.task, publication.calibration
    # Refused before minutes are spent.
    Confidence.without_evidence(fitted.temperature, fitted.thresholds, fitted.interval, "").check_fits(task, publication.labels)
    say(f"exporting ONNX at {publication.image_size} px")
    exported = export(network, publication.normalise, publication.image_size, publication.golden_pool, folder / MODEL, task)
    what = "logits" if task != "regression" else f"values in {publication.unit}" if publication.unit else "values"
    say(f"  ONNX Runtime and torch agree to {exported.largest_difference:.1e} on {what} (batches of 1, 3 and 8)")
    (folder / GOLDEN).write_bytes(_golden(folder / MODEL, publication))
    write_tensors(folder / WEIGHTS, network.state_dict())
    gathered = _gather(folder, publication, exported)
    publication.add_files(folder, gathered)
    _write_confidence(folder, gathered)
    with publication.stop.deferred():
        card, first = _card(publication, exported), publication.first_is_production
        published = registry.publish(folder, card, publication.finish, first_is_production=first)
        if not first:
            registry.nominate(published.name, published.version)
        publication.stop.never_mind()
    return published


def _gather(folder: Path, publication: Publication, exported: Exported) -> Gathered:
    """Fit and test what statements of confidence are made from, on the graph as it will be served."""
    network, task, labels = publication.pretrained.network, publication.task, publication.labels
    graph = Graph(open_session(folder / MODEL), exported, network, task, labels, publication.golden_pool)
    return gather(graph, publication.calibration, publication.known)


def _write_confidence(folder: Path, gathered: Gathered) -> None:
    """Last, since what others wrote is tested too."""
    confidence = gathered.with_review(read_review(folder))
    (folder / CONFIDENCE).write_bytes(canonical_json(confidence))
    (folder / EVIDENCE).write_bytes(gathered.evidence)
    tell(confidence)


def _card(publication: Publication, exported: Exported) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=publication.name,
        version=1,
        created=datetime.now(UTC).replace(microsecond=0),
        task=publication.task,
        labels=publication.labels,
        unit=publication.unit,
        input=InputSpec(name="image", dtype="uint8", layout="NHWC", height=publication.image_size, width=publication.image_size),
        preprocessing=publication.preprocessing,
        outputs=exported.outputs,
        backbone=Backbone(
            name=publication.backbone, weights=publication.pretrained.weights, licence=publication.pretrained.licence
        ),
        recipe=publication.recipe,
        recipe_sha256=recipe_sha256(publication.recipe) if publication.recipe else None,
        dataset=publication.dataset,
        parent=publication.parent,
        run=publication.run,
        libraries=_libraries(),
        metrics=publication.metrics,
        files={},
        sha256=UNSEALED,
    )


def _golden(model: Path, publication: Publication) -> bytes:
    """64 inputs and their logits: the 32 that are decided most closely, where an error shows first, and others evenly."""
    session, pool = open_session(model), publication.golden_pool
    logits = np.concatenate([session.run(["logits"], {"image": pool[i : i + 32]})[0] for i in range(0, len(pool), 32)])
    if publication.task == "regression":
        # Nothing is decided; from the smallest value to the largest.
        chosen = _evenly(np.argsort(logits[:, 0], kind="stable"), GOLDEN_IMAGES)
    else:
        closest = np.argsort(_margins(logits, publication), kind="stable")
        half = GOLDEN_IMAGES // 2
        chosen = np.concatenate([closest[:half], _evenly(closest[half:], half)])
    chosen = np.sort(chosen)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=pool[chosen], logits=logits[chosen])
    return buffer.getvalue()


def _margins(logits: npt.NDArray[np.float32], publication: Publication) -> npt.NDArray[np.floating]:
    """How far each image is from another answer, `[N]`: to the second label, or to the nearest label's threshold."""
    thresholds = publication.calibration.threshold_row(publication.labels)
    if thresholds is None:
        top_two = np.sort(logits, axis=1)[:, -2:]
        return top_two[:, 1] - top_two[:, 0]
    temperature = publication.calibration.temperature.value
    return np.abs(activate(logits, publication.task, temperature) - thresholds).min(axis=1)


def _evenly(order: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """At most `count` entries from all along `order`, the first and the last among them."""
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)] if len(order) else order


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
