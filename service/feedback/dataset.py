"""Labels given so far as a data set: frozen when a job is asked for, so that the job trains on what was asked for.

A table beside the images, whatever the task: a label may be any text, and not every text can be a folder's name.
"""

from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING

from models.staging import work_folder
from service.datasets import FEEDBACK, FEEDBACK_TABLE
from service.feedback.labels import SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.dataset_store import DatasetStore, StoredDataset
    from models.manifest import Manifest
    from service.feedback.schema import Label
    from service.feedback.store import FeedbackStore

_MOST_NAME = 63
_MEDIA = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/bmp": ".bmp", "image/gif": ".gif"}


def dataset_name(model: str) -> str:
    """What the data set of a model's feedback is called; long names are cut, and told apart by a hash."""
    name = f"{FEEDBACK}-{model}"
    return name if len(name) <= _MOST_NAME else f"{name[:50]}-{hashlib.sha256(model.encode()).hexdigest()[:12]}"


def media_type(data: bytes) -> str:
    """What kind of image some bytes are, of the kinds that are served."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    begins = {b"\xff\xd8": "image/jpeg", b"\x89PNG": "image/png", b"BM": "image/bmp", b"GIF8": "image/gif"}
    return next((kind for start, kind in begins.items() if data.startswith(start)), "application/octet-stream")


def gather(store: FeedbackStore, manifest: Manifest, datasets: DatasetStore) -> StoredDataset | None:
    """Store what is labelled for a model as a version of its data set; None where nothing is.

    Args:
        store: Images and labels.
        manifest: Of the model: its name, its task, and of a number what it is called.
        datasets: Where it goes.

    Raises:
        DatasetError: If no image of it can be read.
        NoSpaceError: If the disk is full.
    """
    with work_folder(datasets.root) as folder:
        files = folder / FEEDBACK
        files.mkdir()
        rows = list(_write(store, manifest, files))
        if not rows:
            return None
        column = manifest.labels[0] if manifest.task == "regression" else "label"
        with (files / FEEDBACK_TABLE).open("w", encoding="utf-8", newline="") as table:
            csv.writer(table, lineterminator="\n").writerows([("file", column), *rows])
        return datasets.put(files, dataset_name(manifest.name), origin=FEEDBACK, task=manifest.task)


def holding(image_id: str, model: str, datasets: DatasetStore) -> list[str]:
    """The versions, as `name@version`, that an image went into."""
    versions = datasets.versions(dataset_name(model))
    names = [f"{image_id}{suffix}" for suffix in _MEDIA.values()]
    return [stored.card.reference for stored in versions if any((stored.path / name).exists() for name in names)]


def _write(store: FeedbackStore, manifest: Manifest, folder: Path) -> Iterator[tuple[str, str]]:
    for image_id, label in store.labels(manifest.name, manifest.task):
        try:
            data = store.image(manifest.name, image_id)
        except FileNotFoundError:
            # Deleted meanwhile.
            continue
        name = f"{image_id}{_MEDIA[media_type(data)]}"
        (folder / name).write_bytes(data)
        yield name, _cell(label)


def _cell(label: Label) -> str:
    """As a CSV has it. A bar after each of several labels: it is then what stands between them, whatever else they hold."""
    if isinstance(label, tuple):
        return "".join(f"{one}{SEPARATOR}" for one in label)
    return repr(label) if isinstance(label, float) else label
