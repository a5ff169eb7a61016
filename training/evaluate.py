"""Score a published version on other data: its own preprocessing, its own ONNX file, labels matched by name.

All images of that data count, whatever split they are in: none of them taught this version, unless it is the very data that
it was made from, which is said. Knows nothing of the command line.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from models.artifact import MODEL
from models.dataset import Skipped
from models.errors import DatasetError, ImageError
from models.frozen import Frozen
from models.manifest import Sha256, canonical_json
from models.preprocess import load_image
from models.review_schema import Review  # noqa: TC001 - pydantic reads the annotation
from training.confidence.answers import Answers
from training.confidence.strange import find_strange
from training.data import Images
from training.export import open_session
from training.interpret import interpret
from training.progress import progress
from training.report import render_evaluation
from training.subject import Outputs, Subject, name_images
from training.thumbnails import make_thumbnails

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from models.artifact import Artifact
    from models.dataset import Dataset, Item, Split
    from models.manifest import Manifest

_BATCH = 64
_NAMED = 10
_NO_FAMILIARITY = "the version cannot tell strange images, since it was published without a familiarity model"
_SAME_DATA = "this is the data that the version was made from, training images included: the scores are too good to be true"


class Evaluation(Frozen):
    """What `evaluate` writes: whose scores, on what, and the review of every image. Its one split goes by `test`."""

    schema_version: Literal[1]
    model: str
    model_sha256: Sha256
    data: str
    fingerprint: Sha256
    images: int
    skipped: tuple[str, ...]
    absent_labels: tuple[str, ...]
    review: Review

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys."""
        return canonical_json(self)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and the pictures for its page."""

    evaluation: Evaluation
    thumbnails: dict[str, bytes]
    artifact: Artifact

    def page(self) -> str:
        """The same as HTML, as a version's report is."""
        manifest, confidence = self.artifact.manifest, self.artifact.confidence
        return render_evaluation(manifest, confidence, self.evaluation.review, self.thumbnails, self.evaluation.data)


def evaluate(artifact: Artifact, dataset: Dataset) -> Evaluated:
    """Score a version on every image of `dataset`.

    Args:
        artifact: The version.
        dataset: Any data with the same task; its labels may be some of the version's, in any order.

    Raises:
        DatasetError: If the task is another, the version does not know a label, or no image can be read.
    """
    manifest = artifact.manifest
    dataset = _in_terms_of(manifest, dataset)
    images, skipped = _decode(dataset.items, artifact)
    dataset = dataset.without(skipped)
    if not images.items:
        raise DatasetError(f"{dataset.root} holds no image that can be read ({len(dataset.skipped)} files were left out)")
    logits, embeddings = _ask(artifact, images.pixels)
    outputs: dict[Split, Outputs] = {"test": Outputs(images, logits, None)}
    ids = np.array([name or "" for name in name_images(outputs)["test"]], dtype=np.str_)
    answers: dict[Split, Answers] = {"test": Answers(images.targets, ids, logits, embeddings)}
    subject = Subject(
        task=manifest.task,
        labels=manifest.labels,
        outputs=outputs,
        temperature=artifact.confidence.temperature.value,
        root=dataset.root,
        findings=_findings(manifest, dataset),
        thresholds=artifact.confidence.thresholds,
        unit=manifest.unit,
        strange=find_strange(artifact.evidence.familiarity, answers, _NO_FAMILIARITY),
    )
    review = interpret(subject)
    evaluation = Evaluation(
        schema_version=1,
        model=manifest.reference,
        model_sha256=manifest.files[MODEL],
        data=dataset.root.name,
        fingerprint=dataset.fingerprint(),
        images=len(images),
        skipped=tuple(f"{entry.path.relative_to(dataset.root)}: {entry.reason}" for entry in dataset.skipped),
        absent_labels=_absent(manifest, dataset),
        review=review,
    )
    return Evaluated(evaluation, make_thumbnails(review, outputs), artifact)


def _in_terms_of(manifest: Manifest, dataset: Dataset) -> Dataset:
    """The same data with the version's labels, in the version's order."""
    if dataset.task != manifest.task:
        raise DatasetError(f"{dataset.root} is {dataset.task} data, and {manifest.reference} answers {manifest.task}")
    strangers = [] if manifest.task == "regression" else [label for label in dataset.labels if label not in manifest.labels]
    if strangers:
        more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        raise DatasetError(
            f"{dataset.root} has labels that {manifest.reference} does not know: {', '.join(strangers[:_NAMED])}{more}; "
            f"it knows {', '.join(manifest.labels[:_NAMED])}{' …' if len(manifest.labels) > _NAMED else ''}"
        )
    return dataset.relabelled(manifest.labels)


def _decode(items: Sequence[Item], artifact: Artifact) -> tuple[Images, list[Skipped]]:
    spec = artifact.manifest.input

    def read(item: Item) -> npt.NDArray[np.uint8] | Skipped:
        try:
            return load_image(item.path.read_bytes(), artifact.manifest.preprocessing, spec.height, spec.width)
        except (ImageError, OSError) as err:
            return Skipped(item.path, str(err))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(progress(pool.map(read, items), "reading images", len(items)))
    rows = [(item, pixels) for item, pixels in zip(items, results, strict=True) if not isinstance(pixels, Skipped)]
    pixels = np.zeros((len(rows), spec.height, spec.width, 3), dtype=np.uint8)
    for row, (_, decoded) in enumerate(rows):
        pixels[row] = decoded
    kept = tuple(replace(item, split="test") for item, _ in rows)
    return Images(pixels, _targets(kept, artifact.manifest), kept), [one for one in results if isinstance(one, Skipped)]


def _targets(items: Sequence[Item], manifest: Manifest) -> npt.NDArray[Any]:
    """As `Images` has them, by task."""
    if manifest.task == "single_label":
        return np.array([item.target for item in items], dtype=np.int64)
    if manifest.task == "regression":
        return np.array([[item.target] for item in items], dtype=np.float32)
    targets = np.zeros((len(items), len(manifest.labels)), dtype=np.float32)
    for row, item in enumerate(items):
        targets[row, list(item.target)] = 1  # type: ignore[arg-type]
    return targets


def _ask(artifact: Artifact, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logits `[N, K]` and embeddings `[N, D]`."""
    session = open_session(artifact.path / MODEL)
    starts = progress(range(0, len(pixels), _BATCH), "scoring", -(-len(pixels) // _BATCH))
    parts = [session.run(["logits", "embedding"], {"image": pixels[start : start + _BATCH]}) for start in starts]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _findings(manifest: Manifest, dataset: Dataset) -> tuple[str, ...]:
    found = []
    if manifest.dataset is not None and manifest.dataset.fingerprint == dataset.fingerprint():
        found.append(_SAME_DATA)
    if absent := _absent(manifest, dataset):
        found.append(f"no image of {len(absent)} of the version's {len(manifest.labels)} labels: {', '.join(absent[:_NAMED])}")
    if dataset.skipped:
        found.append(f"{len(dataset.skipped)} files were left out, the first is {dataset.skipped[0].path.name}")
    return tuple(found)


def _absent(manifest: Manifest, dataset: Dataset) -> tuple[str, ...]:
    if manifest.task == "regression":
        return ()
    present = {index for item in dataset.items for index in (item.target if isinstance(item.target, tuple) else (item.target,))}
    return tuple(label for index, label in enumerate(manifest.labels) if index not in present)
